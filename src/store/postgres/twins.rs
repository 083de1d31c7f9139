//! Rows with the same message id, where the broker tells copies by it.
//!
//! The second of two such rows is acknowledged as a copy of the first and stored nowhere. So is a message that was sent before a
//! crash and is sent again, which is right. Which of the two it was is looked up when a row is acknowledged as a copy that was
//! never tried before; a row whose twin is found has failed, and says so.

use std::collections::HashMap;
use std::time::Duration;

use super::PostgresStore;
use super::database::Role;
use super::rows::unreadable;
use crate::delivery::FailureClass;
use crate::store::{FailedAttempt, Mark, StoreError};

/// Twins are looked for among so many numbers on both sides of a row.
const REACH: i64 = 100_000;

impl PostgresStore {
    /// Marks what was relayed, and fails what was taken for a copy of another row's message. Those that were not come first: one
    /// of them may be the twin.
    pub(super) async fn write_relayed(&self, marks: &[Mark], verify: bool) -> Result<usize, StoreError> {
        if !marks.iter().any(|mark| mark.duplicate) {
            return self.write_marks(marks, verify).await;
        }
        let (again, once): (Vec<Mark>, Vec<Mark>) = marks.iter().partition(|mark| mark.duplicate);
        let mut written = 0;
        if !once.is_empty() {
            written += self.write_marks(&once, verify).await?;
        }
        let twins = self.twins(&again).await?;
        let sent_before: Vec<Mark> = again
            .iter()
            .filter(|mark| !twins.contains_key(&mark.seq.0))
            .copied()
            .collect();
        if !sent_before.is_empty() {
            written += self.write_marks(&sent_before, verify).await?;
        }
        let failures: Vec<FailedAttempt> = again
            .iter()
            .filter_map(|mark| twins.get(&mark.seq.0).map(|twin| nowhere(*mark, *twin)))
            .collect();
        if !failures.is_empty() {
            tracing::warn!(
                rows = failures.len(), first = failures[0].mark.seq.0, error = %failures[0].error,
                "messages were not stored by the broker, because other rows have their ids: they have failed"
            );
            written += self.write_failures(&failures).await?;
        }
        Ok(written)
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
