//! Debezium Server with the outbox event router, beside the relay: the same rows, brokers and machine.
//!
//! It tails the write-ahead log, so its cluster runs with `wal_level = logical` (the relay's with PostgreSQL's default), and it
//! marks nothing. Batches and queues are larger than its defaults. Its `poll.interval.ms` is its default for one half of the
//! latencies; else it polls each millisecond.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use serde_json::{Value, json};

use crate::drain::{Parts, Rows, floor, relay, warm};
use crate::floor::Mark;
use crate::scene::{Haul, Scene, Set, heads, line, median, number};
use crate::steady;
use crate::support::broker::{Broker, Kind};
use crate::support::eventually;
use crate::support::postgres::Database;
use crate::support::processes::{self, cpu_seconds, guarded, package, run, scratch, signal, spawn};

/// Its documentation's `poll.interval.ms`.
const DEFAULT_POLL: u32 = 500;

/// Rates, CPU, memory and latencies of both, in one run.
pub(crate) async fn peers((count, runs): (usize, usize), seconds: usize, kind: Kind, config: &str) -> Value {
    println!("peers: {count} rows of about 480 bytes to {kind:?}, Debezium Server and outboxd");
    let broker = warm(kind).await;
    let set = Set::one(&broker, config);
    let tailed = Set { logical: true, ..set };
    heads();
    let (mut theirs, mut ours, mut least) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..runs {
        theirs.push(drain(tailed, count).await);
        line(&format!("{} Debezium Server", run + 1), &theirs[run]);
        ours.push(relay(set, Rows::usual(count)).await);
        line(&format!("{} outboxd", run + 1), &ours[run]);
        // What would be left of the relay if it did nothing but fetch, publish and mark.
        least.push(floor(&broker, Parts::All, Mark::Update, Rows::usual(count)).await);
        line(&format!("{} floor", run + 1), &least[run]);
    }
    let ratio = |name: &str| median(&ours, name) / median(&theirs, name);
    println!(
        "outboxd, by the medians: {:.1} times the rows/s, 1/{:.0} of the CPU per row, 1/{:.0} of the memory",
        ratio("rows_per_second"),
        1.0 / ratio("relay_cpu_s_per_million"),
        1.0 / ratio("peak_rss_mb")
    );
    let mut latencies = Vec::new();
    for rate in [200, 2_000] {
        println!("outboxd:");
        let ours = steady::latencies(&Scene::new(set).await, rate, seconds).await;
        for poll in [DEFAULT_POLL, 1] {
            let scene = tailing(Scene::without_daemon(tailed).await, &Debezium::place(), poll).await;
            println!("Debezium Server, poll.interval.ms={poll}:");
            let theirs = steady::latencies(&scene, rate, seconds).await;
            let ratio = |name: &str| number(&ours, name) / number(&theirs, name);
            println!(
                "outboxd: p50 {:.2} of it, p99 {:.2} of it",
                ratio("p50_ms"),
                ratio("p99_ms")
            );
            latencies.push(json!({ "rate": rate, "poll_interval_ms": poll, "debezium": theirs, "outboxd": ours }));
        }
    }
    json!({ "peers": { "to": format!("{kind:?}"), "rows": count, "debezium": theirs, "outboxd": ours, "floor": least, "latencies": latencies } })
}

/// A scene whose peer tails the log: it has brought a row.
async fn tailing<'a>(mut scene: Scene<'a>, place: &Path, poll: u32) -> Scene<'a> {
    let peer = Debezium::start(&scene, place, poll);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
    while held(scene.broker).await == 0 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "Debezium Server brings nothing:\n{}",
            peer.log()
        );
        scene.insert_one().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    scene.peer = Some(peer);
    scene
}

/// Rows written while it was down, in transactions of 1,000; timed from the first that arrives to the last.
async fn drain(set: Set<'_>, count: usize) -> Value {
    let place = Debezium::place();
    let mut scene = tailing(Scene::without_daemon(set).await, &place, 1).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    if let Some(peer) = scene.peer.take() {
        peer.stop();
    }
    let rows = Rows::usual(1_000);
    for _ in 0..count / 1_000 {
        rows.insert(&scene.session).await;
        scene.session.run("commit").await;
    }
    let before = held(scene.broker).await;
    scene.peer = Some(Debezium::start(&scene, &place, 1));
    let at_least = |wanted: u64| {
        let scene = &scene;
        async move {
            eventually("rows arrive", Duration::from_secs(600), || async {
                (held(scene.broker).await >= wanted).then_some(())
            })
            .await;
        }
    };
    at_least(before + 1).await;
    let seen = held(scene.broker).await - before;
    let haul = Haul::begin(count - usize::try_from(seen).expect("a count"), scene.cpu());
    at_least(before + count as u64).await;
    haul.end(scene.cpu(), scene.peak_rss())
}

