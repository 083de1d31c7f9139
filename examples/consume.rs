//! A consumer that is not part of outboxd: it shows what arrives, with key and headers, and how to dedupe on the
//! message id. The demo runs it beside the daemon.
//!
//! ```text
//! consume nats  URL     STREAM SUBJECT   creates the stream when it is missing
//! consume kafka BROKERS TOPIC            creates the topic when it is missing
//! ```

use std::collections::HashSet;
use std::error::Error;
use std::time::Duration;

use async_nats::jetstream;
use futures_util::StreamExt;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::message::{Headers, Message};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["nats", url, stream, subject] => nats(url, stream, subject).await,
        ["kafka", brokers, topic] => kafka(brokers, topic).await,
        _ => Err("usage: consume nats URL STREAM SUBJECT | consume kafka BROKERS TOPIC".into()),
    }
}

async fn nats(url: &str, stream: &str, subject: &str) -> Result<(), Box<dyn Error>> {
    let options = async_nats::ConnectOptions::new().reconnect_delay_callback(|_| Duration::from_millis(200));
    let client = options.retry_on_initial_connect().connect(url).await?;
    let config = jetstream::stream::Config {
        name: stream.to_owned(),
        subjects: vec![subject.to_owned()],
        ..jetstream::stream::Config::default()
    };
    let stream = jetstream::new(client).get_or_create_stream(config).await?;
    // Durable: the server remembers it through its own crash, and gives again what was not acknowledged.
    let durable = jetstream::consumer::pull::Config {
        durable_name: Some("consume".to_owned()),
        ..jetstream::consumer::pull::Config::default()
    };
    let consumer = stream.get_or_create_consumer("consume", durable).await?;
    let mut inbox = Inbox::default();
    println!("ready");
    loop {
        // While the server is away there is nothing to get: the client reconnects by itself, and this asks again.
        let Ok(mut batch) = consumer
            .batch()
            .max_messages(100)
            .expires(Duration::from_millis(500))
            .messages()
            .await
        else {
            continue;
        };
        while let Some(Ok(message)) = batch.next().await {
            inbox.receive_from_nats(&message);
            // A lost acknowledgement means a second copy, which the inbox knows.
            message.ack().await.ok();
        }
    }
}

async fn kafka(brokers: &str, topic: &str) -> Result<(), Box<dyn Error>> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    let admin: AdminClient<_> = config.create()?;
    let new = NewTopic::new(topic, 3, TopicReplication::Fixed(1));
    // One result per topic: that it exists already is fine.
    admin
        .create_topics(
            &[new],
            &AdminOptions::new().operation_timeout(Some(Duration::from_secs(10))),
        )
        .await?;
    config
        .set("group.id", "consume")
        .set("auto.offset.reset", "earliest")
        .set("fetch.wait.max.ms", "50");
    let consumer: StreamConsumer = config.create()?;
    consumer.subscribe(&[topic])?;
    let mut inbox = Inbox::default();
    println!("ready");
    loop {
        // The client reconnects by itself; an error in between is not the end.
        let Ok(message) = consumer.recv().await else { continue };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let pairs = message.headers().into_iter().flat_map(Headers::iter);
        let headers: Vec<(String, String)> = pairs
            .map(|header| (header.key.to_owned(), header.value.map(text).unwrap_or_default()))
            .collect();
        let key = message.key().map(text);
        inbox.receive(
            message.topic(),
            key.as_deref(),
            &headers,
            "id",
            message.payload().unwrap_or_default(),
        );
    }
}

fn find(headers: &[(String, String)], name: &str) -> Option<String> {
    headers
        .iter()
        .find(|(found, _)| found == name)
        .map(|(_, value)| value.clone())
}

/// What a consumer must keep to do its work once: the ids it has seen. A real one keeps them in its own database, in
/// the transaction that does the work.
#[derive(Default)]
struct Inbox {
    seen: HashSet<String>,
}

impl Inbox {
    fn receive_from_nats(&mut self, message: &jetstream::Message) {
        let pairs = message.headers.iter().flat_map(|headers| headers.iter());
        let headers: Vec<(String, String)> = pairs
            .flat_map(|(name, values)| {
                values
                    .iter()
                    .map(move |value| (name.to_string(), value.as_str().to_owned()))
            })
            .collect();
        let key = find(&headers, "Outbox-Key");
        self.receive(
            &message.subject,
            key.as_deref(),
            &headers,
            "Outbox-Id",
            &message.payload,
        );
    }

    fn receive(
        &mut self,
        topic: &str,
        key: Option<&str>,
        headers: &[(String, String)],
        id_header: &str,
        payload: &[u8],
    ) {
        let id = find(headers, id_header).unwrap_or_default();
        let again = if self.seen.insert(id.clone()) {
            ""
        } else {
            "  (seen before: ignored)"
        };
        println!(
            "<- {topic:<15} key {:<7} {}{again}",
            key.unwrap_or("-"),
            String::from_utf8_lossy(payload)
        );
        println!("   id {id}");
        for (name, value) in headers.iter().filter(|(name, _)| !is_the_relay_s(name, id_header)) {
            println!("   {name}: {value}");
        }
    }
}

/// Headers the relay adds: shown as id and key already.
fn is_the_relay_s(name: &str, id_header: &str) -> bool {
    name == id_header || ["Nats-Msg-Id", "Outbox-Key", "Outbox-Id"].contains(&name)
}
