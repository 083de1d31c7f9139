//! What the engine holds in memory: which rows, and how many bytes.
//!
//! The window is the bound of promise P6 and of the duplicates of P2: a row is in it from admission until what became of
//! it is settled. It is also the engine's memory of which rows it must not admit a second time: a reread, a sweep or a
//! walk over due rows shows rows that are still on their way, or whose mark was committed after that read's snapshot.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use crate::message::Seq;
use crate::store::{Lane, Room};

/// Sequence numbers are dense and trusted: one multiplication spreads them well enough.
#[derive(Default)]
pub(crate) struct SeqHasher(u64);

impl Hasher for SeqHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_i64(i64::from(*byte));
        }
    }

    fn write_i64(&mut self, value: i64) {
        self.0 = (self.0 ^ value.cast_unsigned())
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .rotate_left(26);
    }
}

pub(crate) type SeqSet = HashSet<Seq, BuildHasherDefault<SeqHasher>>;
type LaneBySeq = HashMap<Seq, Lane, BuildHasherDefault<SeqHasher>>;

/// So much of the window is kept for rows that overtake, where there are any.
const KEPT_SHARE: usize = 20;
/// ... and so many rows at most.
const KEPT_ROWS: usize = 100;

/// See the module.
pub(crate) struct Window {
    limit: Room,
    rows: LaneBySeq,
    /// Rows in memory of each lane.
    of_lane: Vec<usize>,
    bytes: usize,
    reserved: Room,
    keeps_room: bool,
    /// Rows whose end cannot be written.
    stuck: usize,
    /// What was forgotten since each read under way began.
    main: Option<SeqSet>,
    side: Option<SeqSet>,
}

/// Which of the two reads that may be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// The cursor's.
    Main,
    /// The one beside it.
    Side,
}

impl Window {
    pub(crate) fn new(limit: Room, lanes: Lane) -> Self {
        Self {
            limit,
            rows: LaneBySeq::default(),
            of_lane: vec![0; usize::from(lanes)],
            bytes: 0,
            reserved: Room { rows: 0, bytes: 0 },
            keeps_room: false,
            stuck: 0,
            main: None,
            side: None,
        }
    }

    /// It may hold so much from now on.
    pub(crate) fn resize(&mut self, limit: Room) {
        self.limit = limit;
    }

    /// Rows in memory.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many of its rows are stuck.
    pub(crate) fn stuck(&mut self, rows: usize) {
        self.stuck = rows;
    }

    /// Nothing is in memory but rows that are stuck.
    pub(crate) fn is_quiet(&self) -> bool {
        self.rows.len() <= self.stuck
    }

    /// Whether the row is in memory.
    pub(crate) fn holds(&self, seq: Seq) -> bool {
        self.rows.contains_key(&seq)
    }

    /// The lane under which a row is in memory.
    pub(crate) fn lane_of(&self, seq: Seq) -> Option<Lane> {
        self.rows.get(&seq).copied()
    }

    /// Rows of the lane in memory.
    pub(crate) fn count_of(&self, lane: Lane) -> usize {
        self.of_lane[usize::from(lane)]
    }

    /// What is free and not promised to a read under way, for rows that come in their turn: where some overtake, a part is kept
    /// for those.
    pub(crate) fn free(&self) -> Room {
        let free = self.free_for_urgent();
        if !self.keeps_room {
            return free;
        }
        // Of a small window nothing: it must not keep all for rows that may not come.
        let kept = (self.limit.rows / KEPT_SHARE).min(KEPT_ROWS);
        Room {
            rows: free.rows.saturating_sub(kept),
            bytes: free.bytes.saturating_sub(self.limit.bytes / KEPT_SHARE),
        }
    }

    /// Whether there are rows that overtake, and some of the window is kept for them.
    pub(crate) fn keep_room(&mut self, keeps: bool) {
        self.keeps_room = keeps;
    }

