//! What the brokers are asked beside producing: the topics there are, settings. By a client of its own, which never makes a broker
//! create a topic.

use std::sync::atomic::{AtomicU64, Ordering};
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

use crate::lock::lock;

/// Questions that block a thread each, at a time: thousands of topics may be asked about at once.
const AT_A_TIME: usize = 4;

/// The callbacks of the client that asks questions: the producer's say the same, once.
#[derive(Debug)]
struct Quiet;

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

/// The client. Idle, its threads would cost more than the relay
/// itself, so it ends when nobody has asked for a while.
struct Asking {
    client: AdminClient<Quiet>,
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

/// See the module.
pub(super) struct Questions {
    config: ClientConfig,
    asking: Mutex<Weak<Asking>>,
    turns: Arc<Semaphore>,
}

impl Questions {
    /// `config`: the producer's settings; `patience`: milliseconds within which a broker that lives answers.
    pub(super) fn new(config: &ClientConfig, patience: u128) -> Self {
        let mut config = config.clone();
        config.set("allow.auto.create.topics", "false");
        config.set("socket.timeout.ms", patience.to_string());
        Self {
            config,
            asking: Mutex::default(),
            turns: Arc::new(Semaphore::new(AT_A_TIME)),
        }
    }

    /// What the brokers say of `topic`, or of all topics, within `patience`.
    pub(super) async fn metadata(&self, topic: Option<&str>, patience: Duration) -> Result<Metadata, KafkaError> {
        let until = tokio::time::Instant::now() + patience;
        let none_left = |_| KafkaError::MetadataFetch(Code::TimedOutQueue);
        let turn = timeout_at(until, Arc::clone(&self.turns).acquire_owned()).await;
        let turn = turn.map_err(none_left)?.expect("it is never closed");
        let (asking, name) = (self.client()?, topic.map(str::to_owned));
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
    fn client(&self) -> Result<Arc<Asking>, KafkaError> {
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

    /// The settings of these topics, in their order; `None` where they cannot be had.
    pub(super) async fn describe(
        &self,
        names: &[&str],
        patience: Duration,
    ) -> Option<Vec<Result<ConfigResource, Code>>> {
        let asking = self.client().ok()?;
        let options = AdminOptions::new().request_timeout(Some(patience));
        let topics: Vec<_> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
        asking.client.describe_configs(&topics, &options).await.ok()
    }

    /// Whether this broker makes a topic that somebody sends to; `None`: it does not say.
    pub(super) async fn makes_topics(&self, broker: i32, patience: Duration) -> Option<bool> {
        let asking = self.client().ok()?;
        let options = AdminOptions::new().request_timeout(Some(patience));
        let broker = [ResourceSpecifier::Broker(broker)];
        let described = asking.client.describe_configs(&broker, &options).await;
        let settings = described.ok()?.into_iter().next()?.ok()?;
        let value = settings.get("auto.create.topics.enable")?.value.as_deref()?;
        value.parse().ok()
    }
}
