//! From a row that was read to a place in a queue: route, destination, and whether it may come in at all.

use std::sync::Arc;

use tokio::time::Instant;

use crate::delivery::{Failure, FailureClass, Order};
use crate::message::{Headers, Message, Seq};
use crate::route::{Resolved, Unrouted};
use crate::store::{FailedAttempt, Hold, Lane, Mark, Row};
use crate::telemetry::NOWHERE;
use crate::transport::Envelope;

use super::destination::DestinationId;
use super::engine::Engine;
use super::found::{Found, Laggard};
use super::holds::Holder;
use super::lag::Way;
use super::lanes::{Entry, QueueId};
use super::stuck::Claim;

/// What became of an offered row.
#[expect(
    clippy::large_enum_variant,
    reason = "made and taken apart at once; a box would cost an allocation per message"
)]
pub(super) enum Admission {
    /// It is in the window; push it.
    Queued(QueueId, Entry),
    /// Its destination takes nothing now; the row waits in the database.
    Lagging,
    /// It is in the window already, will be found again, or was rejected.
    Passed,
}

impl Engine {
    /// Offers rows in `seq` order; answers how many came in, and how many lag.
    pub(super) fn admit_all(&mut self, rows: Vec<Row>, found: &Found, now: Instant) -> (usize, usize) {
        let (mut queued, mut lagging) = (0, 0);
        for row in rows {
            match self.admit(row, found, now) {
                Admission::Queued(queue, entry) => {
                    queued += 1;
                    self.lanes.push_back(queue, entry);
                }
                Admission::Lagging => lagging += 1,
                Admission::Passed => {}
            }
        }
        (queued, lagging)
    }

    pub(super) fn admit(&mut self, row: Row, found: &Found, now: Instant) -> Admission {
        let Row {
            lane,
            message,
            unreadable,
        } = row;
        let seq = message.seq;
        let is_holder = self.holds.is_holder(seq);
        if self.window.holds(seq) || !self.territory.takes(lane, seq, found, is_holder) {
            return Admission::Passed;
        }
        if let Some(reason) = unreadable {
            let failure = Failure::new(FailureClass::Rejected, "unreadable", &*reason);
            self.reject(lane, &message, failure, now);
            return Admission::Passed;
        }
        let failure = match (
            &message.headers,
            self.routes.resolve(&message.topic, message.key.as_deref()),
        ) {
            (Headers::Valid(_), Ok(resolved)) => {
                return self.admit_to(resolved, (lane, message), (found, is_holder), now);
            }
            (Headers::Invalid(reason), _) => Failure::new(FailureClass::Rejected, "headers", &**reason),
            (Headers::Valid(_), Err(none)) if none.is_missing && self.options.unrouted == Unrouted::Wait => {
                self.wait_for_route(&message.topic, &none.reason);
                return Admission::Passed;
            }
            (Headers::Valid(_), Err(none)) => Failure::new(FailureClass::Rejected, none.code, none.reason),
        };
        self.reject(lane, &message, failure, now);
        Admission::Passed
    }

    fn admit_to(
        &mut self,
        resolved: Resolved,
        (lane, message): (Lane, Message),
        (found, is_holder): (&Found, bool),
        now: Instant,
    ) -> Admission {
        let route = self.routes.get(resolved.route);
        let (transport, order) = (route.transport, route.order);
        let commit_order = route.commit_order;
        if route.limits.paused {
            return Admission::Passed;
        }
        if !self.gates.takes(&message.topic, message.seq, found, is_holder) {
            if *found != Found::Due {
                self.wait_at_gate(&message);
            }
            return Admission::Lagging;
        }
        let id = self.destinations.find(transport, &resolved.destination);
        self.destinations.get_mut(id).in_commit_order |= commit_order;
        if !self.may_enter(id, message.seq, (found, is_holder)) {
            if *found != Found::Due {
                // What is still open since before the start may have any number.
                let unknown = commit_order && self.watermark.decided().is_none();
                let from = (!unknown).then_some(message.seq);
                self.lag_from(id, from, &message);
            }
            return Admission::Lagging;
        }
        if *found == Found::Due && !self.is_next_of_its_key(&message, order, is_holder) {
            return Admission::Passed;
        }
        let size = message.size();
        if !self.window.admit(message.seq, lane, size) {
            return Admission::Passed;
        }
        if let (true, Some(key)) = (is_holder, &message.key) {
            self.holds.goes(&message.topic, key, message.seq);
        }
        self.destinations.take(id, size, now);
        let envelope = Envelope {
            message,
            destination: resolved.destination,
            order,
        };
        let released = *found == Found::Released;
        let entry = Entry {
            envelope,
            lane,
            destination: id,
            route: resolved.route,
            size,
            released,
        };
        Admission::Queued(self.lanes.queue(lane, transport), entry)
    }

