//! The floor: fetch by keyset, publish, mark by list, and nothing else. No lanes, leases, routes, retries, order or gaps:
//! what PostgreSQL, the broker and their clients cost anyway. Run as a process of its own, so that its CPU can be told.
//!
//! Two connections, fetching beside marking, ten batches of 1,000 in flight, marks with `synchronous_commit = off`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_nats::HeaderMap;
use futures_util::future::BoxFuture;
use rdkafka::ClientConfig;
use rdkafka::message::{BorrowedMessage, DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::{ClientContext, Message as _};
use tokio::sync::{Notify, mpsc};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use crate::support::broker::Kind;

const BATCH: i64 = 1_000;
const IN_FLIGHT: usize = 10;

const FETCH: &str = "select seq, id, key, payload::text, inserted_at::text from outbox_messages
    where seq > $1 and relayed_at is null and failed_at is null order by seq limit $2";
const UPDATE: &str = "update outbox_messages set relayed_at = now(), updated_at = now()
    where seq = any($1::bigint[]) and relayed_at is null and failed_at is null";
const DELETE: &str = "delete from outbox_messages where seq = any($1::bigint[])";

/// What is left out.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mark {
    Update,
    Delete,
}

struct Item {
    seq: i64,
    id: Uuid,
    key: String,
    payload: String,
}

#[expect(clippy::disallowed_methods, reason = "the connection's task ends with the process")]
async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("PostgreSQL is up");
    drop(tokio::spawn(connection));
    client
}

