//! Keys that wait: a row that retries (order = key, strict) or has failed (strict) holds the later rows of its key.
//!
//! ```text
//!   hold(seq) ──> held: later rows park here by seq, payload dropped
//!                   │ last holder resolved (relayed, failed under order = key, retried or discarded by an operator)
//!                   v
//!              releasing: parked rows are recalled in seq order and go to the front of their queue, marked `released`
//!                   │ nothing parked any more
//!                   v
//!                 gone
//! ```
//!
//! Holds live in the database (waiting and failed rows); this is their image, rebuilt from it at every `open`. A held key costs
//! some 100 bytes, however long it is, and as much again once rows wait behind it: nearly all are held by one row. Parked rows
//! are remembered by `seq` up to a cap; past it only where to read on from, so that memory stays bounded.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use crate::message::{KeyId, Seq};
use crate::store::{Lane, LaneSet};

pub(crate) use super::parked::Recall;
use super::parked::{Holders, Parked};

/// Parked rows remembered one by one, over all keys.
const PARKED_IN_ALL: usize = 100_000;

/// A row that holds its key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holder {
    pub(crate) seq: Seq,
    pub(crate) lane: Lane,
    /// Even once it has failed for good.
    pub(crate) strict: bool,
}

#[derive(Debug)]
struct Hold {
    holders: Holders,
    parked: Option<Box<Parked>>,
    lane: Lane,
    /// Listed for release, or its rows are being fetched.
    recalling: bool,
}

impl Hold {
    fn remembered(&self) -> usize {
        self.parked.as_ref().map_or(0, |parked| parked.remembered())
    }
}

/// A recall is under way: its snapshot may not show what parks now.
#[derive(Debug)]
struct Fetching {
    key: KeyId,
    /// Lowest and highest row parked meanwhile.
    missed: Option<(Seq, Seq)>,
}

#[derive(Default)]
pub(crate) struct Holds {
    /// Boxed: half of a large table's places are empty.
    keys: HashMap<KeyId, Box<Hold>>,
    holders: BTreeMap<Seq, (KeyId, bool)>,
    releasing: VecDeque<KeyId>,
    /// There is one read at a time.
    fetching: Option<Fetching>,
    /// Parked rows remembered one by one.
    remembered: usize,
}

impl Holds {
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether this row holds its key.
    pub(crate) fn is_holder(&self, seq: Seq) -> bool {
        self.holders.contains_key(&seq)
    }

    /// Whether this row holds a key, and this one, where it is known.
    pub(crate) fn is_held_by(&self, seq: Seq, key: Option<KeyId>) -> bool {
        let held = self.holders.get(&seq);
        held.is_some_and(|(held, _)| key.is_none_or(|key| key == *held))
    }

    /// Up to `count` rows that hold a key, in `seq` order, past `after`; `None`: the first ones.
    pub(crate) fn holders_past(&self, after: Option<Seq>, count: usize) -> Vec<Seq> {
        self.holders
            .range((after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded))
            .map(|(seq, _)| *seq)
            .take(count)
            .collect()
    }

    /// Whether this row, which holds its key, may be sent: the holders before it are on their way. Rows of a key that failed
    /// together go in `seq` order, whichever of them is due first.
    pub(crate) fn may_go(&self, topic: &str, key: &str, seq: Seq) -> bool {
        let hold = self.keys.get(&KeyId::of(topic, key));
        hold.is_none_or(|hold| hold.holders.are_going_before(seq))
    }

    /// Whether this row, were its turn to come, would park behind its key's holders.
    pub(crate) fn keeps(&self, topic: &str, key: &str, seq: Seq) -> bool {
        let hold = self.keys.get(&KeyId::of(topic, key));
        hold.is_some_and(|hold| !hold.holders.contains(seq) || !hold.holders.are_going_before(seq))
    }

    /// The first of the rows that hold this key.
    pub(crate) fn first_holder(&self, topic: &str, key: &str) -> Option<Seq> {
        self.keys.get(&KeyId::of(topic, key))?.holders.first()
    }

    /// It is queued.
    pub(crate) fn goes(&mut self, topic: &str, key: &str, seq: Seq) {
        if let Some(hold) = self.keys.get_mut(&KeyId::of(topic, key)) {
            hold.holders.set_going(seq, true);
        }
    }

    /// It left memory, and is found again when it is due.
    pub(crate) fn stays(&mut self, seq: Seq) {
        let key = self.holders.get(&seq).map(|(key, _)| *key);
        if let Some(hold) = key.and_then(|key| self.keys.get_mut(&key)) {
            hold.holders.set_going(seq, false);
        }
    }

