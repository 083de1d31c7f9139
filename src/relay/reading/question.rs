//! What is asked of the store beside the cursor, and its answer: the same variant says what was asked.

use std::sync::Arc;

use crate::message::{KeyId, Seq};
use crate::store::{DuePage, DuePosition, Hold, LaneSet, OpenTransaction, Reread, Room, Row, Scope};
use crate::store::{Store, StoreError, Tenancy};

use super::super::found::Laggard;

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
    /// The rows asked for, and those found.
    Recalled(KeyId, Vec<Seq>, Vec<Row>),
    Due(DuePage),
    StillHolding(Vec<Seq>, Vec<Hold>),
    Blockers(Vec<OpenTransaction>),
    /// What was looked at up to this number, or less.
    Reread(Purpose, Seq, Reread),
}

impl Question {
    pub(crate) async fn ask(self, store: Arc<dyn Store>, room: Room) -> Result<Answer, StoreError> {
        Ok(match self {
            Self::Holds { lanes, failed_too } => {
                let of = LaneSet::of(lanes.keys().copied());
                let holds = store.holds(&of, None, failed_too).await?;
                Answer::Holds(lanes, holds)
            }
            Self::Recall(key, lanes, seqs) => {
                let rows = store.recall(&lanes, &seqs, room).await?;
                Answer::Recalled(key, seqs, rows)
            }
            Self::Due(lanes, after, upto) => Answer::Due(store.due(&lanes, after, upto, room).await?),
            Self::StillHolding(lanes, seqs) => {
                let holds = store.holds(&lanes, Some(&seqs), true).await?;
                Answer::StillHolding(seqs, holds)
            }
            Self::Blockers => Answer::Blockers(store.open_transactions().await?),
            Self::Reread(purpose, scope, (after, upto)) => {
                let reread = store.reread(&scope, after, upto, room).await?;
                Answer::Reread(purpose, upto, reread)
            }
        })
    }
}
