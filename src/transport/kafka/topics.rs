//! What is known of each topic: whether it is there, its limits, whether it is handled with care, and what is stuck on its way
//! to it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, ResourceSpecifier};
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::metadata::Metadata;
use rdkafka::types::RDKafkaErrorCode as Code;
use tokio::sync::Semaphore;
use tokio::time::timeout_at;

use super::creation::Creation;
use crate::delivery::{Failure, FailureClass};
use crate::lock::lock;

/// Limits are read again after this long, and after failing to read them (no permission, broker busy) a bit earlier.
const REFRESH: Duration = Duration::from_secs(300);
const REFRESH_UNKNOWN: Duration = Duration::from_secs(60);
/// ... and after this long by a probe, or where the topic was not there.
const REFRESH_PROBED: Duration = Duration::from_millis(500);
/// How long a topic is handled with care after the broker refused a record set.
const CARE: Duration = Duration::from_secs(60);
/// Topics remembered; destination templates can make any number.
const REMEMBERED: usize = 10_000;
/// Questions that block a thread each, at a time: thousands of topics may be asked about at once.
const QUESTIONS: usize = 4;
/// Topics in one question about settings: the answer is some kilobytes for each.
const ASKED_AT_ONCE: usize = 200;
/// Who asks within so long after somebody else gets the same answer.
const VERDICT_FOR: Duration = Duration::from_secs(1);

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
    fn has_settings(&self) -> bool {
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
    fn note(&self, answer: Option<Result<ConfigResource, Code>>) {
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

    fn is_read_since(&self, then: Instant) -> bool {
        let limits = lock(&self.limits);
        limits.is_some_and(|(read, _)| read >= then)
    }

    fn is_fresh(&self, age_max: Duration) -> bool {
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
    questions: Arc<Semaphore>,
    learning: tokio::sync::Mutex<()>,
    /// To be asked about with the next question.
    wanted: Mutex<HashMap<Arc<str>, Arc<Topic>>>,
    pub(super) creation: Creation,
}

impl std::fmt::Debug for Topics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Topics").finish_non_exhaustive()
    }
}

impl Topics {
    /// `config`: the producer's settings; `patience`: milliseconds within which a broker that lives answers.
    pub(super) fn new(config: &ClientConfig, patience: u128) -> Self {
        let mut config = config.clone();
        config.set("allow.auto.create.topics", "false");
        config.set("socket.timeout.ms", patience.to_string());
        Self {
            known: Mutex::default(),
            config,
            asking: Mutex::default(),
            questions: Arc::new(Semaphore::new(QUESTIONS)),
            learning: tokio::sync::Mutex::default(),
            wanted: Mutex::default(),
            creation: Creation::default(),
        }
    }

    /// What the brokers say of `topic`, or of all topics, within `patience`.
    pub(super) async fn metadata(&self, topic: Option<&str>, patience: Duration) -> Result<Metadata, KafkaError> {
        let until = tokio::time::Instant::now() + patience;
        let none_left = |_| KafkaError::MetadataFetch(Code::TimedOutQueue);
        let turn = timeout_at(until, Arc::clone(&self.questions).acquire_owned()).await;
        let turn = turn.map_err(none_left)?.expect("it is never closed");
        let (asking, name) = (self.asking()?, topic.map(str::to_owned));
        let ask = move || {
            // Held by the thread: it may outlive whoever asked.
            let _turn = turn;
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            asking.client.inner().fetch_metadata(name.as_deref(), left)
        };
        tokio::task::spawn_blocking(ask)
            .await
            .expect("fetch_metadata does not panic")
    }

    /// The client that asks questions, made where there is none.
    pub(super) fn asking(&self) -> Result<Arc<Asking>, KafkaError> {
        let mut kept = lock(&self.asking);
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
        let mut known = lock(&self.known);
        if let Some(topic) = known.get(name) {
            return Arc::clone(topic);
        }
        if known.len() >= REMEMBERED {
            known.retain(|_, topic| topic.stuck.load(Ordering::Acquire) > 0 || Arc::strong_count(topic) > 1);
        }
        Arc::clone(known.entry(Arc::clone(name)).or_default())
    }

    /// Reads the limits of `topics` unless they are known; after `patience` it goes on without.
    pub(super) async fn learn(&self, topics: &[Named<'_>], patience: Duration) {
        self.learn_within(topics, patience, REFRESH).await;
    }

    /// The same, for somebody who looks because something is wrong: an operator may have changed them just now.
    pub(super) async fn learn_anew(&self, topics: &[Named<'_>], patience: Duration) {
        self.learn_within(topics, patience, REFRESH_PROBED).await;
    }

    /// One question is asked at a time, about all that anybody wants to know by then: many batches may meet new topics at once.
    async fn learn_within(&self, topics: &[Named<'_>], patience: Duration, age_max: Duration) {
        let began = Instant::now();
        let is_stale = |topic: &Topic| !topic.is_fresh(age_max) && !topic.is_read_since(began);
        let stale = || topics.iter().filter(|(_, topic)| is_stale(topic));
        let want = || {
            let mut wanted = lock(&self.wanted);
            wanted.extend(stale().map(|(name, topic)| (Arc::clone(name), Arc::clone(topic))));
        };
        if stale().next().is_none() {
            return;
        }
        want();
        let until = tokio::time::Instant::now() + patience;
        while stale().next().is_some() {
            let Ok(_turn) = timeout_at(until, self.learning.lock()).await else {
                return;
            };
            if stale().next().is_none() {
                return;
            }
            // Again, should whoever asked about them have been dropped meanwhile.
            want();
            let asked = self.take_wanted();
            let names: Vec<&str> = asked.iter().map(|(name, _)| &**name).collect();
            let answers = timeout_at(until, self.describe(&names, patience)).await;
            // In the order of the questions: librdkafka sees to that.
            let mut answers = answers.ok().flatten().unwrap_or_default().into_iter();
            for (_, topic) in &asked {
                topic.note(answers.next());
            }
            let (known, silent): (Vec<_>, Vec<_>) = asked.into_iter().partition(|(_, topic)| topic.has_settings());
            known.iter().for_each(|(_, topic)| topic.exists());
            if !silent.is_empty() {
                self.learn_missing(&silent, until).await;
            }
        }
    }

    fn take_wanted(&self) -> Vec<(Arc<str>, Arc<Topic>)> {
        let mut wanted = lock(&self.wanted);
        let names: Vec<Arc<str>> = wanted.keys().take(ASKED_AT_ONCE).cloned().collect();
        names
            .into_iter()
            .filter_map(|name| wanted.remove_entry(&name))
            .collect()
    }

    /// All settings of the topic called `name`; `None` where they cannot be had.
    pub(super) async fn settings(&self, name: &str, patience: Duration) -> Option<ConfigResource> {
        self.describe(&[name], patience).await?.into_iter().next()?.ok()
    }

    async fn describe(&self, names: &[&str], patience: Duration) -> Option<Vec<Result<ConfigResource, Code>>> {
        let asking = self.asking().ok()?;
        let options = AdminOptions::new().request_timeout(Some(patience));
        let topics: Vec<_> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
        asking.client.describe_configs(&topics, &options).await.ok()
    }
}

/// A topic with its name.
pub(super) type Named<'a> = (&'a Arc<str>, &'a Arc<Topic>);
