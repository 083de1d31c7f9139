//! Writing what became of messages: marks in one statement, failures with their history in another.
//!
//! Many marks of numbers that lie close together, as a backlog's do, go as bits over their range with the id of each: PostgreSQL
//! then walks along the index once instead of descending it for each. Others go as a list. Marks check the fence as a whole
//! (every lane involved still has its owner and epoch, or nothing is written), which costs one look at a tiny table per
//! statement. What does not go as asked (a row that refuses, is locked or is no longer there) is sorted out by `isolate`.

use std::collections::BTreeSet;
use std::time::Duration;

use uuid::Uuid;

use super::PostgresStore;
use super::batch::{Batch, Via, texts};
use super::isolate::Isolation;
use crate::message::MessageId;
use crate::store::postgres::link::sql::{Param, Statement};
use crate::store::{Epoch, FailedAttempt, Lane, Mark, Settled, Settlement, StoreError};

/// `last_error` and history keep this many characters.
const ERROR_LENGTH: usize = 2_000;

/// Marks worth planning a statement for: PostgreSQL plans a range anew each time, a list once.
const MANY: usize = 100;

/// Numbers that lie close together, as bits over the range from the first to the last, and the id of each. Ids of numbers that
/// are not meant are no message's: only those whose bit is set are looked at.
#[derive(Debug, PartialEq)]
struct Stretch {
    first: i64,
    last: i64,
    bits: Vec<u8>,
    ids: Vec<Uuid>,
}

impl Stretch {
    /// `None` when most of the range are other numbers: passing over their rows would cost more than it saves. And where a message
    /// has no uuid, or was replayed: those are few.
    fn of(marks: &[&Mark]) -> Option<Self> {
        let seqs = || marks.iter().map(|mark| mark.seq.0);
        let (first, last) = (seqs().min()?, seqs().max()?);
        let span = usize::try_from(last.checked_sub(first)?).ok()?;
        if span >= 2 * marks.len() {
            return None;
        }
        let (mut bits, mut ids) = (vec![0; span / 8 + 1], vec![Uuid::nil(); span + 1]);
        for mark in marks {
            let at = usize::try_from(mark.seq.0 - first).ok()?;
            ids[at] = match mark.id {
                MessageId::Uuid(id) if mark.replay == 0 => id,
                MessageId::Uuid(_) | MessageId::Number(_) | MessageId::Text(_) | MessageId::Missing => return None,
            };
            bits[at / 8] |= 1 << (at % 8);
        }
        Some(Self { first, last, bits, ids })
    }
}

impl PostgresStore {
    pub(super) async fn settle_all(&self, settlement: &Settlement) -> Result<Settled, StoreError> {
        let mut settled = Settled::default();
        // Failures first: they are few, and a failure must not be written after a mark of a later message of its key.
        self.settle_batch(Batch::Failures(&settlement.failures), settlement.again, &mut settled)
            .await?;
        self.settle_relayed(&settlement.relayed, settlement.again, &mut settled)
            .await?;
        Ok(settled)
    }

    pub(super) async fn settle_batch(
        &self,
        batch: Batch<'_>,
        again: bool,
        settled: &mut Settled,
    ) -> Result<(), StoreError> {
        if batch.len() > 0 {
            Isolation::of(self, batch, again).settle(settled).await?;
        }
        Ok(())
    }

    /// Marks or deletes, if every lane of them is still held: answers how many.
    pub(super) async fn write_marks(&self, via: &Via<'_>, marks: &[&Mark]) -> Result<usize, StoreError> {
        let fence: BTreeSet<(Lane, Epoch)> = marks.iter().map(|mark| (mark.lane, mark.epoch)).collect();
        let (lanes, epochs): (Vec<i32>, Vec<i64>) =
            fence.iter().map(|(lane, epoch)| (i32::from(*lane), *epoch)).unzip();
        let commit = (!self.options.durable_marks).then_some("off");
        let fence: [Param<'_>; 5] = [&lanes, &epochs, &self.options.instance, &commit, &via.lock];
        let write = async |statement: &Statement, what: Param<'_>, more: &[Param<'_>]| {
            let params = [&[what], &fence[..], more].concat();
            via.write(statement, &params).await
        };
        let by = &self.sql.relayed;
        let stretch = if marks.len() >= MANY { Stretch::of(marks) } else { None };
        let written = if let Some(Stretch { first, last, bits, ids }) = stretch {
            write(&by.dense, &bits, &[&first, &last, &ids]).await?
        } else {
            let mut marks = marks.to_vec();
            marks.sort_unstable_by_key(|mark| mark.seq);
            let seqs: Vec<i64> = marks.iter().map(|mark| mark.seq.0).collect();
            let replays: Vec<i32> = marks.iter().map(|mark| mark.replay).collect();
            match uuids(&marks) {
                Some(ids) => write(&by.listed, &seqs, &[&ids, &replays]).await?,
                None => write(&by.texts, &seqs, &[&texts(marks.iter().copied()), &replays]).await?,
            }
        };
        Ok(usize::try_from(written).unwrap_or(usize::MAX))
    }