    /// Whether a row that is due may go: of those of its key that retry, the earlier ones are on their way. Where it may not, it
    /// is found again once they are done with.
    fn is_next_of_its_key(&mut self, message: &Message, order: Order, is_holder: bool) -> bool {
        let (Order::Key | Order::Strict, Some(key)) = (order, &message.key) else {
            return true;
        };
        if message.attempt > 1 && !is_holder {
            // Nobody here counted that attempt: there may be others of the key.
            self.reading.hold_check.unknown_holder();
            return false;
        }
        self.holds.may_go(&message.topic, key, message.seq)
    }

    fn may_enter(&self, id: DestinationId, seq: Seq, (found, is_holder): (&Found, bool)) -> bool {
        let destination = self.destinations.get(id);
        let way = found.way(|who| matches!(who, Laggard::Destinations(_)), is_holder);
        // One that retries was sent before: every earlier number was decided then.
        let is_retry = way == Way::NextOfKey && *found == Found::Due;
        let decided = !destination.in_commit_order || is_retry || self.watermark.has_passed(seq);
        decided && destination.takes(seq, way) && !(way == Way::Other && self.destinations.is_crowding(id))
    }

    /// Whether the row's key is held, and the row parked behind the holder.
    pub(super) fn parks(&mut self, envelope: &Envelope) -> bool {
        let message = &envelope.message;
        match (envelope.order, &message.key) {
            (Order::Key | Order::Strict, Some(key)) if !self.holds.is_empty() => {
                self.holds.park(&message.topic, key, message.seq, true)
            }
            (Order::Key | Order::Strict | Order::None, Some(_) | None) => false,
        }
    }

    /// The destination lags from `from` on for this row; `None`: from the beginning.
    pub(super) fn lag_from(&mut self, id: DestinationId, from: Option<Seq>, message: &Message) {
        if sabotaged!(LagForgotten) {
            return;
        }
        let from = self.start_of_lag(from, message, self.destinations.get(id).is_open());
        self.destinations.lag_from(id, from, &message.topic);
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

    /// The row can never be sent: `failed_at` at its first attempt, without a transport.
    fn reject(&mut self, lane: Lane, message: &Message, failure: Failure, now: Instant) {
        let Some(epoch) = self.territory.epoch(lane) else {
            return;
        };
        let order = self
            .routes
            .find(&message.topic)
            .map_or(Order::None, |route| self.routes.get(route).order);
        let claim = Claim::new(order, Arc::clone(&message.topic), message.key.clone());
        if !self.window.admit(message.seq, lane, Claim::size(claim.as_ref())) {
            return;
        }
        self.telemetry.attempt_failed(NOWHERE, &failure);
        self.telemetry.failed(NOWHERE, message, &failure);
        if let Some(claim) = claim.as_ref().filter(|claim| claim.strict) {
            self.claim(message.seq, lane, claim);
        }
        let mark = Mark {
            seq: message.seq,
            id: message.id,
            replay: message.replay,
            lane,
            epoch,
            duplicate: false,
        };
        self.settler.failed(
            FailedAttempt {
                mark,
                attempt: message.attempt,
                retry_in: None,
                class: failure.class,
                code: failure.code.into_owned(),
                error: failure.error,
                latency: std::time::Duration::ZERO,
            },
            claim,
            now,
        );
    }

    /// Puts a hold found in the database in force, as its route's order says.
    pub(super) fn remember_hold(&mut self, hold: &Hold) {
        let (Some(route), Some(key)) = (self.routes.find(&hold.topic), hold.key) else {
            return;
        };
        let order = self.routes.get(route).order;
        let holds = match order {
            Order::None => false,
            Order::Key => !hold.failed,
            Order::Strict => true,
        };
        if holds {
            let (seq, lane) = (hold.seq, hold.lane);
            let strict = order == Order::Strict;
            self.holds.hold(key, Holder { seq, lane, strict });
        }
    }
}
