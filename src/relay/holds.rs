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
//! Holds live in the database (waiting and failed rows); this is their image, rebuilt from it at every `open`. Parked rows
//! are remembered by `seq` up to a cap; past it only where to read on from, so that memory stays bounded.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use crate::message::Seq;
use crate::store::{Lane, LaneSet};

/// Parked rows remembered one by one, per key and over all keys.
const PARKED_PER_KEY: usize = 1_000;
const PARKED_IN_ALL: usize = 100_000;

/// A (topic, key).
pub(crate) type KeyId = Arc<(Arc<str>, Box<str>)>;

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
    lane: Lane,
    holders: BTreeSet<Seq>,
    /// Holders that are queued or in flight: those behind them may follow.
    going: BTreeSet<Seq>,
    parked: BTreeSet<Seq>,
    /// Rows in this range are parked too, but not remembered one by one.
    unremembered: Option<(Seq, Seq)>,
    /// Listed for release, or its rows are being fetched.
    recalling: bool,
    /// A recall is under way: its snapshot may not show what parks now.
    fetching: bool,
    /// Lowest and highest row parked meanwhile.
    missed: Option<(Seq, Seq)>,
}

impl Hold {
    fn new(lane: Lane) -> Self {
        Self {
            lane,
            holders: BTreeSet::new(),
            going: BTreeSet::new(),
            parked: BTreeSet::new(),
            unremembered: None,
            recalling: false,
            fetching: false,
            missed: None,
        }
    }
}

/// What to fetch for a key that is being released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Recall {
    /// These rows.
    Rows(Vec<Seq>),
    /// The key's pending rows in this range.
    Between(Seq, Seq),
}

/// By key.
type HoldsOfTopic = HashMap<Box<str>, (KeyId, Hold)>;

#[derive(Default)]
pub(crate) struct Holds {
    keys: HashMap<Arc<str>, HoldsOfTopic>,
    holders: BTreeMap<Seq, (KeyId, bool)>,
    releasing: VecDeque<KeyId>,
    count: usize,
    parked: usize,
}

impl Holds {
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether this row holds its key.
    pub(crate) fn is_holder(&self, seq: Seq) -> bool {
        self.holders.contains_key(&seq)
    }

    /// Whether this row holds this key.
    pub(crate) fn is_held_by(&self, seq: Seq, topic: &str, key: &str) -> bool {
        let held = self.holders.get(&seq);
        held.is_some_and(|(id, _)| *id.0 == *topic && *id.1 == *key)
    }

    /// Up to `count` rows that hold a key, in `seq` order, past `after`.
    pub(crate) fn holders_past(&self, after: Seq, count: usize) -> Vec<Seq> {
        self.holders
            .range((Bound::Excluded(after), Bound::Unbounded))
            .map(|(seq, _)| *seq)
            .take(count)
            .collect()
    }

    fn get_mut(&mut self, topic: &str, key: &str) -> Option<&mut (KeyId, Hold)> {
        self.keys.get_mut(topic)?.get_mut(key)
    }

    /// Whether this row, which holds its key, may be sent: the holders before it are on their way. Rows of a key that failed
    /// together go in `seq` order, whichever of them is due first.
    pub(crate) fn may_go(&mut self, topic: &str, key: &str, seq: Seq) -> bool {
        let Some((_, hold)) = self.get_mut(topic, key) else {
            return true;
        };
        hold.holders.range(..seq).all(|other| hold.going.contains(other))
    }

    /// It is queued.
    pub(crate) fn goes(&mut self, topic: &str, key: &str, seq: Seq) {
        if let Some((_, hold)) = self.get_mut(topic, key)
            && hold.holders.contains(&seq)
        {
            hold.going.insert(seq);
        }
    }

    /// It left memory, and is found again when it is due.
    pub(crate) fn stays(&mut self, seq: Seq) {
        let Some((id, _)) = self.holders.get(&seq) else { return };
        let id = Arc::clone(id);
        if let Some((_, hold)) = self.get_mut(&id.0, &id.1) {
            hold.going.remove(&seq);
        }
    }

    /// Whether `seq` goes on holding its key once it has failed for good.
    pub(crate) fn is_strict(&self, seq: Seq) -> bool {
        self.holders.get(&seq).is_some_and(|(_, strict)| *strict)
    }

