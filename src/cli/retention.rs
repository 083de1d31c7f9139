//! Beside the relay: settled rows are deleted when they are old enough.
//!
//! ```text
//!   seq ──> deleted long ago │ left behind: pending    │ old, to be deleted │ settled lately, mostly │ pending
//!                            │ or settled lately       │                    │                        │
//!                            └ looked at once an hour  └ start              └ some pages of these end a round
//! ```
//!
//! Rows are settled about in the order of `seq`, so a round goes on from where the last one ended and stops after some pages in
//! which everything is too young. What it leaves behind on its way (rows delayed, retried or replayed) is looked at once an hour,
//! from the beginning, however young its neighbours are. Between two full steps it rests four times as long as the step took.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::config::Retention;
use crate::store::StoreError;
use crate::store::postgres::database::Database;
use crate::store::postgres::prune::{Prune, PruneAttempts, Pruner, Settled, Step};
use crate::store::postgres::sql::Names;

/// Between two rounds.
const ROUND: Duration = Duration::from_secs(30);
/// Until the next try where somebody else is at it.
const TURN: Duration = Duration::from_secs(2);
/// How often what was left behind is looked at.
const FROM_THE_BEGINNING: Duration = Duration::from_secs(3600);
/// Rest after a full step, by its own length: a fifth of the time is its at most.
const REST: u32 = 4;
/// Pages with nothing old enough that end a round.
const YOUNG_PAGES: u32 = 10;

/// Until stopped. Nothing to do where both retentions are "0s".
pub(super) async fn keep(
    database: Database,
    names: Names,
    (retention, rows): (Retention, usize),
    instance: String,
    stop: CancellationToken,
) {
    let pruner = Pruner::Instance(instance);
    let ages = [
        (Settled::Relayed, retention.relayed),
        (Settled::Failed, retention.failed),
    ];
    let walks: Vec<Walk> = ages
        .into_iter()
        .filter_map(|(settled, age)| Some(Walk::new(Prune::new(&names, settled, age?, rows, &pruner))))
        .collect();
    let Some(longest) = retention.relayed.max(retention.failed) else {
        return;
    };
    let mut keeping = Keeping {
        database,
        walks,
        attempts: PruneAttempts::new(&names, longest, rows, &pruner),
        attempts_again: Instant::now() + FROM_THE_BEGINNING,
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = keeping.round_after_round() => {}
    }
}

struct Keeping {
    database: Database,
    walks: Vec<Walk>,
    attempts: PruneAttempts,
    attempts_again: Instant,
}

impl Keeping {
    async fn round_after_round(&mut self) {
        let mut failing = false;
        loop {
            let pause = match self.round().await {
                Ok(Some(deleted)) => {
                    tracing::debug!(deleted, "retention");
                    failing = false;
                    ROUND
                }
                Ok(None) => TURN,
                Err(error) => {
                    // The relay says when the database is away; what keeps failing here is for a person.
                    if failing {
                        tracing::debug!(%error, "retention");
                    } else {
                        tracing::warn!(%error, "retention: old rows could not be deleted, and will be tried again");
                    }
                    failing = true;
                    ROUND
                }
            };
            sleep(pause).await;
        }
    }

    /// How many rows it deleted; `None`: somebody else is at it.
    async fn round(&mut self) -> Result<Option<u64>, StoreError> {
        let mut deleted = 0;
        for walk in &mut self.walks {
            let Some(count) = walk.round(&self.database).await? else {
                return Ok(None);
            };
            deleted += count;
        }
        if Instant::now() >= self.attempts_again {
            self.attempts.start_over();
            self.attempts_again = Instant::now() + FROM_THE_BEGINNING;
        }
        loop {
            let began = Instant::now();
            let step = self.attempts.step(&self.database).await?;
            if !step.mine {
                return Ok(None);
            }
            if !step.more {
                return Ok(Some(deleted));
            }
            sleep(began.elapsed() * REST).await;
        }
    }
}

/// One kind of rows.
struct Walk {
    prune: Prune,
    path: Path,
    again: Instant,
}

