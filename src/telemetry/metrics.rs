//! Every metric of outboxd, by its name (those of the table itself are in `table`; design.md, section 8; the dashboard and the alert
//! rules are tested against [`Metrics::encode`]).
//!
//! One [`Metrics`] value per relay, no globals. The handles of the hot path are looked up once (`handles`), by the index of route or
//! transport: a counter then costs an atomic addition. Label values come from the configuration, except destinations, which exist only while they
//! are paused and at most [`DESTINATIONS_MAX`] of them, and codes, at most [`CODES_MAX`].

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::handles::RouteHandles;
use super::labels::{
    AttemptLabels, DestinationLabels, FailedLabels, Float, LatencyFamily, RouteLabels, TransportLabels, Untyped,
    latency, whole,
};
use super::process::Process;
pub use super::table::{Table, Trouble};
use crate::delivery::FailureClass;
use crate::lock::lock;

/// Paused destinations shown at most.
pub const DESTINATIONS_MAX: usize = 1_000;
/// Different (transport, class, code) shown at most; beyond, the code is `other`.
pub const CODES_MAX: usize = 500;
/// What [`Metrics::encode`] returns, as HTTP names it.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of one relay. Shared by reference or `Arc`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// What upkeep found in the table.
    pub table: Table,
    /// What keeps this instance from writing.
    pub trouble: Trouble,
    /// Every route's there ever was.
    pub(super) routes: Mutex<Vec<Arc<RouteHandles>>>,
    pub(super) relayed: Family<RouteLabels, Counter>,
    pub(super) failed: Family<FailedLabels, Untyped>,
    attempts_failed: Family<AttemptLabels, Counter>,
    codes: Mutex<BTreeSet<AttemptLabels>>,
    paused: Mutex<BTreeSet<DestinationLabels>>,
    pub(super) relay_latency: LatencyFamily<RouteLabels>,
    pub(super) publish_latency: LatencyFamily<TransportLabels>,
    settle_latency: Histogram,
    fetch_latency: Histogram,
    destination_paused: Family<DestinationLabels, Gauge>,
    last_progress: Float,
    duplicates_acknowledged: Counter,
    failed_messages: AtomicU64,
    spans_dropped: Counter,
    leases_lost: Counter,
    in_flight_messages: Gauge,
    in_flight_bytes: Gauge,
    gaps_open: Gauge,
    lanes_owned: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics, at zero; none by route or transport yet.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            routes: Mutex::default(),
            relayed: Family::default(),
            failed: Family::default(),
            attempts_failed: Family::default(),
            codes: Mutex::default(),
            paused: Mutex::default(),
            relay_latency: Family::new_with_constructor(latency),
            publish_latency: Family::new_with_constructor(latency),
            settle_latency: latency(),
            fetch_latency: latency(),
            table: Table::default(),
            trouble: Trouble::default(),
            destination_paused: Family::default(),
            last_progress: Float::default(),
            duplicates_acknowledged: Counter::default(),
            failed_messages: AtomicU64::default(),
            spans_dropped: Counter::default(),
            leases_lost: Counter::default(),
            in_flight_messages: Gauge::default(),
            in_flight_bytes: Gauge::default(),
            gaps_open: Gauge::default(),
            lanes_owned: Gauge::default(),
        };
        metrics.registry.register_collector(Box::new(Process));
        metrics.register_counts();
        metrics.register_states();
        let all = metrics.registry.sub_registry_with_prefix("outboxd");
        metrics.table.register(all);
        metrics.trouble.register(all);
        metrics
    }

    /// Names and help, once. Counters get their `_total` from the encoder.
    fn register_counts(&mut self) {
        let all = self.registry.sub_registry_with_prefix("outboxd");
        all.register(
            "messages_relayed",
            "Messages acknowledged by a broker",
            self.relayed.clone(),
        );
        all.register(
            "messages_failed_total",
            "Messages failed for good since the start",
            self.failed.clone(),
        );
        all.register(
            "attempts_failed",
            "Attempts a broker did not acknowledge",
            self.attempts_failed.clone(),
        );
        let duplicates = self.duplicates_acknowledged.clone();
        all.register(
            "duplicates_acknowledged",
            "Acknowledged messages the broker had already",
            duplicates,
        );
        let dropped = self.spans_dropped.clone();
        all.register("spans_dropped", "Spans the trace collector did not get", dropped);
    }

    fn register_states(&mut self) {
        let all = self.registry.sub_registry_with_prefix("outboxd");
        all.register(
            "relay_latency_seconds",
            "From insert to acknowledgement",
            self.relay_latency.clone(),
        );
        all.register(
            "publish_latency_seconds",
            "From handing over to the broker's answer",
            self.publish_latency.clone(),
        );
        all.register(
            "settle_latency_seconds",
            "One settling statement",
            self.settle_latency.clone(),
        );
        all.register(
            "fetch_latency_seconds",
            "One reading statement",
            self.fetch_latency.clone(),
        );
        all.register(
            "in_flight_messages",
            "Messages in memory",
            self.in_flight_messages.clone(),
        );
        all.register(
            "in_flight_bytes",
            "Bytes of messages in memory",
            self.in_flight_bytes.clone(),
        );
        all.register(
            "gaps_open",
            "Ranges of missing sequence numbers being watched",
            self.gaps_open.clone(),
        );
        all.register("lanes_owned", "Lanes this instance holds", self.lanes_owned.clone());
        all.register(
            "leases_lost",
            "Lanes lost without handing them back",
            self.leases_lost.clone(),
        );
        all.register(
            "destination_paused",
            "1 while a destination takes no messages",
            self.destination_paused.clone(),
        );
        let last = self.last_progress.clone();
        all.register(
            "last_progress_timestamp_seconds",
            "Time of the last settled message, since the epoch",
            last,
        );
    }

    /// An acknowledged message was one the broker had already.
    pub(super) fn duplicate_acknowledged(&self) {
        self.duplicates_acknowledged.inc();
    }

    /// Messages acknowledged and messages failed for good, of all routes since the start.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        let routes = lock(&self.routes);
        let relayed = routes.iter().map(|route| route.relayed.get()).sum();
        (relayed, self.failed_messages.load(Ordering::Relaxed))
    }

    /// So many spans will not reach the trace collector.
    pub fn spans_dropped(&self, count: u64) {
        self.spans_dropped.inc_by(count);
    }

    /// Spans that did not reach the trace collector since the start.
    #[must_use]
    pub fn spans_dropped_so_far(&self) -> u64 {
        self.spans_dropped.get()
    }

    /// A message failed for good: `failed_at`.
    pub fn failed(&self, transport: &str, route: &str, class: FailureClass) {
        self.failed_messages.fetch_add(1, Ordering::Relaxed);
        self.failed
            .get_or_create_owned(&FailedLabels::new(transport, route, class))
            .0
            .inc();
    }

    /// One settling statement took this long.
    pub fn settle_latency(&self, took: Duration) {
        self.settle_latency.observe(took.as_secs_f64());
    }

    /// One reading statement took this long.
    pub fn fetch_latency(&self, took: Duration) {
        self.fetch_latency.observe(took.as_secs_f64());
    }

    /// Messages in memory, and their bytes.
    pub fn window(&self, messages: usize, bytes: usize) {
        self.in_flight_messages.set(whole(messages));
        self.in_flight_bytes.set(whole(bytes));
    }

    /// Messages in memory, as last reported.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        usize::try_from(self.in_flight_messages.get()).unwrap_or(0)
    }

    /// The lease ended, or could have, before it was renewed.
    pub fn lease_lost(&self) {
        self.leases_lost.inc();
    }

    /// Lanes this instance holds.
    pub fn lanes_owned(&self, lanes: usize) {
        self.lanes_owned.set(whole(lanes));
    }

    /// Ranges of missing sequence numbers being watched.
    pub fn gaps_open(&self, gaps: usize) {
        self.gaps_open.set(whole(gaps));
    }

    /// An attempt was not acknowledged, whether or not it counts.
    pub fn attempt_failed(&self, transport: &str, class: FailureClass, code: &str) {
        let mut labels = AttemptLabels {
            transport: transport.to_owned(),
            class: class.as_str(),
            code: code.to_owned(),
        };
        let mut codes = lock(&self.codes);
        if !codes.contains(&labels) {
            if codes.len() < CODES_MAX {
                codes.insert(labels.clone());
            } else {
                "other".clone_into(&mut labels.code);
            }
        }
        drop(codes);
        self.attempts_failed.get_or_create_owned(&labels).inc();
    }

    /// Something was settled this long ago.
    pub fn last_progress(&self, ago: Duration) {
        let now = jiff::Timestamp::now().as_duration().as_secs_f64();
        self.last_progress.set(now - ago.as_secs_f64());
    }

    /// `destination` takes no messages. Beyond [`DESTINATIONS_MAX`] it is not shown; health still knows it.
    pub fn destination_paused(&self, transport: &str, destination: &str) {
        let labels = DestinationLabels {
            transport: transport.to_owned(),
            destination: destination.to_owned(),
        };
        let mut paused = lock(&self.paused);
        if paused.len() < DESTINATIONS_MAX && paused.insert(labels.clone()) {
            self.destination_paused.get_or_create_owned(&labels).set(1);
        }
    }

    /// `destination` takes messages again.
    pub fn destination_recovered(&self, transport: &str, destination: &str) {
        let labels = DestinationLabels {
            transport: transport.to_owned(),
            destination: destination.to_owned(),
        };
        let mut paused = lock(&self.paused);
        if paused.remove(&labels) {
            self.destination_paused.remove(&labels);
        }
    }

    /// All of it as OpenMetrics text ([`CONTENT_TYPE`]).
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(8192);
        match prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(fmt::Error) => unreachable!("writing to a string does not fail"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backoff::Backoff;
    use crate::delivery::Order;
    use crate::route::{Route, RouteSpec, Routes};
    use crate::telemetry::Telemetry;

    fn telemetry() -> Telemetry {
        let backoff = Backoff {
            min: Duration::from_secs(1),
            max: Duration::from_secs(2),
            factor: 2,
        };
        let spec = RouteSpec {
            topic: "orders.*",
            transport: 0,
            destination: "{topic}",
            order: Order::Key,
            max_attempts: 5,
            backoff,
            commit_order: false,
            limits: crate::route::Limits::default(),
            prefix: "",
            reserved: &[],
        };
        Telemetry::new(&["main".into()], &Routes::new(vec![Route::new(&spec).unwrap()]))
    }

    #[test]
    fn every_metric_of_the_contract_is_there_by_its_name() {
        let telemetry = telemetry();
        telemetry.relayed(0, Duration::from_millis(3), true);
        telemetry.publish_latency(0, Duration::from_millis(2));
        let metrics = &telemetry.metrics;
        metrics.failed("main", "orders.*", FailureClass::Rejected);
        metrics.attempt_failed("main", FailureClass::TimedOut, "TIMEOUT");
        metrics.destination_paused("main", "orders");
        metrics.table.failed(4);
        metrics.trouble.stuck(
            &[crate::stuck::StuckRow {
                seq: 1,
                id: String::new(),
                reason: crate::stuck::StuckReason::Locked,
                detail: String::new(),
                seconds: 0,
            }],
            &std::collections::BTreeMap::new(),
        );
        metrics.trouble.unavailable(Some(crate::trouble::About::Lock));
        metrics.table.oldest_transaction(Duration::from_secs(2));
        metrics.last_progress(Duration::ZERO);
        let text = metrics.encode();
        for line in [
            "outboxd_messages_relayed_total{transport=\"main\",route=\"orders.*\"} 1",
            "outboxd_messages_failed_total{transport=\"main\",route=\"orders.*\",class=\"rejected\"} 1",
            "outboxd_messages_failed_total{transport=\"main\",route=\"orders.*\",class=\"timed_out\"} 0",
            "outboxd_attempts_failed_total{transport=\"main\",class=\"timed_out\",code=\"TIMEOUT\"} 1",
            "outboxd_duplicates_acknowledged_total 1",
            "outboxd_messages_pending{state=\"held\"} 0",
            "outboxd_messages_failed 4",
            "outboxd_rows_stuck{reason=\"refused\"} 0",
            "outboxd_rows_stuck{reason=\"locked\"} 1",
            "outboxd_rows_stuck{reason=\"suppressed\"} 0",
            "outboxd_rows_stuck{reason=\"unreadable\"} 0",
            "outboxd_rows_stuck{reason=\"slow\"} 0",
            "outboxd_database_unavailable{reason=\"lock\"} 1",
            "outboxd_database_unavailable{reason=\"server\"} 0",
            "outboxd_oldest_due_age_seconds 0.0",
            "outboxd_oldest_transaction_seconds 2.0",
            "outboxd_spans_dropped_total 0",
            "outboxd_relay_latency_seconds_bucket{le=\"0.005\",transport=\"main\",route=\"orders.*\"} 1",
            "outboxd_publish_latency_seconds_count{transport=\"main\"} 1",
            "outboxd_settle_latency_seconds_count 0",
            "outboxd_fetch_latency_seconds_count 0",
            "outboxd_in_flight_messages 0",
            "outboxd_in_flight_bytes 0",
            "outboxd_gaps_open 0",
            "outboxd_lanes_owned 0",
            "outboxd_leases_lost_total 0",
            "outboxd_destination_paused{transport=\"main\",destination=\"orders\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        for name in [
            "outboxd_last_progress_timestamp_seconds 1",
            "process_cpu_seconds_total ",
            "process_threads ",
        ] {
            assert!(
                text.lines().any(|line| line.starts_with(name)),
                "{name} is not in\n{text}"
            );
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn no_family_is_announced_twice() {
        let text = telemetry().metrics.encode();
        let mut seen = BTreeSet::new();
        for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
            let name = line.split(' ').nth(2).unwrap();
            let name = if line.ends_with(" counter") {
                name.trim_end_matches("_total")
            } else {
                name
            };
            assert!(seen.insert(name.to_owned()), "{name} twice in\n{text}");
        }
    }

    #[test]
    fn label_values_from_outside_are_bounded() {
        let metrics = telemetry().metrics;
        for n in 0..2_000 {
            metrics.destination_paused("main", &format!("d{n}"));
            metrics.attempt_failed("main", FailureClass::Failed, &format!("c{n}"));
        }
        let count = |text: &str, name: &str| text.lines().filter(|line| line.starts_with(name)).count();
        let text = metrics.encode();
        assert_eq!(count(&text, "outboxd_destination_paused{"), DESTINATIONS_MAX);
        assert_eq!(count(&text, "outboxd_attempts_failed_total{"), CODES_MAX + 1);
        assert!(text.contains("code=\"other\"} 1500"));
        metrics.destination_recovered("main", "d7");
        assert_eq!(
            count(&metrics.encode(), "outboxd_destination_paused{"),
            DESTINATIONS_MAX - 1
        );
    }
}
