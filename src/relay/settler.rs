//! Gathers what became of messages and writes it in few statements: one under way at a time, beside the reading.
//!
//! A settlement that could not be written is kept and written later, with message ids compared: after a failover the same
//! `seq` may belong to another row. Until it is written its rows stay in the window.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::store::{FailedAttempt, Mark, Settlement};

/// A mark waits this long for company.
const GATHER: Duration = Duration::from_millis(10);
/// No wait once there are this many.
const ENOUGH: usize = 1_000;
/// Rows of one statement at most.
const MOST: usize = 1_500;

#[derive(Default)]
pub(crate) struct Settler {
    gathering: Settlement,
    since: Option<Instant>,
    writing: Option<Arc<Settlement>>,
    not_before: Option<Instant>,
    verify_identity: bool,
}

impl Settler {
    pub(crate) fn relayed(&mut self, mark: Mark, now: Instant) {
        self.gathering.relayed.push(mark);
        self.since.get_or_insert(now);
    }

    pub(crate) fn failed(&mut self, failure: FailedAttempt, now: Instant) {
        self.gathering.failures.push(failure);
        self.since.get_or_insert(now);
    }

    /// Nothing gathered and nothing under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.gathering.is_empty() && self.writing.is_none()
    }

    /// The next settlement to write, if its time has come. `at_once`: whatever there is.
    pub(crate) fn next(&mut self, now: Instant, at_once: bool) -> Option<Arc<Settlement>> {
        if self.writing.is_some() || self.not_before.is_some_and(|time| now < time) {
            return None;
        }
        let since = self.since?;
        let enough = self.gathering.relayed.len() + self.gathering.failures.len() >= ENOUGH;
        if !(at_once || enough || now >= since + GATHER) {
            return None;
        }
        let mut next = std::mem::take(&mut self.gathering);
        self.since = None;
        if next.relayed.len() > MOST {
            self.gathering.relayed = next.relayed.split_off(MOST);
            self.since = Some(since);
        }
        next.verify_identity = self.verify_identity;
        let next = Arc::new(next);
        self.writing = Some(Arc::clone(&next));
        Some(next)
    }

    /// When [`Self::next`] should be asked again.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        if self.writing.is_some() {
            return None;
        }
        let due = self.since? + GATHER;
        Some(self.not_before.map_or(due, |time| time.max(due)))
    }

    /// The settlement under way was written: hands it back for the books.
    pub(crate) fn written(&mut self) -> Option<Arc<Settlement>> {
        self.not_before = None;
        self.verify_identity = false;
        self.writing.take()
    }

    /// The settlement under way may or may not have been written: it is written again, not before `time`.
    pub(crate) fn not_written(&mut self, now: Instant, time: Instant) {
        self.verify_identity = true;
        self.not_before = Some(time);
        if let Some(writing) = self.writing.take() {
            let mut again = Settlement::clone(&writing);
            again.relayed.append(&mut self.gathering.relayed);
            again.failures.append(&mut self.gathering.failures);
            self.gathering = again;
            self.since.get_or_insert(now);
        }
    }

    /// Messages acknowledged whose mark is not written: they will be sent again.
    pub(crate) fn unwritten(&self) -> usize {
        self.gathering.relayed.len() + self.writing.as_ref().map_or(0, |writing| writing.relayed.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{MessageId, Seq};

    fn mark(seq: i64) -> Mark {
        Mark {
            seq: Seq(seq),
            id: MessageId::Number(seq),
            lane: 0,
            epoch: 1,
            duplicate: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn marks_wait_for_company_and_one_statement_flies_at_a_time() {
        let now = Instant::now();
        let mut settler = Settler::default();
        settler.relayed(mark(1), now);
        assert!(settler.next(now, false).is_none());
        let first = settler.next(now + GATHER, false).unwrap();
        assert_eq!(first.relayed.len(), 1);
        settler.relayed(mark(2), now);
        assert!(settler.next(now + GATHER, true).is_none());
        assert_eq!(settler.written().unwrap().relayed, [mark(1)]);
        assert_eq!(settler.next(now, true).unwrap().relayed, [mark(2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_settlement_is_written_again_with_identities() {
        let now = Instant::now();
        let mut settler = Settler::default();
        settler.relayed(mark(1), now);
        settler.next(now, true).unwrap();
        settler.relayed(mark(2), now);
        settler.not_written(now, now + GATHER);
        assert!(settler.next(now, true).is_none());
        let again = settler.next(now + GATHER, true).unwrap();
        assert_eq!((again.relayed.len(), again.verify_identity), (2, true));
        settler.written();
        settler.relayed(mark(3), now);
        assert!(!settler.next(now, true).unwrap().verify_identity);
    }
}
