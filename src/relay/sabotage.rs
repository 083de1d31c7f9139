//! Known-broken variants of the engine, so that tests can show that each would be noticed. Compiled for tests only.
//!
//! One is chosen per thread; a relay under way on it is broken from then on. `sabotaged!` asks; without the feature
//! `testing` it is `false`, and the broken branch is not compiled.

use std::cell::Cell;

/// Ways to break the engine: mistakes that relays are known to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// A message is marked when it is handed over, not when it is acknowledged.
    MarkedBeforeTheAnswer,
    /// A batch is sent in the wrong order.
    BatchReversed,
    /// A retrying message does not hold its key.
    HoldForgotten,
    /// Publishing goes on although the lease could have ended.
    LeaseEndIgnored,
    /// A lane is handed over while some of it is unsettled.
    HandedOverTooEarly,
    /// A lane taken over is not read from the beginning.
    PastNotRead,
    /// Numbers that commit late are passed by, and nothing sweeps.
    LateCommitsSkipped,
    /// An outage is counted against the messages it meets.
    OutageCounted,
    /// Rows that a paused destination cannot take are not remembered.
    LagForgotten,
    /// Rows of a paused topic are not remembered.
    GateForgotten,
    /// A settlement without an answer is taken for written.
    LostSettlementForgotten,
    /// A queue may have several batches in flight.
    TwoBatches,
    /// A row that cannot be marked is taken for marked.
    StuckForgotten,
    /// The latest of a priority goes first.
    PriorityReversed,
}

impl Sabotage {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::MarkedBeforeTheAnswer,
        Self::BatchReversed,
        Self::HoldForgotten,
        Self::LeaseEndIgnored,
        Self::HandedOverTooEarly,
        Self::PastNotRead,
        Self::LateCommitsSkipped,
        Self::OutageCounted,
        Self::LagForgotten,
        Self::GateForgotten,
        Self::LostSettlementForgotten,
        Self::TwoBatches,
        Self::StuckForgotten,
        Self::PriorityReversed,
    ];
}

thread_local! {
    static CHOSEN: Cell<Option<Sabotage>> = const { Cell::new(None) };
}

/// Breaks, or mends, the engines of this thread.
pub fn choose(sabotage: Option<Sabotage>) {
    CHOSEN.set(sabotage);
}

pub(crate) fn is_chosen(sabotage: Sabotage) -> bool {
    CHOSEN.get() == Some(sabotage)
}
