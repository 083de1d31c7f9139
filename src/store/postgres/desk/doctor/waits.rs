//! What waits: messages that are stuck, and sessions of outboxd that wait for a lock.

use super::Examination;
use crate::finding::Finding;
use crate::store::StoreError;
use crate::store::postgres::desk::lock_waits;
use crate::store::postgres::outbox::stuck::read;
use crate::stuck::{StuckReason, line};

pub(super) async fn locks(examination: &Examination<'_>) -> Result<Vec<Finding>, StoreError> {
    let waits = lock_waits::sessions(examination.database).await?;
    let first = waits.into_iter().next();
    let finding = first.map(|wait| {
        let why = "what this session was to read, mark or renew waits for it";
        Finding::fault("locked", format!("{}: {}", wait.session, wait.what), why, wait.todo)
    });
    Ok(finding.into_iter().collect())
}

/// One finding for each reason.
pub(super) async fn stuck(examination: &Examination<'_>) -> Result<Vec<Finding>, StoreError> {
    let known = read(examination.database, examination.names).await?;
    let of = |reason: StuckReason| {
        let rows: Vec<_> = known
            .named
            .iter()
            .map(|stuck| &stuck.row)
            .filter(|row| row.reason == reason)
            .collect();
        let what = line(rows.len(), rows.first().copied());
        let why = "it is tried again by itself; messages of its key wait where the route keeps order, all others go on";
        (!rows.is_empty()).then(|| Finding::warning("stuck", what, why, reason.todo()))
    };
    Ok(StuckReason::ALL.into_iter().filter_map(of).collect())
}
