//! What is asked of the store beside the cursor, and its answer.

use std::sync::Arc;

use tokio::time::Instant;

use crate::message::{KeyId, Seq};
use crate::store::{DuePage, DuePosition, Hold, OpenTransaction, Reread, Room, Row, Scope, Store, StoreError, Tenancy};

use super::found::Laggard;
use super::holds::Recall;

/// Another read.
#[derive(Clone, Debug)]
pub(super) enum Side {
    Arrive(Arc<Tenancy>, bool),
    Recall(KeyId, Recall),
    Due(Option<DuePosition>),
    Behind(Laggard),
    CheckHolds(Arc<Vec<Seq>>),
    NameBlockers,
    Sweep(Seq),
}

pub(super) enum Answer {
    Rows(Vec<Row>),
    Reread(Reread),
    Due(DuePage),
    Holds(Vec<Hold>),
    Transactions(Vec<OpenTransaction>),
}

/// Another read, answered.
pub(super) struct SideAnswer {
    pub(super) side: Side,
    pub(super) room: Room,
    pub(super) upto: Seq,
    pub(super) started: Instant,
    pub(super) found: Result<Answer, StoreError>,
}

pub(super) async fn fetch(
    store: &dyn Store,
    side: &Side,
    scope: &Scope,
    (after, upto): (Seq, Seq),
    room: Room,
) -> Result<Answer, StoreError> {
    let lanes = &scope.lanes;
    Ok(match side {
        Side::Arrive(_, failed_too) => Answer::Holds(store.holds(lanes, None, *failed_too).await?),
        Side::Recall(_, Recall::Rows(seqs)) => Answer::Rows(store.recall(lanes, seqs, room).await?),
        Side::Recall(_, Recall::Between(..)) | Side::Behind(_) | Side::Sweep(_) => {
            Answer::Reread(store.reread(scope, after, upto, room).await?)
        }
        Side::Due(position) => Answer::Due(store.due(lanes, *position, upto, room).await?),
        Side::CheckHolds(seqs) => Answer::Holds(store.holds(lanes, Some(seqs), true).await?),
        Side::NameBlockers => Answer::Transactions(store.open_transactions().await?),
    })
}
