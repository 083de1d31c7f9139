//! Single-row transactions at a steady rate: the time from commit to an independent consumer, and what the insert costs the
//! application.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use rdkafka::Message as _;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::drain::warm;
use crate::scene::{Scene, Set};
use crate::support::broker::Kind;
use crate::support::consumer::Follower;
use crate::support::postgres::{Cluster, Session};

const WRITERS: usize = 4;

pub(crate) async fn steady(rate: usize, seconds: usize, kind: Kind, config: &str) -> Value {
    println!("steady: {rate} single-row transactions/s for {seconds} s to {kind:?}");
    let broker = warm(kind).await;
    let scene = Scene::new(Set::one(&broker, config)).await;
    let mut figures = latencies(&scene, rate, seconds).await;
    figures["to"] = json!(format!("{kind:?}"));
    json!({ "steady": figures })
}

/// What a consumer sees of `scene`'s relay.
pub(crate) async fn latencies(scene: &Scene<'_>, rate: usize, seconds: usize) -> Value {
    let mut consumer = warmed(scene).await;
    let before = scene.cpu();
    let mut writers: JoinSet<Vec<(Uuid, Instant)>> = JoinSet::new();
    for number in 0..WRITERS {
        let session = scene.database.connect().await;
        let (count, period) = (
            rate * seconds / WRITERS,
            Duration::from_secs_f64(WRITERS as f64 / rate as f64),
        );
        let first = tokio::time::Instant::now() + period * number as u32 / WRITERS as u32;
        writers.spawn(async move { write_steadily(&session, count, first, period).await });
    }
    let expected = rate * seconds / WRITERS * WRITERS;
    let mut arrived: HashMap<Uuid, Instant> = HashMap::with_capacity(expected);
    while arrived.len() < expected {
        if let Some(id) = arrival(&mut consumer).await {
            arrived.entry(id).or_insert_with(Instant::now);
        }
    }
    let used = scene.cpu().since(before);
    let mut latencies = Vec::with_capacity(expected);
    while let Some(written) = writers.join_next().await {
        for (id, committed) in written.expect("no writer fails") {
            latencies.push(arrived[&id].saturating_duration_since(committed).as_secs_f64() * 1000.0);
        }
    }
    let mut figures = spread(latencies);
    let per_second = seconds as f64;
    let (relay, postgres) = (100.0 * used.relay / per_second, 100.0 * used.postgres / per_second);
    let broker = 100.0 * used.broker / per_second;
    println!(
        "  of a core: relay {relay:.1} %, PostgreSQL with the writers' work {postgres:.1} %, broker {broker:.1} %"
    );
    figures["rate"] = json!(rate);
    figures["seconds"] = json!(seconds);
    figures["relay_cpu_percent"] = json!(relay);
    figures["postgres_cpu_percent"] = json!(postgres);
    figures
}

/// One row at a time, `pause` after the one before: what a relay with nothing to do takes to wake.
pub(crate) async fn wakes(scene: &Scene<'_>, consumer: &mut Follower, count: usize, pause: Duration) -> Value {
    let session = scene.database.connect().await;
    let mut latencies = Vec::with_capacity(count);
    for _ in 0..count {
        tokio::time::sleep(pause).await;
        let written = write_steadily(&session, 1, tokio::time::Instant::now(), pause).await;
        let (id, committed) = written[0];
        while arrival(consumer).await != Some(id) {}
        latencies.push(committed.elapsed().as_secs_f64() * 1000.0);
    }
    spread(latencies)
}

/// A consumer that has read all there is, after one row to warm up: connections, plans, the topic's metadata.
pub(crate) async fn warmed(scene: &Scene<'_>) -> Follower {
    let mut consumer = scene.broker.follow(&["orders"]).await;
    let first = scene.insert_one().await;
    while arrival(&mut consumer).await != Some(first) {}
    consumer
}

