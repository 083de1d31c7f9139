//! Rows whose end cannot be written for their own sake: a trigger refuses, another transaction holds the lock, a write is swallowed.
//!
//! ```text
//!   settled, but stuck ──> set aside ── pause (0.5 s, growing to 5 s) ──> some of each kind ── one goes ──> all, at once
//!                              ^                                               │ none goes                    │
//!                              └───────────────────────────────────────────────┴──────────────────────────────┘
//! ```
//!
//! They stay in the window, because a crash would send them again, and hold their key. Healthy rows never wait in one statement
//! with them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::delivery::Order;
use crate::message::{Message, Seq};
use crate::repeat::Budget;
use crate::store::{FailedAttempt, Lane, Mark, Settled, Settlement, Stuck};
use crate::stuck::{StuckReason, StuckRow};
use crate::transport::Envelope;

const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Rows of one kind that are tried at first, and of all kinds.
const FEW_OF_A_KIND: usize = 8;
const FEW: usize = 64;
/// Rows of one try.
const MOST: usize = 1_500;
/// While a try takes no longer, the next is of twice as many rows: all of them, when they are quickly refused.
const SHORT: Duration = Duration::from_millis(200);
/// Rows that are reported one by one.
const REPORTED: usize = 100;

/// The key a row holds while its end is not written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) topic: Arc<str>,
    pub(crate) key: Box<str>,
    /// Even once it has failed for good.
    pub(crate) strict: bool,
}

impl Claim {
    /// The key this message holds, if any.
    pub(crate) fn of(envelope: Envelope) -> Option<Self> {
        let Message { topic, key, .. } = envelope.message;
        Self::new(envelope.order, topic, key)
    }

    /// The key a message of this topic and key holds, if any.
    pub(crate) fn new(order: Order, topic: Arc<str>, key: Option<Box<str>>) -> Option<Self> {
        let strict = match order {
            Order::Strict => true,
            Order::Key => false,
            Order::None => return None,
        };
        key.map(|key| Self { topic, key, strict })
    }

    /// Bytes that are kept of a message for it.
    pub(crate) fn size(claim: Option<&Self>) -> usize {
        claim.map_or(0, |claim| claim.key.len())
    }
}

/// What became of a message.
#[derive(Clone, Debug)]
pub(crate) enum End {
    Relayed(Mark),
    Failed(FailedAttempt),
}

impl End {
    fn mark(&self) -> &Mark {
        match self {
            Self::Relayed(mark) => mark,
            Self::Failed(failed) => &failed.mark,
        }
    }
}

struct SetAside {
    end: End,
    claim: Option<Claim>,
    reason: StuckReason,
    detail: String,
    since: Instant,
}

impl SetAside {
    /// What is likely to go together with it. Who holds a lock is said with the time: never twice the same.
    fn kind(&self) -> (StuckReason, &str) {
        match self.reason {
            StuckReason::Refused => (self.reason, &self.detail),
            StuckReason::Locked | StuckReason::Suppressed | StuckReason::Unreadable | StuckReason::Slow => {
                (self.reason, "")
            }
        }
    }
}

/// When rows are tried, and which.
#[derive(Default)]
struct Schedule {
    pause: Duration,
    next_at: Option<Instant>,
    /// Those up to here had their turn.
    turn: Option<Seq>,
    /// All are tried, from here on.
    pass: Option<Seq>,
    /// The try under way is part of that.
    trying_all: bool,
    /// So many times doubled.
    doubled: u32,
    began: Option<Instant>,
}

impl Schedule {
    fn is_due(&self, now: Instant) -> bool {
        self.next_at.is_some_and(|at| now >= at)
    }

    /// A row is set aside.
    fn begin(&mut self, now: Instant) {
        if self.next_at.is_none() {
            self.pause = PAUSE_MIN;
            self.next_at = Some(now + PAUSE_MIN);
        }
    }

    /// These were chosen, of which there may be more.
    fn chosen(&mut self, seqs: &[Seq], most: usize, now: Instant) {
        self.began = Some(now);
        self.trying_all = self.pass.is_some();
        match (self.pass, seqs.last()) {
            (Some(_), Some(last)) if seqs.len() == most => self.pass = Some(Seq(last.0.saturating_add(1))),
            (Some(_), _) => self.pass = None,
            (None, last) => self.turn = last.copied(),
        }
    }