/// How many messages the broker holds.
async fn held(broker: &Broker) -> u64 {
    if broker.kind == Kind::Nats {
        return broker.held().await;
    }
    let address = broker.address();
    let asking = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", address)
            .create()
            .expect("a consumer");
        let ends = (0..3).map(|partition| consumer.fetch_watermarks("orders", partition, Duration::from_secs(10)));
        ends.map(|found| found.map_or(0, |(_, end)| u64::try_from(end).unwrap_or(0)))
            .sum()
    });
    asking.await.expect("the consumer does not panic")
}

/// A running Debezium Server; killed and removed on drop.
pub(crate) struct Debezium {
    dir: PathBuf,
    child: Child,
}

impl Debezium {
    /// Starts it in a directory of its own, which keeps its offset: another one started there goes on where it was.
    pub(crate) fn start(scene: &Scene<'_>, dir: &Path, poll: u32) -> Self {
        let home = run(Command::new(package().join("dev/debezium")).arg("home"));
        let (home, java) = home.trim().split_once('\n').expect("two lines");
        std::fs::create_dir_all(dir.join("config")).expect("a directory");
        std::fs::write(
            dir.join("config/application.properties"),
            properties(&scene.database, scene.broker, dir, poll),
        )
        .expect("its configuration");
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(dir.join("debezium.log"))
            .expect("a log");
        let mut command = guarded(java, "KILL");
        command
            .args(["--add-opens", "java.base/java.lang=ALL-UNNAMED", "-cp"])
            .arg(format!(
                "{home}/debezium-server-dist-3.6.0.Final-runner.jar:{home}/lib/*"
            ))
            .arg("io.debezium.server.Main")
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        Self {
            dir: dir.to_owned(),
            child: spawn(command),
        }
    }

    /// A directory for one.
    pub(crate) fn place() -> PathBuf {
        scratch("debezium")
    }

    pub(crate) fn cpu(&self) -> f64 {
        cpu_seconds(self.child.id())
    }

    /// Bytes.
    pub(crate) fn peak_rss(&self) -> u64 {
        processes::peak_rss(self.child.id())
    }

    /// Ends it as an operator would: it writes its offset.
    pub(crate) fn stop(mut self) {
        signal(self.child.id(), "TERM");
        self.child.wait().expect("it ends");
    }

    /// What it said last, for a panic's message.
    pub(crate) fn log(&self) -> String {
        let log = std::fs::read_to_string(self.dir.join("debezium.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Debezium {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn properties(database: &Database, broker: &Broker, dir: &Path, poll: u32) -> String {
    let sink = match broker.kind {
        Kind::Kafka => format!(
            "debezium.sink.type=kafka
debezium.sink.kafka.producer.bootstrap.servers={}
debezium.sink.kafka.producer.key.serializer=org.apache.kafka.common.serialization.StringSerializer
debezium.sink.kafka.producer.value.serializer=org.apache.kafka.common.serialization.StringSerializer
debezium.sink.kafka.producer.acks=all
debezium.sink.kafka.producer.linger.ms=1
debezium.sink.kafka.producer.batch.size=1000000
",
            broker.address()
        ),
        Kind::Nats => format!(
            "debezium.sink.type=nats-jetstream
debezium.sink.nats-jetstream.url={}
debezium.sink.nats-jetstream.create-stream=false
debezium.sink.nats-jetstream.async.enabled=true
",
            broker.address()
        ),
    };
    let (name, port, offsets) = (&database.name, database.port, dir.join("offsets.dat"));
    let offsets = offsets.display();
    format!(
        "{sink}debezium.format.key=simplestring
debezium.format.value=simplestring
debezium.source.connector.class=io.debezium.connector.postgresql.PostgresConnector
debezium.source.plugin.name=pgoutput
debezium.source.publication.autocreate.mode=filtered
debezium.source.snapshot.mode=no_data
debezium.source.database.hostname=127.0.0.1
debezium.source.database.port={port}
debezium.source.database.user=postgres
debezium.source.database.password=none
debezium.source.database.dbname={name}
debezium.source.topic.prefix=bench
debezium.source.table.include.list=public.outbox_messages
debezium.source.column.include.list=public.outbox_messages.(seq|id|topic|key|payload)
debezium.source.skipped.operations=u,d,t
debezium.source.tombstones.on.delete=false
debezium.source.max.batch.size=16384
debezium.source.max.queue.size=65536
debezium.source.poll.interval.ms={poll}
debezium.source.offset.storage.file.filename={offsets}
debezium.source.offset.flush.interval.ms=1000
debezium.transforms=outbox
debezium.transforms.outbox.type=io.debezium.transforms.outbox.EventRouter
debezium.transforms.outbox.table.field.event.id=id
debezium.transforms.outbox.table.field.event.key=key
debezium.transforms.outbox.table.field.event.payload=payload
debezium.transforms.outbox.route.by.field=topic
debezium.transforms.outbox.route.topic.replacement=\\\\${{routedByValue}}
quarkus.log.console.json.enabled=false
quarkus.http.port=0
"
    )
}
