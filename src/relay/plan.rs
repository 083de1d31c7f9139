//! What may change while the relay runs: transports, routes, the size of the window.
//!
//! A new plan is put in force between two openings of the store: the engine drains, so nothing in memory belongs to the old one
//! any more, swaps, and opens at once. What was on its way to an old destination is answered and marked before the first row
//! goes to a new one: order per key and sending once hold across the change. A broker that hangs when a plan comes is waited for
//! while the others go on: its batches end with its `ack_timeout`, and then it is paused.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::route::{Routes, Unrouted};
use crate::store::Room;
use crate::telemetry::NOWHERE;
use crate::transport::Transport;

use super::destinations::Destinations;
use super::engine::{Engine, Phase};
use super::lanes::Lanes;
use super::limits::Limits;

/// A broker that has not answered for a batch for so long hangs, as far as a plan is concerned.
const HANGS_AFTER: Duration = Duration::from_secs(1);

/// A transport, and what it is called.
#[derive(Clone)]
pub struct Broker {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Its kind (`nats`), for traces.
    pub system: &'static str,
    /// The connection.
    pub transport: Arc<dyn Transport>,
}

/// See the module.
#[derive(Clone)]
pub struct Plan {
    /// In configuration order; routes name them by index.
    pub brokers: Vec<Broker>,
    /// Where messages go.
    pub routes: Routes,
    /// As [`super::Options::batch_size`].
    pub batch_size: usize,
    /// As [`super::Options::max_in_flight`] and [`super::Options::max_in_flight_bytes`].
    pub window: Room,
    /// As [`super::Options::unrouted`].
    pub unrouted: Unrouted,
    /// Cancelled by the engine once this plan, or a later one, is in force.
    pub in_force: CancellationToken,
}

/// The engine's end: the plans to come.
pub struct Plans {
    coming: Option<UnboundedReceiver<Plan>>,
    pending: Option<Plan>,
    /// When it came.
    came_at: Option<Instant>,
    /// Those of plans that another one replaced before they were in force.
    unused: Vec<Plan>,
    /// The transports' names, in the order of the plan in force.
    names: Vec<Arc<str>>,
    /// Transports being closed.
    closing: JoinSet<()>,
}

impl Plans {
    /// None will come.
    #[must_use]
    pub fn none() -> Self {
        Self {
            coming: None,
            pending: None,
            came_at: None,
            unused: Vec::new(),
            names: Vec::new(),
            closing: JoinSet::new(),
        }
    }

    /// Those sent to the other end; the relay begins with transports of these names.
    #[must_use]
    pub fn channel(names: Vec<Arc<str>>) -> (UnboundedSender<Plan>, Self) {
        let (sender, coming) = unbounded_channel();
        let plans = Self {
            coming: Some(coming),
            names,
            ..Self::none()
        };
        (sender, plans)
    }

    /// One has come and is not in force yet.
    pub(super) fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Until when a plan that has come waits for brokers that hang, if one has.
    pub(super) fn patient_until(&self, patience: Duration) -> Option<Instant> {
        self.came_at.map(|at| at + patience)
    }

