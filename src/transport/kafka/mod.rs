//! Kafka, through librdkafka's idempotent producer with `acks=all`.
//!
//! `publish` hands a batch to a producer and waits for its delivery reports (`flight`, `session`); librdkafka
//! retries what is transient, until `ack_timeout`. Three producers: the main one sends record sets almost at once, the bulk
//! one (made when needed) gathers larger ones while much is under way (half the CPU per message), the single one (made when
//! needed) sends every record alone. A key has one batch under way, so it never is with two of them at a time.
//!
//! **Prefix per key.** [`Order::Strict`](crate::delivery::Order) goes one message at a time. With `Order::Key` the
//! messages of a key are pipelined: one key is one partition, librdkafka keeps a partition's order through its retries,
//! and the sequence numbers of the idempotent producer make the broker refuse what comes after a gap. What does not stop
//! the later ones is a gap librdkafka accepts itself:
//! - *A message expires* (`message.timeout.ms`, three times `ack_timeout`). By then its batch was answered: all of its
//!   key's open messages as timed out. The topic takes nothing more until librdkafka is done with all of them ("stuck"),
//!   so copies cannot pile up and no new message enters between. Messages of one batch are handed over within
//!   milliseconds and expire in one-second scans: only if a scan falls between two of a key and the partition comes back
//!   within that very second, after being away for all that time, the later one arrives first.
//! - *The broker refuses a record set for good.* Records too large for the topic, which is the usual cause, are rejected
//!   before they are sent (`max.message.bytes` is read from the topic). Otherwise all records of a refused set are sent
//!   once more, alone, so that only the guilty are refused, and for a minute the topic goes one record a request and one
//!   message of a key at a time. So the window is the first refused set: record sets with later messages of its keys that
//!   were on their way already (five at most per broker).
//!
//! **Outages.** librdkafka reports brokers that are down or refuse the password only on the side (`health`); while that
//! is so, `publish` answers `Unavailable` at once. A message without a report after `ack_timeout` is `TimedOut`, or
//! `Unavailable` when the brokers are known to be down. Replicas missing, or a partition without leader, is found by
//! [`Transport::probe`].
//!
//! A producer that met a fatal error is replaced by the next `publish`. [`Transport::abandon`] purges the producers and
//! replaces them. Shutdown flushes what is left, for at most `ack_timeout`.

pub mod config;

mod classify;
mod flight;
mod health;
mod inspect;
pub mod record;
mod session;
mod topics;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::metadata::Metadata;
use rdkafka::types::RDKafkaErrorCode as Code;

pub use classify::classify;

use self::classify::code_name;
use self::config::KafkaConfig;
use self::flight::Flight;
use self::health::Health;
use self::session::Session;
use self::topics::{Limits, Topics};
use super::{ConnectError, Envelope, Probe, Transport, Use};
use crate::delivery::{Failure, FailureClass, Outcome};
use crate::finding::Finding;

/// A Kafka transport. See the module.
#[derive(Debug)]
pub struct Kafka {
    main: Slot,
    /// `None`: the operator has set `linger.ms`, and that is what counts.
    bulk: Option<Slot>,
    single: Slot,
    /// Messages of all batches under way.
    under_way: AtomicUsize,
    health: Arc<Health>,
    topics: Topics,
    id_header: String,
    ack_timeout: Duration,
    compresses: bool,
    batch_bytes: u64,
}

/// More messages under way than this, and record sets are gathered for [`BULK_LINGER`]: nobody waits for milliseconds then.
const MUCH: usize = 1_000;
/// Milliseconds, as librdkafka reads them. librdkafka has one request to a partition under way, and its thread polls without
/// rest while more messages of it wait longer than this: so it is to be about as long as a busy broker takes to answer.
const BULK_LINGER: &str = "5";

/// Messages counted as under way until dropped.
struct UnderWay<'a>(&'a AtomicUsize, usize);