impl Walk {
    fn new(prune: Prune) -> Self {
        Self {
            prune,
            path: Path::default(),
            again: Instant::now() + FROM_THE_BEGINNING,
        }
    }

    async fn round(&mut self, database: &Database) -> Result<Option<u64>, StoreError> {
        let now = Instant::now();
        if now >= self.again {
            self.path.start_over();
            self.again = now + FROM_THE_BEGINNING;
        }
        let mut deleted = 0;
        loop {
            let began = Instant::now();
            let step = self.prune.step(database, self.path.after).await?;
            if !step.mine {
                return Ok(None);
            }
            deleted += step.deleted;
            if !self.path.goes_on(&step) {
                return Ok(Some(deleted));
            }
            sleep(began.elapsed() * REST).await;
        }
    }
}

/// Where a walk stands. Pure: a step's answer goes in, whether to go on comes out.
#[derive(Debug, PartialEq, Eq)]
struct Path {
    /// The next step looks past here.
    after: i64,
    /// The step before looked past here.
    before: i64,
    /// Rows up to here are left behind: only a walk from the beginning looks at them.
    start: i64,
    /// Pages on end with nothing old enough, and where the page before them began.
    young: Option<(u32, i64)>,
}

impl Default for Path {
    fn default() -> Self {
        Self {
            after: i64::MIN,
            before: i64::MIN,
            start: i64::MIN,
            young: None,
        }
    }
}

impl Path {
    fn start_over(&mut self) {
        (self.after, self.before, self.young) = (i64::MIN, i64::MIN, None);
    }

    /// Books a step; `false`: that was the round, and the next one begins where rows may have become old enough.
    fn goes_on(&mut self, step: &Step) -> bool {
        let upto = step.upto.unwrap_or(self.after);
        let all_young = step.deleted == 0 && step.young > 0 && upto > self.start;
        self.young = match (all_young, self.young) {
            (false, _) => None,
            (true, None) => Some((1, self.before)),
            (true, Some((pages, from))) => Some((pages + 1, from)),
        };
        if step.more && self.young.is_none_or(|(pages, _)| pages < YOUNG_PAGES) {
            (self.before, self.after) = (self.after, upto);
            return true;
        }
        self.start = self.young.map_or(self.before, |(_, from)| from).max(self.start);
        (self.after, self.before, self.young) = (self.start, self.start, None);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(upto: i64, deleted: u64, young: u64) -> Step {
        Step {
            mine: true,
            more: true,
            upto: Some(upto),
            young,
            deleted,
        }
    }

    #[test]
    fn a_round_ends_where_everything_is_too_young_and_goes_on_from_there() {
        let mut path = Path::default();
        assert!(path.goes_on(&page(100, 100, 0)));
        assert!(path.goes_on(&page(200, 30, 70)));
        for number in 1..YOUNG_PAGES {
            assert!(path.goes_on(&page(200 + 100 * i64::from(number), 0, 100)));
        }
        assert!(!path.goes_on(&page(9_000, 0, 100)));
        assert_eq!(
            (path.after, path.start),
            (100, 100),
            "the page that was half old is looked at again"
        );
    }

    #[test]
    fn rows_left_behind_end_no_walk_from_the_beginning() {
        let mut path = Path {
            start: 5_000,
            ..Path::default()
        };
        path.start_over();
        for number in 1..=2 * i64::from(YOUNG_PAGES) {
            assert!(path.goes_on(&page(100 * number, 0, 100)), "page {number}");
        }
        let last = Step {
            more: false,
            ..page(6_000, 0, 100)
        };
        assert!(!path.goes_on(&last));
        assert_eq!(path.start, 5_000, "it never goes back");
    }

    #[test]
    fn pending_rows_are_walked_past() {
        let mut path = Path::default();
        for number in 1..=50 {
            assert!(path.goes_on(&page(100 * number, 0, 0)));
        }
        let nothing = Step {
            upto: None,
            more: false,
            ..page(0, 0, 0)
        };
        assert!(!path.goes_on(&nothing));
        assert_eq!(path.start, 4_900);
    }
}