    /// From now on this row holds its key.
    pub(crate) fn hold(&mut self, topic: &Arc<str>, key: &str, holder: Holder) {
        let Holder { seq, lane, strict } = holder;
        let keys = self.keys.entry(Arc::clone(topic)).or_default();
        let (id, hold) = keys.entry(key.into()).or_insert_with(|| {
            self.count += 1;
            (Arc::new((Arc::clone(topic), key.into())), Hold::new(lane))
        });
        hold.holders.insert(seq);
        hold.going.remove(&seq);
        self.holders.insert(seq, (Arc::clone(id), strict));
    }

    /// Whether a row of this key must wait, and if so parks it. Call it when the row's turn comes, not before.
    pub(crate) fn park(&mut self, topic: &str, key: &str, seq: Seq, released: bool) -> bool {
        let may_remember = self.parked < PARKED_IN_ALL;
        let Some((_, hold)) = self.get_mut(topic, key) else {
            return false;
        };
        if hold.holders.contains(&seq) {
            // Behind a holder that failed again it waits for that one, in the database.
            return !hold.holders.range(..seq).all(|other| hold.going.contains(other));
        }
        if released && hold.holders.is_empty() {
            return false;
        }
        if hold.fetching {
            let (low, high) = hold.missed.unwrap_or((seq, seq));
            hold.missed = Some((low.min(seq), high.max(seq)));
            return true;
        }
        match &mut hold.unremembered {
            Some((from, to)) if seq >= *from => *to = seq.max(*to),
            Some(_) | None if may_remember && hold.parked.len() < PARKED_PER_KEY => {
                if hold.parked.insert(seq) {
                    self.parked += 1;
                }
            }
            Some((from, _)) => *from = seq,
            None => hold.unremembered = Some((seq, seq)),
        }
        true
    }

    /// `seq` no longer holds its key. When it was the last, the key's parked rows are released. Answers whether others hold it
    /// still: they may be due, and were not let in.
    pub(crate) fn resolve(&mut self, seq: Seq) -> bool {
        let Some((id, _)) = self.holders.remove(&seq) else {
            return false;
        };
        let (_, hold) = self.get_mut(&id.0, &id.1).expect("a holder's key is held");
        hold.holders.remove(&seq);
        hold.going.remove(&seq);
        if !hold.holders.is_empty() {
            return true;
        }
        if !hold.recalling {
            self.release(id);
        }
        false
    }

    fn release(&mut self, id: KeyId) {
        let (_, hold) = self.get_mut(&id.0, &id.1).expect("only held keys are released");
        if hold.parked.is_empty() && hold.unremembered.is_none() {
            self.remove(&id);
        } else {
            hold.recalling = true;
            self.releasing.push_back(id);
        }
    }

    fn remove(&mut self, id: &KeyId) {
        let keys = self.keys.get_mut(&*id.0).expect("only held keys are removed");
        keys.remove(&*id.1);
        if keys.is_empty() {
            self.keys.remove(&*id.0);
        }
        self.count -= 1;
    }

    /// The next key whose parked rows may be fetched, at most `rows` of them.
    pub(crate) fn next_recall(&mut self, rows: usize) -> Option<(KeyId, Recall)> {
        while let Some(id) = self.releasing.pop_front() {
            let (_, hold) = self.get_mut(&id.0, &id.1).expect("only held keys are released");
            if !hold.holders.is_empty() {
                // Held anew meanwhile: its next release lists it again.
                hold.recalling = false;
                continue;
            }
            hold.fetching = true;
            let first = hold.parked.first().copied();
            let recall = match hold.unremembered {
                Some((from, to)) if first.is_none_or(|first| from <= first) => Recall::Between(from, to),
                Some((from, _)) => Recall::Rows(hold.parked.range(..from).take(rows).copied().collect()),
                None => Recall::Rows(hold.parked.iter().take(rows).copied().collect()),
            };
            return Some((id, recall));
        }
        None
    }

    /// Whether this key's parked rows are being fetched.
    pub(crate) fn is_fetching(&mut self, id: &KeyId) -> bool {
        self.get_mut(&id.0, &id.1).is_some_and(|(_, hold)| hold.fetching)
    }

    /// The lowest row of this key that parked while others of it are being fetched.
    pub(crate) fn missed_from(&mut self, id: &KeyId) -> Option<Seq> {
        let (_, hold) = self.get_mut(&id.0, &id.1)?;
        hold.missed.map(|(low, _)| low)
    }

