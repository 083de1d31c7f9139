//! What is counted by route and transport: found by its names once, when a configuration is put in force, and by index for
//! every message from then on.
//!
//! A series stays for as long as the process, so a route that a reload takes away and another brings back goes on counting
//! where it was.

use std::sync::{Arc, PoisonError};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;

use super::labels::{FailedLabels, RouteLabels, TransportLabels};
use super::latency::RelayLatency;
use super::metrics::{CLASSES, Metrics};
use crate::route::Routes;

/// One route's.
#[derive(Debug)]
pub(super) struct RouteHandles {
    /// Among all there ever were, in the order they came.
    pub(super) number: usize,
    pub(super) transport: Arc<str>,
    /// The glob.
    pub(super) route: Arc<str>,
    pub(super) relayed: Counter,
    pub(super) relay_latency: RelayLatency,
}

/// One transport's.
#[derive(Debug)]
pub(super) struct TransportHandles {
    pub(super) name: Arc<str>,
    /// Its kind; empty where nobody has said.
    pub(super) system: &'static str,
    pub(super) publish_latency: Histogram,
}

/// Those of one configuration, in its order.
#[derive(Debug, Default)]
pub(super) struct Handles {
    pub(super) transports: Vec<TransportHandles>,
    pub(super) routes: Vec<Arc<RouteHandles>>,
}

impl Handles {
    /// The transport's name.
    pub(super) fn name(&self, transport: usize) -> &str {
        self.transports.get(transport).map_or("none", |handles| &handles.name)
    }
}

impl Metrics {
    /// The handles for these transports, which `routes` name by index. New series are shown at zero, so that the first failure
    /// is an increase.
    pub(super) fn handles(&self, transports: &[Arc<str>], systems: &[&'static str], routes: &Routes) -> Handles {
        let transport = |(at, name): (usize, &Arc<str>)| TransportHandles {
            name: Arc::clone(name),
            system: systems.get(at).copied().unwrap_or_default(),
            publish_latency: self.publish_latency.get_or_create_owned(&TransportLabels {
                transport: name.to_string(),
            }),
        };
        let none: Arc<str> = "none".into();
        let of = |at: usize| transports.get(at).unwrap_or(&none);
        Handles {
            transports: transports.iter().enumerate().map(transport).collect(),
            routes: routes
                .iter()
                .map(|route| self.route(of(route.transport), &route.pattern))
                .collect(),
        }
    }

    fn route(&self, transport: &Arc<str>, route: &Arc<str>) -> Arc<RouteHandles> {
        let mut all = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all
            .iter()
            .find(|known| known.transport == *transport && known.route == *route);
        if let Some(known) = known {
            return Arc::clone(known);
        }
        let labels = RouteLabels {
            transport: transport.to_string(),
            route: route.to_string(),
        };
        for class in CLASSES {
            let labels = FailedLabels::new(transport, route, class);
            drop(self.failed.get_or_create_owned(&labels));
        }
        let new = Arc::new(RouteHandles {
            number: all.len(),
            transport: Arc::clone(transport),
            route: Arc::clone(route),
            relayed: self.relayed.get_or_create_owned(&labels),
            relay_latency: RelayLatency::new(self.relay_latency.get_or_create_owned(&labels)),
        });
        all.push(Arc::clone(&new));
        new
    }

    /// Every route's there ever was, by number.
    pub(super) fn all_routes(&self) -> Vec<Arc<RouteHandles>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
