//! The independent consumer: what a broker holds, read by another client than the daemon's, in the broker's own order.

use std::time::Duration;

use async_nats::jetstream::consumer::pull::OrderedConfig;
use futures_util::StreamExt;
use rdkafka::consumer::{BaseConsumer, Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use uuid::Uuid;

use super::broker::{Broker, Kind, STREAM};
use super::eventually;

/// One copy of a message as a consumer got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// The message id: header `Outbox-Id` (NATS) or `id` (Kafka).
    pub(crate) id: Uuid,
    /// Subject or topic.
    pub(crate) topic: String,
    /// Header `Outbox-Key` (NATS) or the record's key (Kafka).
    pub(crate) key: Option<String>,
    /// All headers.
    pub(crate) headers: Vec<(String, String)>,
    /// The body.
    pub(crate) payload: Vec<u8>,
}

impl Arrival {
    /// The first header called `name`.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }
}

impl Broker {
    /// Everything the broker holds. For each key in the order the broker gives it to every consumer.
    pub(crate) async fn arrivals(&self, topics: &[&str]) -> Vec<Arrival> {
        match self.kind {
            Kind::Nats => nats_arrivals(&self.address()).await,
            Kind::Kafka => {
                let (address, topics) = (self.address(), topics.iter().map(|topic| (*topic).to_owned()).collect());
                tokio::task::spawn_blocking(move || kafka_arrivals(&address, topics))
                    .await
                    .expect("the consumer ends")
            }
        }
    }

    /// How many messages the broker holds (NATS only: Kafka counts by reading).
    pub(crate) async fn held(&self) -> u64 {
        assert_eq!(self.kind, Kind::Nats, "only a stream knows its count");
        let client = async_nats::connect(self.address()).await.expect("nats-server is up");
        let mut stream = async_nats::jetstream::new(client)
            .get_stream(STREAM)
            .await
            .expect("the stream is there");
        stream.info().await.expect("the stream answers").state.messages
    }

    /// A consumer that waits for new messages.
    pub(crate) async fn follow(&self, topics: &[&str]) -> Follower {
        match self.kind {
            Kind::Nats => Follower::Nats(Box::new(nats_ordered(&self.address()).await)),
            Kind::Kafka => {
                let consumer: StreamConsumer = kafka_config(&self.address()).create().expect("a consumer");
                let mut assignment = TopicPartitionList::new();
                for (topic, partition) in partitions(&consumer, topics) {
                    assignment
                        .add_partition_offset(&topic, partition, Offset::Beginning)
                        .expect("a valid offset");
                }
                consumer.assign(&assignment).expect("an assignment");
                Follower::Kafka(consumer)
            }
        }
    }
}

/// Messages one by one, as they come.
pub(crate) enum Follower {
    /// An ordered JetStream consumer.
    Nats(Box<async_nats::jetstream::consumer::pull::Ordered>),
    /// An assigned Kafka consumer.
    Kafka(StreamConsumer),
}

impl Follower {
    /// The next message, `None` when none came within `deadline`.
    pub(crate) async fn next(&mut self, deadline: Duration) -> Option<Arrival> {
        tokio::time::timeout(deadline, async {
            match self {
                Self::Nats(messages) => {
                    let message = messages.next().await.expect("the stream goes on").expect("a message");
                    nats_arrival(&message)
                }
                Self::Kafka(consumer) => kafka_arrival(&consumer.recv().await.expect("a message")),
            }
        })
        .await
        .ok()
    }
}

async fn nats_ordered(address: &str) -> async_nats::jetstream::consumer::pull::Ordered {
    let client = async_nats::connect(address).await.expect("nats-server is up");
    let stream = async_nats::jetstream::new(client)
        .get_stream(STREAM)
        .await
        .expect("the stream is there");
    let consumer = stream
        .create_consumer(OrderedConfig::default())
        .await
        .expect("a consumer");
    consumer.messages().await.expect("messages")
}

/// Everything the test's stream holds.
pub(crate) async fn nats_arrivals(address: &str) -> Vec<Arrival> {
    let client = async_nats::connect(address).await.expect("nats-server is up");
    let mut stream = async_nats::jetstream::new(client)
        .get_stream(STREAM)
        .await
        .expect("the stream is there");
    let held = usize::try_from(stream.info().await.expect("the stream answers").state.messages).expect("it fits");
    let mut messages = nats_ordered(address).await;
    let mut arrivals = Vec::with_capacity(held);
    while arrivals.len() < held {
        let next = tokio::time::timeout(Duration::from_secs(30), messages.next()).await;
        let message = next
            .expect("the stream's messages come")
            .expect("the stream goes on")
            .expect("a message");
        arrivals.push(nats_arrival(&message));
    }
    arrivals
}

