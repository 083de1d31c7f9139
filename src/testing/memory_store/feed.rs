//! One instance's cursor over the table: every number, with the missing ones remembered.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::{State, StoredRow};
use crate::message::Seq;
use crate::store::{LaneSet, Page, Room, Row};

/// The cursor starts so far below the last number taken, so that what is open at that time leaves a gap to watch.
const RETRACED: i64 = 100;

/// Where reading stands.
#[derive(Debug, Default)]
pub(super) struct Feed {
    cursor: i64,
    /// Transactions that owned numbers when the store was opened; `None` once the sweep for them was asked for.
    first_holders: Option<BTreeSet<u64>>,
    /// Missing numbers below the cursor that an open transaction may own.
    gaps: BTreeSet<i64>,
    /// Those before the page under way: rereads leave them to `read`.
    watched: BTreeSet<i64>,
}

impl Feed {
    /// Starts over.
    pub(super) fn open(state: &State) -> Self {
        let last = state.rows.last_key_value().map_or(0, |(seq, _)| *seq);
        Self {
            cursor: (last.max(state.last_seq) - RETRACED).max(0),
            first_holders: Some(holders(state)).filter(|holders| !holders.is_empty()),
            gaps: BTreeSet::new(),
            watched: BTreeSet::new(),
        }
    }

    pub(super) fn cursor(&self) -> Seq {
        Seq(self.cursor)
    }

    pub(super) fn read(&mut self, state: &State, lanes: &LaneSet, room: Room) -> Page {
        let mut page = self.follow(state, lanes, room);
        page.cursor = Seq(self.cursor);
        page.gaps = self.gaps.len();
        page
    }

    /// The page is handed over; `holders` were those when it was read.
    pub(super) fn hand_over(&mut self, page: &mut Page, holders: &BTreeSet<u64>) {
        page.sweep = self.first_has_ended(holders);
        page.decided = Seq(match &self.first_holders {
            Some(_) => i64::MIN,
            None => self.gaps.first().map_or(self.cursor, |gap| gap - 1),
        });
        self.watched.clone_from(&self.gaps);
    }

    /// Whether a transaction has ended that was open at `open`, since this was last asked, given who holds numbers.
    pub(super) fn first_has_ended(&mut self, holders: &BTreeSet<u64>) -> bool {
        let Some(first) = &self.first_holders else {
            return false;
        };
        let left: BTreeSet<u64> = first.intersection(holders).copied().collect();
        let ended = left.len() < first.len();
        self.first_holders = Some(left).filter(|left| !left.is_empty());
        ended
    }

    pub(super) fn watched(&self) -> BTreeSet<i64> {
        self.watched.clone()
    }

    fn follow(&mut self, state: &State, lanes: &LaneSet, room: Room) -> Page {
        let mut filling = Filling::new(room);
        let taken = state.numbers_taken();
        for seq in self.gaps.clone() {
            match state.rows.get(&seq) {
                Some(row) => {
                    self.gaps.remove(&seq);
                    if !filling.pass(row, lanes) {
                        return filling.page(true);
                    }
                }
                None if taken.contains(&seq) => {}
                None => {
                    self.gaps.remove(&seq);
                }
            }
        }
        for (seq, row) in state.rows.range(self.cursor.saturating_add(1)..) {
            self.gaps
                .extend(taken.range(self.cursor.saturating_add(1)..*seq).copied());
            self.cursor = *seq;
            if !filling.pass(row, lanes) {
                return filling.page(true);
            }
        }
        filling.page(false)
    }
}

pub(super) fn holders(state: &State) -> BTreeSet<u64> {
    let with_numbers = state.open.iter().filter(|(_, rows)| !rows.is_empty());
    with_numbers.map(|(transaction, _)| *transaction).collect()
}

/// Pending, in these lanes, and not left to `due`.
pub(super) fn is_wanted(row: &StoredRow, lanes: &LaneSet) -> bool {
    row.is_pending() && !row.is_waiting() && lanes.contains(row.lane)
}

/// Rows up to a room.
pub(super) struct Filling {
    room: Room,
    bytes: usize,
    now: Instant,
    page: Page,
}

impl Filling {
    pub(super) fn new(room: Room) -> Self {
        Self {
            room,
            bytes: 0,
            now: Instant::now(),
            page: Page::default(),
        }
    }

    /// Takes a row; `false` when there is no room for more after it.
    pub(super) fn take(&mut self, row: &StoredRow) -> bool {
        let mut message = row.message.clone();
        message.age = self.now.saturating_duration_since(row.inserted_at);
        self.bytes += message.size();
        self.page.rows.push(Row {
            lane: row.lane,
            message,
            unreadable: None,
        });
        self.bytes < self.room.bytes && self.page.rows.len() < self.room.rows
    }

    /// The cursor passes a row: takes it, or notes when it falls due.
    fn pass(&mut self, row: &StoredRow, lanes: &LaneSet) -> bool {
        if is_wanted(row, lanes) {
            return self.take(row);
        }
        if row.is_pending() && lanes.contains(row.lane) {
            let due_in = row.available_at.saturating_duration_since(self.now);
            self.page.next_due = Some(self.page.next_due.map_or(due_in, |known| known.min(due_in)));
        }
        true
    }

    pub(super) fn rows(self) -> Vec<Row> {
        self.page.rows
    }

    fn page(self, more: bool) -> Page {
        Page { more, ..self.page }
    }
}