    /// Gives up releasing this key, because its destination lags; answers the lowest row parked. `None` while it is held,
    /// or when nothing of it is parked.
    pub(crate) fn give_up_release(&mut self, topic: &str, key: &str) -> Option<Seq> {
        let (id, hold) = self.get_mut(topic, key).filter(|(_, hold)| hold.holders.is_empty())?;
        let ranges = [hold.unremembered, hold.missed];
        let ranges = ranges.into_iter().flatten().map(|(from, _)| from);
        let lowest = ranges.chain(hold.parked.first().copied()).min();
        let (id, parked) = (Arc::clone(id), hold.parked.len());
        self.parked -= parked;
        self.releasing.retain(|other| *other != id);
        self.remove(&id);
        lowest
    }

    /// Everything parked up to `upto` has been fetched: what was pending of it is queued again.
    pub(crate) fn recalled(&mut self, id: KeyId, upto: Seq) {
        let Some((_, hold)) = self.get_mut(&id.0, &id.1).filter(|(_, hold)| hold.fetching) else {
            return; // Its destination lags since the first of these rows was offered.
        };
        let rest = match upto.0.checked_add(1) {
            Some(next) => hold.parked.split_off(&Seq(next)),
            None => BTreeSet::new(),
        };
        let gone = std::mem::replace(&mut hold.parked, rest).len();
        if let Some((from, to)) = hold.unremembered
            && from <= upto
        {
            hold.unremembered = (to > upto).then_some((Seq(upto.0 + 1), to));
        }
        if let Some((low, high)) = hold.missed.take() {
            let (from, to) = hold.unremembered.unwrap_or((low, high));
            hold.unremembered = Some((low.min(from), high.max(to)));
        }
        hold.fetching = false;
        hold.recalling = false;
        let free = hold.holders.is_empty();
        self.parked -= gone;
        if free {
            self.release(id);
        }
    }

    /// Forgets the keys of lanes that are given up.
    pub(crate) fn forget(&mut self, lanes: &LaneSet) {
        let gone = |hold: &Hold| lanes.contains(hold.lane);
        for (_, hold) in self.keys.values().flat_map(HashMap::values) {
            if gone(hold) {
                self.count -= 1;
                self.parked -= hold.parked.len();
            }
        }
        self.keys.retain(|_, keys| {
            keys.retain(|_, (_, hold)| !gone(hold));
            !keys.is_empty()
        });
        let keys = &self.keys;
        let is_held = |id: &KeyId| keys.get(&id.0).is_some_and(|keys| keys.contains_key(&id.1));
        self.holders.retain(|_, (id, _)| is_held(id));
        self.releasing.retain(is_held);
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
        holds.hold(&topic(), "k", holder(1));
        holds.hold(&topic(), "other", Holder { lane: 4, ..holder(2) });
        assert!(holds.park("t", "k", Seq(5), false) && holds.park("t", "other", Seq(6), false));
        holds.resolve(Seq(1));
        let (id, _) = holds.next_recall(10).unwrap();
        holds.forget(&LaneSet::of([3]));
        holds.recalled(id, Seq(5));
        assert!(!holds.park("t", "k", Seq(7), false) && !holds.is_holder(Seq(1)));
        assert!(holds.park("t", "other", Seq(8), false));
        assert_eq!((holds.count, holds.parked), (1, 2));
        holds.forget(&LaneSet::of([4]));
        assert!(holds.is_empty() && holds.parked == 0);
    }

    #[test]
    fn rows_behind_a_holder_park_and_come_back_in_order() {
        let mut holds = Holds::default();
        holds.hold(&topic(), "k", holder(5));
        assert!(!holds.park("t", "k", Seq(5), false), "the holder itself may go");
        assert!(holds.park("t", "k", Seq(9), false) && holds.park("t", "k", Seq(7), false));
        assert!(!holds.park("t", "other", Seq(8), false));
        assert_eq!(holds.next_recall(10), None);
        holds.resolve(Seq(5));
        let (id, recall) = holds.next_recall(1).unwrap();
        assert_eq!(recall, Recall::Rows(vec![Seq(7)]));
        assert!(
            holds.park("t", "k", Seq(11), false),
            "new rows stay behind what is parked"
        );
        holds.recalled(id, Seq(7));
        assert!(!holds.park("t", "k", Seq(7), true), "released rows pass");
        let (id, recall) = holds.next_recall(10).unwrap();
        assert_eq!(recall, Recall::Rows(vec![Seq(9)]));
        holds.recalled(id, Seq(9));
        let (id, recall) = holds.next_recall(10).unwrap();
        assert_eq!(recall, Recall::Between(Seq(11), Seq(11)));
        holds.recalled(id, Seq(11));
        assert!(holds.is_empty());
    }

