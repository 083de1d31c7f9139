//! Writing what became of messages: marks in one statement, failures with their history in another.
//!
//! Many marks of numbers that lie close together, as a backlog's do, go as bits over their range: PostgreSQL then walks
//! along the index once instead of descending it for each. Others go as a list. Marks check the fence as a whole (every
//! lane involved still has its owner and epoch, or nothing is written), which costs one look at a tiny table per
//! statement. Only when that fails are the marks sorted by lanes still held.

use std::collections::BTreeSet;

use super::PostgresStore;
use super::database::Role;
use crate::message::MessageId;
use crate::store::{Epoch, FailedAttempt, Lane, Mark, Settled, Settlement, StoreError};

/// `last_error` and history keep this many characters.
const ERROR_LENGTH: usize = 2_000;

/// Marks worth planning a statement for: PostgreSQL plans a range anew each time, a list once.
const MANY: usize = 100;

type Param = dyn tokio_postgres::types::ToSql + Sync;

/// Numbers that lie close together, as bits over the range from the first to the last.
#[derive(Debug, PartialEq)]
struct Stretch {
    first: i64,
    last: i64,
    bits: Vec<u8>,
}

impl Stretch {
    /// `None` when most of the range are other numbers: passing over their rows would cost more than it saves.
    fn of(seqs: &[i64]) -> Option<Self> {
        let (first, last) = (*seqs.iter().min()?, *seqs.iter().max()?);
        let span = usize::try_from(last.checked_sub(first)?).ok()?;
        if span >= 2 * seqs.len() {
            return None;
        }
        let mut bits = vec![0; span / 8 + 1];
        for seq in seqs {
            let at = usize::try_from(seq - first).ok()?;
            bits[at / 8] |= 1 << (at % 8);
        }
        Some(Self { first, last, bits })
    }
}

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
                .write_relayed(&settlement.relayed, settlement.verify_identity)
                .await?;
            settled.written += written;
            settled.stale += settlement.relayed.len() - written;
        }
        Ok(settled)
    }

    pub(super) async fn write_marks(&self, marks: &[Mark], verify: bool) -> Result<usize, StoreError> {
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
        let by = &self.sql.relayed;
        let fence: [&Param; 4] = [&lanes, &epochs, &self.options.instance, &commit];
        let execute = async |statement, what: &Param, more: &[&Param]| {
            let params = [&[what], &fence[..], more].concat();
            self.database.execute(Role::Settle, statement, &params).await
        };
        let written = if verify {
            let ids: Vec<String> = marks.map(|mark| mark.id.to_string()).collect();
            execute(&by.verified, &seqs, &[&ids]).await?
        } else if let (true, Some(stretch)) = (seqs.len() >= MANY, Stretch::of(&seqs)) {
            execute(&by.dense, &stretch.bits, &[&stretch.first, &stretch.last]).await?
        } else {
            execute(&by.listed, &seqs, &[]).await?
        };
        Ok(usize::try_from(written).unwrap_or(usize::MAX))
    }

    pub(super) async fn write_failures(&self, failures: &[FailedAttempt]) -> Result<usize, StoreError> {
        let column = |f: &dyn Fn(&FailedAttempt) -> i64| failures.iter().map(f).collect::<Vec<i64>>();
        let text = |f: &dyn Fn(&FailedAttempt) -> String| failures.iter().map(f).collect::<Vec<String>>();
        let milliseconds = |duration: std::time::Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let seqs = column(&|failed| failed.mark.seq.0);
        let ids: Vec<Option<String>> = failures.iter().map(|failed| bound(failed.mark.id)).collect();
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
        let params: [&Param; 11] = [
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

/// A message id as the statements compare it.
fn bound(id: MessageId) -> Option<String> {
    match id {
        MessageId::Uuid(_) | MessageId::Number(_) => Some(id.to_string()),
        MessageId::Missing => None,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_close_together_are_bits_over_their_range() {
        let bits = |seqs: &[i64]| Stretch::of(seqs).map(|stretch| (stretch.first, stretch.last, stretch.bits));
        assert_eq!(bits(&[7]), Some((7, 7, vec![1])));
        assert_eq!(bits(&[-2, 5, 6, 1, 3]), Some((-2, 6, vec![0b1010_1001, 1])));
        assert_eq!(bits(&[1, 3]), Some((1, 3, vec![0b101])));
        assert_eq!(bits(&[1, 5]), None);
        assert_eq!(bits(&[i64::MIN, i64::MAX]), None);
        assert_eq!(bits(&[]), None);
    }
}