    /// Whether `seq` goes on holding its key once it has failed for good.
    pub(crate) fn is_strict(&self, seq: Seq) -> bool {
        self.holders.get(&seq).is_some_and(|(_, strict)| *strict)
    }

    /// From now on this row holds its key, and no other: somebody may have corrected it.
    pub(crate) fn hold(&mut self, key: KeyId, holder: Holder) {
        let Holder { seq, lane, strict } = holder;
        if self.holders.get(&seq).is_some_and(|(held, _)| *held != key) {
            self.resolve(seq);
        }
        let hold = self.keys.entry(key).or_insert_with(|| {
            Box::new(Hold {
                holders: Holders::None,
                parked: None,
                lane,
                recalling: false,
            })
        });
        hold.holders.insert(seq);
        self.holders.insert(seq, (key, strict));
    }

    /// Whether a row of this key must wait, and if so parks it. Call it when the row's turn comes, not before.
    pub(crate) fn park(&mut self, topic: &Arc<str>, key: &str, seq: Seq, released: bool) -> bool {
        let key = KeyId::of(topic, key);
        let Some(hold) = self.keys.get_mut(&key) else {
            return false;
        };
        if hold.holders.contains(seq) {
            // Behind a holder that failed again it waits for that one, in the database.
            return !hold.holders.are_going_before(seq);
        }
        if released && hold.holders.is_empty() {
            return false;
        }
        if let Some(fetching) = self.fetching.as_mut().filter(|fetching| fetching.key == key) {
            let (low, high) = fetching.missed.unwrap_or((seq, seq));
            fetching.missed = Some((low.min(seq), high.max(seq)));
            return true;
        }
        let before = hold.remembered();
        let parked = hold.parked.get_or_insert_with(|| Box::new(Parked::of(topic)));
        parked.add(seq, self.remembered < PARKED_IN_ALL);
        self.remembered = self.remembered - before + parked.remembered();
        true
    }

    /// `seq` no longer holds its key. When it was the last, the key's parked rows are released. Answers whether others hold it
    /// still: they may be due, and were not let in.
    pub(crate) fn resolve(&mut self, seq: Seq) -> bool {
        let Some((key, _)) = self.holders.remove(&seq) else {
            return false;
        };
        let hold = self.keys.get_mut(&key).expect("a holder's key is held");
        hold.holders.remove(seq);
        if !hold.holders.is_empty() {
            return true;
        }
        if !hold.recalling {
            self.release(key);
        }
        false
    }

    fn release(&mut self, key: KeyId) {
        let hold = self.keys.get_mut(&key).expect("only held keys are released");
        if hold.parked.is_none() {
            self.keys.remove(&key);
        } else {
            hold.recalling = true;
            self.releasing.push_back(key);
        }
    }

    /// The next key whose parked rows may be fetched, at most `rows` of them.
    pub(crate) fn next_recall(&mut self, rows: usize) -> Option<(KeyId, Recall)> {
        while let Some(key) = self.releasing.pop_front() {
            let hold = self.keys.get_mut(&key).expect("only held keys are released");
            if !hold.holders.is_empty() {
                // Held anew meanwhile: its next release lists it again.
                hold.recalling = false;
                continue;
            }
            let parked = hold.parked.as_ref().expect("a key with nothing parked is gone at once");
            self.fetching = Some(Fetching { key, missed: None });
            return Some((key, parked.recall(rows)));
        }
        None
    }

    /// Whether this key's parked rows are being fetched.
    pub(crate) fn is_fetching(&self, key: KeyId) -> bool {
        self.fetching.as_ref().is_some_and(|fetching| fetching.key == key)
    }

    /// The lowest row of this key that parked while others of it are being fetched.
    pub(crate) fn missed_from(&self, key: KeyId) -> Option<Seq> {
        let fetching = self.fetching.as_ref().filter(|fetching| fetching.key == key)?;
        fetching.missed.map(|(low, _)| low)
    }

    /// Gives up releasing this key, because its destination lags; answers the lowest row parked. `None` while it is held,
    /// or when nothing of it is parked.
    pub(crate) fn give_up_release(&mut self, topic: &str, key: &str) -> Option<Seq> {
        let key = KeyId::of(topic, key);
        let hold = self.keys.get(&key).filter(|hold| hold.holders.is_empty())?;
        let parked = hold.parked.as_ref().map(|parked| parked.lowest());
        let lowest = parked.into_iter().chain(self.missed_from(key)).min();
        self.remembered -= hold.remembered();
        self.releasing.retain(|other| *other != key);
        self.fetching.take_if(|fetching| fetching.key == key);
        self.keys.remove(&key);
        lowest
    }

