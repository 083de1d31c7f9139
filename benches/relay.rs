//! Measures the daemon from outside on scratch servers: how fast a backlog drains, how long a commit takes to reach a
//! consumer, what it costs to have nothing to do. `dev/bench` sets up what it needs.
//!
//! The database runs with fsync on; writer and consumer live in this process, next to the daemon's, and everything
//! shares one machine. A drain counts only when the independent consumer found every row, in order, once.

#[path = "../tests/support/mod.rs"]
#[expect(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "the support of the tests, and a part of it only"
)]
mod support;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand, ValueEnum};
use serde_json::{Value, json};
use support::broker::{Broker, Kind};
use support::chaos::judge;
use support::daemon::{Daemon, Site};
use support::postgres::{Cluster, Database, Session};
use support::processes::{children, cpu_seconds};
use tokio::task::JoinSet;
use uuid::Uuid;

#[derive(Parser)]
#[command(name = "dev/bench", about = "Rates, latencies and CPU of outboxd on scratch servers")]
struct Arguments {
    #[command(subcommand)]
    what: What,
    /// Write the figures to this file too, as JSON.
    #[arg(long, global = true)]
    json: Option<PathBuf>,
    /// Lines added to the daemon's configuration, e.g. '[relay]' and its keys.
    #[arg(long, global = true, default_value = "")]
    config: String,
    /// Given by `cargo bench`.
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum What {
    /// A backlog, committed at once: rows per second until the last one is marked.
    Drain {
        #[arg(long, default_value_t = 200_000)]
        rows: usize,
        #[arg(long, default_value = "nats")]
        to: To,
        #[arg(long, default_value_t = 3)]
        runs: usize,
    },
    /// Single-row transactions at a steady rate: time from commit to the consumer.
    Steady {
        #[arg(long, default_value_t = 200)]
        rate: usize,
        #[arg(long, default_value_t = 20)]
        seconds: usize,
        #[arg(long, default_value = "nats")]
        to: To,
    },
    /// Nothing to do: CPU and statements per second.
    Idle {
        #[arg(long, default_value_t = 30)]
        seconds: u64,
        #[arg(long, default_value = "nats")]
        to: To,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum To {
    Kafka,
    Nats,
}

impl To {
    fn kind(self) -> Kind {
        match self {
            Self::Kafka => Kind::Kafka,
            Self::Nats => Kind::Nats,
        }
    }
}

/// Servers and a running daemon with an empty outbox.
struct Scene {
    cluster: Cluster,
    broker: Broker,
    database: Database,
    session: Session,
    daemon: Daemon,
    _site: Site,
}

impl Scene {
    async fn new(kind: Kind, config: &str) -> Self {
        let cluster = Cluster::own();
        let broker = Broker::start(kind);
        broker.prepare(&["orders"]).await;
        let database = cluster.database().await;
        let site = Site::new(&database, &(broker.section("main") + config));
        site.migrate();
        let daemon = site.start().await;
        let session = database.connect().await;
        Self {
            cluster,
            broker,
            database,
            session,
            daemon,
            _site: site,
        }
    }

    fn cpu(&self) -> Cpu {
        let postmaster = self.cluster.pid();
        Cpu {
            relay: cpu_seconds(self.daemon.pid()),
            postgres: cpu_seconds(postmaster) + children(postmaster).into_iter().map(cpu_seconds).sum::<f64>(),
            broker: self.broker.pid().map_or(0.0, cpu_seconds),
        }
    }
}

/// CPU seconds used so far.
#[derive(Clone, Copy)]
struct Cpu {
    relay: f64,
    postgres: f64,
    broker: f64,
}

impl Cpu {
    fn since(self, before: Self) -> Self {
        Self {
            relay: self.relay - before.relay,
            postgres: self.postgres - before.postgres,
            broker: self.broker - before.broker,
        }
    }
}

fn main() {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let figures = runtime.block_on(async {
        match arguments.what {
            What::Drain { rows, to, runs } => drain(rows, to.kind(), runs, &arguments.config).await,
            What::Steady { rate, seconds, to } => steady(rate, seconds, to.kind(), &arguments.config).await,
            What::Idle { seconds, to } => idle(Duration::from_secs(seconds), to.kind(), &arguments.config).await,
        }
    });
    let text = serde_json::to_string_pretty(&figures).expect("figures are JSON");
    if let Some(path) = arguments.json {
        std::fs::write(&path, text + "\n").unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }
}

async fn drain(rows: usize, kind: Kind, runs: usize, config: &str) -> Value {
    println!("drain: {rows} rows of about 480 bytes over 1,000 keys to {kind:?}, everything on this machine");
    println!(
        "{:>4} {:>10} {:>8} {:>8}   {:>8} {:>10} {:>8}",
        "run", "rows/s", "seconds", "RSS MB", "relay", "PostgreSQL", "broker"
    );
    println!(
        "{:>4} {:>10} {:>8} {:>8}   {:^28}",
        "", "", "", "peak", "CPU seconds per million rows"
    );
    let mut all = Vec::new();
    for run in 1..=runs {
        let figures = drain_once(rows, kind, config).await;
        println!(
            "{run:>4} {:>10.0} {:>8.2} {:>8}   {:>8.1} {:>10.1} {:>8.1}",
            number(&figures, "rows_per_second"),
            number(&figures, "seconds"),
            figures["peak_rss_mb"],
            number(&figures, "relay_cpu_s_per_million"),
            number(&figures, "postgres_cpu_s_per_million"),
            number(&figures, "broker_cpu_s_per_million"),
        );
        all.push(figures);
    }
    let mut rates: Vec<f64> = all.iter().map(|figures| number(figures, "rows_per_second")).collect();
    rates.sort_by(f64::total_cmp);
    let median = rates[rates.len() / 2];
    println!(" median {median:>7.0} rows/s; every row found by the consumer, in order per key");
    json!({ "drain": { "to": format!("{kind:?}"), "rows": rows, "median_rows_per_second": median, "runs": all } })
}

fn number(figures: &Value, name: &str) -> f64 {
    figures[name].as_f64().expect("a figure is a number")
}

async fn drain_once(rows: usize, kind: Kind, config: &str) -> Value {
    let scene = Scene::new(kind, config).await;
    // 430 bytes of padding make a payload of about 480.
    let insert = format!(
        "begin; insert into outbox_messages (topic, key, payload)
         select 'orders', 'k' || n % 1000, jsonb_build_object('order', n, 'customer', n % 1000, 'pad', repeat('x', 430))
         from generate_series(1, {rows}) as n"
    );
    scene.session.run(&insert).await;
    let before = scene.cpu();
    scene.session.run("commit").await;
    let begun = Instant::now();
    let pending = "select count(*) from (select from outbox_messages
        where relayed_at is null and failed_at is null limit 1) as one";
    support::eventually("all rows are relayed", Duration::from_secs(600), || async {
        (scene.session.count(pending).await == 0).then_some(())
    })
    .await;
    let seconds = begun.elapsed().as_secs_f64();
    let used = scene.cpu().since(before);
    let peak = scene.daemon.peak_rss() / (1024 * 1024);
    let verdict = judge(&scene.database, &scene.broker, &["orders"]).await;
    verdict.assert_nothing_lost();
    verdict.assert_ordered();
    verdict.assert_duplicates_within(0);
    let Scene { daemon, .. } = scene;
    assert!(
        daemon.terminate(Duration::from_secs(30)).await.success(),
        "the daemon ends with 0"
    );
    let millions = rows as f64 / 1e6;
    json!({
        "rows_per_second": rows as f64 / seconds,
        "seconds": seconds,
        "peak_rss_mb": peak,
        "relay_cpu_s_per_million": used.relay / millions,
        "postgres_cpu_s_per_million": used.postgres / millions,
        "broker_cpu_s_per_million": used.broker / millions,
    })
}

const WRITERS: usize = 4;

async fn steady(rate: usize, seconds: usize, kind: Kind, config: &str) -> Value {
    println!("steady: {rate} single-row transactions/s for {seconds} s to {kind:?}");
    let scene = Scene::new(kind, config).await;
    let mut consumer = scene.broker.follow(&["orders"]).await;
    // One row to warm up: connections, plans, the topic's metadata.
    scene
        .session
        .run("insert into outbox_messages (topic, key, payload) values ('orders', 'warm', '{}')")
        .await;
    consumer
        .next(Duration::from_secs(30))
        .await
        .expect("the first message arrives");
    let before = scene.cpu();
    let mut writers: JoinSet<Vec<(Uuid, Instant)>> = JoinSet::new();
    for number in 0..WRITERS {
        let session = scene.database.connect().await;
        let (count, period) = (
            rate * seconds / WRITERS,
            Duration::from_secs_f64(WRITERS as f64 / rate as f64),
        );
        let first = tokio::time::Instant::now() + period * number as u32 / WRITERS as u32;
        writers.spawn(write_steadily(session, count, first, period));
    }
    let expected = rate * seconds / WRITERS * WRITERS;
    let mut arrived: HashMap<Uuid, Instant> = HashMap::with_capacity(expected);
    while arrived.len() < expected {
        let Some(arrival) = consumer.next(Duration::from_secs(30)).await else {
            panic!("{} of {expected} messages arrived", arrived.len())
        };
        arrived.entry(arrival.id).or_insert_with(Instant::now);
    }
    let used = scene.cpu().since(before);
    let mut latencies = Vec::with_capacity(expected);
    while let Some(written) = writers.join_next().await {
        for (id, committed) in written.expect("no writer fails") {
            latencies.push(arrived[&id].saturating_duration_since(committed).as_secs_f64() * 1000.0);
        }
    }
    latencies.sort_by(f64::total_cmp);
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize];
    let (p50, p99, max) = (at(0.5), at(0.99), at(1.0));
    let per_second = seconds as f64;
    let (relay, postgres) = (100.0 * used.relay / per_second, 100.0 * used.postgres / per_second);
    println!("  commit to consumer: p50 {p50:.1} ms, p99 {p99:.1} ms, worst {max:.1} ms");
    println!("  of a core: relay {relay:.1} %, PostgreSQL with the writers' work {postgres:.1} %");
    json!({ "steady": { "to": format!("{kind:?}"), "rate": rate, "seconds": seconds, "p50_ms": p50, "p99_ms": p99,
        "max_ms": max, "relay_cpu_percent": relay, "postgres_cpu_percent": postgres } })
}

/// `count` single-row transactions, one each `period`; with each the moment its COMMIT was sent.
async fn write_steadily(
    session: Session,
    count: usize,
    first: tokio::time::Instant,
    period: Duration,
) -> Vec<(Uuid, Instant)> {
    let insert = "insert into outbox_messages (id, topic, key, payload)
        values ($1, 'orders', $2, jsonb_build_object('pad', repeat('x', 450)))";
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

async fn idle(span: Duration, kind: Kind, config: &str) -> Value {
    println!("idle: {} s with an empty outbox, {kind:?}", span.as_secs());
    let scene = Scene::new(kind, config).await;
    let transactions = "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()";
    // Statistics of idle backends are flushed within a second; and the daemon has just started.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (before, count_before, begun) = (scene.cpu(), scene.session.count(transactions).await, Instant::now());
    tokio::time::sleep(span).await;
    let (used, seconds) = (scene.cpu().since(before), begun.elapsed().as_secs_f64());
    let count = scene.session.count(transactions).await - count_before;
    let rate = count as f64 / seconds;
    let (relay, postgres) = (100.0 * used.relay / seconds, 100.0 * used.postgres / seconds);
    let rss = scene.daemon.peak_rss() / (1024 * 1024);
    println!("  of a core: relay {relay:.2} %, PostgreSQL {postgres:.2} %; {rate:.1} statements/s; peak RSS {rss} MB");
    json!({ "idle": { "to": format!("{kind:?}"), "seconds": seconds, "relay_cpu_percent": relay,
        "postgres_cpu_percent": postgres, "statements_per_second": rate, "peak_rss_mb": rss } })
}
