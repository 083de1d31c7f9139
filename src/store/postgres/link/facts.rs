//! What is known of the server behind all connections: what one learns is true for all.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::time::Instant;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::lock::lock;

/// What was learnt about the server, shared by all connections.
#[derive(Default)]
pub(super) struct Facts {
    /// Statements are to be named where that is safe.
    pub(super) naming_wanted: bool,
    /// It is known to be: every connection keeps its server process.
    pub(super) prepared: AtomicBool,
    /// It is known not to be.
    pub(super) pooled: AtomicBool,
    /// Where there are too few connections.
    pub(super) slots: Mutex<Slots>,
    /// Told when a connection was refused because there are enough.
    pub(super) refused: Notify,
    /// Raised when the server was lost: connections older than that are not used again.
    pub(super) generation: AtomicU64,
    /// Statements that ran into their limit since the last answer: the next ones get longer, so that a database that is
    /// merely slow gets done in the end.
    pub(super) overdue: AtomicU32,
    /// The schema was found to be right once.
    pub(super) settled_in: AtomicBool,
    /// Told when the process is to end.
    pub(super) ending: CancellationToken,
}

/// When the connection was made that an outbox's cursor was last read on. Each outbox has its own.
#[derive(Default)]
pub(super) struct CursorOn(Mutex<Option<Instant>>);

impl CursorOn {
    pub(super) fn forget(&self) {
        *lock(&self.0) = None;
    }

    /// Whether the cursor may go on over a connection made at `made`; from now on it is that one.
    pub(super) fn goes_on(&self, made: Instant) -> bool {
        let before = lock(&self.0).replace(made);
        before.is_none_or(|before| before == made)
    }
}

/// What is known of the room for connections.
#[derive(Default)]
pub(super) struct Slots {
    /// Until when each pool leaves it at what others have.
    pub(super) refused_until: Vec<Option<Instant>>,
    pub(super) said: bool,
}

impl Slots {
    pub(super) fn is_refused(&self, pool: usize, now: Instant) -> bool {
        self.refused_until
            .get(pool)
            .copied()
            .flatten()
            .is_some_and(|until| now < until)
    }
}
