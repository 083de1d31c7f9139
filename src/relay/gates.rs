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

use crate::message::{Message, Seq};

use super::engine::Engine;
use super::found::{Found, Laggard};
use super::lag::Lag;
use super::lanes::Entry;

/// Topics as an operator names them.
pub(crate) type Topics = BTreeSet<Arc<str>>;

#[derive(Default)]
pub(crate) struct Gates {
    shut: Arc<Topics>,
    /// Of topics that are shut, or were.
    lags: BTreeMap<Arc<str>, Lag>,
}

impl Gates {
    pub(crate) fn is_shut(&self, topic: &str) -> bool {
        !self.shut.is_empty() && self.shut.contains(topic)
    }

    /// Whether a row of this topic found so may go on to its destination. It will be found again where it may not, but for a
    /// row that is due.
    pub(super) fn takes(&self, topic: &Arc<str>, seq: Seq, found: &Found, is_holder: bool) -> bool {
        if self.shut.is_empty() && self.lags.is_empty() {
            return true;
        }
        let is_own = |who: &Laggard| matches!(who, Laggard::Topic(own) if own == topic);
        let lets_pass = |lag: &Lag| lag.lets_pass(seq, found.way(is_own, is_holder));
        !self.is_shut(topic) && self.lags.get(topic).is_none_or(lets_pass)
    }

    fn lag_from(&mut self, topic: &Arc<str>, from: Option<Seq>) {
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

impl Engine {
    /// Shuts and opens gates as an operator says. What is queued of a shut topic goes back to the database.
    pub(super) fn follow_pauses(&mut self, paused: &Arc<Topics>) {
        if self.gates.shut == *paused {
            return;
        }
        let before = std::mem::replace(&mut self.gates.shut, Arc::clone(paused));
        for topic in paused.difference(&before) {
            tracing::info!(topic = %topic, "topic paused by an operator: its messages wait");
        }
        for topic in before.difference(paused) {
            tracing::info!(topic = %topic, "topic resumed by an operator");
            self.reading.caught_up(tokio::time::Instant::now());
        }
        let is_shut = |entry: &Entry| paused.contains(&entry.envelope.message.topic);
        for entry in self.lanes.remove(is_shut) {
            self.send_back_to_gate(&entry);
        }
    }

    /// The row leaves memory, and waits behind its topic's gate; or for its key, where that is held.
    pub(super) fn send_back_to_gate(&mut self, entry: &Entry) {
        self.give_up(entry, |engine| engine.wait_at_gate(&entry.envelope.message));
    }

    /// The row waits behind its topic's gate.
    pub(super) fn wait_at_gate(&mut self, message: &Message) {
        if sabotaged!(GateForgotten) {
            return;
        }
        let shut = self.gates.is_shut(&message.topic);
        let from = self.start_of_lag(Some(message.seq), message, shut);
        self.gates.lag_from(&message.topic, from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_that_is_open_again_is_read_from_where_it_stopped() {
        let (mut gates, topic): (Gates, Arc<str>) = (Gates::default(), "t".into());
        let own = Found::Behind(Laggard::Topic(Arc::clone(&topic)));
        assert!(gates.takes(&topic, Seq(1), &Found::Passing, false));
        gates.shut = Arc::new([Arc::clone(&topic)].into());
        for seq in [7, 5, 9] {
            assert!(!gates.takes(&topic, Seq(seq), &Found::Passing, false));
            gates.lag_from(&topic, Some(Seq(seq)));
        }
        assert!(gates.takes(&"other".into(), Seq(6), &Found::Passing, false));
        assert!(gates.behind().next().is_none(), "shut");
        gates.shut = Arc::default();
        assert_eq!(gates.behind().map(|(_, lag)| lag.next).collect::<Vec<_>>(), [Seq(4)]);
        gates.lag_mut(&topic).unwrap().begin();
        assert!(gates.takes(&topic, Seq(5), &own, false));
        assert!(
            !gates.takes(&topic, Seq(10), &Found::Passing, false),
            "not before 7 and 9"
        );
        assert!(gates.takes(&topic, Seq(8), &Found::Due, true), "a holder goes first");
        assert!(!gates.read_up_to(&topic, Seq(7), false));
        assert!(gates.read_up_to(&topic, Seq(9), true));
        assert!(gates.takes(&topic, Seq(10), &Found::Passing, false));
    }
}
