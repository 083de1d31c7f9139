//! Gathers what became of messages and writes it in few statements: one under way at a time, beside the reading.
//!
//! A settlement that could not be written is kept and written later. Until it is written its rows stay in the window. Rows that
//! cannot be written for their own sake are set aside (`stuck`) and tried by themselves.

pub(super) mod stuck;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::message::Seq;
use crate::store::{FailedAttempt, Lane, Mark, Settled, Settlement, Stuck};

use stuck::{Claim, End, StuckEnds};

/// A mark waits this long for company.
const GATHER: Duration = Duration::from_millis(10);
/// No wait once there are this many.
const ENOUGH: usize = 1_000;
/// Rows of one statement at most.
const MOST: usize = 1_500;

/// A settlement, and the keys its rows would hold if they could not be written: one for each mark and each failure.
#[derive(Default)]
struct Gathered {
    settlement: Settlement,
    relayed: Vec<Option<Claim>>,
    failures: Vec<Option<Claim>>,
}

impl Gathered {
    fn with_capacity(marks: usize) -> Self {
        let mut room = Self::default();
        room.settlement.relayed.reserve(marks);
        room.relayed.reserve(marks);
        room
    }
}

struct Writing {
    settlement: Arc<Settlement>,
    relayed: Vec<Option<Claim>>,
    failures: Vec<Option<Claim>>,
}

/// What was written of a settlement.
#[derive(Default)]
pub(crate) struct Written {
    pub(crate) relayed: Vec<Seq>,
    pub(crate) failures: Vec<FailedAttempt>,
    /// Bytes of keys that need no longer be kept.
    pub(crate) bytes: usize,
    /// Rows that are stuck from now on, and their keys.
    pub(crate) stuck: Vec<(Seq, Lane, Claim)>,
    /// Rows that were stuck and are free.
    pub(crate) free: Vec<(End, Option<Claim>, Duration)>,
}