    /// A try was answered: one went, or more; and some are left that were not tried.
    fn tried(&mut self, went: bool, others: bool, now: Instant) {
        let took = self.began.take().map(|began| now.saturating_duration_since(began));
        self.doubled = match took {
            Some(took) if took <= SHORT => (self.doubled + 1).min(MOST.ilog2()),
            Some(_) | None => self.doubled.saturating_sub(1),
        };
        if went && others && !self.trying_all {
            self.pass = Some(Seq(i64::MIN));
        }
        self.pause = if went {
            PAUSE_MIN
        } else {
            (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX)
        };
        let pause = if self.pass.is_some() {
            Duration::ZERO
        } else {
            self.pause
        };
        self.next_at = Some(now + pause);
    }
}

/// Rows that are quickly tried, and slow ones: those only one at a time, because healthy rows wait meanwhile.
const QUICK: usize = 0;
const SLOW: usize = 1;

fn class(reason: StuckReason) -> usize {
    match reason {
        StuckReason::Slow => SLOW,
        StuckReason::Refused | StuckReason::Locked | StuckReason::Suppressed | StuckReason::Unreadable => QUICK,
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct StuckEnds {
    rows: BTreeMap<Seq, SetAside>,
    schedules: [Schedule; 2],
    /// The class of the try under way.
    trying: usize,
    changed: bool,
    lines: Budget,
}

impl StuckEnds {
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Why this row is stuck, if it is.
    pub(crate) fn trouble_of(&self, seq: Seq) -> Option<(StuckReason, &str)> {
        self.rows.get(&seq).map(|row| (row.reason, &*row.detail))
    }

    pub(crate) fn of_lane(&self, lane: Lane) -> usize {
        self.rows.values().filter(|row| row.end.mark().lane == lane).count()
    }

    /// The keys that are held.
    pub(crate) fn claims(&self) -> Vec<(Seq, Lane, Claim)> {
        let claim = |(seq, row): (&Seq, &SetAside)| Some((*seq, row.end.mark().lane, row.claim.clone()?));
        self.rows.iter().filter_map(claim).collect()
    }

    /// Sets a row aside, or notes that it still is.
    pub(crate) fn set_aside(&mut self, end: End, claim: Option<Claim>, stuck: &Stuck, now: Instant) {
        self.schedules[class(stuck.reason)].begin(now);
        self.changed = true;
        let (reason, detail) = (stuck.reason, stuck.detail.clone());
        if self.lines.allows(now.into_std()) {
            tracing::warn!(
                seq = %stuck.seq, id = %end.mark().id, reason = reason.as_str(), detail,
                "a row is stuck: what became of its message cannot be written; it is tried again until it can"
            );
        }
        let row = SetAside {
            end,
            claim,
            reason,
            detail,
            since: now,
        };
        self.rows.insert(stuck.seq, row);
    }

    fn still_stuck(&mut self, stuck: &Stuck, now: Instant) {
        if let Some(row) = self.rows.get_mut(&stuck.seq) {
            row.reason = stuck.reason;
            row.detail.clone_from(&stuck.detail);
            self.schedules[class(stuck.reason)].begin(now);
        }
    }

    /// The rows to try now, if it is time.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Settlement> {
        (QUICK..=SLOW).find_map(|class| self.next_of(class, now))
    }

    fn next_of(&mut self, of: usize, now: Instant) -> Option<Settlement> {
        if !self.schedules[of].is_due(now) {
            return None;
        }
        let most = if of == SLOW { 1 } else { MOST };
        let seqs: Vec<Seq> = match self.schedules[of].pass {
            Some(from) => {
                let rows = self.rows.range(from..).filter(|(_, row)| class(row.reason) == of);
                rows.map(|(seq, _)| *seq).take(most).collect()
            }
            None => self.a_few(of, most),
        };
        let schedule = &mut self.schedules[of];
        schedule.chosen(&seqs, most, now);
        if seqs.is_empty() {
            schedule.next_at = None;
            return None;
        }
        self.trying = of;
        let mut settlement = Settlement {
            again: true,
            ..Settlement::default()
        };
        for end in seqs.iter().filter_map(|seq| self.rows.get(seq)).map(|row| &row.end) {
            match end {
                End::Relayed(mark) => settlement.relayed.push(mark.clone()),
                End::Failed(failed) => settlement.failures.push(failed.clone()),
            }
        }
        Some(settlement)
    }

    /// Some of each kind, those first that had their turn longest ago.
    fn a_few(&self, of: usize, most: usize) -> Vec<Seq> {
        let Schedule { turn, doubled, .. } = &self.schedules[of];
        let turn = turn.unwrap_or(Seq(i64::MIN));
        let (of_a_kind, most) = (FEW_OF_A_KIND << doubled, most.min(FEW << doubled));
        let after = self.rows.iter().filter(|(seq, _)| **seq > turn);
        let before = self.rows.iter().filter(|(seq, _)| **seq <= turn);
        let mut kinds: BTreeMap<(StuckReason, &str), usize> = BTreeMap::new();
        let mut few = Vec::new();
        for (seq, row) in after.chain(before).filter(|(_, row)| class(row.reason) == of) {
            let count = kinds.entry(row.kind()).or_default();
            if *count < of_a_kind && few.len() < most {
                *count += 1;
                few.push(*seq);
            }
        }
        few
    }

    pub(crate) fn wake_at(&self) -> Option<Instant> {
        self.schedules.iter().filter_map(|schedule| schedule.next_at).min()
    }

    /// A try was answered: some of it are stuck still, or there was no time for them. The others are handed back.
    pub(crate) fn tried(
        &mut self,
        tried: &Settlement,
        Settled { stuck, later, .. }: &Settled,
        now: Instant,
    ) -> Vec<(End, Option<Claim>, Duration)> {
        for row in stuck {
            self.still_stuck(row, now);
        }
        let still: BTreeSet<Seq> = stuck.iter().map(|row| row.seq).chain(later.iter().copied()).collect();
        let marks = tried.relayed.iter();
        let seqs = marks
            .map(|mark| mark.seq)
            .chain(tried.failures.iter().map(|failed| failed.mark.seq));
        let mut free = Vec::new();
        for seq in seqs.filter(|seq| !still.contains(seq)) {
            if let Some(row) = self.rows.remove(&seq) {
                free.push((row.end, row.claim, now.saturating_duration_since(row.since)));
            }
        }
        self.changed = true;
        let others = self.rows.len() > still.len();
        let schedule = &mut self.schedules[self.trying];
        if self.trying == SLOW && free.is_empty() {
            schedule.pass = None;
        }
        schedule.tried(!free.is_empty(), others, now);
        free
    }

    /// A try was not answered.
    pub(crate) fn not_tried(&mut self, not_before: Instant) {
        let schedule = &mut self.schedules[self.trying];
        schedule.pass = None;
        schedule.next_at = Some(not_before + schedule.pause);
    }

    /// All are tried, at once: much may have changed.
    pub(crate) fn try_all(&mut self, now: Instant) {
        for schedule in &mut self.schedules {
            schedule.pass = Some(Seq(i64::MIN));
            schedule.next_at = Some(now);
        }
    }

    /// Forgets the rows of a lane that belongs to somebody else.
    pub(crate) fn give_up(&mut self, lane: Lane) -> Vec<(Seq, Option<Claim>)> {
        let gone: Vec<Seq> = self
            .rows
            .iter()
            .filter(|(_, row)| row.end.mark().lane == lane)
            .map(|(seq, _)| *seq)
            .collect();
        self.changed |= !gone.is_empty();
        gone.into_iter()
            .filter_map(|seq| self.rows.remove(&seq).map(|row| (seq, row.claim)))
            .collect()
    }

    /// What is to be told of them, when that has changed: the first of them, and how many there are for each reason.
    pub(crate) fn news(&mut self, now: Instant) -> Option<(Vec<StuckRow>, BTreeMap<StuckReason, u64>)> {
        if let Some(unsaid) = self.lines.rest(now.into_std()) {
            tracing::warn!(rows = unsaid, "more rows are stuck than were named");
        }
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let row = |(seq, row): (&Seq, &SetAside)| StuckRow {
            seq: seq.0,
            id: row.end.mark().id.to_string(),
            reason: row.reason,
            detail: row.detail.clone(),
            seconds: now.saturating_duration_since(row.since).as_secs(),
        };
        let mut counts = BTreeMap::new();
        for row in self.rows.values() {
            *counts.entry(row.reason).or_default() += 1;
        }
        Some((self.rows.iter().take(REPORTED).map(row).collect(), counts))
    }
}
