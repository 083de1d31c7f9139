//! P6, bounded: memory depends on `relay.max_in_flight` and `relay.max_in_flight_bytes`, not on the backlog or the size
//! of payloads; rows that wait for a time cost nothing.

use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::support::broker::{Broker, Kind};
use crate::support::consumer::{Follower, wait_for};
use crate::support::daemon::{Daemon, Site};
use crate::support::postgres::{Cluster, Database, Session};
use crate::support::{alone, assert_within, eventually};

const MEGABYTE: u64 = 1024 * 1024;

struct Scene {
    broker: Broker,
    database: Database,
    session: Session,
    site: Site,
}

async fn scene(relay: &str) -> Scene {
    scene_of(Kind::Nats, relay).await
}

async fn scene_of(kind: Kind, relay: &str) -> Scene {
    let broker = Broker::start(kind);
    broker.prepare(&["orders"]).await;
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, &(broker.section("main") + relay));
    site.migrate();
    let session = database.connect().await;
    Scene {
        broker,
        database,
        session,
        site,
    }
}

async fn relayed(session: &Session) -> i64 {
    session
        .count("select count(*) from outbox_messages where relayed_at is not null")
        .await
}

/// 300,000 rows wait, the broker takes all it is given: memory stays what the window needs.
#[tokio::test]
async fn a_long_backlog_does_not_fill_memory() {
    let _guard = alone().await;
    let scene = scene("").await;
    scene
        .session
        .run(
            "insert into outbox_messages (topic, key, payload)
             select 'orders', 'k' || n % 1000, jsonb_build_object('n', n, 'pad', repeat('x', 400))
             from generate_series(1, 300000) as n",
        )
        .await;
    let daemon = scene.site.start().await;
    scene.session.drained(Duration::from_secs(120)).await;
    let peak = daemon.peak_rss() / MEGABYTE;
    println!("300,000 rows of backlog: peak RSS {peak} MB");
    assert_eq!(relayed(&scene.session).await, 300_000);
    assert!(peak <= 150, "peak RSS {peak} MB with a backlog of 300,000 rows");
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

/// Transactions of this database so far: every statement of the daemon is one of its own. A server process reports them all when
/// it ends.
async fn statements(elsewhere: &Session, database: &Database) -> i64 {
    let connected = format!(
        "select count(*) from pg_stat_activity where datname = '{}' and application_name like 'outboxd/%'",
        database.name
    );
    eventually(
        "the daemon's server processes have ended",
        Duration::from_secs(10),
        || async { (elsewhere.count(&connected).await == 0).then_some(()) },
    )
    .await;
    let count = format!(
        "select xact_commit + xact_rollback from pg_stat_database where datname = '{}'",
        database.name
    );
    elsewhere.count(&count).await
}

/// A drain of 100,000 rows takes at most 12 statements per 1,000 rows, from the daemon's start to its end.
#[tokio::test]
async fn a_drain_takes_few_statements() {
    const ROWS: i64 = 100_000;
    let _guard = alone().await;
    let scene = scene("").await;
    let elsewhere = Cluster::shared().maintenance().connect().await;
    let before = statements(&elsewhere, &scene.database).await;
    let daemon = scene.site.start().await;
    let insert = format!(
        "insert into outbox_messages (topic, key, payload)
         select 'orders', 'k' || n % 1000, jsonb_build_object('n', n, 'pad', repeat('x', 400))
         from generate_series(1, {ROWS}) as n"
    );
    scene.session.run(&insert).await;
    eventually("all rows are relayed", Duration::from_secs(60), || async {
        let relayed: f64 = daemon
            .metrics()
            .await
            .iter()
            .filter(|(name, _)| name.starts_with("outboxd_messages_relayed_total"))
            .map(|(_, count)| count)
            .sum();
        (relayed >= ROWS as f64).then_some(())
    })
    .await;
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
    let taken = statements(&elsewhere, &scene.database).await - before;
    let per_thousand = taken as f64 / (ROWS as f64 / 1_000.0);
    println!("{taken} statements for {ROWS} rows: {per_thousand:.1} per 1,000");
    assert!(
        per_thousand >= 1.5,
        "{taken} statements were counted: fewer than reading and marking take"
    );
    assert!(per_thousand <= 12.0, "{taken} statements for {ROWS} rows");
    assert_eq!(relayed(&scene.session).await, ROWS);
}

/// A whole window of 100 kB payloads would be 1 GB; `max_in_flight_bytes` says 16 MiB.
#[tokio::test]
async fn large_payloads_do_not_fill_memory() {
    let _guard = alone().await;
    let scene = scene("[relay]\nmax_in_flight_bytes = \"16MiB\"\n").await;
    let insert = "insert into outbox_messages (topic, key, payload)
        select 'orders', 'k' || n % 100, to_jsonb(repeat('x', 100000)) from generate_series(1, 5000) as n";
    scene.session.run(insert).await;
    let daemon = scene.site.start().await;
    scene.session.drained(Duration::from_secs(120)).await;
    let peak = daemon.peak_rss() / MEGABYTE;
    println!("5,000 payloads of 100 kB: peak RSS {peak} MB");
    assert_eq!(relayed(&scene.session).await, 5_000);
    // The window, a copy of it on its way through each of the two clients, and the daemon itself.
    assert!(
        peak <= 150,
        "peak RSS {peak} MB with 100 kB payloads and a window of 16 MiB"
    );
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

/// With its broker dead the daemon holds its window and no more, whatever is waiting.
#[tokio::test]
async fn a_backlog_behind_a_dead_broker_does_not_fill_memory() {
    let _guard = alone().await;
    let scene = scene("").await;
    let daemon = scene.site.start().await;
    scene.broker.kill9().await;
    for _ in 0..4 {
        let insert = "insert into outbox_messages (topic, key, payload)
            select 'orders', 'k' || n % 1000, jsonb_build_object('n', n, 'pad', repeat('x', 400))
            from generate_series(1, 50000) as n";
        scene.session.run(insert).await;
    }
    eventually("the destination is paused", Duration::from_secs(15), || async {
        let metrics = daemon.metrics().await;
        let paused = metrics
            .iter()
            .any(|(name, value)| name.starts_with("outboxd_destination_paused{") && *value > 0.0);
        paused.then_some(())
    })
    .await;
    scene.broker.bring_back();
    scene.session.drained(Duration::from_secs(120)).await;
    let peak = daemon.peak_rss() / MEGABYTE;
    println!("200,000 rows behind a dead broker: peak RSS {peak} MB");
    assert!(peak <= 150, "peak RSS {peak} MB with 200,000 rows behind a dead broker");
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

/// Inserts one due row and returns how long it took to reach the consumer.
async fn probe(session: &Session, consumer: &mut Follower) -> Duration {
    let id = Uuid::new_v4();
    let insert = "insert into outbox_messages (id, topic, key, payload) values ($1, 'orders', 'probe', '1')";
    let begun = Instant::now();
    session.execute(insert, &[&id]).await.expect("an insert");
    wait_for(consumer, id, Duration::from_secs(30)).await;
    begun.elapsed()
}

async fn probes(session: &Session, consumer: &mut Follower) -> Vec<Duration> {
    let mut all = Vec::new();
    for _ in 0..20 {
        all.push(probe(session, consumer).await);
    }
    all.sort();
    all
}

const NEXT_YEAR: &str = "insert into outbox_messages (topic, key, payload, available_at)
    select 'orders', 'k' || n % 1000, '1', now() + interval '1 year' from generate_series(1, 1000000) as n";

async fn assert_quick(session: &Session, daemon: &Daemon, consumer: &mut Follower, when: &str) {
    let all = probes(session, consumer).await;
    println!(
        "{when}: median {:.1?}, worst {:.1?}, peak RSS {} MB",
        all[10],
        all[19],
        daemon.peak_rss() / MEGABYTE
    );
    // One of twenty may meet a checkpoint or another process on this machine.
    assert!(all[18] < Duration::from_millis(100), "{when}: due rows took {all:?}");
}

#[tokio::test]
async fn a_million_delayed_rows_in_front_do_not_delay_a_due_row() {
    let _guard = alone().await;
    let scene = scene("").await;
    scene.session.run(NEXT_YEAR).await;
    scene.session.run("analyze outbox_messages").await;
    let behind = "insert into outbox_messages (topic, key, payload) values ('orders', 'behind', '1')";
    scene.session.run(behind).await;
    let daemon = scene.site.start().await;
    let ready = Instant::now();
    let mut consumer = scene.broker.follow(&["orders"]).await;
    consumer
        .next(Duration::from_secs(30))
        .await
        .expect("the row behind a million delayed ones arrives");
    println!(
        "started on a million delayed rows: the first due row arrived {:.0?} after ready",
        ready.elapsed()
    );
    assert!(
        ready.elapsed() < Duration::from_secs(2),
        "the first due row took {:?}",
        ready.elapsed()
    );
    assert_quick(
        &scene.session,
        &daemon,
        &mut consumer,
        "a million delayed rows in front",
    )
    .await;
    eventually(
        "21 rows are marked, and none of the delayed",
        Duration::from_secs(5),
        || async { (relayed(&scene.session).await == 21).then_some(()) },
    )
    .await;
    let peak = daemon.peak_rss() / MEGABYTE;
    assert!(peak <= 150, "peak RSS {peak} MB with a million delayed rows");
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

/// The same million, committed under a running daemon.
#[tokio::test]
async fn a_million_delayed_rows_committed_at_once_do_not_delay_a_due_row() {
    let _guard = alone().await;
    let scene = scene("").await;
    let daemon = scene.site.start().await;
    let mut consumer = scene.broker.follow(&["orders"]).await;
    assert_quick(&scene.session, &daemon, &mut consumer, "an empty outbox").await;
    scene.session.run(NEXT_YEAR).await;
    let first = probe(&scene.database.connect().await, &mut consumer).await;
    println!("right behind a million delayed rows committed at once: {first:.1?}");
    assert_within("the first due row", first, Duration::from_secs(5));
    assert_quick(
        &scene.session,
        &daemon,
        &mut consumer,
        "a million delayed rows committed before",
    )
    .await;
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

/// A delayed row is sent when its time comes, not before and not much later.
#[tokio::test]
async fn a_delayed_row_is_sent_when_it_is_due() {
    let _guard = alone().await;
    let scene = scene("").await;
    let daemon = scene.site.start().await;
    let insert = "insert into outbox_messages (topic, payload, available_at)
        values ('orders', '1', clock_timestamp() + interval '2 seconds')";
    scene.session.run(insert).await;
    scene.session.drained(Duration::from_secs(10)).await;
    let late = "select (extract(epoch from relayed_at - available_at) * 1000)::bigint from outbox_messages";
    let late = scene.session.count(late).await;
    println!("a delayed row was marked {late} ms after its time");
    assert!(
        (0..500).contains(&late),
        "a delayed row was marked {late} ms after its time"
    );
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

const STRICT: &str =
    "[relay]\nmax_in_flight_bytes = \"16MiB\"\n[[routes]]\ntopic = \"*\"\ntransport = \"main\"\norder = \"strict\"\n";

/// Rows that hold `keys` keys, one more behind each: a free one arrives, the others take no memory to speak of.
async fn held_keys(kind: Kind, keys: u32, key: &str) {
    let scene = scene_of(kind, STRICT).await;
    let insert = |columns: &str, values: &str| {
        format!(
            "insert into outbox_messages (topic, key, payload{columns})
             select 'orders', {key}, to_jsonb(n){values} from generate_series(1, {keys}) n"
        )
    };
    let failed = insert(", attempt, failed_at, last_error", ", 20, now(), 'refused'");
    scene.session.run(&failed).await;
    let daemon = scene.site.start().await;
    let mut consumer = scene.broker.follow(&["orders"]).await;
    scene.session.run(&insert("", "")).await;
    let free = "insert into outbox_messages (topic, key, payload) values ('orders', 'free', '0')";
    scene.session.run(free).await;
    let free = consumer.next(Duration::from_secs(120)).await.expect("a free key's row");
    assert_eq!(free.payload, b"0");
    // What people and gauges are told of all this.
    eventually("the status names held keys", Duration::from_secs(60), || async {
        let (_, status) = daemon.get("/api/v1/status").await?;
        status.contains("held_keys").then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let peak = daemon.peak_rss() / MEGABYTE;
    println!("{keys} held keys, a row behind each: peak RSS {peak} MB");
    assert!(peak <= 150, "peak RSS {peak} MB with {keys} held keys");
    let some = keys / 3;
    let holder = format!("select id::text from outbox_messages where failed_at is not null and payload = '{some}'");
    let holder: String = scene.session.query_one(&holder, &[]).await.unwrap().get(0);
    scene.site.succeed(&["failed", "retry", "--id", &holder]);
    for _ in 0..2 {
        let freed = consumer
            .next(Duration::from_secs(60))
            .await
            .expect("a key that is free again");
        assert_eq!(freed.payload, some.to_string().as_bytes());
    }
    eventually("those three are marked", Duration::from_secs(5), || async {
        (relayed(&scene.session).await == 3).then_some(())
    })
    .await;
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

/// Each key was kept three times, with a tree of its own for the row that held it: 375 MB.
#[tokio::test]
async fn half_a_million_held_keys_do_not_fill_memory() {
    let _guard = alone().await;
    held_keys(Kind::Nats, 500_000, "'customer-' || n").await;
}

/// However long: 1,500 keys took 2.2 GB, and were all read again each second.
#[tokio::test]
async fn held_keys_of_half_a_megabyte_do_not_fill_memory() {
    let _guard = alone().await;
    held_keys(Kind::Kafka, 1_500, "repeat(md5(n::text), 15625)").await;
}