impl Mark {
    /// On the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

/// Drains `url`'s outbox of `rows` rows into `broker`; no broker: fetches and marks only; no `url`: publishes only.
pub(crate) async fn run(url: Option<&str>, broker: Option<(Kind, &str)>, mark: Mark, rows: usize) {
    let sink = Sink::new(broker).await;
    let (flying, answered) = mpsc::channel::<Flying>(IN_FLIGHT);
    match url {
        Some(url) => tokio::join!(fetch(url, &sink, rows, flying), settle(url, mark, rows, answered)),
        None => tokio::join!(make_up(&sink, rows, flying), acknowledge(answered)),
    };
}

/// Rows at the broker, and the future of their acknowledgements.
type Flying = (Vec<i64>, BoxFuture<'static, ()>);

async fn fetch(url: &str, sink: &Sink, rows: usize, flying: mpsc::Sender<Flying>) {
    let reader = connect(url).await;
    let fetch = reader.prepare(FETCH).await.expect("a statement");
    let (mut cursor, mut fetched) = (0_i64, 0);
    while fetched < rows {
        let found = reader.query(&fetch, &[&cursor, &BATCH]).await.expect("a page");
        let items: Vec<Item> = found
            .iter()
            .map(|row| Item {
                seq: row.get(0),
                id: row.get(1),
                key: row.get(2),
                payload: row.get(3),
            })
            .collect();
        cursor = items.last().map_or(cursor, |item| item.seq);
        fetched += items.len();
        send(sink, items, &flying).await;
    }
}

/// Rows like those of the outbox.
async fn make_up(sink: &Sink, rows: usize, flying: mpsc::Sender<Flying>) {
    for page in (1..=rows).collect::<Vec<_>>().chunks(BATCH as usize) {
        let row = |n: &usize| Item {
            seq: *n as i64,
            id: Uuid::new_v4(),
            key: format!("k{}", n % 1_000),
            payload: format!(
                r#"{{"order": {n}, "customer": {}, "pad": "{}"}}"#,
                n % 1_000,
                "x".repeat(430)
            ),
        };
        send(sink, page.iter().map(row).collect(), &flying).await;
    }
}

async fn send(sink: &Sink, items: Vec<Item>, flying: &mpsc::Sender<Flying>) {
    let seqs = items.iter().map(|item| item.seq).collect();
    let sent = sink.publish(items).await;
    assert!(flying.send((seqs, sent)).await.is_ok(), "acknowledgements are awaited");
}

async fn settle(url: &str, mark: Mark, rows: usize, mut answered: mpsc::Receiver<Flying>) {
    let writer = connect(url).await;
    writer
        .batch_execute("set synchronous_commit = off")
        .await
        .expect("a setting");
    let text = match mark {
        Mark::Update => UPDATE,
        Mark::Delete => DELETE,
    };
    let settle = writer.prepare(text).await.expect("a statement");
    let mut marked = 0;
    while marked < rows {
        let (seqs, acknowledged) = answered.recv().await.expect("rows are fetched");
        acknowledged.await;
        marked += usize::try_from(writer.execute(&settle, &[&seqs]).await.expect("marks")).expect("a count");
    }
}

async fn acknowledge(mut answered: mpsc::Receiver<Flying>) {
    while let Some((_, acknowledged)) = answered.recv().await {
        acknowledged.await;
    }
}

enum Sink {
    Kafka(Arc<ThreadedProducer<Counting>>),
    Nats(Box<async_nats::jetstream::Context>),
    Nowhere,
}

impl Sink {
    async fn new(broker: Option<(Kind, &str)>) -> Self {
        match broker {
            Some((Kind::Kafka, address)) => {
                let producer = ClientConfig::new()
                    .set("bootstrap.servers", address)
                    .set("enable.idempotence", "true")
                    .set("linger.ms", "5")
                    .set("queue.buffering.max.messages", "100000")
                    .create_with_context(Counting)
                    .expect("a producer");
                Self::Kafka(Arc::new(producer))
            }
            Some((Kind::Nats, address)) => {
                let client = async_nats::connect(address).await.expect("nats-server is up");
                // The window is ours.
                let context = async_nats::jetstream::ContextBuilder::new().max_ack_inflight(20_000);
                Self::Nats(Box::new(context.build(client)))
            }
            None => Self::Nowhere,
        }
    }

    /// Hands a batch over; the answer is ready when all of it is acknowledged.
    async fn publish(&self, items: Vec<Item>) -> BoxFuture<'static, ()> {
        match self {
            Self::Kafka(producer) => {
                let batch = Arc::new(Left {
                    count: AtomicUsize::new(items.len()),
                    none: Notify::new(),
                });
                for item in &items {
                    let id = item.id.to_string();
                    let headers = OwnedHeaders::new().insert(Header {
                        key: "id",
                        value: Some(&id),
                    });
                    let record = BaseRecord::with_opaque_to("orders", Arc::clone(&batch))
                        .key(&item.key)
                        .payload(&item.payload)
                        .headers(headers);
                    producer
                        .send(record)
                        .map_err(|(error, _)| error)
                        .expect("room in the queue");
                }
                Box::pin(async move {
                    while batch.count.load(Ordering::Acquire) > 0 {
                        batch.none.notified().await;
                    }
                })
            }
            Self::Nats(context) => {
                let mut answers = Vec::with_capacity(items.len());
                for item in items {
                    let mut headers = HeaderMap::new();
                    let id = item.id.to_string();
                    headers.insert("Nats-Msg-Id", id.as_str());
                    headers.insert("Outbox-Id", id.as_str());
                    headers.insert("Outbox-Key", item.key.as_str());
                    let sent = context.publish_with_headers("orders", headers, item.payload.into());
                    answers.push(sent.await.expect("a message on its way"));
                }
                Box::pin(async move {
                    for answer in answers {
                        answer.await.expect("an acknowledgement");
                    }
                })
            }
            Self::Nowhere => Box::pin(std::future::ready(())),
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Self::Kafka(producer) = self {
            producer.flush(std::time::Duration::from_secs(5)).ok();
        }
    }
}

/// One counter for a batch.
struct Left {
    count: AtomicUsize,
    none: Notify,
}

struct Counting;

impl ClientContext for Counting {}

impl ProducerContext for Counting {
    type DeliveryOpaque = Arc<Left>;

    fn delivery(&self, result: &DeliveryResult<'_>, batch: Arc<Left>) {
        let delivered: &BorrowedMessage<'_> = result.as_ref().map_err(|(error, _)| error).expect("an acknowledgement");
        debug_assert!(delivered.payload().is_some());
        if batch.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            batch.none.notify_one();
        }
    }
}
