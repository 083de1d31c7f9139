//! What is asked of the store beside the cursor, and its answer: the same variant says what was asked.

use std::sync::Arc;

use crate::message::{KeyId, Seq};
use crate::relay::waiting::found::Laggard;
use crate::store::{DuePage, DuePosition, Hold, LaneSet, OpenTransaction, Reread, Row, Scope, Tenancy};

/// What rows are read again for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// What is parked behind a key that is free again.
    Key(KeyId),
    /// What waits for one that lags.
    Behind(Laggard),
    /// Whatever is pending.
    Sweep,
}

/// See the module. Most urgent first.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Question {
    /// Who holds keys of these lanes.
    Holds { lanes: Tenancy, failed_too: bool },
    /// Rows with a priority, but for those of these topics.
    Urgent(LaneSet, Vec<Arc<str>>),
    /// These rows, parked behind a key that is free again.
    Recall(KeyId, LaneSet, Vec<Seq>),
    /// Rows whose time has come.
    Due(LaneSet, Option<DuePosition>, Seq),
    /// Which of these rows hold a key still.
    StillHolding(LaneSet, Vec<Seq>),
    /// Which transactions keep the commit watermark back.
    Blockers,
    /// Pending rows in this scope past the first number and up to the second.
    Reread(Purpose, Scope, (Seq, Seq)),
}

#[derive(Debug)]
pub(crate) enum Answer {
    Holds(Tenancy, Vec<Hold>),
    Urgent(Vec<Row>),
    /// The rows asked for, and those found.
    Recalled(KeyId, Vec<Seq>, Vec<Row>),
    Due(DuePage),
    StillHolding(Vec<Seq>, Vec<Hold>),
    Blockers(Vec<OpenTransaction>),
    /// What was looked at up to this number, or less.
    Reread(Purpose, Seq, Reread),
}
