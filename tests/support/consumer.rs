//! The independent consumer of a test's broker: all of it afterwards, or message by message as they come.

use std::time::Duration;

use futures_util::StreamExt;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::{Offset, TopicPartitionList};
use uuid::Uuid;

pub(crate) use super::arrivals::Arrival;
use super::arrivals::{
    kafka_arrival, kafka_arrivals, kafka_config, kafka_partitions, kafka_serves, nats_arrival, nats_arrivals,
    nats_ordered,
};
use super::broker::{Broker, Kind, STREAM};
use super::eventually;

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
            Kind::Nats => nats_arrivals(&self.address(), STREAM)
                .await
                .expect("the stream is read"),
            Kind::Kafka => {
                let topics: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
                let address = self.address();
                let reading = tokio::task::spawn_blocking(move || {
                    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
                    kafka_arrivals(&address, &topics)
                });
                reading.await.expect("the consumer ends").expect("the topics are read")
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

    /// Waits until a broker that was brought back serves `topics` again: its process is up before its data is.
    pub(crate) async fn serving(&self, topics: &'static [&'static str]) {
        eventually("the broker serves its topics", Duration::from_secs(60), || async {
            match self.kind {
                Kind::Nats => {
                    let client = async_nats::connect(self.address()).await.ok()?;
                    let stream = async_nats::jetstream::new(client).get_stream(STREAM).await;
                    stream.ok().map(drop)
                }
                Kind::Kafka => {
                    let address = self.address();
                    let asking = tokio::task::spawn_blocking(move || kafka_serves(&address, topics));
                    asking.await.expect("the client does not panic").ok()
                }
            }
        })
        .await;
    }

    /// A consumer that waits for new messages.
    pub(crate) async fn follow(&self, topics: &[&str]) -> Follower {
        match self.kind {
            Kind::Nats => {
                let messages = nats_ordered(&self.address(), STREAM).await;
                Follower::Nats(Box::new(messages.expect("the stream is there")))
            }
            Kind::Kafka => {
                let consumer: StreamConsumer = kafka_config(&self.address()).create().expect("a consumer");
                let mut assignment = TopicPartitionList::new();
                for (topic, partition) in kafka_partitions(&consumer, topics).expect("Kafka answers") {
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
                    nats_arrival(&message).expect("a message of the daemon's")
                }
                Self::Kafka(consumer) => {
                    let message = consumer.recv().await.expect("a message");
                    kafka_arrival(&message).expect("a message of the daemon's")
                }
            }
        })
        .await
        .ok()
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