    /// Returns when a plan has come. Cancel safe.
    pub(super) async fn next(&mut self) {
        match &mut self.coming {
            Some(coming) => match coming.recv().await {
                Some(plan) => {
                    self.came_at.get_or_insert_with(Instant::now);
                    self.unused.extend(self.pending.replace(plan));
                }
                None => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }

    /// Every transport that is open: of the plan in force and of those that were to come.
    pub(super) fn transports(&mut self, in_force: &[Arc<dyn Transport>]) -> Vec<Arc<dyn Transport>> {
        while let Some(plan) = self.coming.as_mut().and_then(|coming| coming.try_recv().ok()) {
            self.unused.push(plan);
        }
        let plans = self.unused.iter().chain(&self.pending);
        let coming = plans.flat_map(|plan| &plan.brokers).map(|broker| &broker.transport);
        each_once(in_force.iter().chain(coming))
    }

    /// Waits for transports being closed.
    pub(super) async fn closed(&mut self) {
        while self.closing.join_next().await.is_some() {}
    }

    /// Closes what `plan` does not go on using.
    fn close(&mut self, in_force: &[Arc<dyn Transport>], plan: &Plan) {
        let unused: Vec<Plan> = std::mem::take(&mut self.unused);
        let before = unused.iter().flat_map(|plan| &plan.brokers);
        let before = in_force.iter().chain(before.map(|broker| &broker.transport));
        while self.closing.try_join_next().is_some() {}
        for transport in each_once(before) {
            if !plan.brokers.iter().any(|new| Arc::ptr_eq(&new.transport, &transport)) {
                self.closing.spawn(async move { transport.close().await });
            }
        }
        for plan in unused {
            plan.in_force.cancel();
        }
    }
}

fn each_once<'a>(transports: impl Iterator<Item = &'a Arc<dyn Transport>>) -> Vec<Arc<dyn Transport>> {
    let mut found: Vec<Arc<dyn Transport>> = Vec::new();
    for transport in transports {
        if !found.iter().any(|other| Arc::ptr_eq(other, transport)) {
            found.push(Arc::clone(transport));
        }
    }
    found
}

impl Engine {
    /// Goes over to the plan that has come, if one has: drains, and puts it in force once that is done.
    pub(super) fn follow_plans(&mut self, now: Instant) {
        if self.plans.pending.is_none() || self.stopping {
            return;
        }
        if self.phase == Phase::Running {
            if !self.plan_goes_first(now) {
                return;
            }
            self.drain("the configuration was reloaded");
        }
        let is_quiet = match self.phase {
            Phase::Draining(_) | Phase::Waiting(_) => self.publishing.is_empty() && self.is_settled(),
            Phase::Opening | Phase::Running => false,
        };
        if let Some(plan) = self.plans.pending.take_if(|_| is_quiet) {
            self.plans.came_at = None;
            self.put_in_force(plan, now);
        }
    }

    /// Whether a plan has come that nothing is to be read before. Beside a broker that hangs, the others go on for a while.
    pub(super) fn plan_goes_first(&self, now: Instant) -> bool {
        let until = self.plans.patient_until(self.options.lease_ttl);
        let hangs = || {
            self.lanes
                .in_flight_since()
                .is_some_and(|since| now > since + HANGS_AFTER)
        };
        self.plans.is_pending() && !(until.is_some_and(|until| now < until) && hangs())
    }

    fn put_in_force(&mut self, plan: Plan, now: Instant) {
        self.plans.close(&self.transports, &plan);
        self.options.batch_size = plan.batch_size;
        self.options.unrouted = plan.unrouted;
        self.window.resize(plan.window);
        self.reading.resize(plan.batch_size, plan.window);
        self.lanes = Lanes::new(self.options.lanes, plan.brokers.len());
        self.limits = Limits::new(&plan.routes, now);
        // Their answers would be about destinations by old numbers.
        self.probing = FuturesUnordered::new();
        self.follow_pauses_of(&plan, now);
        self.transports = plan.brokers.iter().map(|new| Arc::clone(&new.transport)).collect();
        self.plans.names = plan.brokers.iter().map(|new| Arc::clone(&new.name)).collect();
        let systems: Vec<&'static str> = plan.brokers.iter().map(|new| new.system).collect();
        self.telemetry.rename(&self.plans.names, &systems, &plan.routes);
        self.routes = plan.routes;
        plan.in_force.cancel();
    }

    /// Destinations that were paused stay so where messages may still go, and are looked at soon; the others are forgotten.
    fn follow_pauses_of(&mut self, plan: &Plan, now: Instant) {
        for topic in std::mem::take(&mut self.unrouted).into_keys() {
            self.telemetry.forgotten(NOWHERE, &topic);
        }
        let before = &self.destinations;
        let paused: Vec<(usize, Arc<str>)> = before
            .troubled()
            .map(|destination| (destination.transport, Arc::clone(&destination.name)))
            .collect();
        self.destinations = Destinations::new(self.options.probe_interval, plan.brokers.len(), plan.window, now);
        for (transport, destination) in paused {
            let name = self.plans.names.get(transport);
            let stays = plan.brokers.iter().position(|new| Some(&new.name) == name);
            let leads_there = |at: &usize| {
                let of_it = |route: &&crate::route::Route| route.transport == *at;
                let mut routes = plan.routes.iter().filter(of_it);
                routes.any(|route| route.may_lead_to(&destination))
            };
            match stays.filter(leads_there) {
                Some(transport) => {
                    let id = self.destinations.find(transport, &destination);
                    self.destinations.pause(id, now);
                }
                None => self.telemetry.forgotten(transport, &destination),
            }
        }
    }
}
