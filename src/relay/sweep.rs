//! The sweep: what is pending at or below the cursor is looked for now and then, and at once when something calls for it.

use std::time::Duration;

use tokio::time::Instant;

use crate::message::Seq;
use crate::store::Reread;

use super::engine::Engine;
use super::found::Found;
use super::reading::Reading;

/// Walks that are only a net take at most this part of the time.
const NET_SHARE: u32 = 100;
/// ... and rest for so long at most: one hung statement does not take the net away.
const NET_PAUSE_MAX: Duration = Duration::from_secs(300);

/// Sweeps that something calls for come this far apart.
const SWEEP_CALM: Duration = Duration::from_secs(1);

impl Reading {
    /// What was sent is no longer what stands under its number: the table may have been emptied, or exchanged. Looks again from the
    /// beginning, at once, but not more often than every second.
    pub(super) fn sweep_soon(&mut self, now: Instant) {
        self.sweep_again = true;
        self.sweep_at = self.sweep_at.min(now.max(self.sweep_calm_until));
        self.sweep_calm_until = self.sweep_at + SWEEP_CALM;
    }
}

impl Engine {
    pub(super) fn book_sweep(&mut self, reread: Reread, took: Duration, now: Instant) {
        let (queued, _) = self.admit_all(reread.rows, &Found::Passing, now);
        if queued > 0 {
            tracing::debug!(rows = queued, "found by the sweep");
        }
        if reread.done {
            self.review_unrouted();
        }
        let reading = &mut self.reading;
        let (after, pause) = if reread.done {
            (Seq(i64::MIN), reading.sweep_interval)
        } else {
            (reread.position, Duration::ZERO)
        };
        reading.sweep_after = after;
        reading.sweep_at = now + pause.max((took * NET_SHARE).min(NET_PAUSE_MAX));
        if reread.done && reading.sweep_again {
            reading.sweep_at = reading.sweep_at.min(now.max(reading.sweep_calm_until));
        }
    }
}
