//! How fast a backlog drains: beside the floor, with large payloads, with one key, over ten million rows, by several
//! instances, under a snapshot held open.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::floor::Mark;
use crate::scene::{Haul, Scene, Set, heads, line, median, number};
use crate::steady::latencies;
use crate::support::broker::{Broker, Kind};
use crate::support::eventually;
use crate::support::postgres::Session;
use crate::support::processes::cpu_seconds;

/// Rows of a backlog.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) count: usize,
    pub(crate) keys: usize,
    /// Bytes of padding in each payload.
    pub(crate) padding: usize,
}

impl Rows {
    /// 430 bytes of padding make a payload of about 480.
    pub(crate) fn usual(count: usize) -> Self {
        Self {
            count,
            keys: 1_000,
            padding: 430,
        }
    }

    /// Inserted in a transaction left open, so that they become visible at once.
    pub(crate) async fn insert(self, session: &Session) {
        let Self { count, keys, padding } = self;
        let insert = format!(
            "begin; insert into outbox_messages (topic, key, payload)
             select 'orders', 'k' || n % {keys},
                    jsonb_build_object('order', n, 'customer', n % 1000, 'pad', repeat('x', {padding}))
             from generate_series(1, {count}) as n"
        );
        session.run(&insert).await;
    }
}

/// One drain of `rows` by the relay.
pub(crate) async fn relay(set: Set<'_>, rows: Rows) -> Value {
    let scene = Scene::new(set).await;
    scene.warm_up().await;
    rows.insert(&scene.session).await;
    let before = scene.cpu();
    scene.session.run("commit").await;
    let haul = Haul::begin(rows.count, before);
    scene.until_relayed().await;
    let figures = haul.end(scene.cpu(), scene.peak_rss());
    if !set.config.contains("delete") {
        scene.judge().await;
    }
    scene.end().await;
    figures
}

/// The parts of the floor at work.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parts {
    All,
    /// Fetch and mark.
    Database,
    /// The broker's client, with rows made up in memory.
    Producer,
}

/// One drain of `rows` by the floor, in a process of its own.
pub(crate) async fn floor(broker: &Broker, parts: Parts, mark: Mark, rows: Rows) -> Value {
    let scene = Scene::without_daemon(Set::one(broker, "")).await;
    let mut command = tokio::process::Command::new(std::env::current_exe().expect("this program"));
    command.args(["floor", "--mark", mark.name(), "--rows", &rows.count.to_string()]);
    if parts != Parts::Producer {
        rows.insert(&scene.session).await;
        command.args(["--url", &scene.database.url()]);
    }
    if parts != Parts::Database {
        command.args(["--to", name(broker.kind), "--address", &broker.address()]);
    }
    let before = scene.cpu();
    if parts != Parts::Producer {
        scene.session.run("commit; analyze outbox_messages").await;
    }
    let mut child = command.stdin(Stdio::null()).spawn().expect("the floor starts");
    let pid = child.id().expect("it runs");
    let haul = Haul::begin(rows.count, before);
    let mut used = 0.0;
    let ended = loop {
        tokio::select! {
            ended = child.wait() => break ended.expect("its end"),
            () = tokio::time::sleep(Duration::from_millis(20)) => used = cpu_seconds(pid),
        }
    };
    assert!(ended.success(), "the floor ended with {ended}");
    let mut figures = haul.end(scene.cpu(), 0);
    figures["relay_cpu_s_per_million"] = json!(used / (rows.count as f64 / 1e6));
    figures
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Kafka => "kafka",
        Kind::Nats => "nats",
    }
}

/// A running broker. Kafka's has done some work already: its just-in-time compiler takes a core for its first minute.
pub(crate) async fn warm(kind: Kind) -> Broker {
    let broker = Broker::start(kind);
    if kind == Kind::Kafka {
        floor(&broker, Parts::Producer, Mark::Delete, Rows::usual(3_000_000)).await;
        floor(&broker, Parts::All, Mark::Delete, Rows::usual(300_000)).await;
    }
    broker
}