/// Milliseconds, sorted and told by percentiles.
fn spread(mut latencies: Vec<f64>) -> Value {
    latencies.sort_by(f64::total_cmp);
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize];
    let (p50, p99, p999, max) = (at(0.5), at(0.99), at(0.999), at(1.0));
    println!("  commit to consumer: p50 {p50:.1} ms, p99 {p99:.1} ms, p99.9 {p999:.1} ms, worst {max:.1} ms");
    json!({ "p50_ms": p50, "p99_ms": p99, "p999_ms": p999, "max_ms": max })
}

/// The id in the payload of the next message, if there is one: other relays name their headers otherwise, or have none.
async fn arrival(consumer: &mut Follower) -> Option<Uuid> {
    let next = async {
        match consumer {
            Follower::Nats(messages) => messages
                .next()
                .await
                .expect("the stream goes on")
                .expect("a message")
                .payload
                .to_vec(),
            Follower::Kafka(consumer) => consumer
                .recv()
                .await
                .expect("a message")
                .payload()
                .unwrap_or_default()
                .to_vec(),
        }
    };
    let payload = tokio::time::timeout(Duration::from_secs(30), next)
        .await
        .expect("a message within 30 s");
    let payload: Value = serde_json::from_slice(&payload).ok()?;
    payload["id"].as_str()?.parse().ok()
}

/// `count` single-row transactions, one each `period`; with each the moment its COMMIT was sent.
async fn write_steadily(
    session: &Session,
    count: usize,
    first: tokio::time::Instant,
    period: Duration,
) -> Vec<(Uuid, Instant)> {
    let insert = "insert into outbox_messages (id, topic, key, payload)
        values ($1, 'orders', $2, jsonb_build_object('id', $1::uuid, 'pad', repeat('x', 400)))";
    let insert = session.prepare(insert).await.expect("a statement");
    let mut clock = tokio::time::interval_at(first, period);
    let mut written = Vec::with_capacity(count);
    for number in 0..count {
        clock.tick().await;
        let (id, key) = (Uuid::new_v4(), format!("k{}", number % 250));
        session.run("begin").await;
        session.execute(&insert, &[&id, &key]).await.expect("an insert");
        written.push((id, Instant::now()));
        session.run("commit").await;
    }
    written
}

/// Clients that insert, and for how long.
const CLIENTS: usize = 8;

/// What trigger and indexes cost the application: single-row transactions of eight clients into the outbox, beside a bare
/// table with the same columns and its primary key only. No daemon runs.
pub(crate) async fn insert_cost(seconds: u64) -> Value {
    println!("insert-cost: {CLIENTS} clients, single-row transactions, {seconds} s each, twice in turn");
    let cluster = Cluster::own();
    let database = cluster.database().await;
    let session = database.connect().await;
    let site = crate::support::daemon::Site::new(&database, "[transports.out.stdout]\n");
    site.migrate();
    session
        .run("create table bare (like outbox_messages including defaults including identity, primary key (seq))")
        .await;
    let span = Duration::from_secs(seconds);
    let (mut bare, mut outbox) = (0, 0);
    for _ in 0..2 {
        bare += inserts(&database, "bare", span).await;
        outbox += inserts(&database, "outbox_messages", span).await;
    }
    let rate = |count: usize| count as f64 / (2 * seconds) as f64;
    let ratio = outbox as f64 / bare as f64;
    println!(
        "  bare table {:.0} transactions/s, outbox {:.0}: {ratio:.2} of it",
        rate(bare),
        rate(outbox)
    );
    json!({ "insert_cost": { "bare_per_second": rate(bare), "outbox_per_second": rate(outbox), "ratio": ratio } })
}

async fn inserts(database: &crate::support::postgres::Database, table: &str, span: Duration) -> usize {
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let session = database.connect().await;
        let text = format!(
            "insert into {table} (topic, key, payload) values ('orders', $1, jsonb_build_object('pad', repeat('x', 450)))"
        );
        clients.spawn(async move {
            let insert = session.prepare(&text).await.expect("a statement");
            let (until, mut count) = (Instant::now() + span, 0);
            while Instant::now() < until {
                let key = format!("k{}", count % 250);
                session.execute(&insert, &[&key]).await.expect("an insert");
                count += 1;
            }
            count
        });
    }
    clients.join_all().await.into_iter().sum()
}
