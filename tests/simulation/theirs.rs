//! A table of another program in the story: its rows get their numbers when they are enlisted, some time after their commit, many at
//! once. Whoever enlists may die before it commits; the next one begins with the same rows.

use std::collections::HashMap;
use std::time::Duration;

use fastrand::Rng;
use outboxd::testing::memory_store::{NewRow, Transaction};
use tokio::time::Instant;

use super::journal::{Event, Journal, Row, SeqNumber};
use super::scenario::{Act, RowSpec};

const MS: Duration = Duration::from_millis(1);
/// Looks for new rows are this far apart, at least.
pub const LOOK: Duration = Duration::from_millis(20);
/// Rows of one enlisting.
const MOST: usize = 40;

/// See the module.
pub struct Theirs {
    /// What its open transactions have inserted.
    open: HashMap<usize, Vec<RowSpec>>,
    /// Committed there, in that order, and not enlisted.
    pending: Vec<RowSpec>,
    enlisting: Option<Enlisting>,
    next: Instant,
    rng: Rng,
}

/// An enlister at work.
struct Enlisting {
    ends: Instant,
    dies: bool,
    transaction: Transaction,
    numbers: Vec<SeqNumber>,
}

impl Theirs {
    pub fn new(seed: u64) -> Self {
        Self {
            open: HashMap::new(),
            pending: Vec::new(),
            enlisting: None,
            next: Instant::now(),
            rng: Rng::with_seed(seed ^ 0x656e_6c69_7374),
        }
    }

    /// Whether `act` is one of the application's: it is done then.
    pub fn takes(&mut self, act: &Act) -> bool {
        if let Act::Insert(row) | Act::InsertByHand(row) = act {
            self.pending.push(row.clone());
        } else if let Act::Begin(id) = act {
            self.open.insert(*id, Vec::new());
        } else if let Act::InsertIn(id, row) = act {
            let rows = self.open.get_mut(id);
            rows.into_iter().for_each(|rows| rows.push(row.clone()));
        } else if let Act::Commit(id) = act {
            self.pending.extend(self.open.remove(id).unwrap_or_default());
        } else if let Act::RollBack(id) = act {
            self.open.remove(id);
        } else {
            return false;
        }
        true
    }

    /// Whether some row is not enlisted yet.
    pub fn has_more(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Enlists what there is, or ends what is under way.
    pub fn look(&mut self, journal: &Journal, begin: impl FnOnce() -> Transaction, new: impl Fn(&RowSpec) -> NewRow) {
        let now = Instant::now();
        if self.enlisting.as_ref().is_some_and(|work| work.ends <= now)
            && let Some(work) = self.enlisting.take()
        {
            return self.end_of(work, journal);
        }
        if self.enlisting.is_some() || self.pending.is_empty() || now < self.next {
            return;
        }
        let mut transaction = begin();
        let mut numbers = Vec::new();
        for spec in self.pending.iter().take(MOST) {
            let seq = transaction.insert(&new(spec)).0;
            let row = Row {
                spec: spec.clone(),
                by_hand: false,
                transaction: None,
            };
            journal.insert(seq, row);
            numbers.push(seq);
        }
        self.enlisting = Some(Enlisting {
            ends: now + MS * self.rng.u32(0..200),
            dies: self.rng.u8(0..6) == 0,
            transaction,
            numbers,
        });
    }

    fn end_of(&mut self, work: Enlisting, journal: &Journal) {
        self.next = Instant::now() + MS * self.rng.u32(0..300);
        if work.dies {
            work.transaction.rollback();
            work.numbers
                .iter()
                .for_each(|seq| journal.note(Event::RolledBack(*seq)));
            return;
        }
        work.transaction.commit();
        work.numbers.iter().for_each(|seq| journal.note(Event::Committed(*seq)));
        self.pending.drain(..work.numbers.len());
    }
}
