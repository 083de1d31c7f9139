//! Every metric of outboxd: the only place that knows their names (design.md, section 8; the dashboard and the alert
//! rules are tested against [`Metrics::encode`]).
//!
//! One [`Metrics`] value per relay, no globals. The hot path takes its handles once ([`Metrics::route`]): a counter then
//! costs an atomic addition. Label values come from the configuration, except destinations, which exist only while they
//! are paused and at most [`DESTINATIONS_MAX`] of them, and codes, at most [`CODES_MAX`].

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;

use super::process::Process;
use crate::delivery::FailureClass;

/// Paused destinations shown at most.
pub const DESTINATIONS_MAX: usize = 1_000;
/// Different (transport, class, code) shown at most; beyond, the code is `other`.
pub const CODES_MAX: usize = 500;
/// What [`Metrics::encode`] returns, as HTTP names it.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// 0.5 ms to 60 s, in seconds.
const LATENCY: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Pending rows by what they wait for. `state` of `outboxd_messages_pending`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Pending {
    /// May be sent now.
    pub due: u64,
    /// `available_at` is to come and no attempt failed yet.
    pub delayed: u64,
    /// An attempt failed; waiting for the next.
    pub retrying: u64,
    /// Behind a retrying or failed message of their key. Not counted as due.
    pub held: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    transport: String,
    route: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailedLabels {
    transport: String,
    route: String,
    class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct AttemptLabels {
    transport: String,
    class: &'static str,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TransportLabels {
    transport: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct DestinationLabels {
    transport: String,
    destination: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

/// A counter written without a counter's type: `outboxd_messages_failed_total` and the gauge `outboxd_messages_failed`
/// would otherwise be one family in OpenMetrics, which forbids that.
#[derive(Clone, Debug, Default)]
struct Untyped(Counter);

impl TypedMetric for Untyped {
    const TYPE: MetricType = MetricType::Unknown;
}

impl EncodeMetric for Untyped {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_gauge(&self.0.get())
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

type Float = Gauge<f64, AtomicU64>;
type LatencyFamily<L> = Family<L, Histogram, fn() -> Histogram>;

fn latency() -> Histogram {
    Histogram::new(LATENCY)
}

/// All metrics of one relay. Shared by reference or `Arc`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    relayed: Family<RouteLabels, Counter>,
    failed: Family<FailedLabels, Untyped>,
    attempts_failed: Family<AttemptLabels, Counter>,
    codes: Mutex<BTreeSet<AttemptLabels>>,
    paused: Mutex<BTreeSet<DestinationLabels>>,
    relay_latency: LatencyFamily<RouteLabels>,
    publish_latency: LatencyFamily<TransportLabels>,
    pending: Family<StateLabels, Gauge>,
    failed_rows: Gauge,
    oldest_due_age: Float,
    destination_paused: Family<DestinationLabels, Gauge>,
    last_progress: Float,
    /// Acknowledgements by which the broker said that it had the message already.
    pub duplicates_acknowledged: Counter,
    /// Lanes lost without handing them back.
    pub leases_lost: Counter,
    /// Time of one settling statement.
    pub settle_latency: Latency,
    /// Time of one reading statement.
    pub fetch_latency: Latency,
    /// Messages in memory.
    pub in_flight_messages: Level,
    /// Their bytes.
    pub in_flight_bytes: Level,
    /// Missing sequence numbers being watched, as ranges.
    pub gaps_open: Level,
    /// Lanes this instance holds.
    pub lanes_owned: Level,
}

/// A histogram of durations.
#[derive(Clone, Debug)]
pub struct Latency(Histogram);

impl Latency {
    /// Adds one.
    pub fn observe(&self, took: Duration) {
        self.0.observe(took.as_secs_f64());
    }
}

/// A number that goes up and down.
#[derive(Clone, Debug, Default)]
pub struct Level(Gauge<i64, AtomicI64>);

impl Level {
    /// Replaces it.
    pub fn set(&self, value: usize) {
        self.0.set(i64::try_from(value).unwrap_or(i64::MAX));
    }
}

/// The handles of one (transport, route): made once, used for every message.
#[derive(Clone, Debug)]
pub struct RouteMetrics {
    relayed: Counter,
    failed: [Counter; CLASSES.len()],
    relay_latency: Histogram,
    publish_latency: Histogram,
}

const CLASSES: [FailureClass; 4] =
    [FailureClass::Unavailable, FailureClass::Rejected, FailureClass::Failed, FailureClass::TimedOut];

impl RouteMetrics {
    /// A message was acknowledged `since_insert` after it was inserted.
    pub fn relayed(&self, since_insert: Duration) {
        self.relayed.inc();
        self.relay_latency.observe(since_insert.as_secs_f64());
    }

    /// A message failed for good: `failed_at`.
    pub fn failed(&self, class: FailureClass) {
        self.failed[class as usize].inc();
    }

    /// The transport answered for one message or batch after `took`.
    pub fn published(&self, took: Duration) {
        self.publish_latency.observe(took.as_secs_f64());
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics, at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            relayed: Family::default(),
            failed: Family::default(),
            attempts_failed: Family::default(),
            codes: Mutex::default(),
            paused: Mutex::default(),
            relay_latency: Family::new_with_constructor(latency),
            publish_latency: Family::new_with_constructor(latency),
            pending: Family::default(),
            failed_rows: Gauge::default(),
            oldest_due_age: Float::default(),
            destination_paused: Family::default(),
            last_progress: Float::default(),
            duplicates_acknowledged: Counter::default(),
            leases_lost: Counter::default(),
            settle_latency: Latency(latency()),
            fetch_latency: Latency(latency()),
            in_flight_messages: Level::default(),
            in_flight_bytes: Level::default(),
            gaps_open: Level::default(),
            lanes_owned: Level::default(),
        };
        metrics.register();
        metrics.pending(Pending::default());
        metrics
    }

    /// Names and help, once. Counters get their `_total` from the encoder.
    fn register(&mut self) {
        self.registry.register_collector(Box::new(Process));
        let all = self.registry.sub_registry_with_prefix("outboxd");
        all.register("messages_relayed", "Messages acknowledged by a broker", self.relayed.clone());
        all.register("messages_failed_total", "Messages failed for good since the start", self.failed.clone());
        all.register("attempts_failed", "Attempts a broker did not acknowledge", self.attempts_failed.clone());
        let duplicates = self.duplicates_acknowledged.clone();
        all.register("duplicates_acknowledged", "Acknowledged messages the broker had already", duplicates);
        all.register("messages_pending", "Rows neither relayed nor failed, by what they wait for", self.pending.clone());
        all.register("messages_failed", "Rows in the failed state", self.failed_rows.clone());
        all.register("oldest_due_age_seconds", "Age of the oldest row that may be sent", self.oldest_due_age.clone());
        all.register("relay_latency_seconds", "From insert to acknowledgement", self.relay_latency.clone());
        all.register("publish_latency_seconds", "From handing over to the broker's answer", self.publish_latency.clone());
        all.register("settle_latency_seconds", "One settling statement", self.settle_latency.0.clone());
        all.register("fetch_latency_seconds", "One reading statement", self.fetch_latency.0.clone());
        all.register("in_flight_messages", "Messages in memory", self.in_flight_messages.0.clone());
        all.register("in_flight_bytes", "Bytes of messages in memory", self.in_flight_bytes.0.clone());
        all.register("gaps_open", "Ranges of missing sequence numbers being watched", self.gaps_open.0.clone());
        all.register("lanes_owned", "Lanes this instance holds", self.lanes_owned.0.clone());
        all.register("leases_lost", "Lanes lost without handing them back", self.leases_lost.clone());
        all.register("destination_paused", "1 while a destination takes no messages", self.destination_paused.clone());
        let last = self.last_progress.clone();
        all.register("last_progress_timestamp_seconds", "Time of the last settled message, since the epoch", last);
    }

    /// The handles of `route` on `transport`. Take them once, not per message: this looks labels up.
    #[must_use]
    pub fn route(&self, transport: &str, route: &str) -> Arc<RouteMetrics> {
        let labels = RouteLabels { transport: transport.to_owned(), route: route.to_owned() };
        let failed = CLASSES.map(|class| {
            let labels =
                FailedLabels { transport: transport.to_owned(), route: route.to_owned(), class: class.as_str() };
            self.failed.get_or_create_owned(&labels).0
        });
        Arc::new(RouteMetrics {
            relayed: self.relayed.get_or_create_owned(&labels),
            failed,
            relay_latency: self.relay_latency.get_or_create_owned(&labels),
            publish_latency: self
                .publish_latency
                .get_or_create_owned(&TransportLabels { transport: transport.to_owned() }),
        })
    }

    /// An attempt was not acknowledged, whether or not it counts.
    pub fn attempt_failed(&self, transport: &str, class: FailureClass, code: &str) {
        let mut labels =
            AttemptLabels { transport: transport.to_owned(), class: class.as_str(), code: code.to_owned() };
        let mut codes = self.codes.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// What the upkeep query found pending.
    pub fn pending(&self, pending: Pending) {
        let states =
            [("due", pending.due), ("delayed", pending.delayed), ("retrying", pending.retrying), ("held", pending.held)];
        for (state, count) in states {
            let gauge = self.pending.get_or_create_owned(&StateLabels { state });
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Rows in the failed state.
    pub fn failed_rows(&self, count: u64) {
        self.failed_rows.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Age of the oldest due row; zero when nothing is due.
    pub fn oldest_due_age(&self, age: Duration) {
        self.oldest_due_age.set(age.as_secs_f64());
    }

    /// Something was settled just now.
    pub fn progress(&self) {
        self.last_progress.set(jiff::Timestamp::now().as_duration().as_secs_f64());
    }

    /// `destination` takes no messages. Beyond [`DESTINATIONS_MAX`] it is not shown; health still knows it.
    pub fn destination_paused(&self, transport: &str, destination: &str) {
        let labels = DestinationLabels { transport: transport.to_owned(), destination: destination.to_owned() };
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        if paused.len() < DESTINATIONS_MAX && paused.insert(labels.clone()) {
            self.destination_paused.get_or_create_owned(&labels).set(1);
        }
    }

    /// `destination` takes messages again.
    pub fn destination_recovered(&self, transport: &str, destination: &str) {
        let labels = DestinationLabels { transport: transport.to_owned(), destination: destination.to_owned() };
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
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

    #[test]
    fn every_metric_of_the_contract_is_there_by_its_name() {
        let metrics = Metrics::new();
        let route = metrics.route("main", "orders.*");
        route.relayed(Duration::from_millis(3));
        route.failed(FailureClass::Rejected);
        route.published(Duration::from_millis(2));
        metrics.attempt_failed("main", FailureClass::TimedOut, "TIMEOUT");
        metrics.destination_paused("main", "orders");
        metrics.failed_rows(4);
        metrics.progress();
        let text = metrics.encode();
        for line in [
            "outboxd_messages_relayed_total{transport=\"main\",route=\"orders.*\"} 1",
            "outboxd_messages_failed_total{transport=\"main\",route=\"orders.*\",class=\"rejected\"} 1",
            "outboxd_messages_failed_total{transport=\"main\",route=\"orders.*\",class=\"timed_out\"} 0",
            "outboxd_attempts_failed_total{transport=\"main\",class=\"timed_out\",code=\"TIMEOUT\"} 1",
            "outboxd_duplicates_acknowledged_total 0",
            "outboxd_messages_pending{state=\"held\"} 0",
            "outboxd_messages_failed 4",
            "outboxd_oldest_due_age_seconds 0.0",
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
        for name in ["outboxd_last_progress_timestamp_seconds 1", "process_cpu_seconds_total ", "process_threads "] {
            assert!(text.lines().any(|line| line.starts_with(name)), "{name} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn no_family_is_announced_twice() {
        let text = Metrics::new().encode();
        let mut seen = BTreeSet::new();
        for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
            let name = line.split(' ').nth(2).unwrap();
            let name = if line.ends_with(" counter") { name.trim_end_matches("_total") } else { name };
            assert!(seen.insert(name.to_owned()), "{name} twice in\n{text}");
        }
    }

    #[test]
    fn label_values_from_outside_are_bounded() {
        let metrics = Metrics::new();
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
        assert_eq!(count(&metrics.encode(), "outboxd_destination_paused{"), DESTINATIONS_MAX - 1);
    }
}
