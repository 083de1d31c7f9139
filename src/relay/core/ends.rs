//! What became of a row is known: its key goes on, and once it is written the row leaves memory.

use tokio::time::Instant;

use crate::message::Seq;
use crate::relay::reading::Reading;
use crate::relay::waiting::holds::Holds;
use crate::relay::window::Window;
use crate::store::FailedAttempt;

/// See the module.
pub(super) struct Ends<'a> {
    pub(super) window: &'a mut Window,
    pub(super) holds: &'a mut Holds,
    pub(super) reading: &'a mut Reading,
}

impl Ends<'_> {
    /// The row no longer holds its key: what waits behind it may go.
    pub(super) fn resolve(&mut self, seq: Seq) {
        if !self.holds.is_empty() && self.holds.resolve(seq) {
            self.reading.due.again();
        }
    }

    /// A failure is in the database: the row is out of memory, and what it held goes on if it failed for good.
    pub(super) fn failure_written(&mut self, failed: &FailedAttempt, now: Instant) {
        self.window.forget(failed.mark.seq);
        match failed.retry_in {
            Some(delay) => self.reading.due.falls_due_in(delay, now),
            None if self.holds.is_strict(failed.mark.seq) => {}
            None => self.resolve(failed.mark.seq),
        }
    }
}
