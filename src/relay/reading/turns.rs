//! Whose lag is read on next.
//!
//! Topics that are open again and the others take turns, and so do those of a kind: one with little behind does not wait for one
//! with much. A destination that is about to end goes before other destinations and lanes, because the cursor waits for it.

use std::sync::Arc;

use crate::relay::waiting::found::DestinationId;

/// Who had the last turn.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    topic: Option<Arc<str>>,
    was_a_topic: bool,
    /// `None`: the lanes had it, or nobody.
    destination: Option<DestinationId>,
}

/// A turn that is not a topic's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Destination(DestinationId),
    Lanes,
}

impl Turns {
    /// Whether topics go before the others now.
    pub(crate) fn topics_first(&mut self) -> bool {
        !std::mem::take(&mut self.was_a_topic)
    }

    /// The next of these topics, which are in order.
    pub(crate) fn topic(&mut self, behind: &[&Arc<str>]) -> Option<Arc<str>> {
        let last = self.topic.as_ref();
        let next = behind.iter().find(|topic| last.is_none_or(|last| **topic > last));
        let next = next.or(behind.first()).map(|topic| Arc::clone(topic));
        self.topic.clone_from(&next);
        self.was_a_topic = next.is_some();
        next
    }

    /// The next of these destinations, which are in order, or the lanes, whose turn comes after the last of them. `ending`: this
    /// one is about to end.
    pub(crate) fn other(
        &mut self,
        ready: &[DestinationId],
        ending: Option<DestinationId>,
        lanes_ready: bool,
    ) -> Option<Turn> {
        let after = |id: &&DestinationId| self.destination.is_none_or(|last| **id > last);
        let next = ending.or_else(|| ready.iter().find(after).copied());
        let next = match next {
            None if lanes_ready => None,
            next => next.or(ready.first().copied()),
        };
        self.destination = next;
        next.map(Turn::Destination).or(lanes_ready.then_some(Turn::Lanes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: [DestinationId; 2] = [DestinationId(3), DestinationId(5)];

    #[test]
    fn lanes_come_after_the_last_destination() {
        let mut turns = Turns::default();
        let mut order = Vec::new();
        for _ in 0..5 {
            order.extend(turns.other(&IDS, None, true));
        }
        let [three, five] = IDS.map(Turn::Destination);
        assert_eq!(order, [three, five, Turn::Lanes, three, five]);
        assert_eq!(turns.other(&[], None, false), None);
    }

    #[test]
    fn one_that_is_about_to_end_goes_first() {
        let mut turns = Turns::default();
        let five = Some(Turn::Destination(IDS[1]));
        for _ in 0..3 {
            assert_eq!(turns.other(&IDS, Some(IDS[1]), true), five);
        }
    }

    #[test]
    fn topics_take_turns_with_each_other_and_with_the_rest() {
        let topics: [Arc<str>; 2] = ["a".into(), "b".into()];
        let mut turns = Turns::default();
        let mut order = Vec::new();
        for _ in 0..3 {
            assert!(turns.topics_first());
            order.extend(turns.topic(&topics.each_ref()));
            assert!(!turns.topics_first(), "another comes between");
        }
        assert_eq!(order.iter().map(|topic| &**topic).collect::<Vec<_>>(), ["a", "b", "a"]);
    }
}