impl<'a> UnderWay<'a> {
    fn count(all: &'a AtomicUsize, messages: usize) -> Self {
        all.fetch_add(messages, Ordering::Relaxed);
        Self(all, messages)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// A producer that is made when first needed and replaced when dead.
#[derive(Debug)]
struct Slot {
    config: ClientConfig,
    health: Arc<Health>,
    session: Mutex<Option<Arc<Session>>>,
}

impl Slot {
    fn new(config: ClientConfig, health: &Arc<Health>) -> Self {
        Self {
            config,
            health: Arc::clone(health),
            session: Mutex::default(),
        }
    }

    fn get(&self) -> Result<Arc<Session>, Failure> {
        let mut slot = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = &*slot
            && !session.is_dead()
        {
            return Ok(Arc::clone(session));
        }
        let session = Session::new(&self.config, Arc::clone(&self.health))
            .map(Arc::new)
            .map_err(|error| {
                Failure::new(
                    FailureClass::Unavailable,
                    "CLIENT",
                    format!("cannot make a kafka producer: {error}"),
                )
            })?;
        retire(slot.replace(Arc::clone(&session)));
        Ok(session)
    }

    /// Whether it may be used without waiting; makes it where there is none.
    fn is_warm(&self) -> bool {
        self.get().is_ok_and(|session| session.is_warm())
    }

    fn take(&self) -> Option<Arc<Session>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Purges a producer and ends it on a thread of its own: librdkafka joins its threads, which must not hold anybody up.
fn retire(session: Option<Arc<Session>>) {
    let Some(session) = session else { return };
    session.purge();
    let ended = std::thread::Builder::new()
        .name("kafka-retire".to_owned())
        .spawn(move || drop(session));
    if let Err(error) = ended {
        tracing::warn!(%error, "no thread to end a kafka producer: it was ended in place");
    }
}

impl Kafka {
    /// A transport for `config`. Connects in the background: brokers that are away are waited for.
    ///
    /// # Errors
    /// Only what is wrong in the configuration of transport `name`.
    pub async fn connect(name: &str, config: &KafkaConfig) -> Result<Self, ConnectError> {
        let client = config.client(name)?;
        let health = Arc::new(Health::new(config.blame(name)));
        let mut single = client.clone();
        single.set("batch.num.messages", "1").set("linger.ms", "0");
        let mut bulk = client.clone();
        bulk.set("linger.ms", BULK_LINGER);
        let kafka = Self {
            main: Slot::new(client.clone(), &health),
            bulk: (!config.sets_linger()).then(|| Slot::new(bulk, &health)),
            under_way: AtomicUsize::new(0),
            single: Slot::new(single, &health),
            health: Arc::clone(&health),
            topics: Topics::new(&client),
            id_header: config.id_header.clone(),
            ack_timeout: config.ack_timeout,
            compresses: config.compresses(),
            batch_bytes: config.batch_bytes(),
        };
        // Made at once: the first message is not to wait for it.
        let session = Session::new(&client, health).map_err(|error| config::client_error(name, &error))?;
        *kafka.main.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(session));
        Ok(kafka)
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        [&self.main, &self.single].into_iter().chain(&self.bulk)
    }

    /// The producer for a batch: while much is under way, larger record sets count for more than milliseconds.
    fn main(&self) -> &Slot {
        match &self.bulk {
            Some(bulk) if self.under_way.load(Ordering::Relaxed) > MUCH && bulk.is_warm() => bulk,
            Some(_) | None => &self.main,
        }
    }

    /// How long to wait for a topic's limits before sending without knowing them.
    fn patience(&self) -> Duration {
        (self.ack_timeout / 4).min(Duration::from_secs(1))
    }

    /// What the brokers say of `topic`; without one, of all they have.
    async fn metadata(&self, topic: Option<&str>) -> Result<Metadata, Failure> {
        let client_failure = |error: KafkaError| {
            let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
            let subject = topic.map_or_else(String::new, |topic| format!(" about topic {topic:?}"));
            let failure = Failure::new(
                classify(code),
                code_name(code),
                format!("cannot ask kafka{subject}: {error}"),
            );
            self.health.outage().unwrap_or(failure)
        };
        let asking = self.topics.asking().map_err(client_failure)?;
        let (name, timeout) = (topic.map(str::to_owned), self.ack_timeout);
        tokio::task::spawn_blocking(move || asking.client.inner().fetch_metadata(name.as_deref(), timeout))
            .await
            .expect("fetch_metadata does not panic")
            .map_err(client_failure)
    }
}

/// Whether every partition of `topic` could take messages.
fn judge(topic: &str, metadata: &Metadata, limits: Limits) -> Result<(), Failure> {
    let unavailable = |code: Code, what: String| {
        let error = format!("kafka topic {topic:?} {what}");
        Err(Failure::new(FailureClass::Unavailable, code_name(code), error))
    };
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
        return unavailable(Code::UnknownTopicOrPartition, "does not exist".to_owned());
    };
    if let Some(error) = found.error() {
        let code = Code::from(error);
        let error = format!("kafka topic {topic:?}: {}", KafkaError::MetadataFetch(code));
        return Err(Failure::new(classify(code), code_name(code), error));
    }
    if found.partitions().is_empty() {
        return unavailable(Code::UnknownTopicOrPartition, "has no partitions".to_owned());
    }
    for partition in found.partitions() {
        if partition.leader() < 0 {
            return unavailable(
                Code::LeaderNotAvailable,
                format!("partition {} has no leader", partition.id()),
            );
        }
        let in_sync = partition.isr().len();
        // Brokers since KIP-966 ask for no more replicas than a partition has.
        let possible = partition.replicas().len();
        if limits.in_sync.is_some_and(|needed| in_sync < needed.min(possible)) {
            let what = format!(
                "partition {} has {in_sync} replicas in sync, fewer than min.insync.replicas",
                partition.id()
            );
            return unavailable(Code::NotEnoughReplicas, what);
        }
    }
    Ok(())
}

/// What a record holds beside what [`Message::size`](crate::message::Message::size) counts: lengths, the id's header.
const AROUND_MAX: u64 = 4_096;

impl Kafka {
    /// Bytes of a record that is larger than its topic's limit, as last read, and that limit. Compressed, it may fit after all.
    fn exceeds(&self, envelope: &Envelope, topic: &topics::Topic) -> Option<(u64, u64)> {
        let limit = topic.limits().message_bytes.filter(|_| !self.compresses)?;
        // Hardly any comes near it: they are not measured.
        if envelope.message.size() as u64 + AROUND_MAX <= limit {
            return None;
        }
        let size = record::size(envelope, &self.id_header, &envelope.message.id.to_string());
        (size > limit).then_some((size, limit))
    }
}

#[async_trait]
impl Transport for Kafka {
    async fn publish(&self, batch: &[Envelope]) -> Vec<Outcome> {
        if let Some(failure) = self.health.outage() {
            return vec![Outcome::Refused(failure); batch.len()];
        }
        let mut topics = Vec::with_capacity(batch.len());
        for (index, envelope) in batch.iter().enumerate() {
            if index > 0 && batch[index - 1].destination == envelope.destination {
                topics.push(Arc::clone(&topics[index - 1]));
                continue;
            }
            let topic = self.topics.get(&envelope.destination);
            if record::check_topic(&envelope.destination).is_ok() {
                self.topics.learn(&envelope.destination, &topic, self.patience()).await;
            }
            topics.push(topic);
        }
        for (envelope, topic) in batch.iter().zip(&topics) {
            // An operator may have raised the limit since: who is turned away by it is turned away by today's.
            if self.exceeds(envelope, topic).is_some() {
                let patience = self.patience();
                self.topics.learn_anew(&envelope.destination, topic, patience).await;
            }
        }
        let _counted = UnderWay::count(&self.under_way, batch.len());
        Flight::new(self, batch, topics, false).run().await
    }

    async fn probe(&self, destination: &str) -> Result<Probe, Failure> {
        record::check_topic(destination)?;
        let metadata = self.metadata(Some(destination)).await?;
        let topic = self.topics.get(&destination.into());
        self.topics.learn_anew(destination, &topic, self.patience()).await;
        judge(destination, &metadata, topic.limits())?;
        self.health.success();
        topic.stuck().map_or(Ok(Probe::Ready), Err)
    }

    async fn inspect(&self, uses: &[Use]) -> Result<Vec<Finding>, Failure> {
        self.look(uses).await
    }

    fn abandon(&self) {
        for slot in self.slots() {
            retire(slot.take());
        }
    }

    async fn close(&self) {
        let sessions: Vec<Arc<Session>> = self.slots().filter_map(Slot::take).collect();
        let until = Instant::now() + self.ack_timeout;
        let ended = tokio::task::spawn_blocking(move || {
            for session in &sessions {
                if let Err(error) = session.flush(until.saturating_duration_since(Instant::now())) {
                    tracing::warn!(%error, "kafka producer closed with messages unsent");
                }
                session.purge();
                session.end();
            }
        });
        ended.await.expect("closing a producer does not panic");
    }
}
