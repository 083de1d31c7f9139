//! Where the handles of a configuration come from: the series of its routes and transports, made or found.

use std::sync::Arc;

use super::handles::{Handles, RouteHandles, TransportHandles};
use super::labels::{CLASSES, FailedLabels, RouteLabels, TransportLabels};
use super::latency::RelayLatency;
use super::metrics::Metrics;
use crate::lock::lock;
use crate::route::Routes;

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
        let mut all = lock(&self.routes);
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
        lock(&self.routes).clone()
    }
}
