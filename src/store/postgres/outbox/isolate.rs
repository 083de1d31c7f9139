//! One row's trouble is not the others': what a statement that settles could not write, sorted out.
//!
//! ```text
//!   all rows ── written ──> done
//!      │ fewer than asked for: lanes lost? no longer what was sent? else the write was swallowed
//!      │ an error about rows, or too slow: in parts, each by itself, down to the row
//!      │ a lock: those that are free at once; the others are locked, by whom is looked up
//!      └ any other error: whoever asked tries again later
//! ```
//!
//! Healthy rows wait meanwhile, so each step is short (`limits`): what is left when it has taken long, and something came of it,
//! is somebody's next settlement.
//!
//! Only an error that a statement without rows does not meet is about rows: what a trigger raises may have any code.

mod cause;
mod limits;
mod naming;

use std::collections::{BTreeSet, VecDeque};

use super::PostgresStore;
use super::batch::{Batch, Via, texts};
use super::suspicion::Met;
use crate::message::Seq;
use crate::store::postgres::link::about::{DatabaseError, database_error};
use crate::store::postgres::link::answer::unreadable;
use crate::store::postgres::link::database::Role;
use crate::store::postgres::link::sql::Param;
use crate::store::{FailedAttempt, Mark, Settled, StoreError, Stuck};
use crate::stuck::StuckReason;
use cause::Trouble;
use futures_util::future::join_all;
use limits::Limits;

/// Parts a statement is divided into: three times, and of a full one every row stands alone. Two would write most rows again and
/// again, for nothing.
const PARTS: usize = 12;
/// Where bad rows have just been met, a statement of at least so many rows is divided beforehand.
const WORTH_DIVIDING: usize = 20 * PARTS;
/// A statement that met a deadlock, somebody's stricter isolation or a connection with another role is tried again so often.
const CONFLICTS_MAX: u8 = 3;

/// Rows to be written by one statement, as places in the batch.
struct Part {
    rows: Vec<usize>,
    conflicts: u8,
    /// Not in one round trip with others: it may take long.
    alone: bool,
}

/// How many rows a statement wrote.
type Written = Result<usize, StoreError>;

/// See the module.
pub(super) struct Isolation<'a> {
    store: &'a PostgresStore,
    batch: Batch<'a>,
    again: bool,
    is_patient: bool,
    /// Whether to find out who holds a lock that is not the row's.
    asks_for_blocker: bool,
    limits: Limits,
    /// The larger ones come first: most of the healthy rows are in them.
    parts: VecDeque<Part>,
    done: Vec<usize>,
    locked: Vec<usize>,
    swallowed: Vec<usize>,
}

impl<'a> Isolation<'a> {
    pub(super) fn of(store: &'a PostgresStore, batch: Batch<'a>, again: bool) -> Self {
        let mut isolation = Self {
            store,
            batch,
            again,
            is_patient: again && store.is_patient(),
            asks_for_blocker: again || !store.meets(Met::LocksElsewhere),
            limits: Limits::of(store, again),
            parts: VecDeque::new(),
            done: Vec::new(),
            locked: Vec::new(),
            swallowed: Vec::new(),
        };
        let rows: Vec<usize> = (0..batch.len()).collect();
        let expects = || store.meets(Met::Refusals) || store.meets(Met::LocksElsewhere);
        if !again && rows.len() >= WORTH_DIVIDING && expects() {
            isolation.divide(&rows, false);
        } else {
            isolation.push(rows, true);
        }
        isolation
    }

    /// Writes all that can be written, and books it.
    pub(super) async fn settle(mut self, settled: &mut Settled) -> Result<(), StoreError> {
        let watchful = self.store.is_watchful(&self.batch).await?;
        if !self.again && self.store.meets(Met::Locks) {
            self.leave_locked().await?;
        }
        while let Some(part) = self.parts.pop_front() {
            if part.rows.len() > 1 && part.rows.len() >= self.limits.too_many {
                self.divide(&part.rows, true);
                continue;
            }
            let has_achieved = self.has_achieved(settled);
            if self.limits.is_over(self.store.database.hurries(), has_achieved) {
                self.parts.push_back(part);
                self.leave(settled);
                break;
            }
            let mut parts = vec![part];
            while !parts[0].alone && parts.len() < PARTS && self.parts.front().is_some_and(|next| !next.alone) {
                parts.extend(self.parts.pop_front());
            }
            for (part, outcome) in self.write_all(parts).await? {
                match outcome {
                    Some(Ok(written)) if written >= part.rows.len() => self.done.extend(part.rows),
                    Some(Ok(written)) => self.sort_out(part.rows, written, settled).await?,
                    Some(Err(error)) => self.meet(part, error, settled).await?,
                    None => self.parts.push_back(Part { alone: true, ..part }),
                }
            }
        }
        let done = std::mem::take(&mut self.done);
        if watchful && !done.is_empty() {
            self.look_again(done, settled).await?;
        } else {
            settled.written += done.len();
        }
        if !self.locked.is_empty() {
            self.name_holders(settled).await?;
        }
        if !self.swallowed.is_empty() {
            self.name_swallowers(settled).await?;
        }
        Ok(())
    }

