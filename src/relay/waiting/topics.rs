//! Topics an operator has paused: their rows wait in the database.
//!
//! ```text
//!   open ──pause──> shut: nothing of the topic is sent; `lag` says where to read on from
//!    ^                │ resume
//!    │                v
//!    └─────────── behind: read again from there
//!     the cursor is met
//! ```
//!
//! A gate stands before the destination: a row that passes it may still find its destination paused, and one that comes
//! back from a destination stands before the gate again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::message::Seq;

use super::found::{Found, Laggard};
use super::lag::Lag;
use super::wait::Wait;

/// Topics as an operator names them.
pub(crate) type Named = BTreeSet<Arc<str>>;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    shut: Arc<Named>,
    /// Of topics that are shut, or were.
    lags: BTreeMap<Arc<str>, Lag>,
}

impl Topics {
    pub(crate) fn is_shut(&self, topic: &str) -> bool {
        !self.shut.is_empty() && self.shut.contains(topic)
    }

    /// Whether a row of this topic found so waits here. It will be found again then, but for a row that is due.
    pub(crate) fn keeps(&self, topic: &Arc<str>, seq: Seq, found: &Found, is_holder: bool) -> Option<Wait> {
        if self.shut.is_empty() && self.lags.is_empty() {
            return None;
        }
        if self.is_shut(topic) {
            return Some(Wait::TopicPaused);
        }
        let is_own = |who: &Laggard| matches!(who, Laggard::Topic(own) if own == topic);
        let lag = self.lags.get(topic)?;
        (!lag.lets_pass(seq, found.way(is_own, is_holder))).then_some(Wait::TopicBehind)
    }

    /// These are paused from now on; answers those that were.
    pub(crate) fn shut(&mut self, paused: &Arc<Named>) -> Arc<Named> {
        std::mem::replace(&mut self.shut, Arc::clone(paused))
    }

    /// Whether just these are paused.
    pub(crate) fn are_shut(&self, paused: &Named) -> bool {
        *self.shut == *paused
    }

    /// What is pending of the topic waits from `from` on.
    pub(crate) fn lag_from(&mut self, topic: &Arc<str>, from: Option<Seq>) {
        self.lags
            .entry(Arc::clone(topic))
            .or_insert_with(|| Lag::from(from))
            .include(from);
    }

    /// Topics that are open again and have rows behind, and how far these were read.
    pub(crate) fn behind(&self) -> impl Iterator<Item = (&Arc<str>, &Lag)> {
        self.lags.iter().filter(|(topic, _)| !self.is_shut(topic))
    }

    /// Where the topic lags from.
    pub(crate) fn lag(&self, topic: &str) -> Option<&Lag> {
        self.lags.get(topic)
    }

    pub(crate) fn lag_mut(&mut self, topic: &str) -> Option<&mut Lag> {
        self.lags.get_mut(topic)
    }

    /// A reread has looked at everything up to `position`; `met`: where the cursor stands. Answers whether it has caught up.
    pub(crate) fn read_up_to(&mut self, topic: &Arc<str>, position: Seq, met: bool) -> bool {
        let caught_up = self.lags.get_mut(topic).is_some_and(|lag| lag.read(position, met));
        if caught_up {
            self.lags.remove(topic);
        }
        caught_up
    }

    /// Everything is read from the beginning: what is shut stays shut.
    pub(crate) fn reset(&mut self) {
        self.lags.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_that_is_open_again_is_read_from_where_it_stopped() {
        let (mut topics, topic): (Topics, Arc<str>) = (Topics::default(), "t".into());
        let own = Found::Behind(Laggard::Topic(Arc::clone(&topic)));
        let keeps = |topics: &Topics, seq, found: &Found, holds| topics.keeps(&topic, Seq(seq), found, holds);
        assert_eq!(keeps(&topics, 1, &Found::Passing, false), None);
        topics.shut(&Arc::new([Arc::clone(&topic)].into()));
        for seq in [7, 5, 9] {
            assert_eq!(keeps(&topics, seq, &Found::Passing, false), Some(Wait::TopicPaused));
            topics.lag_from(&topic, Some(Seq(seq)));
        }
        assert_eq!(topics.keeps(&"other".into(), Seq(6), &Found::Passing, false), None);
        assert!(topics.behind().next().is_none(), "shut");
        topics.shut(&Arc::default());
        let places: Vec<Seq> = topics.behind().map(|(_, lag)| lag.next).collect();
        assert_eq!(places, [Seq(4)]);
        topics.lag_mut(&topic).unwrap().begin();
        assert_eq!(keeps(&topics, 5, &own, false), None);
        let not_yet = keeps(&topics, 10, &Found::Passing, false);
        assert_eq!(not_yet, Some(Wait::TopicBehind), "not before 7 and 9");
        assert_eq!(keeps(&topics, 8, &Found::Due, true), None, "a holder goes first");
        assert!(!topics.read_up_to(&topic, Seq(7), false));
        assert!(topics.read_up_to(&topic, Seq(9), true));
        assert_eq!(keeps(&topics, 10, &Found::Passing, false), None);
    }
}
