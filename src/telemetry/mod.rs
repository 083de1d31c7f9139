//! What the outside sees of a running relay: logs, metrics, health, and what systemd is told.
//!
//! The engine reports facts, by the indexes it works with; [`Telemetry`] knows the names. Everything here only keeps and
//! shows, never fails and never waits for others.

pub(crate) mod escape;
mod facts;
pub mod fleet;
mod handles;
pub mod health;
pub mod history;
mod labels;
mod latency;
pub mod log;
pub mod metrics;
mod pauses;
mod process;
mod series;
pub mod summary;
pub mod systemd;
mod table;
mod text;
pub mod trace;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use crate::backlog::{Backlog, Pending};
use crate::delivery::Failure;
use crate::lock::lock;
use crate::message::Message;
use crate::repeat::Budget;
use crate::route::Routes;
use crate::trouble::About;
use handles::Handles;
use health::Health;
use history::History;
use metrics::Metrics;
use pauses::Pauses;
use summary::Done;
use trace::{Exporter, Settings, Tracer};

/// The index of what has no transport, or no route.
pub const NOWHERE: usize = usize::MAX;

/// Metrics and health of one relay. A clone shares both; what indexes mean is each clone's own ([`Self::rename`]).
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is known.
    pub health: Arc<Health>,
    /// What was, a little while back.
    pub history: Arc<History>,
    /// What the indexes mean that this clone is told.
    handles: Arc<Handles>,
    /// What they mean to the relay.
    current: Arc<Mutex<Arc<Handles>>>,
    pauses: Arc<Mutex<Pauses>>,
    failures: Arc<Mutex<Budget>>,
    tracer: Option<Arc<Tracer>>,
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
        let metrics = Arc::new(Metrics::new());
        let handles = Arc::new(metrics.handles(transports, &[], routes));
        Self {
            metrics,
            health: Arc::new(Health::new()),
            history: Arc::new(History::new()),
            current: Arc::new(Mutex::new(Arc::clone(&handles))),
            handles,
            pauses: Arc::default(),
            failures: Arc::default(),
            tracer: None,
        }
    }

    /// From now on indexes are those of these transports (their names and kinds) and routes. Series of routes that stay go on.
    pub fn rename(&mut self, transports: &[Arc<str>], systems: &[&'static str], routes: &Routes) {
        self.handles = Arc::new(self.metrics.handles(transports, systems, routes));
        *lock(&self.current) = Arc::clone(&self.handles);
    }

    /// With traces: what is published from now on becomes spans. Also answers the task that sends them, which is to be run.
    #[must_use]
    pub fn traced(mut self, settings: Settings) -> (Self, Exporter) {
        let (tracer, exporter) = Tracer::new(settings, Arc::clone(&self.metrics));
        self.tracer = Some(Arc::new(tracer));
        (self, exporter)
    }

    /// Makes spans of attempts; `None`: nothing is traced.
    #[must_use]
    pub fn tracer(&self) -> Option<&Tracer> {
        self.tracer.as_deref()
    }

    fn pauses(&self) -> MutexGuard<'_, Pauses> {
        lock(&self.pauses)
    }

    fn failures(&self) -> MutexGuard<'_, Budget> {
        lock(&self.failures)
    }

    /// The name of a transport.
    pub(crate) fn transport(&self, index: usize) -> &str {
        self.handles.name(index)
    }

    /// What kind of broker the transport is.
    #[must_use]
    pub fn system(&self, transport: usize) -> &'static str {
        let handles = self.handles.transports.get(transport);
        handles.map_or("none", |handles| handles.system)
    }

    /// A message of `route` was acknowledged `since_insert` after it was inserted; `duplicate`: the broker had it already.
    pub fn relayed(&self, route: usize, since_insert: Duration, duplicate: bool) {
        if let Some(handles) = self.handles.routes.get(route) {
            handles.relayed.inc();
            handles.relay_latency.observe(since_insert);
        }
        if duplicate {
            self.metrics.duplicate_acknowledged();
        }
    }

    /// The transport answered for a batch after `took`.
    pub fn publish_latency(&self, transport: usize, took: Duration) {
        if let Some(handles) = self.handles.transports.get(transport) {
            handles.publish_latency.observe(took.as_secs_f64());
        }
    }

    /// A destination takes no messages: `error` says why.
    pub fn paused(&self, transport: usize, destination: &Arc<str>, error: &str) {
        let transport = self.transport(transport);
        self.metrics.destination_paused(transport, destination);
        self.health.destination_paused(transport, destination, error);
        if self.pauses().paused(transport, destination, Instant::now()) {
            tracing::warn!(transport, destination = %destination, error, "destination paused: its messages wait, nothing is counted");
        }
    }

    /// Why a paused destination is paused still: what was found out last.
    pub fn pause_reason(&self, transport: usize, destination: &Arc<str>, error: &str) {
        let transport = self.transport(transport);
        self.health.destination_paused(transport, destination, error);
    }

    /// A destination takes messages again.
    pub fn recovered(&self, transport: usize, destination: &Arc<str>) {
        let transport = self.transport(transport);
        self.metrics.destination_recovered(transport, destination);
        let was_paused = self.health.destination_recovered(transport, destination);
        if self.pauses().recovered(transport, destination) && was_paused {
            tracing::info!(transport, destination = %destination, "destination takes messages again");
        }
    }

    /// Nothing goes to a destination any more that was paused: it is no longer shown.
    pub fn forgotten(&self, transport: usize, destination: &Arc<str>) {
        let transport = self.transport(transport);
        self.metrics.destination_recovered(transport, destination);
        self.health.destination_recovered(transport, destination);
        self.pauses().recovered(transport, destination);
    }

    /// An attempt was not acknowledged, whether or not it counts.
    pub fn attempt_failed(&self, transport: usize, failure: &Failure) {
        self.metrics
            .attempt_failed(self.transport(transport), failure.class, &failure.code);
    }

    /// A message of `route` failed for good. Each has a line of its own, unless there are very many.
    pub fn failed(&self, route: usize, message: &Message, failure: &Failure) {
        let (pattern, transport) = self
            .handles
            .routes
            .get(route)
            .map_or(("none", "none"), |of| (&*of.route, &*of.transport));
        self.metrics.failed(transport, pattern, failure.class);
        if self.failures().allows(Instant::now().into_std()) {
            tracing::warn!(
                seq = %message.seq, id = %message.id, topic = %message.topic, attempt = message.attempt,
                code = %failure.code, error = %failure.error, "message failed"
            );
        }
    }

    /// What the upkeep query found in the table.
    pub fn backlog(&self, backlog: Backlog) {
        let table = &self.metrics.table;
        table.pending(backlog.pending);
        table.failed(backlog.failed);
        table.oldest_due_age(backlog.oldest_due_age().unwrap_or_default());
        self.health.backlog(backlog);
    }

    /// Says again what lasts. To be called every few seconds.
    pub fn remind(&self) {
        let now = Instant::now();
        if let Some(count) = self.failures().rest(now.into_std()) {
            tracing::warn!(count, "more messages failed: `outboxd failed list` names them");
        }
        self.health.remind_of_lock();
        let facts = self.health.facts();
        for reminder in self.pauses().reminders(now, &facts.paused) {
            let (transport, unsaid) = (reminder.transport, reminder.unsaid);
            if let Some((destination, paused)) = reminder.first {
                let since = health::ago(now, paused.since);
                let (count, error) = (reminder.paused, paused.error);
                tracing::warn!(
                    transport,
                    destination,
                    error,
                    since,
                    count,
                    unsaid,
                    "destinations still paused: their messages wait"
                );
            } else {
                tracing::info!(
                    transport,
                    unsaid,
                    "destinations were paused for a moment; all take messages"
                );
            }
        }
    }

    /// Says what was done, and what there is to do.
    pub fn summary(&self, done: Done) {
        let facts = self.health.facts();
        let backlog = facts.backlog.map(|(_, backlog)| backlog).unwrap_or_default();
        let Pending {
            due,
            delayed,
            retrying,
            held,
        } = backlog.pending;
        let oldest_due = backlog.oldest_due_age().unwrap_or_default().as_secs();
        let (relayed, failed) = (done.relayed, done.failed);
        // Tenths are enough.
        let per_second = (done.rate * 10.0).round() / 10.0;
        let seconds = done.within.as_secs();
        tracing::info!(
            relayed,
            failed,
            per_second,
            seconds,
            pending = due + delayed + retrying + held,
            due,
            oldest_due,
            "summary"
        );
    }

    /// All metrics as OpenMetrics text.
    #[must_use]
    pub fn encode_metrics(&self) -> String {
        let (facts, now) = (self.health.facts(), Instant::now());
        if let Some(progress) = facts.progress {
            self.metrics.last_progress(now.saturating_duration_since(progress));
        }
        self.metrics.trouble.stuck(&facts.stuck, &facts.stuck_counts);
        let locked = facts.locked(now).map(|_| About::Lock);
        let away = facts.database_error.as_ref().map(|away| away.about);
        self.metrics.trouble.unavailable(locked.or(away));
        self.metrics.encode()
    }

    /// Takes a sample for [`History`]: call it every [`history::INTERVAL`].
    pub fn sample(&self) {
        let current = Arc::clone(&lock(&self.current));
        self.history.take(&self.metrics, &self.health.facts(), &current.routes);
    }

    /// Whether systemd may be told that all is well.
    #[must_use]
    pub fn watchdog_ok(&self) -> bool {
        self.health.watchdog_ok(self.metrics.in_flight())
    }

    /// One line for `systemctl status`.
    #[must_use]
    pub fn status_line(&self) -> String {
        self.health.status_line(self.metrics.in_flight())
    }
}
