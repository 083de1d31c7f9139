//! How far the core is, and where it goes.
//!
//! ```text
//!   Waiting ──lease valid, time come──> Opening ──opened──> Running
//!      ^                                   │                   │ database or lease lost, told to stop, a reload
//!      └──── written, as far as answered ──┴──── Draining <────┘
//! ```

use std::time::Duration;

use tokio::time::Instant;

/// Waits between attempts to reach a database that is away.
pub(super) const DATABASE_RETRY: Duration = Duration::from_millis(250);
/// What is waited for may be answered any moment: so long is not slept past it.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Draining waits so long for brokers to answer; the store is opened anew beside batches that take longer. A stop waits for all.
const ANSWERS_WAITED_FOR: Duration = Duration::from_millis(250);

/// Where the core stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No lanes, or the database is away: nothing is read before `Instant`.
    Waiting(Instant),
    /// The store is being opened.
    Opening,
    /// Rows flow.
    Running,
    /// Nothing new starts; what is in flight is answered and settled, as far as brokers answer by then.
    Draining(Instant),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Course {
    pub(super) phase: Phase,
    pub(super) stopping: bool,
    /// The store is not opened again before: it has just failed.
    not_before: Instant,
    started_over: Option<Instant>,
}

impl Course {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            phase: Phase::Waiting(now),
            stopping: false,
            not_before: now,
            started_over: None,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    pub(super) fn is_draining(&self) -> bool {
        matches!(self.phase, Phase::Draining(_))
    }

    /// Nothing new starts from now on.
    pub(super) fn drain(&mut self, now: Instant) {
        self.phase = Phase::Draining(now + ANSWERS_WAITED_FOR);
    }

    /// What was in flight is answered and written, as far as brokers answer.
    pub(super) fn drained(&mut self, now: Instant) {
        self.phase = Phase::Waiting(self.not_before.max(now));
    }

    /// The database does not answer.
    pub(super) fn database_away(&mut self, now: Instant) {
        self.not_before = now + DATABASE_RETRY;
    }

    /// The store is opened anew although it answers: where that happens again and again, not without a pause.
    pub(super) fn start_over(&mut self, now: Instant) {
        let before = self.started_over.replace(now);
        if before.is_some_and(|at| now - at < DATABASE_RETRY) {
            self.not_before = now + DATABASE_RETRY;
        }
    }

    /// Whether the store is to be opened now, as far as the core knows.
    pub(super) fn may_open(&self, now: Instant) -> bool {
        matches!(self.phase, Phase::Waiting(not_before) if now >= not_before) && !self.stopping
    }

    /// Stuck rows are tried while rows flow, and while there is nothing else to do.
    pub(super) fn may_try_stuck(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Waiting(_)) && !self.stopping
    }

    /// When it goes on by itself; `None`: something else comes first.
    pub(super) fn wake_at(&self, now: Instant) -> Option<Instant> {
        match self.phase {
            Phase::Waiting(time) | Phase::Draining(time) => Some(time.max(now + LOOK_AGAIN)),
            Phase::Opening | Phase::Running => None,
        }
    }
}
