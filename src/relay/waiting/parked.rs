//! What waits at one held key, and for whom: small while that is one row each, as it nearly always is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::message::Seq;

/// Parked rows remembered one by one, of one key.
pub(super) const PARKED_PER_KEY: usize = 1_000;

/// The rows that hold a key, each with whether it is going: queued or in flight, so that those behind it may follow.
#[derive(Debug)]
#[expect(
    clippy::box_collection,
    reason = "there are a million of these, and hardly any has several: the box makes each 8 bytes smaller"
)]
pub(super) enum Holders {
    None,
    One(Seq, bool),
    Many(Box<BTreeMap<Seq, bool>>),
}

impl Holders {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::None => true,
            Self::One(..) => false,
            Self::Many(all) => all.is_empty(),
        }
    }

    pub(super) fn first(&self) -> Option<Seq> {
        match self {
            Self::None => None,
            Self::One(one, _) => Some(*one),
            Self::Many(all) => all.keys().next().copied(),
        }
    }

    pub(super) fn contains(&self, seq: Seq) -> bool {
        match self {
            Self::None => false,
            Self::One(one, _) => *one == seq,
            Self::Many(all) => all.contains_key(&seq),
        }
    }

    /// Whether all before `seq` are going.
    pub(super) fn are_going_before(&self, seq: Seq) -> bool {
        match self {
            Self::None => true,
            Self::One(one, going) => *one >= seq || *going,
            Self::Many(all) => all.range(..seq).all(|(_, going)| *going),
        }
    }

    /// Adds a row that is not going; one that is there is not going any more.
    pub(super) fn insert(&mut self, seq: Seq) {
        match self {
            Self::None => *self = Self::One(seq, false),
            Self::One(one, going) if *one == seq => *going = false,
            Self::One(one, going) => *self = Self::Many(Box::new([(*one, *going), (seq, false)].into())),
            Self::Many(all) => {
                all.insert(seq, false);
            }
        }
    }

    pub(super) fn set_going(&mut self, seq: Seq, is_going: bool) {
        match self {
            Self::One(one, going) if *one == seq => *going = is_going,
            Self::Many(all) => {
                all.entry(seq).and_modify(|going| *going = is_going);
            }
            Self::None | Self::One(..) => {}
        }
    }

    pub(super) fn remove(&mut self, seq: Seq) {
        match self {
            Self::One(one, _) if *one == seq => *self = Self::None,
            Self::Many(all) => {
                all.remove(&seq);
            }
            Self::None | Self::One(..) => {}
        }
    }
}

/// What to fetch for a key that is being released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Recall {
    /// These rows.
    Rows(Vec<Seq>),
    /// The key's pending rows in this range, of this topic.
    Between(Arc<str>, Seq, Seq),
}

/// Rows parked behind a key. Never none, but for a moment.
#[derive(Debug)]
pub(super) struct Parked {
    topic: Arc<str>,
    rows: BTreeSet<Seq>,
    /// Rows in this range are parked too, but not remembered one by one. One row alone is such a range.
    rest: Option<(Seq, Seq)>,
}

impl Parked {
    pub(super) fn of(topic: &Arc<str>) -> Self {
        Self {
            topic: Arc::clone(topic),
            rows: BTreeSet::new(),
            rest: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.rest.is_none()
    }

    /// How many are remembered one by one.
    pub(super) fn remembered(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn lowest(&self) -> Seq {
        let rest = self.rest.map(|(from, _)| from);
        rest.into_iter()
            .chain(self.rows.first().copied())
            .min()
            .expect("never none")
    }

    /// Parks a row; `may_remember`: there is room for it.
    pub(super) fn add(&mut self, seq: Seq, may_remember: bool) {
        let may_remember = may_remember && self.rows.len() < PARKED_PER_KEY;
        match &mut self.rest {
            None if self.rows.is_empty() => self.rest = Some((seq, seq)),
            Some((from, to)) if from == to && may_remember => {
                self.rows.extend([*from, seq]);
                self.rest = None;
            }
            Some((from, to)) if seq >= *from => *to = seq.max(*to),
            Some(_) | None if may_remember => {
                self.rows.insert(seq);
            }
            Some((from, _)) => *from = seq,
            None => self.rest = Some((seq, seq)),
        }
    }

    pub(super) fn add_range(&mut self, (low, high): (Seq, Seq)) {
        let (from, to) = self.rest.unwrap_or((low, high));
        self.rest = Some((low.min(from), high.max(to)));
    }

    pub(super) fn drop_up_to(&mut self, upto: Seq) {
        let Some(next) = upto.0.checked_add(1).map(Seq) else {
            self.rows.clear();
            self.rest = None;
            return;
        };
        self.rows = self.rows.split_off(&next);
        self.rest = self
            .rest
            .filter(|(_, to)| *to > upto)
            .map(|(from, to)| (from.max(next), to));
    }

    /// What to fetch next, at most `rows` of those remembered.
    pub(super) fn recall(&self, rows: usize) -> Recall {
        let first = self.rows.first().copied();
        match self.rest {
            Some((from, to)) if from == to && first.is_none() => Recall::Rows(vec![from]),
            Some((from, to)) if first.is_none_or(|first| from <= first) => {
                Recall::Between(Arc::clone(&self.topic), from, to)
            }
            Some((from, _)) => Recall::Rows(self.rows.range(..from).take(rows).copied().collect()),
            None => Recall::Rows(self.rows.iter().take(rows).copied().collect()),
        }
    }
}