    /// Writes each of these parts. Several go in one round trip; where that takes too long, nobody knows what became of them.
    async fn write_all(&self, parts: Vec<Part>) -> Result<Vec<(Part, Option<Written>)>, StoreError> {
        let settling = self.store.database.settling().await?;
        let outcomes: Vec<Option<Written>> = if let [part] = &*parts {
            let via = Via {
                settling: &settling,
                granted: Some(self.granted(part.rows.len())),
                lock: self.lock_timeout(),
            };
            let outcome = self.write(&via, &part.rows).await;
            settling.end();
            vec![Some(outcome)]
        } else {
            let via = Via {
                settling: &settling,
                granted: None,
                lock: self.lock_timeout(),
            };
            let writes = join_all(parts.iter().map(|part| self.write(&via, &part.rows)));
            match tokio::time::timeout(self.limit(1), writes).await {
                Ok(outcomes) => {
                    settling.end();
                    outcomes.into_iter().map(Some).collect()
                }
                Err(_) => {
                    settling.abandon().await;
                    parts.iter().map(|_| None).collect()
                }
            }
        };
        Ok(parts.into_iter().zip(outcomes).collect())
    }

    fn stick(&self, index: usize, reason: StuckReason, detail: String) -> Stuck {
        let seq = self.batch.mark(index).seq;
        Stuck { seq, reason, detail }
    }

    async fn write(&self, via: &Via<'_>, rows: &[usize]) -> Written {
        match self.batch {
            Batch::Marks(marks) => {
                let marks: Vec<&Mark> = rows.iter().map(|row| &marks[*row]).collect();
                self.store.write_marks(via, &marks).await
            }
            Batch::Failures(failures) => {
                let failures: Vec<&FailedAttempt> = rows.iter().map(|row| &failures[*row]).collect();
                self.store.write_failed(via, &failures).await
            }
        }
    }

    /// Fewer rows were written than asked for, or nobody knows whether it had an effect.
    async fn sort_out(&mut self, rows: Vec<usize>, written: usize, settled: &mut Settled) -> Result<(), StoreError> {
        let all = rows.len();
        let mut held = rows;
        if written < all {
            let mine = self.store.lanes_held(Role::Settle).await?;
            let holds = |row: &usize| {
                let Mark { lane, epoch, .. } = self.batch.mark(*row);
                mine.get(lane) == Some(epoch)
            };
            let fenced = !held.iter().all(holds);
            held.retain(holds);
            let lost = (all - held.len()).min(all - written);
            settled.lost += lost;
            if fenced && written == 0 && !held.is_empty() {
                settled.stale += lost;
                self.push(held, true);
                return Ok(());
            }
        }
        let standing = self.standing(&held, false).await?;
        held.retain(|row| standing.contains(&self.batch.mark(*row).seq));
        let written = written.min(all - held.len());
        settled.written += written;
        settled.stale += all - held.len() - written;
        self.swallowed.extend(held);
        Ok(())
    }

    /// These were written, as the database says: a trigger may have put the old row in the new one's place.
    async fn look_again(&mut self, rows: Vec<usize>, settled: &mut Settled) -> Result<(), StoreError> {
        let standing = self.standing(&rows, true).await?;
        let is_standing = |row: &usize| standing.contains(&self.batch.mark(*row).seq);
        let (swallowed, written): (Vec<usize>, Vec<usize>) = rows.into_iter().partition(is_standing);
        settled.written += written.len();
        self.swallowed.extend(swallowed);
        Ok(())
    }

    /// An error: of the rows, or of something else.
    async fn meet(&mut self, mut part: Part, error: StoreError, settled: &mut Settled) -> Result<(), StoreError> {
        let Some(known) = database_error(&error) else {
            return Err(error);
        };
        let Some(trouble) = self.trouble(known).await? else {
            return Err(error);
        };
        let is_conflict = known.code().is_some_and(|code| code.code().starts_with("40"));
        if (is_conflict || known.lacks_right()) && part.conflicts < CONFLICTS_MAX {
            part.conflicts += 1;
            // Alone, it is the first on a connection that no trigger has changed.
            part.alone |= known.lacks_right();
            self.parts.push_back(part);
            return Ok(());
        }
        let rows = part.rows;
        if matches!(trouble, Trouble::Slow) && !self.again {
            if rows.len() == self.batch.len() && !self.limits.is_slow_server && !self.goes_without_rows().await {
                self.limits.is_slow_server = true;
                self.push(rows, true);
                return Ok(());
            }
            self.limits.was_slow(rows.len());
            self.store.met_slow(self.limits.too_many);
        }
        if rows.len() == 1 || self.limits.gives_up() {
            self.set_aside(rows, trouble, known, settled);
            return Ok(());
        }
        match trouble {
            Trouble::Locked => {
                let (free, held) = self.free(rows).await?;
                if held.is_empty() {
                    self.limits.elsewhere = true;
                    self.expect_more(Met::LocksElsewhere);
                    self.divide(&free, false);
                } else {
                    self.locked.extend(held);
                    self.expect_more(Met::Locks);
                    self.push(free, true);
                }
            }
            Trouble::Refused => {
                self.expect_more(Met::Refusals);
                self.divide(&rows, false);
            }
            Trouble::Slow => self.divide(&rows, true),
        }
        Ok(())
    }

