//! Writing what became of messages: marks by list in one statement, failures with their history in another.
//!
//! Marks check the fence as a whole (every lane involved still has its owner and epoch, or nothing is written), which costs
//! one look at a tiny table per statement. Only when that fails are the marks sorted by lanes still held.

use std::collections::BTreeSet;

use super::PostgresStore;
use super::database::Role;
use crate::store::{Epoch, FailedAttempt, Lane, Mark, Settled, Settlement, StoreError};

/// `last_error` and history keep this many characters.
const ERROR_LENGTH: usize = 2_000;

impl PostgresStore {
    pub(super) async fn settle_all(&self, settlement: &Settlement) -> Result<Settled, StoreError> {
        let mut settled = Settled::default();
        // Failures first: they are few, and a failure must not be written after a mark of a later message of its key.
        if !settlement.failures.is_empty() {
            let written = self.write_failures(&settlement.failures).await?;
            settled.written += written;
            settled.stale += settlement.failures.len() - written;
        }
        if !settlement.relayed.is_empty() {
            let written = self
                .write_marks(&settlement.relayed, settlement.verify_identity)
                .await?;
            settled.written += written;
            settled.stale += settlement.relayed.len() - written;
        }
        Ok(settled)
    }

    async fn write_marks(&self, marks: &[Mark], verify: bool) -> Result<usize, StoreError> {
        let fence: BTreeSet<(Lane, Epoch)> = marks.iter().map(|mark| (mark.lane, mark.epoch)).collect();
        let written = self.write_marks_behind(&fence, marks.iter(), verify).await?;
        if written > 0 {
            return Ok(written);
        }
        let mine: BTreeSet<(Lane, Epoch)> = self.lanes_held(Role::Settle).await?.into_iter().collect();
        let fence: BTreeSet<(Lane, Epoch)> = fence.intersection(&mine).copied().collect();
        if fence.is_empty() {
            return Ok(0);
        }
        let still_mine = marks.iter().filter(|mark| fence.contains(&(mark.lane, mark.epoch)));
        self.write_marks_behind(&fence, still_mine, verify).await
    }

    async fn write_marks_behind(
        &self,
        fence: &BTreeSet<(Lane, Epoch)>,
        marks: impl Iterator<Item = &Mark> + Clone,
        verify: bool,
    ) -> Result<usize, StoreError> {
        let seqs: Vec<i64> = marks.clone().map(|mark| mark.seq.0).collect();
        let (lanes, epochs): (Vec<i32>, Vec<i64>) =
            fence.iter().map(|(lane, epoch)| (i32::from(*lane), *epoch)).unzip();
        let commit = (!self.options.durable_marks).then_some("off");
        let written = if verify {
            let ids: Vec<String> = marks.map(|mark| mark.id.to_string()).collect();
            let statement = if self.options.delete_relayed {
                &self.sql.delete_verified
            } else {
                &self.sql.mark_verified
            };
            let params: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
                [&seqs, &lanes, &epochs, &self.options.instance, &commit, &ids];
            self.database.execute(Role::Settle, statement, &params).await?
        } else {
            let statement = if self.options.delete_relayed {
                &self.sql.delete
            } else {
                &self.sql.mark
            };
            let params: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
                [&seqs, &lanes, &epochs, &self.options.instance, &commit];
            self.database.execute(Role::Settle, statement, &params).await?
        };
        Ok(usize::try_from(written).unwrap_or(usize::MAX))
    }

    async fn write_failures(&self, failures: &[FailedAttempt]) -> Result<usize, StoreError> {
        let column = |f: &dyn Fn(&FailedAttempt) -> i64| failures.iter().map(f).collect::<Vec<i64>>();
        let text = |f: &dyn Fn(&FailedAttempt) -> String| failures.iter().map(f).collect::<Vec<String>>();
        let milliseconds = |duration: std::time::Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let seqs = column(&|failed| failed.mark.seq.0);
        let ids = text(&|failed| failed.mark.id.to_string());
        let lanes: Vec<i32> = failures.iter().map(|failed| i32::from(failed.mark.lane)).collect();
        let epochs = column(&|failed| failed.mark.epoch);
        let attempts: Vec<i32> = failures.iter().map(|failed| failed.attempt).collect();
        let retries: Vec<Option<i64>> = failures
            .iter()
            .map(|failed| failed.retry_in.map(milliseconds))
            .collect();
        let classes: Vec<&str> = failures.iter().map(|failed| failed.class.as_str()).collect();
        let codes = text(&|failed| storable(&failed.code));
        let errors = text(&|failed| storable(&failed.error));
        let latencies = column(&|failed| milliseconds(failed.latency));
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 11] = [
            &seqs,
            &ids,
            &lanes,
            &epochs,
            &attempts,
            &retries,
            &classes,
            &codes,
            &errors,
            &latencies,
            &self.options.instance,
        ];
        let written = self.database.execute(Role::Settle, &self.sql.fail, &params).await?;
        Ok(usize::try_from(written).unwrap_or(usize::MAX))
    }
}

/// PostgreSQL's text takes no NUL; an error is one line of a bounded length.
fn storable(text: &str) -> String {
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(ERROR_LENGTH)
        .collect();
    line
}
