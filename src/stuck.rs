//! Rows that are set aside because of trouble of their own: what everybody who sees them needs to know.
//!
//! A row is stuck while it cannot be written (a trigger raises, a constraint is violated, another transaction holds its lock)
//! or can be neither read nor written. Everything else goes on; the row is tried again by itself, with a pause that grows.

use serde::{Deserialize, Serialize};

/// Why a row is stuck; a label of `outboxd_rows_stuck`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StuckReason {
    /// The database refuses to write it: a trigger, a constraint, a value.
    Refused,
    /// Another transaction holds its lock.
    Locked,
    /// The write reports no error and has no effect: a trigger or a policy swallows it.
    Suppressed,
    /// Its content cannot be read, and it cannot be marked failed either.
    Unreadable,
    /// Writing it takes longer than a statement may.
    Slow,
}

impl StuckReason {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Refused,
        Self::Locked,
        Self::Suppressed,
        Self::Unreadable,
        Self::Slow,
    ];

    /// Its name, as in JSON and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Locked => "locked",
            Self::Suppressed => "suppressed",
            Self::Unreadable => "unreadable",
            Self::Slow => "slow",
        }
    }
}

/// One stuck row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StuckRow {
    /// Its number.
    pub seq: i64,
    /// Its message id; empty when it cannot be read.
    pub id: String,
    /// Why.
    pub reason: StuckReason,
    /// One line: the code, the object, the lock's holder (its process id and application). Never anything of the row.
    pub detail: String,
    /// Seconds since it was set aside, when this was written down.
    pub seconds: u64,
}
