//! Bookkeeping of one batch: which message waits for which, and what has been answered.
//!
//! Messages of one (destination, key) form a chain, in the batch's order. A transport that sends a chain one message at
//! a time upholds *Prefix per key* by construction: [`Ledger::answer`] hands out the next message only after the one
//! before it was acknowledged, and withholds the rest of the chain otherwise. A message that nothing orders is a chain of
//! one. Pure: knows no broker and no clock.

use std::collections::HashMap;

use super::Envelope;
use crate::delivery::{Failure, Order, Outcome};

const NONE: u32 = u32::MAX;

/// Whether `order` and the message's key ask for its place in a chain.
#[must_use]
pub fn is_ordered(envelope: &Envelope) -> bool {
    envelope.order != Order::None && envelope.message.key.is_some()
}

/// The answers of one batch, by index into it.
#[derive(Debug)]
pub struct Ledger {
    next: Vec<u32>,
    heads: Vec<u32>,
    outcomes: Vec<Option<Outcome>>,
    open: usize,
}

impl Ledger {
    /// Chains the messages of `batch` for which `chained` holds; the others are chains of one.
    #[must_use]
    pub fn new(batch: &[Envelope], chained: impl Fn(&Envelope) -> bool) -> Self {
        let count = u32::try_from(batch.len()).expect("a batch holds fewer than 2^32 messages");
        let mut next = vec![NONE; batch.len()];
        let mut heads = Vec::with_capacity(batch.len());
        let mut last: HashMap<(&str, &str), u32> = HashMap::with_capacity(batch.len());
        for index in 0..count {
            let envelope = &batch[index as usize];
            let before = match &envelope.message.key {
                Some(key) if chained(envelope) => last.insert((&envelope.destination, key), index),
                Some(_) | None => None,
            };
            match before {
                Some(before) => next[before as usize] = index,
                None => heads.push(index),
            }
        }
        Self {
            next,
            heads,
            outcomes: vec![None; batch.len()],
            open: batch.len(),
        }
    }

    /// The first message of each chain, in the batch's order: what may be sent at once.
    #[must_use]
    pub fn heads(&self) -> &[u32] {
        &self.heads
    }

    /// Messages without an answer.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open
    }

    /// Whether `index` has no answer yet.
    #[must_use]
    pub fn is_open(&self, index: u32) -> bool {
        self.outcomes[index as usize].is_none()
    }

    /// Notes the answer for `index` and returns the message that may be sent because of it. A second answer for the same
    /// message is ignored; after anything but an acknowledgement the rest of its chain is withheld.
    pub fn answer(&mut self, index: u32, outcome: Outcome) -> Option<u32> {
        if !self.is_open(index) {
            return None;
        }
        let acknowledged = matches!(outcome, Outcome::Acknowledged { .. });
        self.put(index, outcome);
        let next = self.next[index as usize];
        if next == NONE {
            return None;
        }
        if acknowledged {
            return Some(next);
        }
        self.withhold_from(next);
        None
    }

    /// Notes the answer for `index` and nothing else: for messages sent without waiting for the one before.
    pub fn answer_alone(&mut self, index: u32, outcome: Outcome) {
        if self.is_open(index) {
            self.put(index, outcome);
        }
    }

    /// The message behind `index` in its chain.
    #[must_use]
    pub fn behind(&self, index: u32) -> Option<u32> {
        Some(self.next[index as usize]).filter(|next| *next != NONE)
    }

    /// Answers `Withheld` for everything that is open.
    pub fn withhold_all(&mut self) {
        for outcome in &mut self.outcomes {
            outcome.get_or_insert(Outcome::Withheld);
        }
        self.open = 0;
    }

    /// Notes a refusal of `index`.
    pub fn refuse(&mut self, index: u32, failure: Failure) {
        let released = self.answer(index, Outcome::Refused(failure));
        debug_assert!(released.is_none(), "a refusal releases nobody");
    }

    /// Answers `Withheld` for `index` and everything behind it in its chain.
    pub fn withhold_from(&mut self, index: u32) {
        let mut index = index;
        while index != NONE {
            if self.is_open(index) {
                self.put(index, Outcome::Withheld);
            }
            index = self.next[index as usize];
        }
    }

    /// Refuses every open message that heads its chain and withholds those behind it.
    pub fn refuse_all(&mut self, failure: &Failure) {
        for index in 0..u32::try_from(self.outcomes.len()).expect("checked in new") {
            if self.is_open(index) {
                self.refuse(index, failure.clone());
            }
        }
    }

    /// One outcome per message, in the batch's order.
    #[must_use]
    pub fn finish(self) -> Vec<Outcome> {
        self.outcomes
            .into_iter()
            .map(|outcome| outcome.expect("every message was answered"))
            .collect()
    }

    fn put(&mut self, index: u32, outcome: Outcome) {
        self.outcomes[index as usize] = Some(outcome);
        self.open -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::delivery::FailureClass;
    use crate::message::{Headers, Message, MessageId, Seq};

    fn envelope(destination: &str, key: Option<&str>, order: Order) -> Envelope {
        let message = Message {
            seq: Seq(1),
            id: MessageId::Number(1),
            topic: destination.into(),
            key: key.map(Into::into),
            payload: bytes::Bytes::new(),
            payload_is_null: false,
            headers: Headers::empty(),
            attempt: 1,
            max_attempts: None,
            priority: 0,
            replay: 0,
            origin: None,
            age: Duration::ZERO,
        };
        Envelope {
            message,
            destination: destination.into(),
            order,
        }
    }

    #[test]
    fn a_key_is_chained_within_its_destination_and_nobody_else_is() {
        let batch = [
            envelope("a", Some("k"), Order::Key),
            envelope("a", None, Order::Key),
            envelope("b", Some("k"), Order::Key),
            envelope("a", Some("k"), Order::Strict),
            envelope("a", Some("k"), Order::None),
            envelope("a", Some(""), Order::Key),
            envelope("a", Some(""), Order::Key),
        ];
        let mut ledger = Ledger::new(&batch, is_ordered);
        assert_eq!(ledger.heads(), [0, 1, 2, 4, 5]);
        assert_eq!(ledger.answer(0, Outcome::Acknowledged { duplicate: false }), Some(3));
        assert_eq!(
            ledger.answer(0, Outcome::Acknowledged { duplicate: false }),
            None,
            "a late second answer"
        );
        ledger.refuse(5, Failure::new(FailureClass::Rejected, "X", "x"));
        assert!(!ledger.is_open(6));
        ledger.refuse_all(&Failure::new(FailureClass::TimedOut, "T", "t"));
        let outcomes = ledger.finish();
        assert_eq!(outcomes[6], Outcome::Withheld);
        assert!(matches!(&outcomes[3], Outcome::Refused(failure) if failure.code == "T"));
    }
}
