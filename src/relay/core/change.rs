//! Plans to come: when to go over to one, and what stays of what was known.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::relay::event::Change;
use crate::relay::options::Options;
use crate::relay::sending::Sending;
use crate::relay::sending::addresses::Addresses;
use crate::relay::sending::destination::Destination;
use crate::relay::sending::destinations::Destinations;
use crate::relay::sending::lanes::Lanes;
use crate::relay::sending::limits::Limits;

use super::setup::Setup;

/// A broker that has not answered for a batch for so long hangs, as far as a plan is concerned.
pub(super) const HANGS_AFTER: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Changes {
    coming: Option<Change>,
    /// When the first of those came that are not in force yet.
    came_at: Option<Instant>,
    /// The transports' names, in the order of the plan in force.
    names: Vec<Arc<str>>,
}

impl Changes {
    pub(super) fn new(names: Vec<Arc<str>>) -> Self {
        Self {
            coming: None,
            came_at: None,
            names,
        }
    }

    /// A plan has come; it takes the place of one that is not in force yet.
    pub(super) fn comes(&mut self, change: Change, now: Instant) {
        self.coming = Some(change);
        self.came_at.get_or_insert(now);
    }

    /// One has come and is not in force yet.
    pub(super) fn is_pending(&self) -> bool {
        self.coming.is_some()
    }

    /// Until when a plan that has come waits for brokers that hang, if one has.
    pub(super) fn patient_until(&self, patience: Duration) -> Option<Instant> {
        self.came_at.map(|at| at + patience)
    }

    /// The plan that has come, which is put in force.
    pub(super) fn take(&mut self) -> Option<Change> {
        self.came_at = None;
        self.coming.take()
    }

    /// Queues, limits and destinations of this plan, which is put in force.
    pub(super) fn sending(&self, before: &Sending, change: &Change, setup: &Setup, now: Instant) -> Sending {
        let Options {
            lanes, probe_interval, ..
        } = setup.options;
        let count = change.names.len();
        let mut destinations = Destinations::new(probe_interval, count, change.window, now);
        for destination in before.destinations.troubled() {
            match self.leads_to(destination, change) {
                Some(transport) => {
                    let id = destinations.find(transport, &destination.name);
                    destinations.pause(id, now);
                }
                None => setup.telemetry.forgotten(destination.transport, &destination.name),
            }
        }
        Sending {
            lanes: Lanes::new(lanes, count),
            limits: Limits::new(&change.routes, now),
            destinations,
            addresses: Addresses::default(),
        }
    }

    /// The transport by which messages may still go to a destination. One that was paused stays so then, and is looked at soon; the
    /// others are forgotten.
    fn leads_to(&self, destination: &Destination, change: &Change) -> Option<usize> {
        let name = self.names.get(destination.transport);
        let stays = change.names.iter().position(|new| Some(new) == name);
        stays.filter(|at| {
            let mut routes = change.routes.iter().filter(|route| route.transport == *at);
            routes.any(|route| route.may_lead_to(&destination.name))
        })
    }

    /// This plan is in force.
    pub(super) fn in_force(&mut self, change: Change, setup: &mut Setup) {
        setup.options.batch_size = change.batch_size;
        setup.options.unrouted = change.unrouted;
        setup.telemetry.rename(&change.names, &change.systems, &change.routes);
        setup.routes = change.routes;
        self.names = change.names;
    }
}
