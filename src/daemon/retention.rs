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

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Retention};
use crate::store::StoreError;
use crate::store::postgres::desk::prune::{Again, Kept, Prune, Pruner, Step};
use crate::store::postgres::desk::prune_attempts::PruneAttempts;
use crate::store::postgres::desk::retention::{Rule, kept_by, off};
use crate::store::postgres::link::about::one_line;
use crate::store::postgres::link::database::Database;
use crate::store::postgres::link::sql::Names;

use super::settings;

/// Between two rounds.
const ROUND: Duration = Duration::from_secs(30);
/// Until the next try where somebody else is at it.
const TURN: Duration = Duration::from_secs(2);
/// Without a turn for so long, it is looked up who has them all; and said again so often.
const LOOK_AFTER: Duration = Duration::from_secs(30);
const SAY_AGAIN: Duration = Duration::from_secs(600);
/// How often what was left behind is looked at.
const FROM_THE_BEGINNING: Duration = Duration::from_secs(3600);
/// Rest after a full step, by its own length: a fifth of the time is its at most.
const REST: u32 = 4;
/// Pages with nothing old enough that end a round.
const YOUNG_PAGES: u32 = 10;
/// Steps over a row that cannot be deleted that end a round: each is a statement that fails.
const STEPS_OVER: u32 = 100;
/// Rows that could not be deleted that are remembered, named and tried again by themselves; others come up again with a walk
/// from the beginning.
const KEPT_MAX: usize = 100;

/// What is deleted, and by whom.
pub(super) struct OldRows {
    database: Database,
    names: Names,
    retention: Retention,
    /// Rows a statement deletes at most.
    step: usize,
    instance: String,
}

impl OldRows {
    /// Those the configuration speaks of.
    pub(super) fn of(config: &Config, database: Database, names: Names) -> Self {
        Self {
            database,
            names,
            retention: config.retention,
            step: config.relay.batch_size,
            instance: config.lease.instance.clone(),
        }
    }
}

/// Until stopped. Nothing to do where both retentions are "0s".
pub(super) async fn delete_old_rows(old: OldRows, stop: CancellationToken) {
    let pruner = Pruner::Instance(old.instance.clone());
    let rules = settings::pruned(old.retention);
    let Some(longest) = rules.iter().map(|rule| rule.age).max() else {
        return;
    };
    let names = old.names;
    let walk = |rule: &Rule| Walk::new(Prune::new(&names, *rule, old.step, &pruner), off(&names, *rule));
    let mut keeping = Keeping {
        // Of a table that is not ours no row is deleted; what is enlisted goes when it is relayed.
        walks: rules.iter().filter(|_| !names.is_foreign()).map(walk).collect(),
        attempts: PruneAttempts::new(&names, longest, old.step, &pruner),
        database: old.database,
        names,
        instance: old.instance,
        turns: Turns::default(),
        attempts_again: Instant::now() + FROM_THE_BEGINNING,
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = keeping.round_after_round() => {}
    }
}

struct Keeping {
    database: Database,
    names: Names,
    instance: String,
    turns: Turns,
    walks: Vec<Walk>,
    attempts: PruneAttempts,
    attempts_again: Instant,
}

/// Rounds on end in which it was not our turn.
#[derive(Default)]
struct Turns {
    looked: Option<Instant>,
    said: Option<Instant>,
}

impl Turns {
    /// One more; whether it is time to look who has them all.
    fn missed(&mut self, now: Instant) -> bool {
        let due = now - *self.looked.get_or_insert(now) >= LOOK_AFTER;
        if due {
            self.looked = Some(now);
        }
        due && self.said.is_none_or(|said| now - said >= SAY_AGAIN)
    }
}

/// How a round ended.
enum Round {
    /// It looked at everything there was to look at.
    Done {
        /// Rows deleted.
        deleted: u64,
    },
    /// Somebody else is at it.
    NotMine,
}