    /// Writes failures of lanes that are still held, by `statement`: with their history or without. Answers how many.
    pub(super) async fn write_failures(
        &self,
        via: &Via<'_>,
        failures: &[&FailedAttempt],
        statement: &Statement,
    ) -> Result<usize, StoreError> {
        let column = |f: &dyn Fn(&FailedAttempt) -> i64| failures.iter().map(|failed| f(failed)).collect::<Vec<i64>>();
        let number = |f: &dyn Fn(&FailedAttempt) -> i32| failures.iter().map(|failed| f(failed)).collect::<Vec<i32>>();
        let text =
            |f: &dyn Fn(&FailedAttempt) -> String| failures.iter().map(|failed| f(failed)).collect::<Vec<String>>();
        let milliseconds = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let seqs = column(&|failed| failed.mark.seq.0);
        let ids = texts(failures.iter().map(|failed| &failed.mark));
        let lanes = number(&|failed| i32::from(failed.mark.lane));
        let epochs = column(&|failed| failed.mark.epoch);
        let attempts = number(&|failed| failed.attempt);
        let retries: Vec<Option<i64>> = failures
            .iter()
            .map(|failed| failed.retry_in.map(milliseconds))
            .collect();
        let classes: Vec<&str> = failures.iter().map(|failed| failed.class.as_str()).collect();
        let codes = text(&|failed| storable(&failed.code));
        let errors = text(&|failed| storable(&failed.error));
        let latencies = column(&|failed| milliseconds(failed.latency));
        let replays = number(&|failed| failed.mark.replay);
        let params: [Param<'_>; 13] = [
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
            &replays,
            &via.lock,
        ];
        let written = via.write(statement, &params).await?;
        Ok(usize::try_from(written).unwrap_or(usize::MAX))
    }
}

/// The ids as uuids; one that is missing is null. `None`: some are no uuids.
fn uuids(marks: &[&Mark]) -> Option<Vec<Option<Uuid>>> {
    let uuid = |mark: &&Mark| match mark.id {
        MessageId::Uuid(id) => Some(Some(id)),
        MessageId::Missing => Some(None),
        MessageId::Number(_) | MessageId::Text(_) => None,
    };
    marks.iter().map(uuid).collect()
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
    use crate::message::Seq;

    fn mark(seq: i64) -> Mark {
        Mark {
            seq: Seq(seq),
            id: MessageId::Uuid(Uuid::from_u128(u128::from(seq.unsigned_abs()))),
            replay: 0,
            lane: 0,
            epoch: 1,
            duplicate: false,
        }
    }

    fn stretch(marks: &[Mark]) -> Option<Stretch> {
        Stretch::of(&marks.iter().collect::<Vec<_>>())
    }

    #[test]
    fn numbers_close_together_are_bits_over_their_range() {
        let bits = |seqs: &[i64]| {
            let marks: Vec<Mark> = seqs.iter().map(|seq| mark(*seq)).collect();
            stretch(&marks).map(|stretch| (stretch.first, stretch.last, stretch.bits))
        };
        assert_eq!(bits(&[7]), Some((7, 7, vec![1])));
        assert_eq!(bits(&[-2, 5, 6, 1, 3]), Some((-2, 6, vec![0b1010_1001, 1])));
        assert_eq!(bits(&[1, 3]), Some((1, 3, vec![0b101])));
        assert_eq!(bits(&[1, 5]), None);
        assert_eq!(bits(&[i64::MIN, i64::MAX]), None);
        assert_eq!(bits(&[]), None);
    }

    #[test]
    fn each_number_of_a_range_has_its_id_and_what_is_not_plain_goes_by_list() {
        let ids = stretch(&[mark(3), mark(1)]).unwrap().ids;
        assert_eq!(ids, [1, 0, 3].map(Uuid::from_u128));
        let replayed = Mark { replay: 1, ..mark(2) };
        assert_eq!(stretch(&[mark(1), replayed]), None);
        for id in [MessageId::Missing, MessageId::Number(2)] {
            assert_eq!(stretch(&[mark(1), Mark { id, ..mark(2) }]), None);
        }
    }
}
