//! What is known of each topic: its limits, whether it is handled with care, and what is stuck on its way to it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, ResourceSpecifier};
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::KafkaError;

use crate::delivery::{Failure, FailureClass};

/// Limits are read again after this long, and after failing to read them (no permission, broker busy) a bit earlier.
const REFRESH: Duration = Duration::from_secs(300);
const REFRESH_UNKNOWN: Duration = Duration::from_secs(60);
/// ... and after this long by a probe.
const REFRESH_PROBED: Duration = Duration::from_millis(500);
/// How long a topic is handled with care after the broker refused a record set.
const CARE: Duration = Duration::from_secs(60);
/// Topics remembered; destination templates can make any number.
const REMEMBERED: usize = 10_000;

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
    careful: Mutex<Option<Instant>>,
    fetching: tokio::sync::Mutex<()>,
}

impl Topic {
    pub(super) fn add_stuck(&self) {
        self.stuck.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn remove_stuck(&self) {
        self.stuck.fetch_sub(1, Ordering::AcqRel);
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
        *self.careful.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether a record set was refused lately.
    pub(super) fn is_careful(&self) -> bool {
        self.careful
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some_and(|since| since.elapsed() < CARE)
    }

    /// The limits as last read.
    pub(super) fn limits(&self) -> Limits {
        self.limits
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .map_or_else(Limits::default, |(_, limits)| limits)
    }

    fn is_fresh(&self, age_max: Duration) -> bool {
        self.limits
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some_and(|(read, limits)| {
                let known = limits.message_bytes.is_some();
                read.elapsed() < age_max.min(if known { REFRESH } else { REFRESH_UNKNOWN })
            })
    }
}

/// The callbacks of the client that asks questions: the producer's say the same, once.
#[derive(Debug)]
pub(super) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::trace!("librdkafka {facility}: {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, "librdkafka: {reason}");
    }
}

/// How long the client that asks questions is kept without one.
const KEPT: Duration = Duration::from_secs(10);

/// A client that asks questions. It never makes a broker create a topic. Idle, its threads would cost more than the relay
/// itself, so it ends when nobody has asked for a while.
pub(super) struct Asking {
    pub(super) client: AdminClient<Quiet>,
    made: Instant,
    /// When it was wanted last, in seconds since it was made.
    used: AtomicU64,
}

impl Asking {
    fn is_wanted(&self) -> bool {
        let used = Duration::from_secs(self.used.load(Ordering::Relaxed));
        self.made.elapsed().saturating_sub(used) < KEPT
    }
}

/// All topics met so far.
pub(super) struct Topics {
    known: Mutex<HashMap<Arc<str>, Arc<Topic>>>,
    config: ClientConfig,
    asking: Mutex<Weak<Asking>>,
}

impl std::fmt::Debug for Topics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Topics").finish_non_exhaustive()
    }
}

impl Topics {
    /// `config`: the producer's settings.
    pub(super) fn new(config: &ClientConfig) -> Self {
        let mut config = config.clone();
        config.set("allow.auto.create.topics", "false");
        Self {
            known: Mutex::default(),
            config,
            asking: Mutex::default(),
        }
    }

    /// The client that asks questions, made where there is none.
    pub(super) fn asking(&self) -> Result<Arc<Asking>, KafkaError> {
        let mut kept = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asking) = kept.upgrade() {
            asking.used.store(asking.made.elapsed().as_secs(), Ordering::Relaxed);
            return Ok(asking);
        }
        let asking = Arc::new(Asking {
            client: AdminClient::from_config_and_context(&self.config, Quiet)?,
            made: Instant::now(),
            used: AtomicU64::new(0),
        });
        let keep = Arc::clone(&asking);
        // Its end joins threads of librdkafka, which must not hold anybody up.
        let thread = std::thread::Builder::new().name("kafka-asking".to_owned());
        let kept_by = thread.spawn(move || {
            while keep.is_wanted() {
                std::thread::sleep(KEPT);
            }
        });
        if kept_by.is_ok() {
            *kept = Arc::downgrade(&asking);
        }
        Ok(asking)
    }

    /// The topic called `name`.
    pub(super) fn get(&self, name: &Arc<str>) -> Arc<Topic> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(topic) = known.get(name) {
            return Arc::clone(topic);
        }
        if known.len() >= REMEMBERED {
            known.retain(|_, topic| topic.stuck.load(Ordering::Acquire) > 0 || Arc::strong_count(topic) > 1);
        }
        Arc::clone(known.entry(Arc::clone(name)).or_default())
    }

    /// Reads the limits of `topic` unless they are known; after `patience` it goes on without.
    pub(super) async fn learn(&self, name: &str, topic: &Topic, patience: Duration) {
        self.learn_within(name, topic, patience, REFRESH).await;
    }

    /// The same, for somebody who looks because something is wrong: an operator may have changed them just now.
    pub(super) async fn learn_anew(&self, name: &str, topic: &Topic, patience: Duration) {
        self.learn_within(name, topic, patience, REFRESH_PROBED).await;
    }

    async fn learn_within(&self, name: &str, topic: &Topic, patience: Duration, age_max: Duration) {
        if topic.is_fresh(age_max) {
            return;
        }
        let _one_at_a_time = topic.fetching.lock().await;
        if topic.is_fresh(age_max) {
            return;
        }
        let limits = match tokio::time::timeout(patience, self.describe(name, patience)).await {
            Ok(Some(limits)) => limits,
            Ok(None) | Err(_) => Limits {
                message_bytes: None,
                ..topic.limits()
            },
        };
        *topic.limits.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), limits));
    }

    async fn describe(&self, name: &str, patience: Duration) -> Option<Limits> {
        let resource = self.settings(name, patience).await?;
        let read = |key: &str| resource.get(key).and_then(|entry| entry.value.clone());
        Some(Limits {
            message_bytes: read("max.message.bytes").and_then(|value| value.parse().ok()),
            in_sync: read("min.insync.replicas").and_then(|value| value.parse().ok()),
        })
    }

    /// All settings of the topic called `name`; `None` where they cannot be had.
    pub(super) async fn settings(&self, name: &str, patience: Duration) -> Option<ConfigResource> {
        let asking = self.asking().ok()?;
        let options = AdminOptions::new().request_timeout(Some(patience));
        let answer = asking
            .client
            .describe_configs(&[ResourceSpecifier::Topic(name)], &options)
            .await
            .ok()?;
        answer.into_iter().next()?.ok()
    }
}
