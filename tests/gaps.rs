//! P1 and P3 where numbers are missing: thousands of gaps beside an open transaction, numbers written by hand far ahead of
//! the sequence, and keys whose rows failed together.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::AsyncCommands as _;

use crate::support::broker::{Broker, Kind};
use crate::support::chaos::judge;
use crate::support::daemon::{Daemon, Site};
use crate::support::postgres::{Cluster, Database, Session};
use crate::support::redis::RedisServer;
use crate::support::writers::{Habits, Writers};
use crate::support::{eventually, together};

const TOPICS: &[&str] = &["orders", "payments"];
const INSERT: &str = "insert into outbox_messages (topic, key, payload) values";

struct Scene {
    broker: Broker,
    database: Database,
    session: Session,
    site: Site,
    daemon: Daemon,
}

impl Scene {
    async fn on(kind: Kind, rest: &str) -> Self {
        let broker = Broker::start(kind);
        broker.prepare(TOPICS).await;
        let database = Cluster::two_phase().database().await;
        let site = Site::new(&database, &(broker.section("main") + rest));
        site.migrate();
        let daemon = site.start().await;
        let session = database.connect().await;
        Self {
            broker,
            database,
            session,
            site,
            daemon,
        }
    }

    async fn relayed(&self, rows: &str) -> i64 {
        let query = format!("select count(*) from outbox_messages where relayed_at is not null and {rows}");
        self.session.count(&query).await
    }

    async fn until_relayed(&self, rows: &str, count: i64, limit: Duration) {
        let what = format!("{count} rows with {rows} are relayed");
        eventually(&what, limit, || async {
            (self.relayed(rows).await == count).then_some(())
        })
        .await;
    }

    async fn end(self) {
        let verdict = judge(&self.database, &self.broker, TOPICS).await;
        println!("{verdict}");
        verdict.assert_nothing_lost();
        verdict.assert_ordered();
        assert!(self.daemon.terminate(Duration::from_secs(30)).await.success());
    }
}

/// What [`a_transaction_is_not_split_beside_thousands_of_gaps`] writes; `OUTBOXD_ORDER_ROWS` for longer (5,000,000: ten minutes).
const ROWS: usize = 20_000;

/// 0.2.0 with more than 500 gaps: the first half of a transaction came after its latter half, because each gap was looked at
/// only once one of the transactions had gone that held the sequence when the holders were read, which was after the page.
#[tokio::test]
async fn a_transaction_is_not_split_beside_thousands_of_gaps() {
    let _guard = together().await;
    let rows = std::env::var("OUTBOXD_ORDER_ROWS").map_or(ROWS, |rows| rows.parse().expect("a number"));
    let scene = Scene::on(Kind::Nats, "").await;
    let long = scene.database.connect().await;
    long.run(&format!("begin; {INSERT} ('orders', 'long', '1')")).await;
    // Every other number is rolled back, and the open transaction keeps all these gaps open.
    scene.session.run(&burn(5_000)).await;
    let writers = Writers {
        connections: 8,
        rows,
        keys: 64,
        topics: TOPICS,
        habits: Habits::Adversarial,
    };
    writers.start(&scene.database).await.join().await;
    long.run(&format!("{INSERT} ('orders', 'long', '2'); commit")).await;
    long.run(&format!("{INSERT} ('orders', 'long', '3')")).await;
    scene.session.drained(Duration::from_secs(120)).await;
    scene.end().await;
}

/// `count` rows with a burned number before each.
fn burn(count: usize) -> String {
    format!(
        "insert into outbox_messages (seq, topic, payload)
         select (select max(s) from (select nextval('outbox_messages_seq_seq') s from generate_series(1, 2)) n(s) where g is not null),
           'orders', '1' from generate_series(1, {count}) g"
    )
}

/// Reading stopped at 100,000 gaps until the transaction ended.
#[tokio::test]
async fn reading_goes_on_past_two_hundred_thousand_gaps() {
    let _guard = together().await;
    let scene = Scene::on(Kind::Nats, "").await;
    let long = scene.database.connect().await;
    long.run(&format!("begin; {INSERT} ('orders', 'long', '1')")).await;
    for _ in 0..10 {
        scene.session.run(&burn(30_000)).await;
    }
    scene
        .until_relayed("topic = 'orders'", 300_000, Duration::from_secs(120))
        .await;
    scene.session.run(&format!("{INSERT} ('orders', 'new', '1')")).await;
    scene.until_relayed("key = 'new'", 1, Duration::from_secs(5)).await;
    let metrics = scene.daemon.metrics().await;
    let resident = metrics["process_resident_memory_bytes"];
    assert!(resident <= 150e6, "{resident} bytes");
    long.run(&format!("{INSERT} ('orders', 'long', '2'); commit")).await;
    long.run(&format!("{INSERT} ('orders', 'long', '3')")).await;
    scene.until_relayed("key = 'long'", 3, Duration::from_secs(20)).await;
    scene.end().await;
}

/// The cursor went to the highest number there is: every later row waited for the sweep.
#[tokio::test]
async fn a_number_written_by_hand_far_ahead_keeps_nobody_waiting() {
    let _guard = together().await;
    let scene = Scene::on(Kind::Nats, "").await;
    for (round, seq) in [i64::MAX, 1_000_000_000, 50_000].into_iter().enumerate() {
        scene
            .session
            .run(&format!(
                "insert into outbox_messages (seq, topic, key, payload) values ({seq}, 'orders', 'hand', '1')"
            ))
            .await;
        let hand = i64::try_from(round).unwrap() + 1;
        scene.until_relayed("key = 'hand'", hand, Duration::from_secs(5)).await;
        for _ in 0..3 {
            scene.session.run(&format!("{INSERT} ('orders', 'later', '1')")).await;
        }
        scene
            .until_relayed("key = 'later'", 3 * hand, Duration::from_secs(5))
            .await;
    }
    // Those by hand come in the order they are found, so their key has none.
    scene
        .session
        .run("update outbox_messages set key = null where key = 'hand'")
        .await;
    assert!(scene.daemon.terminate(Duration::from_secs(30)).await.success());
}

