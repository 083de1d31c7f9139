//! Kafka, through librdkafka's idempotent producer with `acks=all`.
//!
//! `publish` hands a batch to a producer and waits for its delivery reports (`flight`, `session`); librdkafka
//! retries what is transient, for as long as it holds a message. Three producers: the main one sends record sets almost at
//! once, the bulk one (made when needed) gathers larger ones while much is under way (half the CPU per message), the single one
//! (made when needed) sends every record alone. A key has one batch under way, so it never is with two of them at a time.
//!
//! **Slow is not dead.** librdkafka is given about as much as brokers answer for within a moment (`flow`); the
//! rest stays in the batch and, when its time to be sent is over, goes with a later one (`Withheld`). A broker whose quota is
//! used up answers at once and then does not read from that connection until the average is right, which may take far longer
//! than `ack_timeout`. So what librdkafka holds is waited for as long as the brokers say that they are there
//! (`flight::overdue`), until librdkafka gives up (`message.timeout.ms`, two minutes or more). In Kafka a message never times
//! out for its own sake: the broker appends a record set or refuses it with a code, and the requests of a connection are
//! answered in their order, whatever they hold. Silence is a broker, a leader, a replica or a network that is away or slow, for
//! all alike. So no time-out here is ever a message's failure, and none is counted.
//!
//! **Prefix per key.** [`Order::Strict`](crate::delivery::Order) goes one message at a time. With `Order::Key` the
//! messages of a key are pipelined: one key is one partition, librdkafka keeps a partition's order through its retries,
//! and the sequence numbers of the idempotent producer make the broker refuse what comes after a gap. What does not stop
//! the later ones is a gap librdkafka accepts itself:
//! - *A message expires* (`message.timeout.ms`). Under a quota it does not: what waits in librdkafka goes within seconds. In an
//!   outage its batch was answered long before: all of its key's open messages as unavailable. The topic takes nothing more
//!   until librdkafka is done with all of them ("stuck"), so copies cannot pile up and no new message enters between. Messages
//!   of one batch are handed over within half of `ack_timeout` and expire in one-second scans: only if a scan falls between two
//!   of a key and the partition comes back before the next, after being away for two minutes, the later one arrives first.
//! - *The broker refuses a record set for good.* Records too large for the topic, which is the usual cause, are rejected
//!   before they are sent (`max.message.bytes` is read from the topic). Otherwise all records of a refused set are sent
//!   once more, alone, so that only the guilty are refused, and for a minute the topic goes one record a request and one
//!   message of a key at a time. So the window is the first refused set: record sets with later messages of its keys that
//!   were on their way already (five at most per broker).
//!
//! **Outages.** librdkafka reports brokers that are down or refuse the password only on the side (`health`); while that
//! is so, `publish` answers `Unavailable` at once. Replicas missing, or a partition without leader, is found by
//! [`Transport::probe`]. Questions are few at a time, as each takes a thread.
//!
//! A producer that met a fatal error is replaced by the next `publish`. [`Transport::abandon`] purges the producers and
//! replaces them. What they still hold at the end was answered as unavailable and will be sent again: it is purged.

pub mod config;
mod creation;

mod asking;
mod classify;
mod flight;
mod health;
mod inspect;
mod questions;
pub mod record;
mod session;
mod slot;
mod topic;
mod topics;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::config::FromClientConfig;
use rdkafka::producer::BaseProducer;
use tokio::time::Instant;

pub use classify::classify;

use self::asking::judge;
use self::config::KafkaConfig;
use self::flight::Flight;
use self::health::Health;
use self::session::Session;
use self::slot::{Slot, retire};
use self::topic::{Limits, Named, Topic};
use self::topics::Topics;
use super::flow::{Flow, moment};
use super::settings::Settings;
use super::{ConnectError, Envelope, Probe, Transport, Use};
use crate::delivery::{Failure, Outcome};
use crate::finding::Finding;
use crate::lock::lock;
use crate::repeat::SharedRepeat;

/// A Kafka transport. See the module.
#[derive(Debug)]
pub struct Kafka {
    main: Slot,
    /// `None`: the operator has set `linger.ms`, and that is what counts.
    bulk: Option<Slot>,
    single: Slot,
    /// Messages of all batches under way.
    under_way: AtomicUsize,
    /// How often the lease was lost.
    tenure: AtomicUsize,
    health: Arc<Health>,
    topics: Topics,
    flow: Arc<Flow>,
    /// When the brokers last said that some topic takes messages.
    heard: Mutex<Option<Instant>>,
    slow: SharedRepeat,
    id_header: String,
    ack_timeout: Duration,
    message_timeout: Duration,
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

#[async_trait]
impl Settings for KafkaConfig {
    fn kind(&self) -> &'static str {
        "kafka"
    }

    fn validate(&self, name: &str) -> Result<(), ConnectError> {
        // librdkafka looks at its own settings when a client is made.
        let made = BaseProducer::from_config(&self.client(name)?);
        made.map(drop).map_err(|error| config::client_error(name, &error))
    }

    fn ack_timeout(&self) -> Option<Duration> {
        Some(self.ack_timeout)
    }

