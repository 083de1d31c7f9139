//! What may change while the relay runs: transports, routes, the size of the window.
//!
//! A new plan is put in force between two openings of the store: the engine drains, so nothing in memory belongs to the old one
//! any more, swaps, and opens at once. What was on its way to an old destination is answered and marked before the first row
//! goes to a new one: order per key and sending once hold across the change. A broker that hangs when a plan comes is waited for
//! while the others go on: its batches end with its `ack_timeout`, and then it is paused.

use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::relay::event::Change;
use crate::route::{Routes, Unrouted};
use crate::store::Room;
use crate::transport::Transport;

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
    /// As [`crate::relay::Options::batch_size`].
    pub batch_size: usize,
    /// As [`crate::relay::Options::max_in_flight`] and [`crate::relay::Options::max_in_flight_bytes`].
    pub window: Room,
    /// As [`crate::relay::Options::unrouted`].
    pub unrouted: Unrouted,
    /// Cancelled by the engine once this plan, or a later one, is in force.
    pub in_force: CancellationToken,
}

impl Plan {
    fn change(&self) -> Change {
        Change {
            names: self.brokers.iter().map(|new| Arc::clone(&new.name)).collect(),
            systems: self.brokers.iter().map(|new| new.system).collect(),
            routes: self.routes.clone(),
            batch_size: self.batch_size,
            window: self.window,
            unrouted: self.unrouted,
        }
    }
}

/// The engine's end: the plans to come.
pub struct Plans {
    coming: Option<UnboundedReceiver<Plan>>,
    pending: Option<Plan>,
    /// Those of plans that another one replaced before they were in force.
    unused: Vec<Plan>,
    /// The transports' names, in the order of the plan the relay begins with.
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

    pub(super) fn names(&self) -> &[Arc<str>] {
        &self.names
    }

    /// Returns when a plan has come: what changes for the core. Cancel safe.
    pub(super) async fn next(&mut self) -> Change {
        let coming = match &mut self.coming {
            Some(coming) => coming.recv().await,
            None => None,
        };
        let Some(plan) = coming else {
            return std::future::pending().await;
        };
        let change = plan.change();
        self.unused.extend(self.pending.replace(plan));
        change
    }

    /// The plan that has come is in force from now on: answers its transports by way of `in_force`, and closes what it does not go on
    /// using.
    pub(super) fn go_over(&mut self, in_force: &mut Vec<Arc<dyn Transport>>) {
        let Some(plan) = self.pending.take() else { return };
        self.close(in_force, &plan);
        *in_force = plan.brokers.iter().map(|new| Arc::clone(&new.transport)).collect();
        plan.in_force.cancel();
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
