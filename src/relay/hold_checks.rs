//! Whether holders still hold: an operator may have discarded one, or retried it elsewhere. Asked of the database now and then.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::message::Seq;
use crate::store::Hold;

use super::engine::Engine;

/// How often holders are checked against the database: an operator may have discarded one.
const HOLD_CHECK_INTERVAL: Duration = Duration::from_secs(1);
const HOLDS_CHECKED: usize = 10_000;

impl Engine {
    /// The next ones of all, so that each has its turn however many there are.
    pub(super) fn holds_to_check(&mut self, now: Instant) -> Option<Vec<Seq>> {
        if self.holds.is_empty() || now < self.reading.hold_check_at {
            return None;
        }
        self.reading.hold_check_at = now + HOLD_CHECK_INTERVAL;
        let mut seqs: Vec<Seq> = self.holds.holders_past(self.reading.hold_checked, HOLDS_CHECKED);
        self.reading.hold_checked = if seqs.len() < HOLDS_CHECKED {
            Seq(i64::MIN)
        } else {
            seqs.last().copied().unwrap_or(Seq(i64::MIN))
        };
        seqs.retain(|seq| !self.window.holds(*seq));
        (!seqs.is_empty()).then_some(seqs)
    }

    pub(super) fn book_hold_check(&mut self, asked: &[Seq], still: &[Hold]) {
        let still: HashMap<Seq, &Hold> = still.iter().map(|hold| (hold.seq, hold)).collect();
        for seq in asked {
            // Another message may have the number by now: it holds a key of its own, if any.
            let row = still.get(seq).filter(|hold| self.holds.is_held_by(*seq, hold.key));
            let holds = row.is_some_and(|hold| !hold.failed || self.holds.is_strict(*seq));
            if !holds && !self.window.holds(*seq) {
                self.resolve(*seq);
            }
        }
    }
}
