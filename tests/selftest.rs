//! Whether the ground holds: a broker killed and brought back still has what it acknowledged, and the consumer reads it
//! in order. Without this no test above says anything about the daemon.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use uuid::Uuid;

use crate::support::broker::{Broker, Kind};
use crate::support::together;

fn id(number: u128) -> String {
    Uuid::from_u128(number).to_string()
}

async fn assert_held(broker: &Broker, count: u128) {
    let arrivals = broker.arrivals(&["orders"]).await;
    let ids: Vec<u128> = arrivals.iter().map(|arrival| arrival.id.as_u128()).collect();
    assert_eq!(ids, (0..count).collect::<Vec<_>>());
    assert!(
        arrivals
            .iter()
            .all(|arrival| arrival.key.as_deref() == Some("k") && arrival.topic == "orders")
    );
    let mut follower = broker.follow(&["orders"]).await;
    let first = follower
        .next(Duration::from_secs(10))
        .await
        .expect("a follower starts at the beginning");
    assert_eq!(first.id.as_u128(), 0);
}

#[tokio::test]
async fn selftest_a_killed_nats_server_keeps_what_it_acknowledged() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders"]).await;
    let context = async_nats::jetstream::new(async_nats::connect(broker.address()).await.expect("nats-server is up"));
    for number in 0..50 {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Outbox-Id", id(number).as_str());
        headers.insert("Outbox-Key", "k");
        let published = context
            .publish_with_headers("orders", headers, "{}".into())
            .await
            .expect("sent");
        published.await.expect("acknowledged");
    }
    broker.kill9().await;
    broker.bring_back();
    assert_held(&broker, 50).await;
}

#[tokio::test]
async fn selftest_a_killed_kafka_keeps_what_it_acknowledged() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Kafka);
    broker.prepare(&["orders"]).await;
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", broker.address())
        .set("acks", "all")
        .create()
        .expect("a producer");
    for number in 0..50 {
        let text = id(number);
        let headers = OwnedHeaders::new().insert(Header {
            key: "id",
            value: Some(&text),
        });
        let record = FutureRecord::to("orders").key("k").payload("{}").headers(headers);
        producer
            .send(record, Duration::from_secs(10))
            .await
            .expect("acknowledged");
    }
    broker.kill9().await;
    broker.bring_back();
    assert_held(&broker, 50).await;
}
