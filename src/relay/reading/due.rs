//! The walk over rows that waited for a time: retries, delayed rows, what an operator has retried or replayed.
//!
//! ```text
//!   at ──> pages from the earliest on, until the last ──> pause: until the next row falls due, a second at most ──> at
//!                      │ `again` meanwhile: it has passed rows that may be let in now                             ^
//!                      └──────────────────────────────────────────────────────────────────────────────────────────┘
//! ```

use std::time::Duration;

use tokio::time::Instant;

use crate::store::DuePosition;

/// Due rows are looked for at least this often: an operator's retry sends no notification.
pub(crate) const DUE_INTERVAL: Duration = Duration::from_secs(1);
/// A walk rests so many times as long as it took.
const REST: u32 = 5;
/// ... and so long at least.
const REST_MIN: Duration = Duration::from_millis(1);

/// See the module.
#[derive(Debug)]
pub(crate) struct DueWalk {
    at: Instant,
    /// Where the walk under way stands; `None`: the next one begins.
    after: Option<DuePosition>,
    started: Instant,
    /// The walk under way is followed by another at once.
    anew: bool,
}

impl DueWalk {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            at: now,
            after: None,
            started: now,
            anew: false,
        }
    }

    /// The store was opened anew.
    pub(crate) fn restart(&mut self, now: Instant) {
        self.after = None;
        self.anew = false;
        self.at = now;
    }

    /// When the next page is due.
    pub(crate) fn at(&self) -> Instant {
        self.at
    }

    /// The next page is asked for: where it begins.
    pub(crate) fn begin(&mut self, now: Instant) -> Option<DuePosition> {
        if self.after.is_none() {
            self.started = now;
        }
        self.after
    }

    /// A page was read. `next`: where to go on; else it was the last, and the earliest row that still waits is due in `next_due`.
    pub(crate) fn read(&mut self, next: Option<DuePosition>, next_due: Option<Duration>, now: Instant) {
        self.after = next;
        if next.is_none() {
            let took = now.saturating_duration_since(self.started);
            let pause = next_due.unwrap_or(DUE_INTERVAL).min(DUE_INTERVAL);
            let pause = pause.max(took * REST).max(REST_MIN);
            self.at = if std::mem::take(&mut self.anew) {
                now
            } else {
                now + pause
            };
        }
    }

    /// A row falls due in `delay`.
    pub(crate) fn falls_due_in(&mut self, delay: Duration, now: Instant) {
        self.at = self.at.min(now + delay);
    }

    /// The next page is due now.
    pub(crate) fn look_now(&mut self, now: Instant) {
        self.at = now;
    }

    /// Rows that were due could not be sent and may be now.
    pub(crate) fn again(&mut self) {
        self.at = self.started;
        self.anew = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Seq;

    const MS: Duration = Duration::from_millis(1);
    const PLACE: Option<DuePosition> = Some(DuePosition {
        available_at: 7,
        seq: Seq(1),
    });

    #[test]
    fn it_goes_on_page_by_page_and_rests_behind_the_last() {
        let now = Instant::now();
        let mut walk = DueWalk::new(now);
        assert_eq!(walk.begin(now), None);
        walk.read(PLACE, None, now);
        assert_eq!((walk.begin(now + 9 * MS), walk.at()), (PLACE, now), "at once");
        walk.read(None, None, now + 9 * MS);
        assert_eq!(walk.at(), now + 9 * MS + DUE_INTERVAL);
    }

    #[test]
    fn a_long_walk_rests_longer_and_a_row_that_falls_due_is_not_waited_past() {
        let now = Instant::now();
        let mut walk = DueWalk::new(now);
        walk.begin(now);
        walk.read(None, Some(MS), now + 100 * MS);
        assert_eq!(walk.at(), now + 600 * MS);
        walk.falls_due_in(3 * MS, now);
        assert_eq!(walk.at(), now + 3 * MS);
    }

    #[test]
    fn what_it_has_passed_is_looked_for_at_once() {
        let now = Instant::now();
        let mut walk = DueWalk::new(now);
        walk.begin(now);
        walk.again();
        walk.read(None, None, now + MS);
        assert_eq!(walk.at(), now + MS);
        walk.begin(now + MS);
        walk.read(None, None, now + MS);
        assert_eq!(walk.at(), now + MS + DUE_INTERVAL, "once");
    }
}