    /// ... for rows that overtake.
    pub(crate) fn free_for_urgent(&self) -> Room {
        Room {
            rows: self.limit.rows.saturating_sub(self.rows.len() + self.reserved.rows),
            bytes: self.limit.bytes.saturating_sub(self.bytes + self.reserved.bytes),
        }
    }

    /// Promises `room` to a read. Every reserve is followed by one `unreserve` of the same room.
    pub(crate) fn reserve(&mut self, room: Room) {
        self.reserved.rows += room.rows;
        self.reserved.bytes += room.bytes;
    }

    pub(crate) fn unreserve(&mut self, room: Room) {
        self.reserved.rows -= room.rows;
        self.reserved.bytes -= room.bytes;
    }

    fn forgotten_since(&mut self, read: Read) -> &mut Option<SeqSet> {
        match read {
            Read::Main => &mut self.main,
            Read::Side => &mut self.side,
        }
    }

    /// A read begins; it may show rows in memory, so what is forgotten until it ends is remembered for it.
    pub(crate) fn read_begins(&mut self, read: Read) {
        *self.forgotten_since(read) = Some(SeqSet::default());
    }

    /// That read has ended: what it shows of these rows is older than what became of them.
    pub(crate) fn read_ends(&mut self, read: Read) -> SeqSet {
        self.forgotten_since(read).take().unwrap_or_default()
    }

    /// Takes a row in; `false` when it is here already.
    pub(crate) fn admit(&mut self, seq: Seq, lane: Lane, bytes: usize) -> bool {
        let Entry::Vacant(place) = self.rows.entry(seq) else {
            return false;
        };
        place.insert(lane);
        self.of_lane[usize::from(lane)] += 1;
        self.bytes += bytes;
        true
    }

    /// The row's payload was dropped; the row itself is still on its way.
    pub(crate) fn release(&mut self, bytes: usize) {
        self.bytes -= bytes;
    }

    /// The row's end is written, or it went back to the database: reads that begin from now on see it as it is there.
    pub(crate) fn forget(&mut self, seq: Seq) {
        let Some(lane) = self.rows.remove(&seq) else { return };
        self.of_lane[usize::from(lane)] -= 1;
        for forgotten in [&mut self.main, &mut self.side].into_iter().flatten() {
            forgotten.insert(seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_settled_during_a_read_is_known_to_it() {
        let mut window = Window::new(Room { rows: 10, bytes: 100 }, 1);
        assert!(window.admit(Seq(1), 0, 10));
        for read in [Read::Main, Read::Side] {
            window.read_begins(read);
        }
        window.release(10);
        window.forget(Seq(1));
        for read in [Read::Main, Read::Side] {
            let older = window.read_ends(read);
            assert!(older.contains(&Seq(1)), "the read's snapshot is older than the mark");
            window.read_begins(read);
            let older = window.read_ends(read);
            assert!(older.is_empty(), "an operator may have replayed it since");
        }
    }

    #[test]
    fn some_of_it_is_kept_for_rows_that_overtake() {
        let mut window = Window::new(
            Room {
                rows: 1_000,
                bytes: 100_000,
            },
            1,
        );
        assert_eq!(window.free(), window.free_for_urgent());
        window.keep_room(true);
        assert_eq!(
            window.free(),
            Room {
                rows: 950,
                bytes: 95_000
            }
        );
        for seq in 0..960 {
            assert!(window.admit(Seq(seq), 0, 0));
        }
        assert_eq!((window.free().rows, window.free_for_urgent().rows), (0, 40));
    }

    #[test]
    fn reservations_and_rows_share_the_limit() {
        let mut window = Window::new(Room { rows: 10, bytes: 100 }, 1);
        window.reserve(Room { rows: 4, bytes: 40 });
        assert!(window.admit(Seq(1), 0, 50));
        assert_eq!(window.free(), Room { rows: 5, bytes: 10 });
        window.unreserve(Room { rows: 4, bytes: 40 });
        assert_eq!(window.free(), Room { rows: 9, bytes: 50 });
    }
}
