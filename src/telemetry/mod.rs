//! What the outside sees of a running relay: logs, metrics, health, and what systemd is told.
//!
//! The engine reports facts, by the indexes it works with; [`Telemetry`] knows the names. Everything here only keeps and
//! shows, never fails and never waits for others.

pub mod health;
pub mod history;
mod labels;
mod latency;
pub mod log;
pub mod metrics;
mod process;
pub mod systemd;

use std::sync::Arc;

use tokio::time::Instant;

use crate::delivery::Failure;
use crate::route::Routes;
use health::{Backlog, Health};
use history::History;
use metrics::Metrics;

/// Metrics and health of one relay. A clone shares both.
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is known.
    pub health: Arc<Health>,
    /// What was, a little while back.
    pub history: Arc<History>,
    transports: Arc<[Arc<str>]>,
    /// Glob and transport of each route.
    routes: Arc<[(Arc<str>, usize)]>,
}

impl Default for Telemetry {
    /// Without transports and routes: whatever the indexes, the names are `none`.
    fn default() -> Self {
        Self::new(&[], &Routes::default())
    }
}

impl Telemetry {
    /// For these transports (their names, in configuration order) and routes.
    #[must_use]
    pub fn new(transports: &[Arc<str>], routes: &Routes) -> Self {
        Self {
            metrics: Arc::new(Metrics::new(transports, routes)),
            health: Arc::new(Health::new()),
            history: Arc::new(History::new()),
            transports: transports.into(),
            routes: routes
                .iter()
                .map(|route| (Arc::clone(&route.pattern), route.transport))
                .collect(),
        }
    }

    fn transport(&self, index: usize) -> &str {
        self.transports.get(index).map_or("none", |name| &**name)
    }

    /// A destination takes no messages: `error` says why.
    pub fn paused(&self, transport: usize, destination: &Arc<str>, error: &str) {
        let transport = self.transport(transport);
        self.metrics.destination_paused(transport, destination);
        self.health.destination_paused(transport, destination, error);
        tracing::warn!(transport, destination = %destination, error, "destination paused: its messages wait, nothing is counted");
    }

    /// A destination takes messages again.
    pub fn recovered(&self, transport: usize, destination: &Arc<str>) {
        let transport = self.transport(transport);
        self.metrics.destination_recovered(transport, destination);
        if self.health.destination_recovered(transport, destination) {
            tracing::info!(transport, destination = %destination, "destination takes messages again");
        }
    }

    /// An attempt was not acknowledged, whether or not it counts.
    pub fn attempt_failed(&self, transport: usize, failure: &Failure) {
        self.metrics
            .attempt_failed(self.transport(transport), failure.class, &failure.code);
    }

    /// A message of `route` failed for good.
    pub fn failed(&self, route: usize, failure: &Failure) {
        let (pattern, transport) = self
            .routes
            .get(route)
            .map_or(("none", usize::MAX), |(glob, at)| (&**glob, *at));
        self.metrics.failed(self.transport(transport), pattern, failure.class);
    }

    /// What the upkeep query found in the table.
    pub fn backlog(&self, backlog: Backlog) {
        self.metrics.pending(backlog.pending);
        self.metrics.failed_rows(backlog.failed);
        self.metrics.oldest_due_age(backlog.oldest_due_age.unwrap_or_default());
        self.health.backlog(backlog);
    }

    /// All metrics as OpenMetrics text.
    #[must_use]
    pub fn encode_metrics(&self) -> String {
        if let Some(progress) = self.health.facts().progress {
            self.metrics
                .last_progress(Instant::now().saturating_duration_since(progress));
        }
        self.metrics.encode()
    }

    /// Takes a sample for [`History`]: call it every [`history::INTERVAL`].
    pub fn sample(&self) {
        self.history
            .take(&self.metrics, &self.health.facts(), &self.routes, &self.transports);
    }

    /// One line for `systemctl status`.
    #[must_use]
    pub fn status_line(&self) -> String {
        self.health.status_line(self.metrics.in_flight())
    }
}