/// The relay and its floors side by side, `runs` times.
pub(crate) async fn drain(count: usize, kind: Kind, runs: usize, config: &str) -> Value {
    let rows = Rows::usual(count);
    println!("drain: {count} rows of about 480 bytes over 1,000 keys to {kind:?}, everything on this machine");
    heads();
    let delete = config.contains("delete");
    let mark = if delete { Mark::Delete } else { Mark::Update };
    let broker = warm(kind).await;
    let (mut relays, mut floors, mut bare, mut alone) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let deleting = (!config.contains("[outbox]")).then(|| format!("{config}\n[outbox]\non_relayed = \"delete\"\n"));
    let mut deletes = Vec::new();
    for run in 1..=runs {
        floors.push(floor(&broker, Parts::All, mark, rows).await);
        line(&format!("{run} floor"), &floors[run - 1]);
        relays.push(relay(Set::one(&broker, config), rows).await);
        line(&format!("{run} outboxd"), &relays[run - 1]);
        if let Some(config) = &deleting {
            deletes.push(relay(Set::one(&broker, config), rows).await);
            line(&format!("{run} outboxd, delete"), &deletes[run - 1]);
        }
        bare.push(floor(&broker, Parts::Database, mark, rows).await);
        line(&format!("{run} fetch and mark"), &bare[run - 1]);
        alone.push(floor(&broker, Parts::Producer, mark, rows).await);
        line(&format!("{run} {} client alone", name(kind)), &alone[run - 1]);
    }
    let rate = median(&relays, "rows_per_second");
    let of_floor = rate / median(&floors, "rows_per_second");
    let postgres = median(&relays, "postgres_cpu_s_per_million") / median(&floors, "postgres_cpu_s_per_million");
    println!("median {rate:.0} rows/s: {of_floor:.2} of the floor; PostgreSQL CPU {postgres:.2} times the floor's");
    if !deletes.is_empty() {
        let ratio = median(&deletes, "rows_per_second") / rate;
        println!("on_relayed = \"delete\": {ratio:.2} of the rate of \"mark\"");
    }
    if !delete {
        println!("every row found by the consumer, in order per key, once");
    }
    json!({ "drain": { "to": format!("{kind:?}"), "rows": count, "median_rows_per_second": rate, "of_floor": of_floor,
        "postgres_cpu_of_floor": postgres, "runs": relays, "delete": deletes, "floor": floors, "fetch_and_mark": bare, "client_alone": alone } })
}

/// Payloads of 100 kB: rate and memory.
pub(crate) async fn large(count: usize, kind: Kind, config: &str) -> Value {
    println!("large: {count} rows of 100 kB to {kind:?}");
    let broker = warm(kind).await;
    heads();
    let rows = Rows {
        count,
        keys: 100,
        padding: 100_000,
    };
    let figures = relay(Set::one(&broker, config), rows).await;
    line("outboxd", &figures);
    json!({ "large": figures })
}

/// All rows of one key.
pub(crate) async fn hot_key(count: usize, kind: Kind, config: &str) -> Value {
    println!("hot-key: {count} rows of one key to {kind:?}");
    let broker = warm(kind).await;
    heads();
    let rows = Rows {
        keys: 1,
        ..Rows::usual(count)
    };
    let figures = relay(Set::one(&broker, config), rows).await;
    line("outboxd", &figures);
    json!({ "hot_key": figures })
}

/// One, two and three instances on the same machine.
pub(crate) async fn scale(count: usize, kind: Kind, config: &str) -> Value {
    println!("scale: {count} rows to {kind:?} by several instances");
    let broker = warm(kind).await;
    heads();
    let mut all = Vec::new();
    for instances in 1..=3 {
        let set = Set {
            instances,
            ..Set::one(&broker, config)
        };
        let figures = relay(set, Rows::usual(count)).await;
        line(&format!("{instances} instances"), &figures);
        all.push(figures);
    }
    json!({ "scale": all })
}