    /// The next statements expect more of them; rows that are known to be stuck say nothing of others.
    fn expect_more(&self, what: Met) {
        if !self.again {
            self.store.met(what);
        }
    }

    /// These are to be blamed; most of several may be healthy.
    fn set_aside(&mut self, rows: Vec<usize>, trouble: Trouble, error: &DatabaseError, settled: &mut Settled) {
        let (reason, detail) = match trouble {
            Trouble::Locked => return self.locked.extend(rows),
            Trouble::Slow => {
                let limit = self.limit(rows.len());
                (StuckReason::Slow, format!("writing it takes longer than {limit:?}"))
            }
            Trouble::Refused if rows.len() > 1 => {
                let detail = "it takes too long to tell it from rows that are refused".to_owned();
                (StuckReason::Slow, detail)
            }
            Trouble::Refused => (StuckReason::Refused, self.refusal(error)),
        };
        let stuck = |row: usize| self.stick(row, reason, detail.clone());
        settled.stuck.extend(rows.into_iter().map(stuck));
    }

    /// What is said of a row that is refused. See `theirs_retrying.sql` for the one that a statement of ours refuses.
    fn refusal(&self, error: &DatabaseError) -> String {
        let divided = error.code().is_some_and(|code| code.code() == "22012");
        match self.batch {
            Batch::Failures(_) if divided && self.store.names.is_foreign() => {
                format!("look at outbox.state.retrying: a row has to be pending after it ({error})")
            }
            Batch::Failures(_) | Batch::Marks(_) => error.to_string(),
        }
    }

    /// Rows that another transaction holds are not tried: each would be waited for.
    async fn leave_locked(&mut self) -> Result<(), StoreError> {
        for Part { rows, alone, .. } in std::mem::take(&mut self.parts) {
            let (free, held) = self.free(rows).await?;
            self.locked.extend(held);
            self.push(free, alone);
        }
        Ok(())
    }

    fn divide(&mut self, rows: &[usize], alone: bool) {
        for rows in rows.chunks(rows.len().div_ceil(PARTS)) {
            self.push(rows.to_vec(), alone);
        }
    }

    fn push(&mut self, rows: Vec<usize>, alone: bool) {
        if !rows.is_empty() {
            self.parts.push_back(Part {
                rows,
                conflicts: 0,
                alone,
            });
        }
    }

    /// The rows no other transaction holds just now, and the others.
    async fn free(&self, rows: Vec<usize>) -> Result<(Vec<usize>, Vec<usize>), StoreError> {
        let statement = match self.batch {
            Batch::Marks(_) => &self.store.sql.relayed.free,
            Batch::Failures(_) => &self.store.sql.free,
        };
        let seqs: Vec<i64> = rows.iter().map(|row| self.batch.mark(*row).seq.0).collect();
        let found = self.store.database.query_settling(statement, &[&seqs]).await?;
        let free: Result<BTreeSet<i64>, _> = found.iter().map(|row| row.try_get("seq")).collect();
        let free = free.map_err(|error| unreadable(&error))?;
        Ok(rows
            .into_iter()
            .partition(|row| free.contains(&self.batch.mark(*row).seq.0)))
    }

    /// Those of these rows that are still to be settled, each the message that was sent; `written`: the database says that they were.
    async fn standing(&self, rows: &[usize], written: bool) -> Result<BTreeSet<Seq>, StoreError> {
        let marks = || rows.iter().map(|row| self.batch.mark(*row));
        let seqs: Vec<i64> = marks().map(|mark| mark.seq.0).collect();
        let replays: Vec<i32> = marks().map(|mark| mark.replay).collect();
        let attempts: Option<Vec<i32>> = match self.batch {
            Batch::Marks(_) => None,
            Batch::Failures(failures) => Some(rows.iter().map(|row| failures[*row].attempt).collect()),
        };
        let statement = &self.store.sql.standing;
        let params: [Param<'_>; 5] = [&seqs, &texts(marks()), &replays, &attempts, &written];
        let found = self.store.database.query_settling(statement, &params).await?;
        let standing: Result<_, _> = found.iter().map(|row| row.try_get("seq").map(Seq)).collect();
        standing.map_err(|error| unreadable(&error))
    }
}
