//! Rows with the same message id, where the broker tells copies by it.
//!
//! The second of two such rows is acknowledged as a copy of the first and stored nowhere. So is a message that was sent before a
//! crash and is sent again, which is right. Which of the two it was is looked up when a row is acknowledged as a copy that was
//! never tried before; a row whose twin is found has failed, and says so.

use std::collections::HashMap;
use std::time::Duration;

use super::PostgresStore;
use super::batch::Batch;
use crate::delivery::FailureClass;
use crate::store::postgres::link::answer::unreadable;
use crate::store::postgres::link::database::Role;
use crate::store::{FailedAttempt, Mark, Settled, StoreError};

/// Twins are looked for among so many numbers on both sides of a row.
const REACH: i64 = 100_000;

impl PostgresStore {
    /// Marks what was relayed, and fails what was taken for a copy of another row's message. Those that were not come first: one
    /// of them may be the twin.
    pub(super) async fn settle_relayed(
        &self,
        marks: &[Mark],
        again: bool,
        settled: &mut Settled,
    ) -> Result<(), StoreError> {
        if !marks.iter().any(|mark| mark.duplicate) {
            return self.settle_batch(Batch::Marks(marks), again, settled).await;
        }
        let (copies, once): (Vec<Mark>, Vec<Mark>) = marks.iter().cloned().partition(|mark| mark.duplicate);
        self.settle_batch(Batch::Marks(&once), again, settled).await?;
        let twins = self.twins(&copies).await?;
        let (lost, sent_before): (Vec<Mark>, Vec<Mark>) =
            copies.into_iter().partition(|mark| twins.contains_key(&mark.seq.0));
        self.settle_batch(Batch::Marks(&sent_before), again, settled).await?;
        let failures: Vec<FailedAttempt> = lost
            .into_iter()
            .filter_map(|mark| twins.get(&mark.seq.0).map(|twin| nowhere(mark, *twin)))
            .collect();
        if !failures.is_empty() && !again {
            tracing::warn!(
                rows = failures.len(), first = failures[0].mark.seq.0, error = %failures[0].error,
                "messages were not stored by the broker, because other rows have their ids: they have failed"
            );
        }
        self.settle_batch(Batch::Failures(&failures), again, settled).await
    }

    /// Which of `marks` have a twin, and where.
    async fn twins(&self, marks: &[Mark]) -> Result<HashMap<i64, i64>, StoreError> {
        let mut sorted: Vec<&Mark> = marks.iter().collect();
        sorted.sort_unstable_by_key(|mark| mark.seq);
        let mut found = HashMap::new();
        let near = |one: &&Mark, other: &&Mark| other.seq.0.saturating_sub(one.seq.0) <= REACH;
        for group in sorted.chunk_by(near) {
            let seqs: Vec<i64> = group.iter().map(|mark| mark.seq.0).collect();
            let ids: Vec<String> = group.iter().map(|mark| mark.id.to_string()).collect();
            let (Some(first), Some(last)) = (seqs.first(), seqs.last()) else {
                continue;
            };
            let (from, to) = (first.saturating_sub(REACH), last.saturating_add(REACH));
            let rows = self
                .database
                .query(Role::Settle, &self.sql.twins, &[&seqs, &ids, &from, &to])
                .await?;
            for row in rows {
                let read = |column| row.try_get(column).map_err(|error| unreadable(&error));
                found.insert(read("seq")?, read("twin")?);
            }
        }
        Ok(found)
    }
}

fn nowhere(mark: Mark, twin: i64) -> FailedAttempt {
    FailedAttempt {
        error: format!(
            "row {twin} has the same id, {}: the broker took this message for a copy of that one and stored nothing; insert it \
             again with an id of its own, or retry it after the stream's duplicate window",
            mark.id
        ),
        mark,
        attempt: 1,
        retry_in: None,
        class: FailureClass::Rejected,
        code: "duplicate_id".to_owned(),
        latency: Duration::ZERO,
    }
}
