//! Limits and times of the engine, and why it ends.

use std::time::Duration;

use crate::route::Unrouted;
use crate::store::{Lane, StoreError};

/// Limits and times of the engine. See `config.example.toml` for what each is for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Lanes the table is divided into.
    pub lanes: Lane,
    /// Rows of one read, and messages of one batch, at most.
    pub batch_size: usize,
    /// Messages in memory at most: the bound on duplicates per crash.
    pub max_in_flight: usize,
    /// Bytes in memory at most.
    pub max_in_flight_bytes: usize,
    /// Polling while rows come.
    pub poll_interval_min: Duration,
    /// Polling while none come.
    pub poll_interval_max: Duration,
    /// A failed send counts whatever the reason.
    pub count_outages: bool,
    /// What becomes of a message that no route matches.
    pub unrouted: Unrouted,
    /// How long a stop may take.
    pub shutdown_timeout: Duration,
    /// The lease's length.
    pub lease_ttl: Duration,
    /// How often a paused destination is looked at.
    pub probe_interval: Duration,
    /// How often rows at or below the cursor are looked for, at least.
    pub sweep_interval: Duration,
}

/// Why the relay ended other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The store needs a person.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The stop took longer than allowed; the number of messages that will be sent again.
    #[error(
        "stopped after relay.shutdown_timeout with {0} acknowledged messages not yet marked: they will be sent again"
    )]
    ShutdownTimedOut(usize),
    /// Somebody holds a lock that marks need; the number of messages that will be sent again.
    #[error("stopped while a lock kept {0} acknowledged messages from being marked: they will be sent again. {1}")]
    Locked(usize, String),
    /// A task ended that should not have: a bug.
    #[error("the lease task ended unexpectedly")]
    Task(#[from] tokio::task::JoinError),
}