fn nats_arrival(message: &async_nats::jetstream::Message) -> Arrival {
    let headers: Vec<(String, String)> = message.headers.as_ref().map_or_else(Vec::new, |headers| {
        let pairs = headers
            .iter()
            .flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
        pairs
            .map(|(name, value)| (name.to_string(), value.as_str().to_owned()))
            .collect()
    });
    let find = |wanted: &str| {
        headers
            .iter()
            .find(|(name, _)| name == wanted)
            .map(|(_, value)| value.clone())
    };
    Arrival {
        id: find("Outbox-Id")
            .expect("every message has Outbox-Id")
            .parse()
            .expect("Outbox-Id is a uuid"),
        topic: message.subject.to_string(),
        key: find("Outbox-Key"),
        headers,
        payload: message.payload.to_vec(),
    }
}

fn kafka_config(address: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", address)
        .set("group.id", "outboxd-tests")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "50")
        .set("reconnect.backoff.max.ms", "500");
    config
}

const KAFKA_TIMEOUT: Duration = Duration::from_secs(20);

fn partitions<C: Consumer<X>, X: rdkafka::consumer::ConsumerContext>(
    consumer: &C,
    topics: &[&str],
) -> Vec<(String, i32)> {
    let metadata = consumer.fetch_metadata(None, KAFKA_TIMEOUT).expect("Kafka answers");
    let wanted = metadata.topics().iter().filter(|topic| topics.contains(&topic.name()));
    wanted
        .flat_map(|topic| topic.partitions().iter().map(|one| (topic.name().to_owned(), one.id())))
        .collect()
}

/// Everything `topics` hold, partition by partition. Blocks.
pub(crate) fn kafka_arrivals(address: &str, topics: Vec<String>) -> Vec<Arrival> {
    let consumer: BaseConsumer = kafka_config(address).create().expect("a consumer");
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let mut assignment = TopicPartitionList::new();
    let mut ends = std::collections::HashMap::new();
    for (topic, partition) in partitions(&consumer, &names) {
        let (low, high) = consumer
            .fetch_watermarks(&topic, partition, KAFKA_TIMEOUT)
            .expect("watermarks");
        if high > low {
            assignment
                .add_partition_offset(&topic, partition, Offset::Beginning)
                .expect("a valid offset");
            ends.insert((topic, partition), high);
        }
    }
    consumer.assign(&assignment).expect("an assignment");
    let mut arrivals = Vec::new();
    while !ends.is_empty() {
        let message = match consumer.poll(KAFKA_TIMEOUT).expect("Kafka's messages come") {
            Ok(message) => message,
            // One node of a cluster is away; the others have everything.
            Err(KafkaError::MessageConsumption(RDKafkaErrorCode::BrokerTransportFailure)) => continue,
            Err(error) => panic!("Kafka's messages do not come: {error}"),
        };
        let place = (message.topic().to_owned(), message.partition());
        if ends.get(&place).is_some_and(|end| message.offset() + 1 >= *end) {
            ends.remove(&place);
        }
        arrivals.push(kafka_arrival(&message));
    }
    arrivals
}

fn kafka_arrival(message: &impl Message) -> Arrival {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers: Vec<(String, String)> = message.headers().map_or_else(Vec::new, |headers| {
        headers
            .iter()
            .map(|header| (header.key.to_owned(), header.value.map_or_else(String::new, text)))
            .collect()
    });
    let id = headers
        .iter()
        .find(|(name, _)| name == "id")
        .expect("every record has the header id");
    Arrival {
        id: id.1.parse().expect("the header id is a uuid"),
        topic: message.topic().to_owned(),
        key: message.key().map(text),
        payload: message.payload().unwrap_or_default().to_vec(),
        headers,
    }
}

/// Waits until `follower` brought the message with this id; answers it.
pub(crate) async fn wait_for(follower: &mut Follower, id: Uuid, deadline: Duration) -> Arrival {
    let cell = tokio::sync::Mutex::new(follower);
    eventually("the message arrived", deadline, || async {
        cell.lock()
            .await
            .next(deadline)
            .await
            .filter(|arrival| arrival.id == id)
    })
    .await
}