impl Written {
    fn all(writing: &Writing) -> Self {
        let Writing {
            settlement,
            relayed,
            failures,
        } = writing;
        let claims = relayed.iter().chain(failures);
        Self {
            relayed: settlement.relayed.iter().map(|mark| mark.seq).collect(),
            failures: settlement.failures.clone(),
            bytes: claims.map(|claim| Claim::size(claim.as_ref())).sum(),
            ..Self::default()
        }
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct Settler {
    gathering: Gathered,
    since: Option<Instant>,
    writing: Option<Writing>,
    not_before: Option<Instant>,
    /// Stuck rows had the last turn.
    tried_last: bool,
    pub(crate) stuck: StuckEnds,
}

impl Settler {
    pub(crate) fn relayed(&mut self, mark: Mark, claim: Option<Claim>, now: Instant) {
        self.gathering.settlement.relayed.push(mark);
        self.gathering.relayed.push(claim);
        self.since.get_or_insert(now);
    }

    pub(crate) fn failed(&mut self, failure: FailedAttempt, claim: Option<Claim>, now: Instant) {
        self.gathering.settlement.failures.push(failure);
        self.gathering.failures.push(claim);
        self.since.get_or_insert(now);
    }

    /// Nothing gathered and nothing under way; rows that are stuck do not count.
    pub(crate) fn is_idle(&self) -> bool {
        self.gathering.settlement.is_empty() && self.writing.is_none()
    }

    /// Whether what became of this row is being written, or is about to be; not of rows that are stuck.
    pub(crate) fn is_writing(&self, seq: Seq) -> bool {
        let is_of = |settlement: &Settlement| {
            settlement.relayed.iter().any(|mark| mark.seq == seq)
                || settlement.failures.iter().any(|failed| failed.mark.seq == seq)
        };
        is_of(&self.gathering.settlement) || self.writing.as_ref().is_some_and(|writing| is_of(&writing.settlement))
    }

    /// A try of stuck rows is under way.
    pub(crate) fn is_trying(&self) -> bool {
        self.writing.as_ref().is_some_and(|writing| writing.settlement.again)
    }

    /// The next settlement to write, if its time has come. `at_once`: whatever there is. `stuck`: stuck rows may be tried.
    pub(crate) fn next(&mut self, now: Instant, at_once: bool, stuck: bool) -> Option<Arc<Settlement>> {
        if self.writing.is_some() || self.not_before.is_some_and(|time| now < time) {
            return None;
        }
        // They take turns, so that neither waits for ever.
        let writing = if stuck && !self.tried_last {
            self.next_try(now).or_else(|| self.next_healthy(now, at_once))
        } else {
            let healthy = self.next_healthy(now, at_once);
            healthy.or_else(|| if stuck { self.next_try(now) } else { None })
        }?;
        self.tried_last = writing.settlement.again;
        let settlement = Arc::clone(&writing.settlement);
        self.writing = Some(writing);
        Some(settlement)
    }

    fn next_try(&mut self, now: Instant) -> Option<Writing> {
        Some(Writing {
            settlement: Arc::new(self.stuck.next(now)?),
            relayed: Vec::new(),
            failures: Vec::new(),
        })
    }

    fn next_healthy(&mut self, now: Instant, at_once: bool) -> Option<Writing> {
        let since = self.since?;
        let settlement = &self.gathering.settlement;
        let enough = settlement.relayed.len() + settlement.failures.len() >= ENOUGH;
        if !(at_once || enough || now >= since + GATHER) {
            return None;
        }
        // As much again is likely to come.
        let room = Gathered::with_capacity(settlement.relayed.len());
        let mut next = std::mem::replace(&mut self.gathering, room);
        self.since = None;
        if next.relayed.len() > MOST {
            self.gathering.settlement.relayed = next.settlement.relayed.split_off(MOST);
            self.gathering.relayed = next.relayed.split_off(MOST);
            self.since = Some(since);
        }
        Some(Writing {
            settlement: Arc::new(next.settlement),
            relayed: next.relayed,
            failures: next.failures,
        })
    }

    /// When [`Self::next`] should be asked again.
    pub(crate) fn wake_at(&self, stuck: bool) -> Option<Instant> {
        if self.writing.is_some() {
            return None;
        }
        let healthy = self.since.map(|since| since + GATHER);
        let tries = self.stuck.wake_at().filter(|_| stuck);
        let due = [healthy, tries].into_iter().flatten().min()?;
        Some(self.not_before.map_or(due, |time| time.max(due)))
    }

    /// The settlement under way was written, as far as `settled` says: hands it back for the books.
    pub(crate) fn written(&mut self, settled: &Settled, now: Instant) -> Written {
        self.not_before = None;
        let Some(writing) = self.writing.take() else {
            return Written::default();
        };
        let settlement = &writing.settlement;
        if settlement.again {
            let free = self.stuck.tried(settlement, settled, now);
            return Written {
                free,
                ..Written::default()
            };
        }
        if settled.stuck.is_empty() && settled.later.is_empty() {
            return Written::all(&writing);
        }
        let stuck: BTreeMap<Seq, &Stuck> = settled.stuck.iter().map(|row| (row.seq, row)).collect();
        let later: BTreeSet<Seq> = settled.later.iter().copied().collect();
        let (mut written, mut left) = (Written::default(), Gathered::default());
        for (mark, claim) in settlement.relayed.iter().zip(writing.relayed) {
            if later.contains(&mark.seq) {
                left.settlement.relayed.push(mark.clone());
                left.relayed.push(claim);
            } else if let Some(stuck) = stuck.get(&mark.seq) {
                self.set_aside(End::Relayed(mark.clone()), (mark, claim), (stuck, now), &mut written);
            } else {
                written.bytes += Claim::size(claim.as_ref());
                written.relayed.push(mark.seq);
            }
        }
        for (failed, claim) in settlement.failures.iter().zip(writing.failures) {
            if later.contains(&failed.mark.seq) {
                left.settlement.failures.push(failed.clone());
                left.failures.push(claim);
            } else if let Some(stuck) = stuck.get(&failed.mark.seq) {
                let end = End::Failed(failed.clone());
                self.set_aside(end, (&failed.mark, claim), (stuck, now), &mut written);
            } else {
                written.bytes += Claim::size(claim.as_ref());
                written.failures.push(failed.clone());
            }
        }
        self.put_back(left, now);
        written
    }

    /// These are written first.
    fn put_back(&mut self, mut left: Gathered, now: Instant) {
        if left.settlement.is_empty() {
            return;
        }
        let later = &mut self.gathering;
        left.settlement.relayed.append(&mut later.settlement.relayed);
        left.settlement.failures.append(&mut later.settlement.failures);
        left.relayed.append(&mut later.relayed);
        left.failures.append(&mut later.failures);
        self.gathering = left;
        self.since.get_or_insert(now);
    }

    fn set_aside(
        &mut self,
        end: End,
        (mark, claim): (&Mark, Option<Claim>),
        (stuck, now): (&Stuck, Instant),
        written: &mut Written,
    ) {
        let held = claim.clone().map(|claim| (mark.seq, mark.lane, claim));
        written.stuck.extend(held);
        self.stuck.set_aside(end, claim, stuck, now);
    }

    /// The settlement under way may or may not have been written: it is written again, not before `time`.
    pub(crate) fn not_written(&mut self, now: Instant, time: Instant) {
        self.not_before = Some(time);
        let Some(writing) = self.writing.take() else { return };
        if writing.settlement.again {
            return self.stuck.not_tried(time);
        }
        let left = Gathered {
            settlement: Settlement::clone(&writing.settlement),
            relayed: writing.relayed,
            failures: writing.failures,
        };
        self.put_back(left, now);
    }

    /// Messages acknowledged whose mark is not written: they will be sent again.
    pub(crate) fn unwritten(&self) -> usize {
        let writing = self.writing.as_ref().map(|writing| &writing.settlement);
        let healthy = writing.filter(|settlement| !settlement.again);
        self.gathering.settlement.relayed.len()
            + healthy.map_or(0, |settlement| settlement.relayed.len())
            + self.stuck.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::MessageId;
    use crate::stuck::StuckReason;

    fn mark(seq: i64) -> Mark {
        Mark {
            seq: Seq(seq),
            id: MessageId::Number(seq),
            replay: 0,
            lane: 0,
            epoch: 1,
            duplicate: false,
        }
    }

    fn stuck(seq: i64) -> Stuck {
        Stuck {
            seq: Seq(seq),
            reason: StuckReason::Refused,
            detail: "no".into(),
        }
    }

    fn left(stuck: Vec<Stuck>) -> Settled {
        Settled {
            stuck,
            ..Settled::default()
        }
    }

    fn seqs(settlement: &Settlement) -> Vec<i64> {
        settlement.relayed.iter().map(|mark| mark.seq.0).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn marks_wait_for_company_and_one_statement_flies_at_a_time() {
        let now = Instant::now();
        let mut settler = Settler::default();
        settler.relayed(mark(1), None, now);
        assert!(settler.next(now, false, true).is_none());
        let first = settler.next(now + GATHER, false, true).unwrap();
        assert_eq!(first.relayed.len(), 1);
        settler.relayed(mark(2), None, now);
        assert!(settler.next(now + GATHER, true, true).is_none());
        assert_eq!(settler.written(&Settled::default(), now).relayed, [Seq(1)]);
        assert_eq!(settler.next(now, true, true).unwrap().relayed, [mark(2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_settlement_is_written_again() {
        let now = Instant::now();
        let mut settler = Settler::default();
        settler.relayed(mark(1), None, now);
        settler.next(now, true, true).unwrap();
        settler.relayed(mark(2), None, now);
        settler.not_written(now, now + GATHER);
        assert!(settler.next(now, true, true).is_none());
        assert_eq!(seqs(&settler.next(now + GATHER, true, true).unwrap()), [1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn stuck_rows_are_tried_by_themselves_a_few_and_then_all() {
        let now = Instant::now();
        let mut settler = Settler::default();
        for seq in 1..=100 {
            settler.relayed(mark(seq), None, now);
        }
        settler.next(now, true, true).unwrap();
        let refused: Vec<Stuck> = (11..=100).map(stuck).collect();
        assert_eq!(settler.written(&left(refused), now).relayed.len(), 10);
        assert!(settler.is_idle() && settler.unwritten() == 90);
        assert!(settler.next(now, true, true).is_none());
        let later = now + Duration::from_secs(1);
        assert!(
            settler.next(later, true, false).is_none(),
            "not while the store is opened"
        );
        settler.relayed(mark(101), None, later);
        let few = settler.next(later, true, true).unwrap();
        assert!(few.again && seqs(&few) == (11..19).collect::<Vec<_>>());
        assert!(
            settler
                .written(&left(few.relayed.iter().map(|mark| stuck(mark.seq.0)).collect()), later)
                .free
                .is_empty()
        );
        assert_eq!(
            seqs(&settler.next(later, true, true).unwrap()),
            [101],
            "healthy rows by themselves"
        );
        settler.written(&Settled::default(), later);
        let later = later + Duration::from_secs(1);
        let few = settler.next(later, true, true).unwrap();
        assert_eq!(
            seqs(&few),
            (19..35).collect::<Vec<_>>(),
            "twice as many have their turn"
        );
        let still = [stuck(20)];
        assert_eq!(settler.written(&left(still.to_vec()), later).free.len(), 15);
        let all = settler.next(later, true, true).unwrap();
        assert_eq!(all.relayed.len(), 75, "one went: all are tried");
        settler.written(&Settled::default(), later);
        assert_eq!((settler.stuck.len(), settler.unwritten()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_there_was_no_time_for_is_written_first() {
        let now = Instant::now();
        let mut settler = Settler::default();
        for seq in 1..=3 {
            settler.relayed(mark(seq), None, now);
        }
        settler.next(now, true, true).unwrap();
        settler.relayed(mark(4), None, now);
        let settled = Settled {
            later: vec![Seq(2)],
            ..left(vec![stuck(3)])
        };
        assert_eq!(settler.written(&settled, now).relayed, [Seq(1)]);
        assert_eq!(settler.unwritten(), 3);
        assert_eq!(seqs(&settler.next(now, true, false).unwrap()), [2, 4]);
        settler.written(&Settled::default(), now);
        let later = now + Duration::from_secs(1);
        let again = settler.next(later, true, true).unwrap();
        assert!(again.again && seqs(&again) == [3]);
        let settled = Settled {
            later: vec![Seq(3)],
            ..Settled::default()
        };
        assert!(settler.written(&settled, later).free.is_empty());
        assert_eq!(settler.stuck.len(), 1, "it was not tried");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_row_holds_its_key() {
        let now = Instant::now();
        let mut settler = Settler::default();
        let claim = |key: &str| Claim {
            topic: "t".into(),
            key: key.into(),
            strict: false,
        };
        settler.relayed(mark(1), Some(claim("a")), now);
        settler.relayed(mark(2), Some(claim("bc")), now);
        settler.next(now, true, true).unwrap();
        let written = settler.written(&left(vec![stuck(1)]), now);
        assert_eq!((written.bytes, written.stuck), (2, vec![(Seq(1), 0, claim("a"))]));
        assert_eq!(settler.stuck.claims().len(), 1);
    }
}