    /// Everything parked up to `upto` has been fetched: what was pending of it is queued again.
    pub(crate) fn recalled(&mut self, key: KeyId, upto: Seq) {
        // Else its destination lags since the first of these rows was offered.
        let Some(fetching) = self.fetching.take_if(|fetching| fetching.key == key) else {
            return;
        };
        let hold = self
            .keys
            .get_mut(&key)
            .expect("a key is forgotten with what is fetched of it");
        hold.recalling = false;
        let before = hold.remembered();
        if let Some(mut parked) = hold.parked.take() {
            parked.drop_up_to(upto);
            if let Some(missed) = fetching.missed {
                parked.add_range(missed);
            }
            hold.parked = (!parked.is_empty()).then_some(parked);
        }
        self.remembered = self.remembered - before + hold.remembered();
        if hold.holders.is_empty() {
            self.release(key);
        }
    }

    /// Forgets the keys of lanes that are given up.
    pub(crate) fn forget(&mut self, lanes: &LaneSet) {
        self.keys.retain(|_, hold| {
            let gone = lanes.contains(hold.lane);
            if gone {
                self.remembered -= hold.remembered();
            }
            !gone
        });
        let keys = &self.keys;
        self.holders.retain(|_, (key, _)| keys.contains_key(key));
        self.releasing.retain(|key| keys.contains_key(key));
        self.fetching.take_if(|fetching| !keys.contains_key(&fetching.key));
    }