/// A long backlog: the rate of its first and of its last tenth.
pub(crate) async fn backlog(count: usize, kind: Kind, config: &str) -> Value {
    println!("backlog: {count} rows to {kind:?}, inserted before the daemon starts");
    let broker = warm(kind).await;
    heads();
    let mut scene = Scene::without_daemon(Set::one(&broker, config)).await;
    Rows::usual(count).insert(&scene.session).await;
    scene.session.run("commit").await;
    scene.session.run("vacuum analyze outbox_messages").await;
    let tenth = count / 10;
    scene.start().await;
    let haul = Haul::begin(count, scene.cpu());
    let first = scene.time_to_relay(tenth).await;
    scene.time_to_relay(count - tenth).await;
    // By the last row: looking for any pending one passes over the index entries of all that were relayed.
    let last = scene.time_to_relay(count).await;
    let mut figures = haul.end(scene.cpu(), scene.peak_rss());
    line("outboxd", &figures);
    let rate = |time: Duration| tenth as f64 / time.as_secs_f64();
    println!(
        "first tenth {:.0} rows/s, last tenth {:.0} rows/s: {:.2} of it",
        rate(first),
        rate(last),
        rate(last) / rate(first)
    );
    figures["first_tenth_rows_per_second"] = json!(rate(first));
    figures["last_tenth_rows_per_second"] = json!(rate(last));
    scene.until_relayed().await;
    scene.end().await;
    json!({ "backlog": figures })
}

/// A drain over rows relayed earlier, whose dead versions a snapshot keeps, or not.
pub(crate) async fn held_snapshot(relayed: usize, count: usize, kind: Kind, config: &str) -> Value {
    println!("held-snapshot: {count} rows to {kind:?} after {relayed} relayed ones, without and with a snapshot held");
    let broker = warm(kind).await;
    heads();
    let mut all = Vec::new();
    for held in [false, true] {
        let scene = Scene::new(Set::one(&broker, config)).await;
        let holder = scene.database.connect().await;
        if held {
            holder
                .run("begin isolation level repeatable read; select count(*) from outbox_messages")
                .await;
        }
        Rows::usual(relayed).insert(&scene.session).await;
        scene.session.run("commit").await;
        scene.until_relayed().await;
        if !held {
            scene.session.run("vacuum outbox_messages").await;
        }
        Rows::usual(count).insert(&scene.session).await;
        let before = scene.cpu();
        scene.session.run("commit").await;
        let haul = Haul::begin(count, before);
        scene.until_relayed_after(relayed).await;
        let mut figures = haul.end(scene.cpu(), scene.peak_rss());
        line(if held { "held" } else { "not held" }, &figures);
        let steady = latencies(&scene, 200, 20).await;
        figures["p50_ms"] = steady["p50_ms"].clone();
        figures["p99_ms"] = steady["p99_ms"].clone();
        all.push(figures);
        scene.end().await;
    }
    let ratio = |name: &str| number(&all[1], name) / number(&all[0], name);
    let (rate, p50, p99) = (ratio("rows_per_second"), ratio("p50_ms"), ratio("p99_ms"));
    println!("held: {rate:.2} of the rate without; at 200 rows/s p50 {p50:.2} and p99 {p99:.2} of it");
    json!({ "held_snapshot": { "without": all[0], "with": all[1], "ratio": rate, "p50_ratio": p50, "p99_ratio": p99 } })
}

impl Scene<'_> {
    /// Time until `count` rows are relayed.
    async fn time_to_relay(&self, count: usize) -> Duration {
        let begun = Instant::now();
        // The relay works in seq order: the row before last of them tells, without counting.
        let done = format!("select count(*) from outbox_messages where seq = {count} and relayed_at is not null");
        eventually("a part is relayed", Duration::from_secs(3_600), || async {
            (self.session.count(&done).await == 1).then_some(())
        })
        .await;
        begun.elapsed()
    }

    /// All rows past `seq` are relayed: looked for by the primary key, which a held snapshot does not slow down.
    async fn until_relayed_after(&self, seq: usize) {
        let pending = format!(
            "select count(*) from (select from outbox_messages where seq > {seq} and relayed_at is null order by seq desc limit 1) as one"
        );
        eventually("all rows are relayed", Duration::from_secs(3_600), || async {
            (self.session.count(&pending).await == 0).then_some(())
        })
        .await;
    }
}
