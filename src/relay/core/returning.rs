//! Rows that leave memory unsent: the database still has them, and what is remembered says where to find them.

use crate::message::{Message, Seq};
use crate::relay::sending::destinations::Destinations;
use crate::relay::sending::lanes::Entry;
use crate::relay::waiting::Waiting;
use crate::relay::waiting::found::DestinationId;
use crate::relay::window::Window;

/// See the module.
pub(super) struct Returning<'a> {
    pub(super) window: &'a mut Window,
    pub(super) waiting: &'a mut Waiting,
    pub(super) destinations: &'a mut Destinations,
}

impl Returning<'_> {
    /// Nothing need be remembered.
    pub(super) fn let_go(&mut self, entry: &Entry) {
        let seq = entry.envelope.message.seq;
        self.waiting.holds.stays(seq);
        self.destinations.give_back(entry.destination, entry.size);
        self.window.release(entry.size);
        self.window.forget(seq);
    }

    /// The destination lags from it.
    pub(super) fn back_to_destination(&mut self, entry: &Entry) {
        if !self.is_found_without(entry) {
            let message = &entry.envelope.message;
            lag_from(
                self.waiting,
                self.destinations,
                entry.destination,
                Some(message.seq),
                message,
            );
        }
        self.let_go(entry);
    }

    /// The topic lags from it.
    pub(super) fn back_to_topic(&mut self, entry: &Entry) {
        if !self.is_found_without(entry) {
            self.waiting.wait_for_topic(&entry.envelope.message);
        }
        self.let_go(entry);
    }

    /// A row that waited for a time is found again by that, once it may be sent; and one whose key is held parks behind its holder.
    fn is_found_without(&mut self, entry: &Entry) -> bool {
        let message = &entry.envelope.message;
        let waited = message.attempt > 1 || message.replay > 0;
        waited || self.waiting.parks(message, entry.envelope.order, true)
    }
}

/// The destination lags from `from` on for this row; `None`: from the beginning.
pub(super) fn lag_from(
    waiting: &mut Waiting,
    destinations: &mut Destinations,
    id: DestinationId,
    from: Option<Seq>,
    message: &Message,
) {
    if sabotaged!(LagForgotten) {
        return;
    }
    let from = waiting.start_of_lag(from, message, destinations.get(id).is_open());
    destinations.lag_from(id, from, &message.topic);
}
