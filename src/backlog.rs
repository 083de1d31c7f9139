//! How the outbox stands, as one value: the store counts it, telemetry keeps it, people and machines are shown it.

use std::time::Duration;

use serde::Serialize;

/// Held keys, and paused topics, remembered at most.
pub const NAMED_MAX: usize = 100;

/// What there is to do, and what waits for whom.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Backlog {
    /// Pending messages. A held one is not due.
    pub pending: Pending,
    /// Failed messages.
    pub failed: u64,
    /// For how long the oldest due message has been due; 0: none is.
    pub oldest_due_age_seconds: f64,
    /// Keys whose messages wait behind one of them, oldest first.
    pub held_keys: Vec<HeldKey>,
    /// Topics whose messages are held back by an operator or their route.
    pub paused_topics: Vec<PausedTopic>,
}

impl Backlog {
    /// For how long the oldest due message has been due; `None`: none is.
    #[must_use]
    pub fn oldest_due_age(&self) -> Option<Duration> {
        let oldest = Duration::try_from_secs_f64(self.oldest_due_age_seconds).unwrap_or_default();
        (self.pending.due > 0).then_some(oldest)
    }

    /// With [`NAMED_MAX`] keys and topics at most: what is kept in memory is bounded.
    #[must_use]
    pub fn shortened(mut self) -> Self {
        self.held_keys.truncate(NAMED_MAX);
        self.paused_topics.truncate(NAMED_MAX);
        self
    }
}

/// Pending messages by what they wait for, each counted once. `state` of `outboxd_messages_pending`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pending {
    /// May be sent now.
    pub due: u64,
    /// `available_at` is to come and no attempt failed yet.
    pub delayed: u64,
    /// An attempt failed; waiting for the next.
    pub retrying: u64,
    /// Behind a retrying or failed message of their key. Not counted as due.
    pub held: u64,
}

/// A key whose messages wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeldKey {
    /// Topic.
    pub topic: String,
    /// Key; a long one is cut.
    pub key: String,
    /// The message in the way.
    pub seq: i64,
    /// `retrying`, or `failed` (route order `strict`).
    pub reason: &'static str,
    /// Messages that wait behind it.
    pub waiting: u64,
}

/// A topic whose messages are held back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PausedTopic {
    /// The topic.
    pub topic: String,
    /// Since when; ISO 8601. `None`: its route says so.
    pub since: Option<String>,
    /// Who paused it. `None`: its route says so.
    pub who: Option<String>,
}