impl Keeping {
    async fn round_after_round(&mut self) {
        let mut failing = false;
        loop {
            let pause = match self.round().await {
                Ok(Round::Done { deleted }) => {
                    tracing::debug!(deleted, "retention");
                    (failing, self.turns) = (false, Turns::default());
                    ROUND
                }
                Ok(Round::NotMine) => {
                    if self.turns.missed(Instant::now()) {
                        self.say_who_keeps_us().await;
                    }
                    TURN
                }
                Err(error) => {
                    let error = one_line(&error);
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

    /// The lock under which old rows are deleted can be taken by anybody who may connect.
    async fn say_who_keeps_us(&mut self) {
        match kept_by(&self.database, &self.names, &self.instance).await {
            Ok(Some(holder)) => {
                self.turns.said = Some(Instant::now());
                tracing::warn!(
                    holder,
                    "retention: nothing old is deleted while another session holds the advisory lock under which that is done: \
                     end it, or select pg_terminate_backend(pid)"
                );
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "retention: who holds its lock could not be found out"),
        }
    }

    /// Each kind of rows by itself: what is wrong with one keeps none of the others.
    async fn round(&mut self) -> Result<Round, StoreError> {
        let (mut deleted, mut failed) = (0, None);
        for walk in &mut self.walks {
            match walk.round(&self.database).await {
                Ok(Round::Done { deleted: count }) => deleted += count,
                Ok(Round::NotMine) => return Ok(Round::NotMine),
                Err(error) => failed = Some(error),
            }
        }
        match self.attempts().await {
            Ok(Round::Done { .. }) => failed.map_or(Ok(Round::Done { deleted }), Err),
            other @ (Ok(Round::NotMine) | Err(_)) => other,
        }
    }

    async fn attempts(&mut self) -> Result<Round, StoreError> {
        if Instant::now() >= self.attempts_again {
            self.attempts.start_over();
            self.attempts_again = Instant::now() + FROM_THE_BEGINNING;
        }
        while !self.attempts.is_locked(&self.database).await? {
            let began = Instant::now();
            let step = self.attempts.step(&self.database).await?;
            if !step.mine {
                return Ok(Round::NotMine);
            }
            for Kept { seq, detail, .. } in &step.kept {
                tracing::warn!(
                    seq,
                    "retention: the history of message {seq} could not be deleted: {detail}"
                );
            }
            if !step.more {
                break;
            }
            sleep(began.elapsed() * REST).await;
        }
        Ok(Round::Done { deleted: 0 })
    }
}

/// One kind of rows.
struct Walk {
    prune: Prune,
    path: Path,
    again: Instant,
    left: Left,
    /// What there is to say where nothing may be deleted; taken when it has been said.
    off: Option<(String, String)>,
}

impl Walk {
    fn new(prune: Prune, off: (String, String)) -> Self {
        Self {
            prune,
            path: Path::default(),
            again: Instant::now() + FROM_THE_BEGINNING,
            left: Left::default(),
            off: Some(off),
        }
    }

    async fn round(&mut self, database: &Database) -> Result<Round, StoreError> {
        let now = Instant::now();
        if now >= self.again {
            self.path.start_over();
            self.again = now + FROM_THE_BEGINNING;
        }
        let (mut deleted, mut steps_over) = (0, 0);
        if !self.prune.may(database).await? {
            self.say_off();
            return Ok(Round::Done { deleted });
        }
        for seq in self.left.due(now) {
            match self.prune.again(database, seq).await? {
                Again::Kept(kept) => self.left.note(&[kept], 1, now),
                Again::Settled { deleted: count } => {
                    deleted += count;
                    self.left.forget(seq);
                }
                Again::NotMine => return Ok(Round::NotMine),
            }
        }
        loop {
            let began = Instant::now();
            let step = self.prune.step(database, self.path.after).await?;
            if !step.ours {
                self.say_off();
                return Ok(Round::Done { deleted });
            }
            if !step.mine {
                return Ok(Round::NotMine);
            }
            deleted += step.deleted;
            steps_over += u32::from(step.kept_count > 0);
            self.left.note(&step.kept, step.kept_count, began);
            if !self.path.goes_on(&step) || steps_over == STEPS_OVER {
                self.left.sum_up();
                return Ok(Round::Done { deleted });
            }
            sleep(began.elapsed() * REST).await;
        }
    }

    fn say_off(&mut self) {
        if let Some((what, fix)) = self.off.take() {
            tracing::info!("{what}: {fix}");
        }
    }
}

/// Rows that could not be deleted: each is named once and tried again, with a pause that grows.
#[derive(Default)]
struct Left {
    rows: BTreeMap<i64, Pause>,
    /// How many more there were than are remembered.
    unnamed: u64,
}

struct Pause {
    at: Instant,
    pause: Duration,
}

impl Left {
    fn note(&mut self, kept: &[Kept], count: u64, now: Instant) {
        let mut told = 0;
        for Kept { seq, reason, detail } in kept {
            if let Some(known) = self.rows.get_mut(seq) {
                known.pause = (known.pause * 2).min(FROM_THE_BEGINNING);
                known.at = now + known.pause;
            } else if self.rows.len() < KEPT_MAX {
                let reason = reason.as_str();
                tracing::warn!(
                    seq,
                    reason,
                    "retention: message {seq} could not be deleted and is passed over; it is tried again: {detail}"
                );
                let (at, pause) = (now + ROUND, ROUND);
                self.rows.insert(*seq, Pause { at, pause });
            } else {
                continue;
            }
            told += 1;
        }
        self.unnamed += count.saturating_sub(told);
    }

    fn forget(&mut self, seq: i64) {
        self.rows.remove(&seq);
    }

    fn due(&self, now: Instant) -> Vec<i64> {
        let due = self.rows.iter().filter(|(_, again)| again.at <= now);
        due.map(|(seq, _)| *seq).collect()
    }

    fn sum_up(&mut self) {
        if self.unnamed > 0 {
            let more = std::mem::take(&mut self.unnamed);
            tracing::warn!(
                more,
                "retention: more messages could not be deleted, as those named before"
            );
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
            ours: true,
            more: true,
            upto: Some(upto),
            young,
            deleted,
            ..Step::default()
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

    #[tokio::test(start_paused = true)]
    async fn a_row_that_cannot_be_deleted_is_tried_again_ever_more_rarely() {
        let kept = |seq| Kept {
            seq,
            reason: crate::stuck::StuckReason::Refused,
            detail: String::new(),
        };
        let (mut left, begin) = (Left::default(), Instant::now());
        left.note(&[kept(7)], 1, begin);
        assert_eq!(left.due(begin), Vec::<i64>::new());
        assert_eq!(left.due(begin + ROUND), [7]);
        left.note(&[kept(7)], 1, begin + ROUND);
        assert_eq!(left.due(begin + 2 * ROUND), Vec::<i64>::new());
        assert_eq!(left.due(begin + 3 * ROUND), [7]);
        for _ in 0..20 {
            left.note(&[kept(7)], 1, begin);
        }
        assert_eq!(left.due(begin + FROM_THE_BEGINNING), [7]);
        assert_eq!(left.unnamed, 0);
        for seq in 100..400 {
            left.note(&[kept(seq)], 2, begin);
        }
        assert_eq!((left.rows.len(), left.unnamed), (KEPT_MAX, 300 + 201), "bounded");
    }
}
