//! From a row that was read to a place in a queue: route, destination, and whether it may come in at all.

use tokio::time::Instant;

use crate::delivery::{Failure, FailureClass};
use crate::message::{Headers, Message};
use crate::relay::owning::territory::Territory;
use crate::relay::sending::addresses::Addresses;
use crate::relay::sending::destinations::Destinations;
use crate::relay::sending::lanes::{Entry, Lanes, QueueId};
use crate::relay::waiting::Waiting;
use crate::relay::waiting::found::{DestinationId, Found};
use crate::relay::waiting::wait::Wait;
use crate::relay::window::Window;
use crate::route::{Resolved, Unrouted};
use crate::store::{Lane, Row};
use crate::transport::Envelope;

use super::keepers::{Keepers, Sighting};
use super::returning::lag_from;
use super::setup::Setup;

/// See the module.
pub(super) struct Admission<'a> {
    pub(super) setup: &'a Setup,
    pub(super) window: &'a mut Window,
    pub(super) territory: &'a mut Territory,
    pub(super) waiting: &'a mut Waiting,
    pub(super) destinations: &'a mut Destinations,
    pub(super) lanes: &'a Lanes,
    pub(super) addresses: &'a mut Addresses,
}

/// What became of an offered row.
pub(super) enum Offered {
    /// It is in the window; push it.
    Queued(QueueId, Entry),
    /// It waits in the database, and will be found again.
    Waits(Wait),
    /// It is in the window already.
    Known,
    /// It can never be sent.
    Rejected(Lane, Box<Message>, Failure),
}

impl Admission<'_> {
    pub(super) fn offer(&mut self, row: Row, found: &Found, now: Instant) -> Offered {
        let Row {
            lane,
            message,
            unreadable,
        } = row;
        let seq = message.seq;
        let is_holder = self.waiting.holds.is_holder(seq);
        if self.window.holds(seq) {
            return Offered::Known;
        }
        let row = Sighting {
            lane,
            message: &message,
            found,
            is_holder,
        };
        if let Some(wait) = self.keepers().lane(row) {
            if wait == Wait::LaneBehind {
                self.territory.lag_from(seq, found, is_holder);
            }
            return Offered::Waits(wait);
        }
        let Setup {
            routes,
            options,
            telemetry,
        } = self.setup;
        let rejected = |code: &'static str, reason: String| Failure::new(FailureClass::Rejected, code, reason);
        let failure = match (unreadable, &message.headers) {
            (Some(reason), _) => rejected("unreadable", reason.into()),
            (None, Headers::Invalid(reason)) => rejected("headers", reason.to_string()),
            (None, Headers::Valid(_)) => match self.addresses.resolve(routes, &message.topic, message.key.as_deref()) {
                Ok(resolved) => {
                    return match self.place(row, &resolved) {
                        Ok(id) => self.admit(lane, message, (found, is_holder), (resolved, id), now),
                        Err(wait) => Offered::Waits(wait),
                    };
                }
                Err(none) if none.is_missing && options.unrouted == Unrouted::Wait => {
                    self.waiting.unrouted.wait(&message.topic, telemetry);
                    return Offered::Waits(Wait::NoRoute);
                }
                Err(none) => rejected(none.code, none.reason),
            },
        };
        Offered::Rejected(lane, Box::new(message), failure)
    }

    /// The destination of a row that may go there; or why it waits, which is remembered.
    fn place(&mut self, row: Sighting<'_>, resolved: &Resolved) -> Result<DestinationId, Wait> {
        let route = self.setup.routes.get(resolved.route);
        if let Some(wait) = self.keepers().topic(row, route) {
            if wait != Wait::RoutePaused && !row.is_found_anyway() {
                self.waiting.wait_for_topic(row.message);
            }
            return Err(wait);
        }
        let id = self.destinations.find(route.transport, &resolved.destination);
        self.destinations.get_mut(id).in_commit_order |= route.commit_order;
        if let Some(wait) = self.keepers().destination(row, id) {
            if !row.is_found_anyway() {
                // What is still open since before the start may have any number.
                let unknown = route.commit_order && self.waiting.watermark.decided().is_none();
                let from = (!unknown).then_some(row.message.seq);
                lag_from(self.waiting, self.destinations, id, from, row.message);
            }
            return Err(wait);
        }
        self.keepers().earlier_retry(row, route.order).map_or(Ok(id), Err)
    }

    fn keepers(&self) -> Keepers<'_> {
        Keepers {
            territory: self.territory,
            waiting: self.waiting,
            destinations: self.destinations,
        }
    }

    fn admit(
        &mut self,
        lane: Lane,
        mut message: Message,
        (found, is_holder): (&Found, bool),
        (resolved, id): (Resolved, DestinationId),
        now: Instant,
    ) -> Offered {
        let size = message.size();
        if !self.window.admit(message.seq, lane, size) {
            return Offered::Known;
        }
        if let (true, Some(key)) = (is_holder, &message.key) {
            self.waiting.holds.goes(&message.topic, key, message.seq);
        }
        self.destinations.take(id, size, now);
        let route = self.setup.routes.get(resolved.route);
        if route.commit_order {
            message.priority = 0;
        }
        let entry = Entry {
            envelope: Envelope {
                message,
                destination: resolved.destination,
                order: route.order,
            },
            lane,
            destination: id,
            route: resolved.route,
            size,
            released: *found == Found::Released,
        };
        Offered::Queued(self.lanes.queue(lane, route.transport), entry)
    }
}
