//! One topic: whether it is there, its limits, whether it is handled with care, and what is stuck on its way to it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::admin::ConfigResource;
use rdkafka::types::RDKafkaErrorCode as Code;

use crate::delivery::{Failure, FailureClass};
use crate::lock::lock;

/// Limits are read again after this long, and after failing to read them (no permission, broker busy) a bit earlier.
pub(super) const REFRESH: Duration = Duration::from_secs(300);
const REFRESH_UNKNOWN: Duration = Duration::from_secs(60);
/// ... and after this long by a probe, or where the topic was not there.
pub(super) const REFRESH_PROBED: Duration = Duration::from_millis(500);
/// How long a topic is handled with care after the broker refused a record set.
const CARE: Duration = Duration::from_secs(60);
/// Who asks within so long after somebody else gets the same answer.
const VERDICT_FOR: Duration = Duration::from_secs(1);

/// A topic with its name.
pub(super) type Named<'a> = (&'a Arc<str>, &'a Arc<Topic>);

/// Limits of a topic; `None` where unknown.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits {
    /// `max.message.bytes`: the largest record set.
    pub(super) message_bytes: Option<u64>,
    /// `min.insync.replicas`.
    pub(super) in_sync: Option<usize>,
}

/// One topic.
#[derive(Debug, Default)]
pub(super) struct Topic {
    stuck: AtomicUsize,
    limits: Mutex<Option<(Instant, Limits)>>,
    /// Of these, the one that every message is compared with; none where it is 0.
    message_bytes: AtomicU64,
    careful: Mutex<Option<Instant>>,
    /// It was handled with care at some time: `careful` says when.
    was_careful: AtomicBool,
    missing: AtomicBool,
    verdict: tokio::sync::Mutex<Option<(Instant, Verdict)>>,
}

/// What came of asking whether a topic takes messages.
type Verdict = Result<(), Failure>;

impl Topic {
    pub(super) fn add_stuck(&self) {
        self.stuck.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn remove_stuck(&self) {
        self.stuck.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether any message is.
    pub(super) fn has_stuck(&self) -> bool {
        self.stuck.load(Ordering::Acquire) > 0
    }

    /// While earlier messages are neither acknowledged nor given up, sending more would only make copies.
    pub(super) fn stuck(&self) -> Option<Failure> {
        let count = self.stuck.load(Ordering::Acquire);
        (count > 0).then(|| {
            let error = format!("{count} messages sent earlier to this kafka topic are still unanswered");
            Failure::new(FailureClass::Unavailable, "STUCK", error)
        })
    }

    /// From now on, for a while: one record a request, one message of a key at a time.
    pub(super) fn handle_with_care(&self) {
        *lock(&self.careful) = Some(Instant::now());
        self.was_careful.store(true, Ordering::Release);
    }

    /// Whether a record set was refused lately.
    pub(super) fn is_careful(&self) -> bool {
        // Asked for every message, and hardly ever true.
        self.was_careful.load(Ordering::Acquire) && lock(&self.careful).is_some_and(|since| since.elapsed() < CARE)
    }

    /// Whether the brokers did not know it when they were last asked: what is sent to it waits in librdkafka, for nobody.
    pub(super) fn is_missing(&self) -> bool {
        self.missing.load(Ordering::Relaxed)
    }

    /// The largest record set it takes, as last read.
    pub(super) fn message_limit(&self) -> Option<u64> {
        Some(self.message_bytes.load(Ordering::Relaxed)).filter(|bytes| *bytes > 0)
    }

    /// Whether its settings were told when they were last asked for.
    pub(super) fn has_settings(&self) -> bool {
        self.message_limit().is_some()
    }

    /// The brokers do not know it, or a message came back for want of it.
    pub(super) fn is_gone(&self) {
        self.missing.store(true, Ordering::Relaxed);
    }

    /// A message to it was acknowledged, or the brokers say that it is there.
    pub(super) fn exists(&self) {
        if self.is_missing() {
            self.missing.store(false, Ordering::Relaxed);
        }
    }

    /// The last verdict, or what comes of `asking` now. One asks at a time; after `patience` there is none.
    pub(super) async fn verdict(&self, patience: Duration, asking: impl Future<Output = Verdict>) -> Option<Verdict> {
        let mut last = tokio::time::timeout(patience, self.verdict.lock()).await.ok()?;
        if let Some((at, verdict)) = &*last
            && at.elapsed() < VERDICT_FOR
        {
            return Some(verdict.clone());
        }
        let verdict = asking.await;
        *last = Some((Instant::now(), verdict.clone()));
        Some(verdict)
    }

    /// What the brokers answered to the question about its settings; `None`: nothing. Of a topic that is not there, and of one
    /// whose settings may not be read, rdkafka answers none.
    pub(super) fn note(&self, answer: Option<Result<ConfigResource, Code>>) {
        let limits = match answer {
            Some(Ok(ref settings)) => {
                let read = |key: &str| settings.get(key).and_then(|entry| entry.value.as_deref());
                Limits {
                    message_bytes: read("max.message.bytes").and_then(|value| value.parse().ok()),
                    in_sync: read("min.insync.replicas").and_then(|value| value.parse().ok()),
                }
            }
            Some(Err(_)) | None => Limits {
                message_bytes: None,
                ..self.limits()
            },
        };
        self.message_bytes
            .store(limits.message_bytes.unwrap_or(0), Ordering::Relaxed);
        *lock(&self.limits) = Some((Instant::now(), limits));
    }

    /// The limits as last read.
    pub(super) fn limits(&self) -> Limits {
        lock(&self.limits).map_or_else(Limits::default, |(_, limits)| limits)
    }

    /// Whether its limits need not be read (again).
    pub(super) fn is_known(&self) -> bool {
        self.is_fresh(REFRESH)
    }

    pub(super) fn is_read_since(&self, then: Instant) -> bool {
        let limits = lock(&self.limits);
        limits.is_some_and(|(read, _)| read >= then)
    }

    pub(super) fn is_fresh(&self, age_max: Duration) -> bool {
        // It may have been made since: whoever sends to it again is a reason to ask.
        let age_max = if self.is_missing() {
            age_max.min(REFRESH_PROBED)
        } else {
            age_max
        };
        lock(&self.limits).is_some_and(|(read, limits)| {
            let known = limits.message_bytes.is_some();
            read.elapsed() < age_max.min(if known { REFRESH } else { REFRESH_UNKNOWN })
        })
    }
}
