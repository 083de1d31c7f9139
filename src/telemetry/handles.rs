//! What is counted by route and transport: found by its names once, when a configuration is put in force, and by index for
//! every message from then on.
//!
//! A series stays for as long as the process, so a route that a reload takes away and another brings back goes on counting
//! where it was.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;

use super::latency::RelayLatency;

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
