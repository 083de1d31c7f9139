//! What a broker holds, read by another client than the daemon's, in the broker's own order.
//!
//! Knows only addresses: the checker program (`examples/check.rs`) is made of this too.

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use futures_util::StreamExt;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use uuid::Uuid;

/// Why a broker could not be read to its end.
pub(crate) type Unread = Box<dyn Error + Send + Sync>;

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

const TIMEOUT: Duration = Duration::from_secs(30);

/// An ordered consumer of a JetStream stream, from its beginning.
pub(crate) async fn nats_ordered(url: &str, stream: &str) -> Result<Ordered, Unread> {
    let client = async_nats::connect(url).await?;
    let stream = async_nats::jetstream::new(client).get_stream(stream).await?;
    let consumer = stream.create_consumer(OrderedConfig::default()).await?;
    Ok(consumer.messages().await?)
}

/// Everything a JetStream stream holds. It is asked again at the end: a cluster that has just lost its leader may answer with
/// a number that is behind.
pub(crate) async fn nats_arrivals(url: &str, stream: &str) -> Result<Vec<Arrival>, Unread> {
    let client = async_nats::connect(url).await?;
    let mut info = async_nats::jetstream::new(client).get_stream(stream).await?;
    let mut held = usize::try_from(info.info().await?.state.messages)?;
    let mut messages = nats_ordered(url, stream).await?;
    let mut arrivals = Vec::with_capacity(held);
    while arrivals.len() < held {
        let next = tokio::time::timeout(TIMEOUT, messages.next()).await;
        let message = next
            .map_err(|_| format!("{} of the stream's {held} messages came", arrivals.len()))?
            .ok_or("the stream ended")??;
        arrivals.push(nats_arrival(&message)?);
        if arrivals.len() == held {
            held = usize::try_from(info.info().await?.state.messages)?;
        }
    }
    Ok(arrivals)
}

/// A message of JetStream as an arrival.
pub(crate) fn nats_arrival(message: &async_nats::jetstream::Message) -> Result<Arrival, Unread> {
    let headers: Vec<(String, String)> = message.headers.as_ref().map_or_else(Vec::new, |headers| {
        let pairs = headers
            .iter()
            .flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
        pairs
            .map(|(name, value)| (name.to_string(), value.as_str().to_owned()))
            .collect()
    });
    Ok(Arrival {
        id: id(&headers, "Outbox-Id")?,
        topic: message.subject.to_string(),
        key: find(&headers, "Outbox-Key").map(str::to_owned),
        headers,
        payload: message.payload.to_vec(),
    })
}

fn find<'a>(headers: &'a [(String, String)], wanted: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(name, _)| name == wanted)
        .map(|(_, value)| value.as_str())
}

fn id(headers: &[(String, String)], name: &str) -> Result<Uuid, Unread> {
    let text = find(headers, name).ok_or_else(|| format!("a message without the header {name}"))?;
    Ok(text.parse()?)
}

/// How this consumer talks to Kafka.
pub(crate) fn kafka_config(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("group.id", "outboxd-tests")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "50")
        .set("reconnect.backoff.max.ms", "500");
    config
}

/// The partitions of `topics`.
pub(crate) fn kafka_partitions<C, X>(consumer: &C, topics: &[&str]) -> Result<Vec<(String, i32)>, Unread>
where
    C: Consumer<X>,
    X: ConsumerContext,
{
    let metadata = consumer.fetch_metadata(None, TIMEOUT)?;
    let wanted = metadata.topics().iter().filter(|topic| topics.contains(&topic.name()));
    Ok(wanted
        .flat_map(|topic| topic.partitions().iter().map(|one| (topic.name().to_owned(), one.id())))
        .collect())
}

/// Whether every partition of `topics` answers. Blocks.
pub(crate) fn kafka_serves(brokers: &str, topics: &[&str]) -> Result<(), Unread> {
    let consumer: BaseConsumer = kafka_config(brokers).create()?;
    for topic in topics {
        let partitions = kafka_partitions(&consumer, &[topic])?;
        if partitions.is_empty() {
            return Err(format!("Kafka does not know {topic}").into());
        }
        for (topic, partition) in partitions {
            consumer.fetch_watermarks(&topic, partition, Duration::from_secs(1))?;
        }
    }
    Ok(())
}

/// Everything Kafka holds of `topics`. Blocks.
pub(crate) fn kafka_arrivals(brokers: &str, topics: &[&str]) -> Result<Vec<Arrival>, Unread> {
    let consumer: BaseConsumer = kafka_config(brokers).create()?;
    let mut assignment = TopicPartitionList::new();
    let mut ends = HashMap::new();
    for (topic, partition) in kafka_partitions(&consumer, topics)? {
        let (low, high) = consumer.fetch_watermarks(&topic, partition, TIMEOUT)?;
        if high > low {
            assignment.add_partition_offset(&topic, partition, Offset::Beginning)?;
            ends.insert((topic, partition), high);
        }
    }
    consumer.assign(&assignment)?;
    let mut arrivals = Vec::new();
    while !ends.is_empty() {
        let polled = consumer.poll(TIMEOUT);
        let message =
            match polled.ok_or_else(|| format!("{} partitions of Kafka were not read to their end", ends.len()))? {
                Ok(message) => message,
                // One node of a cluster is away; the others have everything.
                Err(KafkaError::MessageConsumption(RDKafkaErrorCode::BrokerTransportFailure)) => continue,
                Err(error) => return Err(error.into()),
            };
        let place = (message.topic().to_owned(), message.partition());
        if ends.get(&place).is_some_and(|end| message.offset() + 1 >= *end) {
            ends.remove(&place);
        }
        arrivals.push(kafka_arrival(&message)?);
    }
    Ok(arrivals)
}

/// A record of Kafka as an arrival.
pub(crate) fn kafka_arrival(message: &impl Message) -> Result<Arrival, Unread> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers: Vec<(String, String)> = message.headers().map_or_else(Vec::new, |headers| {
        headers
            .iter()
            .map(|header| (header.key.to_owned(), header.value.map_or_else(String::new, text)))
            .collect()
    });
    Ok(Arrival {
        id: id(&headers, "id")?,
        topic: message.topic().to_owned(),
        key: message.key().map(text),
        payload: message.payload().unwrap_or_default().to_vec(),
        headers,
    })
}
