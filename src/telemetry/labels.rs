//! What metrics are made of: label sets, buckets, and the one type of metric that is ours.

use std::fmt;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::{MetricType, TypedMetric};

use crate::delivery::FailureClass;

/// 0.5 ms to 60 s, in seconds.
const LATENCY: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// Classes of failures that are shown at zero before the first.
pub(super) const CLASSES: [FailureClass; 4] = [
    FailureClass::Unavailable,
    FailureClass::Rejected,
    FailureClass::Failed,
    FailureClass::TimedOut,
];

/// A gauge's value.
pub(super) fn whole(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RouteLabels {
    pub(super) transport: String,
    pub(super) route: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct FailedLabels {
    pub(super) transport: String,
    pub(super) route: String,
    pub(super) class: &'static str,
}

impl FailedLabels {
    pub(super) fn new(transport: &str, route: &str, class: FailureClass) -> Self {
        Self {
            transport: transport.to_owned(),
            route: route.to_owned(),
            class: class.as_str(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
pub(super) struct AttemptLabels {
    pub(super) transport: String,
    pub(super) class: &'static str,
    pub(super) code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct TransportLabels {
    pub(super) transport: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
pub(super) struct DestinationLabels {
    pub(super) transport: String,
    pub(super) destination: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct StateLabels {
    pub(super) state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReasonLabels {
    pub(super) reason: &'static str,
}

/// A counter written without a counter's type: `outboxd_messages_failed_total` and the gauge `outboxd_messages_failed`
/// would otherwise be one family in OpenMetrics, which forbids that.
#[derive(Clone, Debug, Default)]
pub(super) struct Untyped(pub(super) Counter);

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

pub(super) type Float = Gauge<f64, AtomicU64>;

pub(super) type LatencyFamily<L> = Family<L, Histogram, fn() -> Histogram>;

pub(super) fn latency() -> Histogram {
    Histogram::new(LATENCY)
}
