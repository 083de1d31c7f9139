//! What follows from a settlement: rows leave the window, keys go on, and what could not be written is set aside.

use std::time::Duration;

use tokio::time::Instant;

use crate::message::Seq;
use crate::relay::reading::Reading;
use crate::relay::settling::Settler;
use crate::relay::settling::stuck::{Claim, End};
use crate::relay::waiting::Waiting;
use crate::relay::waiting::holds::Holder;
use crate::relay::window::Window;
use crate::store::{Lane, Settled};
use crate::telemetry::Telemetry;

use super::ends::Ends;

/// See the module.
pub(super) struct Books<'a> {
    pub(super) telemetry: &'a Telemetry,
    pub(super) window: &'a mut Window,
    pub(super) waiting: &'a mut Waiting,
    pub(super) reading: &'a mut Reading,
    pub(super) settler: &'a mut Settler,
}

impl Books<'_> {
    pub(super) fn settled(&mut self, settled: &Settled, now: Instant) {
        if settled.written > 0 || (settled.stuck.is_empty() && settled.later.is_empty()) {
            self.telemetry.health.progress();
        }
        if settled.stale > 0 {
            tracing::warn!(
                rows = settled.stale,
                "settled rows no longer matched: changed, exchanged, or lane lost"
            );
        }
        // Where a lane was lost, its rows are somebody else's to find; or ours, when the next renewal says that we have it still.
        if settled.stale > settled.lost {
            self.reading.sweep.soon(now);
            // What was replayed meanwhile waits among those that have a time.
            self.reading.due.again();
        }
        if settled.lost > 0 {
            self.reading.sweep.soon_when_renewed();
        }
        let written = self.settler.written(settled, now);
        self.window.release(written.bytes);
        for seq in written.relayed {
            self.window.forget(seq);
        }
        for failed in &written.failures {
            self.ends().failure_written(failed, now);
        }
        for (seq, lane, claim) in &written.stuck {
            self.claim(*seq, *lane, claim);
        }
        if sabotaged!(StuckForgotten) {
            settled.stuck.iter().for_each(|row| self.window.forget(row.seq));
        }
        self.tried(written.free, now);
    }

    /// The key of a row whose end cannot be written is held: later rows of it wait.
    fn claim(&mut self, seq: Seq, lane: Lane, claim: &Claim) {
        let strict = claim.strict;
        self.waiting
            .hold(&claim.topic, &claim.key, Holder { seq, lane, strict });
    }

    /// The store is opened anew: what is stuck is so still.
    pub(super) fn claim_again(&mut self, now: Instant) {
        for (seq, lane, claim) in self.settler.stuck.claims() {
            self.claim(seq, lane, &claim);
        }
        self.settler.stuck.try_all(now);
    }

    /// A try of stuck rows was answered.
    fn tried(&mut self, free: Vec<(End, Option<Claim>, Duration)>, now: Instant) {
        let count = free.len();
        let mut longest = Duration::ZERO;
        for (end, claim, stuck_for) in free {
            longest = longest.max(stuck_for);
            self.window.release(Claim::size(claim.as_ref()));
            match end {
                End::Relayed(mark) => {
                    self.window.forget(mark.seq);
                    self.ends().resolve(mark.seq);
                }
                End::Failed(failed) => self.ends().failure_written(&failed, now),
            }
        }
        if count > 0 {
            let (left, longest) = (self.settler.stuck.len(), longest.as_secs());
            tracing::info!(
                rows = count,
                left,
                longest_seconds = longest,
                "rows are no longer stuck"
            );
        }
    }

    /// Lanes handed over take their stuck rows along: the next owner sends them again.
    pub(super) fn give_up_stuck(&mut self, lanes: impl Iterator<Item = Lane>) {
        for lane in lanes {
            let gone = self.settler.stuck.give_up(lane);
            if !gone.is_empty() {
                tracing::warn!(
                    lane,
                    rows = gone.len(),
                    "a lane is handed over with stuck rows: they are sent again"
                );
            }
            for (seq, claim) in gone {
                self.window.release(Claim::size(claim.as_ref()));
                self.window.forget(seq);
                self.waiting.holds.resolve(seq);
            }
        }
    }

    /// Tells whoever asks which rows are stuck.
    pub(super) fn report_stuck(&mut self, now: Instant) {
        self.window.stuck(self.settler.stuck.len());
        if let Some((rows, counts)) = self.settler.stuck.news(now) {
            self.telemetry.health.stuck(rows);
            self.telemetry.health.stuck_counts(counts);
        }
    }

    fn ends(&mut self) -> Ends<'_> {
        Ends {
            window: self.window,
            holds: &mut self.waiting.holds,
            reading: self.reading,
        }
    }
}