    /// Forgets everything: the store is opened anew.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic() -> Arc<str> {
        "t".into()
    }

    fn key(key: &str) -> KeyId {
        KeyId::of("t", key)
    }

    fn holder(seq: i64) -> Holder {
        Holder {
            seq: Seq(seq),
            lane: 3,
            strict: false,
        }
    }

    #[test]
    fn a_lane_given_up_takes_its_keys_along() {
        let mut holds = Holds::default();
        holds.hold(key("k"), holder(1));
        holds.hold(key("other"), Holder { lane: 4, ..holder(2) });
        assert!(holds.park(&topic(), "k", Seq(5), false) && holds.park(&topic(), "other", Seq(6), false));
        holds.resolve(Seq(1));
        let (id, _) = holds.next_recall(10).unwrap();
        holds.forget(&LaneSet::of([3]));
        holds.recalled(id, Seq(5));
        assert!(!holds.park(&topic(), "k", Seq(7), false) && !holds.is_holder(Seq(1)));
        assert!(holds.park(&topic(), "other", Seq(8), false));
        assert_eq!((holds.keys.len(), holds.remembered), (1, 2));
        holds.forget(&LaneSet::of([4]));
        assert!(holds.is_empty() && holds.remembered == 0);
    }

    #[test]
    fn rows_behind_a_holder_park_and_come_back_in_order() {
        let mut holds = Holds::default();
        holds.hold(key("k"), holder(5));
        assert!(!holds.park(&topic(), "k", Seq(5), false), "the holder itself may go");
        assert!(holds.park(&topic(), "k", Seq(9), false) && holds.park(&topic(), "k", Seq(7), false));
        assert!(!holds.park(&topic(), "other", Seq(8), false));
        assert_eq!(holds.next_recall(10), None);
        holds.resolve(Seq(5));
        let (id, recall) = holds.next_recall(1).unwrap();
        assert_eq!(recall, Recall::Rows(vec![Seq(7)]));
        assert!(
            holds.park(&topic(), "k", Seq(11), false),
            "new rows stay behind what is parked"
        );
        holds.recalled(id, Seq(7));
        assert!(!holds.park(&topic(), "k", Seq(7), true), "released rows pass");
        let (id, recall) = holds.next_recall(10).unwrap();
        assert_eq!(recall, Recall::Rows(vec![Seq(9)]));
        holds.recalled(id, Seq(9));
        let (id, recall) = holds.next_recall(10).unwrap();
        assert_eq!(recall, Recall::Rows(vec![Seq(11)]));
        holds.recalled(id, Seq(11));
        assert!(holds.is_empty());
    }

    #[test]
    fn rows_that_failed_together_go_in_order() {
        let mut holds = Holds::default();
        for seq in [3, 1, 2] {
            holds.hold(key("k"), holder(seq));
        }
        assert!(holds.may_go("t", "k", Seq(1)) && !holds.may_go("t", "k", Seq(2)));
        holds.goes("t", "k", Seq(1));
        assert!(holds.may_go("t", "k", Seq(2)) && !holds.may_go("t", "k", Seq(3)));
        holds.goes("t", "k", Seq(2));
        // The first fails again: the second, queued behind it, does not go either.
        holds.hold(key("k"), holder(1));
        assert!(holds.park(&topic(), "k", Seq(2), false));
        holds.stays(Seq(2));
        assert!(!holds.park(&topic(), "k", Seq(1), false));
        assert!(holds.resolve(Seq(1)), "others hold the key still");
        assert!(holds.may_go("t", "k", Seq(2)) && !holds.may_go("t", "k", Seq(3)));
    }

    #[test]
    fn a_row_holds_one_key_even_where_it_was_corrected() {
        let mut holds = Holds::default();
        holds.hold(key("typo"), holder(1));
        assert!(holds.park(&topic(), "typo", Seq(5), false));
        holds.hold(key("k"), holder(1));
        assert_eq!(holds.next_recall(10), Some((key("typo"), Recall::Rows(vec![Seq(5)]))));
        assert!(holds.park(&topic(), "k", Seq(6), false) && !holds.park(&topic(), "typo", Seq(5), true));
    }

    #[test]
    fn the_last_number_there_is_is_recalled_once() {
        let mut holds = Holds::default();
        holds.hold(key("k"), holder(1));
        assert!(holds.park(&topic(), "k", Seq(i64::MAX), false));
        holds.resolve(Seq(1));
        let (id, _) = holds.next_recall(10).unwrap();
        holds.recalled(id, Seq(i64::MAX));
        assert!(holds.is_empty());
    }

    #[test]
    fn a_row_that_parks_while_others_are_recalled_is_recalled_next() {
        let mut holds = Holds::default();
        holds.hold(key("k"), holder(1));
        assert!(holds.park(&topic(), "k", Seq(5), false) && holds.park(&topic(), "k", Seq(9), false));
        holds.resolve(Seq(1));
        let (id, recall) = holds.next_recall(10).unwrap();
        assert_eq!(recall, Recall::Rows(vec![Seq(5), Seq(9)]));
        // A late commit, below what this recall covers.
        assert!(holds.park(&topic(), "k", Seq(7), false));
        holds.recalled(id, Seq(9));
        assert_eq!(holds.next_recall(10).unwrap().1, Recall::Rows(vec![Seq(7)]));
    }

    #[test]
    fn a_key_held_anew_while_it_is_released_keeps_its_rows() {
        let mut holds = Holds::default();
        holds.hold(key("k"), holder(1));
        for seq in 2..5 {
            assert!(holds.park(&topic(), "k", Seq(seq), false));
        }
        holds.resolve(Seq(1));
        let (id, _) = holds.next_recall(1).unwrap();
        holds.recalled(id, Seq(2));
        holds.hold(key("k"), holder(2));
        assert_eq!(holds.next_recall(10), None);
        assert!(
            holds.park(&topic(), "k", Seq(3), true),
            "a released row waits behind the new holder"
        );
        holds.resolve(Seq(2));
        assert_eq!(holds.next_recall(10).unwrap().1, Recall::Rows(vec![Seq(3), Seq(4)]));
    }

    #[test]
    fn past_the_cap_only_the_place_to_read_on_from_is_kept() {
        let mut holds = Holds::default();
        holds.hold(key("k"), holder(0));
        for seq in 1..=5_000 {
            assert!(holds.park(&topic(), "k", Seq(seq), false));
        }
        assert_eq!(holds.remembered, super::super::parked::PARKED_PER_KEY);
        holds.resolve(Seq(0));
        let (id, recall) = holds.next_recall(5_000).unwrap();
        assert!(matches!(recall, Recall::Rows(rows) if rows.len() == super::super::parked::PARKED_PER_KEY));
        holds.recalled(id, Seq(1_000));
        let (id, recall) = holds.next_recall(5_000).unwrap();
        assert_eq!(recall, Recall::Between(topic(), Seq(1_001), Seq(5_000)));
        holds.recalled(id, Seq(3_000));
        let (id, recall) = holds.next_recall(5_000).unwrap();
        assert_eq!(recall, Recall::Between(topic(), Seq(3_001), Seq(5_000)));
        holds.recalled(id, Seq(5_000));
        assert!(holds.is_empty());
        assert_eq!(holds.remembered, 0);
    }
}