    fn default_ack_timeout(&mut self) -> Option<&mut Duration> {
        Some(&mut self.ack_timeout).filter(|timeout| **timeout == config::default_ack_timeout())
    }

    fn reserved(&self) -> &'static [&'static str] {
        &["__"]
    }

    async fn connect(&self, name: &str) -> Result<Arc<dyn Transport>, ConnectError> {
        Ok(Arc::new(Kafka::connect(name, self).await?))
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
            tenure: AtomicUsize::new(0),
            single: Slot::new(single, &health),
            health: Arc::clone(&health),
            topics: Topics::new(&client, config.patience()),
            flow: Arc::new(Flow::new(moment(config.ack_timeout))),
            heard: Mutex::default(),
            slow: SharedRepeat::default(),
            id_header: config.id_header.clone(),
            ack_timeout: config.ack_timeout,
            message_timeout: config.message_timeout(),
            compresses: config.compresses(),
            batch_bytes: config.batch_bytes(),
        };
        // Made at once: the first message is not to wait for it.
        let session = Session::new(&client, health).map_err(|error| config::client_error(name, &error))?;
        kafka.main.put(session);
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

    /// Within which answers are to come; also how long to wait for topics' limits before sending without knowing them.
    fn moment(&self) -> Duration {
        moment(self.ack_timeout)
    }

    /// Whether anything was acknowledged since `then`, or the brokers said that it may be: there is somebody to wait for.
    fn is_alive_since(&self, then: Instant) -> bool {
        let heard = *lock(&self.heard);
        heard.is_some_and(|at| at >= then) || self.flow.has_answered_since(then)
    }

    /// No acknowledgement for `span`, of brokers that are there.
    fn say_slow(&self, topic: &str, span: Duration) {
        if let Some(held) = self.slow.pass() {
            tracing::warn!(
                transport = self.health.name(),
                topic,
                held,
                "kafka is slow: it is there, but has acknowledged nothing for {}; messages wait for it (is there a quota, \
                 producer_byte_rate, or a slow disk?)",
                humantime::format_duration(Duration::from_secs(span.as_secs()))
            );
        }
    }

    /// The topics of a batch, with what can be known of them.
    async fn topics(&self, batch: &[Envelope]) -> Vec<Arc<Topic>> {
        let mut topics: Vec<Arc<Topic>> = Vec::with_capacity(batch.len());
        let mut new: Vec<usize> = Vec::new();
        for (index, envelope) in batch.iter().enumerate() {
            if index > 0 && batch[index - 1].destination == envelope.destination {
                topics.push(Arc::clone(&topics[index - 1]));
                continue;
            }
            let topic = self.topics.get(&envelope.destination);
            if !topic.is_known() && record::check_topic(&envelope.destination).is_ok() {
                new.push(index);
            }
            topics.push(topic);
        }
        let named = |index: &usize| -> Named<'_> { (&batch[*index].destination, &topics[*index]) };
        let unknown: Vec<Named<'_>> = new.iter().map(named).collect();
        self.topics.learn(&unknown, self.moment()).await;
        // An operator may have raised a limit since: who is turned away by it is turned away by today's.
        let large = (0..batch.len()).filter(|index| self.exceeds(&batch[*index], &topics[*index]).is_some());
        let large: Vec<usize> = large.collect();
        let large: Vec<Named<'_>> = large.iter().map(named).collect();
        self.topics.learn_anew(&large, self.moment()).await;
        topics
    }
}

/// What a record holds beside what [`Message::size`](crate::message::Message::size) counts: lengths, the id's header.
const AROUND_MAX: u64 = 4_096;

impl Kafka {
    /// Bytes of a record that is larger than its topic's limit, as last read, and that limit. Compressed, it may fit after all.
    fn exceeds(&self, envelope: &Envelope, topic: &Topic) -> Option<(u64, u64)> {
        let limit = topic.message_limit().filter(|_| !self.compresses)?;
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
        let topics = self.topics(batch).await;
        let _counted = UnderWay::count(&self.under_way, batch.len());
        Flight::new(self, batch, topics, false).run().await
    }

    async fn probe(&self, destination: &str) -> Result<Probe, Failure> {
        record::check_topic(destination)?;
        let metadata = self.metadata(Some(destination)).await?;
        judge(destination, &metadata, Limits::default())?;
        let name: Arc<str> = destination.into();
        let topic = self.topics.get(&name);
        let asked: Named<'_> = (&name, &topic);
        self.topics.learn_anew(&[asked], self.moment()).await;
        judge(destination, &metadata, topic.limits())?;
        topic.exists();
        self.health.success();
        topic.stuck().map_or(Ok(Probe::Ready), Err)
    }

    async fn inspect(&self, uses: &[Use]) -> Result<Vec<Finding>, Failure> {
        self.look(uses).await
    }

    fn abandon(&self) {
        self.tenure.fetch_add(1, Ordering::AcqRel);
        retire(self.slots().filter_map(Slot::take).collect());
    }

    async fn close(&self) {
        let ended = retire(self.slots().filter_map(Slot::take).collect());
        // Nothing is ever sent: its end is the answer.
        let _ended = ended.await;
    }
}
