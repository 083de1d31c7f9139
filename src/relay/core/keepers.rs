//! Which wait wins: the one place that knows why a row that turns up may not come in now. It only looks.

use crate::delivery::Order;
use crate::message::Message;
use crate::relay::owning::territory::Territory;
use crate::relay::sending::destinations::Destinations;
use crate::relay::waiting::Waiting;
use crate::relay::waiting::found::{DestinationId, Found, Laggard};
use crate::relay::waiting::lag::Way;
use crate::relay::waiting::wait::Wait;
use crate::route::Route;
use crate::store::Lane;

use super::setup::Setup;

/// A row that has turned up, and how.
#[derive(Clone, Copy)]
pub(super) struct Sighting<'a> {
    pub(super) lane: Lane,
    pub(super) message: &'a Message,
    pub(super) found: &'a Found,
    /// It holds its key.
    pub(super) is_holder: bool,
}

impl Sighting<'_> {
    fn is_due(&self) -> bool {
        *self.found == Found::Due
    }

    /// It is found again by its time, or its priority: nothing need be remembered where it waits.
    pub(super) fn is_found_anyway(&self) -> bool {
        matches!(self.found, Found::Due | Found::Urgent)
    }
}

/// See the module. The stages come one after the other: what cannot be sent at all is rejected between the first and the second.
#[derive(Clone, Copy)]
pub(super) struct Keepers<'a> {
    pub(super) territory: &'a Territory,
    pub(super) waiting: &'a Waiting,
    pub(super) destinations: &'a Destinations,
}

impl Keepers<'_> {
    /// Whether it waits for its lane.
    pub(super) fn lane(self, row: Sighting<'_>) -> Option<Wait> {
        self.territory
            .keeps(row.lane, row.message.seq, row.found, row.is_holder)
    }

    /// Whether it waits for its route or topic.
    pub(super) fn topic(self, row: Sighting<'_>, route: &Route) -> Option<Wait> {
        if route.limits.paused {
            return Some(Wait::RoutePaused);
        }
        let Message { topic, seq, .. } = row.message;
        self.waiting.topics.keeps(topic, *seq, row.found, row.is_holder)
    }

    /// Whether it waits for its destination, or for an earlier number that may still commit.
    pub(super) fn destination(self, row: Sighting<'_>, id: DestinationId) -> Option<Wait> {
        let way = Self::way(row);
        let is_crowding = || way == Way::Other && self.destinations.is_crowding(id);
        self.destinations
            .get(id)
            .keeps(row.message.seq, way)
            .or_else(|| is_crowding().then_some(Wait::DestinationSlow))
            .or_else(|| self.is_early(row, id).then_some(Wait::EarlierCommit))
    }

    /// How the row stands to the lag of its destination.
    fn way(row: Sighting<'_>) -> Way {
        let is_own = |who: &Laggard| matches!(who, Laggard::Destinations(_));
        row.found.way(is_own, row.is_holder)
    }

    /// Whether an earlier number may still commit, which its destination waits for.
    fn is_early(self, row: Sighting<'_>, id: DestinationId) -> bool {
        if !self.destinations.get(id).in_commit_order {
            return false;
        }
        let way = Self::way(row);
        // One that retries was sent before: every earlier number was decided then.
        let is_retry = way == Way::NextOfKey && row.is_due();
        // In commit order nothing overtakes.
        way == Way::Urgent || (!is_retry && !self.waiting.watermark.has_passed(row.message.seq))
    }

    /// Whether it waits for an earlier one of its key that is to be tried again: those that retry go in their order. Rows found
    /// otherwise are asked when they depart, and park then.
    pub(super) fn earlier_retry(self, row: Sighting<'_>, order: Order) -> Option<Wait> {
        if !row.is_found_anyway() {
            return None;
        }
        let Message {
            topic, seq, attempt, ..
        } = row.message;
        let (Order::Key | Order::Strict, Some(key)) = (order, row.message.key.as_deref()) else {
            return None;
        };
        if *row.found == Found::Urgent {
            return self.waiting.holds.keeps(topic, key, *seq).then_some(Wait::KeyHeld);
        }
        // Nobody here counted that attempt: there may be others of the key.
        if *attempt > 1 && !row.is_holder {
            return Some(Wait::UnknownHolder);
        }
        let may_go = self.waiting.holds.may_go(topic, key, *seq);
        (!may_go).then_some(Wait::EarlierRetry)
    }

    /// Why a pending message that is not in memory was not sent: what would keep it if it turned up now. `None`: nothing, or nobody
    /// here has seen it yet.
    /// `waited`: it waited for a time, which has come.
    pub(super) fn why(self, lane: Lane, message: &Message, waited: bool, setup: &Setup) -> Option<Wait> {
        let row = Sighting {
            lane,
            message,
            found: if waited { &Found::Due } else { &Found::Passing },
            is_holder: self.waiting.holds.is_holder(message.seq),
        };
        if let Some(wait) = self.lane(row) {
            return Some(wait);
        }
        let key = message.key.as_deref();
        let Ok(resolved) = setup.routes.resolve(&message.topic, key) else {
            return Some(Wait::NoRoute);
        };
        let route = setup.routes.get(resolved.route);
        let known = self.destinations.known(route.transport, &resolved.destination);
        let held = || {
            let ordered = matches!(route.order, Order::Key | Order::Strict);
            let key = key.filter(|_| ordered)?;
            let keeps = self.waiting.holds.keeps(&message.topic, key, message.seq);
            keeps.then_some(Wait::KeyHeld)
        };
        // In commit order a destination lags because of the numbers it waits for, as a rule.
        let root = |wait, id| {
            if wait == Wait::DestinationBehind && self.is_early(row, id) {
                Wait::EarlierCommit
            } else {
                wait
            }
        };
        self.topic(row, route)
            .or_else(|| known.and_then(|id| self.destination(row, id).map(|wait| root(wait, id))))
            .or_else(|| self.earlier_retry(row, route.order))
            .or_else(held)
    }
}
