//! What follows from a settlement: rows leave the window, keys go on, and what could not be written is set aside.

use std::time::Duration;

use tokio::time::Instant;

use crate::message::{KeyId, Seq};
use crate::store::{Lane, Settled, StoreError};

use super::RelayError;
use super::engine::{DATABASE_RETRY, Engine, Phase};
use super::holds::Holder;
use super::stuck::{Claim, End};

impl Engine {
    pub(super) fn book_written(&mut self, answer: Result<Settled, StoreError>, now: Instant) -> Result<(), RelayError> {
        match answer {
            Ok(settled) => {
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
                let written = self.settler.written(&settled, now);
                self.window.release(written.bytes);
                for seq in written.relayed {
                    self.window.forget(seq);
                }
                for failed in &written.failures {
                    self.book_failure_written(failed, now);
                }
                for (seq, lane, claim) in &written.stuck {
                    self.claim(*seq, *lane, claim);
                }
                if sabotaged!(StuckForgotten) {
                    settled.stuck.iter().for_each(|row| self.window.forget(row.seq));
                }
                self.book_tried(written.free, now);
            }
            Err(error) => {
                self.database_away(error, now)?;
                if sabotaged!(LostSettlementForgotten) {
                    return self.book_written(Ok(Settled::default()), now);
                }
                self.settler.not_written(now, now + DATABASE_RETRY);
                self.drain("a settlement could not be written");
            }
        }
        Ok(())
    }

    /// The key of a row whose end cannot be written is held: later rows of it wait.
    pub(super) fn claim(&mut self, seq: Seq, lane: Lane, claim: &Claim) {
        let strict = claim.strict;
        self.holds
            .hold(KeyId::of(&claim.topic, &claim.key), Holder { seq, lane, strict });
    }

    /// The store is opened anew: what is stuck is so still.
    pub(super) fn claim_again(&mut self, now: Instant) {
        for (seq, lane, claim) in self.settler.stuck.claims() {
            self.claim(seq, lane, &claim);
        }
        self.settler.stuck.try_all(now);
    }

    /// A try of stuck rows was answered.
    pub(super) fn book_tried(&mut self, free: Vec<(End, Option<Claim>, Duration)>, now: Instant) {
        let count = free.len();
        let mut longest = Duration::ZERO;
        for (end, claim, stuck_for) in free {
            longest = longest.max(stuck_for);
            self.window.release(Claim::size(claim.as_ref()));
            match end {
                End::Relayed(mark) => {
                    self.window.forget(mark.seq);
                    self.resolve(mark.seq);
                }
                End::Failed(failed) => self.book_failure_written(&failed, now),
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
                self.holds.resolve(seq);
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

    /// Stuck rows are tried while rows flow, and while there is nothing else to do.
    pub(super) fn may_try_stuck(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Waiting(_)) && !self.stopping
    }
}
