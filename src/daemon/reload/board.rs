//! What is in force for the engines of this process, and how they hear of what comes.
//!
//! Every outbox has an engine, which may begin, end and begin again on its own; a reload comes whenever it comes. Both meet here.

use std::sync::Arc;

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::daemon::transports::{self, Connected};
use crate::relay::plan::{Broker, Plan, Plans};
use crate::route::Routes;
use crate::store::Room;

/// See the module.
pub(in crate::daemon) struct Board {
    pub(super) state: Mutex<State>,
    /// The routes in force, by outbox.
    routes: Vec<watch::Sender<Arc<Routes>>>,
}

pub(super) struct State {
    /// The configuration in force, or on its way there.
    pub(super) running: Config,
    /// Once the first engine has asked for them.
    pub(super) connected: Option<Vec<Connected>>,
    /// By outbox: engines that run.
    seats: Vec<Option<Seat>>,
}

/// An engine that runs.
struct Seat {
    plans: UnboundedSender<Plan>,
    /// Cancelled when a plan is in force.
    coming: Vec<CancellationToken>,
}

/// What an engine begins with.
pub(in crate::daemon) struct Begun {
    /// Its part of the configuration in force.
    pub(in crate::daemon) config: Config,
    /// In configuration order.
    pub(in crate::daemon) brokers: Vec<Broker>,
    /// Where it hears of what comes.
    pub(in crate::daemon) plans: Plans,
}

impl Board {
    /// For a process that begins with `running`.
    pub(in crate::daemon) fn new(running: &Config) -> Self {
        let parts = running.parts();
        let routes = parts
            .iter()
            .map(|part| watch::Sender::new(Arc::new(part.routes.clone())));
        Self {
            routes: routes.collect(),
            state: Mutex::new(State {
                running: running.clone(),
                connected: None,
                seats: parts.iter().map(|_| None).collect(),
            }),
        }
    }

    /// The routes in force of an outbox, for those who only look.
    pub(in crate::daemon) fn routes(&self, outbox: usize) -> watch::Receiver<Arc<Routes>> {
        self.routes[outbox].subscribe()
    }

    /// The engine of an outbox is about to start.
    ///
    /// # Errors
    /// What is wrong in a transport's section.
    pub(in crate::daemon) async fn begin(&self, outbox: usize) -> anyhow::Result<Begun> {
        let mut state = self.state.lock().await;
        let connected = match state.connected.take() {
            Some(connected) => connected,
            None => transports::connect(&state.running, &[]).await?,
        };
        let brokers = state.brokers(&connected);
        state.connected = Some(connected);
        let (plans, coming) = Plans::channel(brokers.iter().map(|one| Arc::clone(&one.name)).collect());
        let seat = Seat {
            plans,
            coming: Vec::new(),
        };
        state.seats[outbox] = Some(seat);
        Ok(Begun {
            config: state.running.parts().swap_remove(outbox),
            brokers,
            plans: coming,
        })
    }

    /// The engine of an outbox has ended: nothing is waited for on its behalf.
    pub(in crate::daemon) async fn left(&self, outbox: usize) {
        if let Some(seat) = self.state.lock().await.seats[outbox].take() {
            seat.coming.iter().for_each(CancellationToken::cancel);
        }
    }

    /// What has to be closed when all engines have ended: several do not close what they share.
    pub(in crate::daemon) async fn shared(&self) -> Vec<Connected> {
        let mut state = self.state.lock().await;
        let connected = state.connected.take().unwrap_or_default();
        if state.is_shared() { connected } else { Vec::new() }
    }

    pub(super) fn show_routes(&self, running: &Config) {
        for (routes, part) in self.routes.iter().zip(running.parts()) {
            routes.send_replace(Arc::new(part.routes));
        }
    }
}

impl State {
    fn is_shared(&self) -> bool {
        self.seats.len() > 1
    }

    /// As an engine has them.
    fn brokers(&self, connected: &[Connected]) -> Vec<Broker> {
        let shared = self.is_shared();
        let broker = |one: &Connected| match shared {
            true => transports::lent(&one.broker),
            false => one.broker.clone(),
        };
        connected.iter().map(broker).collect()
    }

    /// Tells every engine of `new`. Answers what is cancelled when each of them has taken it up, and what is to be closed then.
    pub(super) fn plan(&mut self, new: &Config, connected: Vec<Connected>) -> (Vec<CancellationToken>, Vec<Connected>) {
        let mut in_force = Vec::new();
        for (outbox, part) in new.parts().iter().enumerate() {
            let brokers = self.brokers(&connected);
            let Some(seat) = &mut self.seats[outbox] else { continue };
            let plan = plan(part, brokers);
            seat.coming.retain(|earlier| !earlier.is_cancelled());
            seat.coming.push(plan.in_force.clone());
            in_force.push(plan.in_force.clone());
            // The engine has ended, and says so itself.
            drop(seat.plans.send(plan));
        }
        let before = self.connected.replace(connected).unwrap_or_default();
        let goes_on = |old: &Connected| {
            let now = self.connected.iter().flatten();
            now.into_iter()
                .any(|new| Arc::ptr_eq(&new.broker.transport, &old.broker.transport))
        };
        let retired = match self.is_shared() {
            true => before.into_iter().filter(|old| !goes_on(old)).collect(),
            false => Vec::new(),
        };
        (in_force, retired)
    }
}

/// What an engine is told.
fn plan(config: &Config, brokers: Vec<Broker>) -> Plan {
    Plan {
        brokers,
        routes: config.routes.clone(),
        batch_size: config.relay.batch_size,
        window: Room {
            rows: config.relay.max_in_flight,
            bytes: config.relay.max_in_flight_bytes,
        },
        unrouted: config.relay.unrouted,
        in_force: CancellationToken::new(),
    }
}