    #[test]
    fn rows_that_failed_together_go_in_order() {
        let mut holds = Holds::default();
        for seq in [3, 1, 2] {
            holds.hold(&topic(), "k", holder(seq));
        }
        assert!(holds.may_go("t", "k", Seq(1)) && !holds.may_go("t", "k", Seq(2)));
        holds.goes("t", "k", Seq(1));
        assert!(holds.may_go("t", "k", Seq(2)) && !holds.may_go("t", "k", Seq(3)));
        holds.goes("t", "k", Seq(2));
        // The first fails again: the second, queued behind it, does not go either.
        holds.hold(&topic(), "k", holder(1));
        assert!(holds.park("t", "k", Seq(2), false));
        holds.stays(Seq(2));
        assert!(!holds.park("t", "k", Seq(1), false));
        assert!(holds.resolve(Seq(1)), "others hold the key still");
        assert!(holds.may_go("t", "k", Seq(2)) && !holds.may_go("t", "k", Seq(3)));
    }

    #[test]
    fn the_last_number_there_is_is_recalled_once() {
        let mut holds = Holds::default();
        holds.hold(&topic(), "k", holder(1));
        assert!(holds.park("t", "k", Seq(i64::MAX), false));
        holds.resolve(Seq(1));
        let (id, _) = holds.next_recall(10).unwrap();
        holds.recalled(id, Seq(i64::MAX));
        assert!(holds.is_empty());
    }

    #[test]
    fn a_row_that_parks_while_others_are_recalled_is_recalled_next() {
        let mut holds = Holds::default();
        holds.hold(&topic(), "k", holder(1));
        assert!(holds.park("t", "k", Seq(5), false) && holds.park("t", "k", Seq(9), false));
        holds.resolve(Seq(1));
        let (id, recall) = holds.next_recall(10).unwrap();
        assert_eq!(recall, Recall::Rows(vec![Seq(5), Seq(9)]));
        // A late commit, below what this recall covers.
        assert!(holds.park("t", "k", Seq(7), false));
        holds.recalled(id, Seq(9));
        assert_eq!(holds.next_recall(10).unwrap().1, Recall::Between(Seq(7), Seq(7)));
    }

    #[test]
    fn a_key_held_anew_while_it_is_released_keeps_its_rows() {
        let mut holds = Holds::default();
        holds.hold(&topic(), "k", holder(1));
        for seq in 2..5 {
            assert!(holds.park("t", "k", Seq(seq), false));
        }
        holds.resolve(Seq(1));
        let (id, _) = holds.next_recall(1).unwrap();
        holds.recalled(id, Seq(2));
        holds.hold(&topic(), "k", holder(2));
        assert_eq!(holds.next_recall(10), None);
        assert!(
            holds.park("t", "k", Seq(3), true),
            "a released row waits behind the new holder"
        );
        holds.resolve(Seq(2));
        assert_eq!(holds.next_recall(10).unwrap().1, Recall::Rows(vec![Seq(3), Seq(4)]));
    }

    #[test]
    fn past_the_cap_only_the_place_to_read_on_from_is_kept() {
        let mut holds = Holds::default();
        holds.hold(&topic(), "k", holder(0));
        for seq in 1..=5_000 {
            assert!(holds.park("t", "k", Seq(seq), false));
        }
        assert_eq!(holds.parked, PARKED_PER_KEY);
        holds.resolve(Seq(0));
        let (id, recall) = holds.next_recall(5_000).unwrap();
        assert!(matches!(recall, Recall::Rows(rows) if rows.len() == PARKED_PER_KEY));
        holds.recalled(id, Seq(1_000));
        let (id, recall) = holds.next_recall(5_000).unwrap();
        assert_eq!(recall, Recall::Between(Seq(1_001), Seq(5_000)));
        holds.recalled(id, Seq(3_000));
        let (id, recall) = holds.next_recall(5_000).unwrap();
        assert_eq!(recall, Recall::Between(Seq(3_001), Seq(5_000)));
        holds.recalled(id, Seq(5_000));
        assert!(holds.is_empty());
        assert_eq!(holds.parked, 0);
    }
}
