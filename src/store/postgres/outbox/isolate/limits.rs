//! How long the steps of an isolation may take: healthy rows wait meanwhile.

use std::time::Duration;

use tokio::time::Instant;

use super::Isolation;
use crate::store::Settled;
use crate::store::postgres::link::database::Granted;
use crate::store::postgres::outbox::PostgresStore;
use crate::store::postgres::outbox::suspicion::Met;
use crate::stuck::StuckReason;

/// Time for what is left, in all and for each statement, once the process is to end.
const HURRY: Duration = Duration::from_secs(1);
const HURRIED_PART: Duration = Duration::from_millis(200);

/// What an isolation has learnt of the time things take.
pub(super) struct Limits {
    began: Instant,
    usual: Duration,
    /// Since when the process is known to end.
    hurried: Option<Instant>,
    /// Slow rows have just been met, by statements before this one.
    expects_slow: bool,
    /// A statement without rows took too long too: it is not the rows.
    pub(super) is_slow_server: bool,
    /// The last statement that took too long had so many rows.
    slow: Option<usize>,
    /// Two of so many took too long: each row takes its time.
    pub(super) too_many: usize,
    /// A lock is waited for that is not the row's: it cannot be found out beforehand who needs it.
    pub(super) elsewhere: bool,
}

impl Limits {
    pub(super) fn of(store: &PostgresStore, again: bool) -> Self {
        Self {
            began: Instant::now(),
            usual: store.database.statement_timeout(),
            hurried: None,
            expects_slow: store.meets(Met::Slow),
            is_slow_server: false,
            slow: None,
            too_many: store.too_many(),
            elsewhere: !again && store.meets(Met::LocksElsewhere),
        }
    }

    /// What is left may be left, or, when the process ends, must be.
    pub(super) fn is_over(&mut self, hurries: bool, has_achieved: bool) -> bool {
        if hurries && !self.is_slow_server {
            return self.hurried.get_or_insert_with(Instant::now).elapsed() > HURRY;
        }
        has_achieved && self.began.elapsed() > self.usual * 4 / 5
    }

    /// Nothing came of it in all that time.
    pub(super) fn gives_up(&self) -> bool {
        self.began.elapsed() > self.usual * 2
    }

    /// A statement of so many rows took too long.
    pub(super) fn was_slow(&mut self, rows: usize) {
        if self.slow == Some(rows) && rows > 1 {
            self.too_many = rows;
        }
        self.slow = Some(rows);
    }
}

impl Isolation<'_> {
    /// [`Self::limit`], and whether it is less when the process ends. Where the server is slow with everything, giving up would only
    /// have rows sent twice.
    pub(super) fn granted(&self, rows: usize) -> Granted {
        Granted {
            limit: self.limit(rows),
            hurries: !self.limits.is_slow_server,
        }
    }

    /// A statement of so many rows may take so long. A part of one that took too long is given less, and so is what was stuck before.
    pub(super) fn limit(&self, rows: usize) -> Duration {
        let Limits { usual, hurried, .. } = self.limits;
        if hurried.is_some() {
            return HURRIED_PART;
        }
        let is_whole = rows == self.batch.len();
        match (self.again, self.limits.is_slow_server, self.limits.expects_slow) {
            // It may need just that long: now and then it gets the time.
            (true, ..) if rows == 1 && self.is_patient => usual,
            (true, ..) if rows == 1 => usual / 20,
            (true, ..) => usual / 10,
            (false, true, _) if is_whole => usual,
            (false, true, _) if rows == 1 => usual / 2,
            (false, true, _) => usual / 4,
            (false, false, false) if is_whole => usual / 5,
            (false, false, false) => usual / 10,
            (false, false, true) if is_whole => usual / 10,
            (false, false, true) => usual / 20,
        }
    }

    /// Something came of it: it may be left for the next settlement.
    pub(super) fn has_achieved(&self, settled: &Settled) -> bool {
        !(self.done.is_empty() && self.locked.is_empty() && self.swallowed.is_empty()) || *settled != Settled::default()
    }

    /// There is no more time: what is left is settled with the next, if there is a next.
    pub(super) fn leave(&mut self, settled: &mut Settled) {
        let left = std::mem::take(&mut self.parts).into_iter().flat_map(|part| part.rows);
        if self.store.database.hurries() {
            let stuck = |row| {
                self.stick(
                    row,
                    StuckReason::Slow,
                    "the process ended before it could be written".to_owned(),
                )
            };
            settled.stuck.extend(left.map(stuck));
        } else {
            settled.later.extend(left.map(|row| self.batch.mark(row).seq));
        }
    }

    /// A row that somebody has locked is not waited for any longer: the others of the statement would wait too.
    pub(super) fn lock_timeout(&self) -> &'static str {
        match (self.limits.elsewhere, self.is_patient) {
            (true, _) => "5ms",
            (false, false) => "100ms",
            (false, true) => "1s",
        }
    }
}
