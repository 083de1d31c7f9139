//! Where rows wait in the database, and what is remembered of them: never the rows, only where to find them again.

pub(super) mod found;
pub(super) mod holds;
pub(super) mod lag;
mod parked;
pub(super) mod topics;
pub(super) mod unrouted;
pub(super) mod wait;
pub(super) mod watermark;

use std::sync::Arc;

use tokio::time::Instant;

use crate::delivery::Order;
use crate::message::{KeyId, Message, Seq};
use crate::store::Hold;

use holds::{Holder, Holds};
use topics::Topics;
use unrouted::Unrouted;
use watermark::Watermark;

/// See the module. Destinations and lanes keep their own lags.
pub(super) struct Waiting {
    pub(super) holds: Holds,
    pub(super) topics: Topics,
    pub(super) unrouted: Unrouted,
    pub(super) watermark: Watermark,
}

impl Waiting {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            holds: Holds::default(),
            topics: Topics::default(),
            unrouted: Unrouted::default(),
            watermark: Watermark::new(now),
        }
    }

    /// Whether the row's key is held, and the row parked behind the holder. `released`: it waited there before.
    pub(super) fn parks(&mut self, message: &Message, order: Order, released: bool) -> bool {
        match (order, &message.key) {
            (Order::Key | Order::Strict, Some(key)) if !self.holds.is_empty() => {
                self.holds.park(&message.topic, key, message.seq, released)
            }
            (Order::Key | Order::Strict | Order::None, Some(_) | None) => false,
        }
    }

    /// The row waits for its topic.
    pub(super) fn wait_for_topic(&mut self, message: &Message) {
        if sabotaged!(GateForgotten) {
            return;
        }
        let shut = self.topics.is_shut(&message.topic);
        let from = self.start_of_lag(Some(message.seq), message, shut);
        self.topics.lag_from(&message.topic, from);
    }

    /// From where on a lag begins that is to hold this row: `from`, or, while nothing of it is sent (`paused`), what is parked
    /// of its key. Released past the lag, later rows of the key would go first.
    pub(super) fn start_of_lag(&mut self, from: Option<Seq>, message: &Message, paused: bool) -> Option<Seq> {
        // Only of a paused one: else later rows of the key may stand in the queue, and go once nothing holds them.
        let may_be_parked = paused && !self.holds.is_empty();
        let key = message.key.as_deref().filter(|_| may_be_parked);
        let parked = key.and_then(|key| self.holds.give_up_release(&message.topic, key));
        parked.map_or(from, |parked| from.map(|from| parked.min(from)))
    }

    /// Puts a hold found in the database in force, as its route's order says.
    pub(super) fn remember_hold(&mut self, hold: &Hold, order: Order) {
        let holds = match order {
            Order::None => false,
            Order::Key => !hold.failed,
            Order::Strict => true,
        };
        if let (true, Some(key)) = (holds, hold.key) {
            let (seq, lane) = (hold.seq, hold.lane);
            let strict = order == Order::Strict;
            self.holds.hold(key, Holder { seq, lane, strict });
        }
    }

    /// This message holds its key from now on.
    pub(super) fn hold(&mut self, topic: &Arc<str>, key: &str, holder: Holder) {
        self.holds.hold(KeyId::of(topic, key), holder);
    }
}