/// Behind a held key the last number there is was recalled again and again, for ever.
#[tokio::test]
async fn the_last_number_there_is_waits_behind_its_key_and_is_sent() {
    let _guard = together().await;
    let route = "[[routes]]\ntopic = \"*\"\ntransport = \"main\"\nbackoff_min = \"2s\"\nbackoff_max = \"2s\"\nmax_attempts = 2\n";
    let scene = Scene::on(Kind::Nats, route).await;
    let refused = r#"{"Nats-Expected-Last-Sequence": "999999"}"#;
    scene
        .session
        .run(&format!(
            "insert into outbox_messages (topic, key, payload, headers) values ('orders', 'a', '1', '{refused}')"
        ))
        .await;
    let retrying = "select count(*) from outbox_messages where attempt = 2";
    eventually("the first attempt is counted", Duration::from_secs(10), || async {
        (scene.session.count(retrying).await == 1).then_some(())
    })
    .await;
    scene
        .session
        .run(&format!(
            "insert into outbox_messages (seq, topic, key, payload) values ({}, 'orders', 'a', '2')",
            i64::MAX
        ))
        .await;
    scene.until_relayed("key = 'a'", 1, Duration::from_secs(20)).await;
    scene.session.run(&format!("{INSERT} ('orders', 'b', '1')")).await;
    scene.until_relayed("key = 'b'", 1, Duration::from_secs(5)).await;
    assert!(scene.daemon.terminate(Duration::from_secs(30)).await.success());
}

/// Ten rows of three keys that are at their second attempt, each due after so many tenths of a second.
fn siblings(due: &str) -> String {
    format!(
        "insert into outbox_messages (topic, key, payload, attempt, available_at)
         select 'orders', 'k' || k, to_jsonb(n), 2, now() + ({due}) * interval '100 milliseconds'
         from generate_series(1, 10) n, generate_series(1, 3) k order by n"
    )
}

#[tokio::test]
async fn rows_of_a_key_that_failed_together_come_in_order_to_redis() {
    let _guard = together().await;
    let server = RedisServer::start();
    let database = Cluster::shared().database().await;
    let site = Site::new(
        &database,
        &format!("[transports.main.redis]\nurl = \"{}\"\n", server.url()),
    );
    site.migrate();
    let session = database.connect().await;
    session.run(&siblings("-10 - n")).await;
    let daemon = site.start().await;
    session.drained(Duration::from_secs(20)).await;
    session.run(&siblings("10 - n")).await;
    session.drained(Duration::from_secs(20)).await;
    let client = redis::Client::open(server.url()).unwrap();
    let mut client = client.get_multiplexed_async_connection().await.unwrap();
    let stream: redis::streams::StreamRangeReply = client.xrange_all("orders").await.unwrap();
    let mut of_key: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for entry in stream.ids {
        let payload: i64 = entry.get("payload").unwrap();
        of_key.entry(entry.get("key").unwrap()).or_default().push(payload);
    }
    assert_eq!(of_key.len(), 3);
    for (key, came) in of_key {
        let twice: Vec<i64> = (1..=10).chain(1..=10).collect();
        assert_eq!(came, twice, "{key}");
    }
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

/// What a random backoff makes of rows of a key that failed together: the last is due first. They came in that order.
#[tokio::test]
async fn rows_of_a_key_that_failed_together_come_in_order() {
    for kind in [Kind::Nats, Kind::Kafka] {
        let _guard = together().await;
        let scene = Scene::on(kind, "").await;
        scene.session.run(&siblings("10 - n")).await;
        scene.until_relayed("key like 'k%'", 30, Duration::from_secs(20)).await;
        // The same after a restart, overdue already.
        let Scene {
            broker,
            database,
            session,
            site,
            daemon,
        } = scene;
        assert!(daemon.terminate(Duration::from_secs(30)).await.success());
        session.run(&siblings("-10 - n")).await;
        let daemon = site.start().await;
        let scene = Scene {
            broker,
            database,
            session,
            site,
            daemon,
        };
        scene.until_relayed("key like 'k%'", 60, Duration::from_secs(20)).await;
        scene.end().await;
    }
}

/// A table exchanged under a running relay was noticed by the sweep after half a minute, or never.
#[tokio::test]
async fn an_exchanged_or_emptied_table_is_read_at_once() {
    let _guard = together().await;
    let scene = Scene::on(Kind::Nats, "").await;
    let exchanges = [
        "truncate outbox_messages restart identity",
        "delete from outbox_messages; alter sequence outbox_messages_seq_seq restart",
        "delete from outbox_messages; select setval('outbox_messages_seq_seq', 1)",
        "begin; alter table outbox_messages rename to outbox_old;
         create table outbox_messages (like outbox_old including all);
         grant all on outbox_messages to public; grant all on all sequences in schema public to public; commit",
    ];
    for exchange in exchanges {
        for _ in 0..20 {
            scene.session.run(&format!("{INSERT} ('orders', null, '1')")).await;
        }
        scene.session.drained(Duration::from_secs(10)).await;
        scene.session.run(exchange).await;
        for _ in 0..5 {
            scene.session.run(&format!("{INSERT} ('orders', null, '2')")).await;
        }
        scene.until_relayed("true", 5, Duration::from_secs(3)).await;
    }
    assert!(scene.site.log().contains("starting over"), "it is said");
    assert!(scene.daemon.terminate(Duration::from_secs(30)).await.success());
}
