//! P3, order per key: messages of one (topic, key) reach the broker in `seq` order, through crashes, outages and
//! retries; what happens behind a failing one is the route's `order`.
//!
//! A message NATS refuses for a reason that may pass: it carries the header `Nats-Expected-Last-Sequence` with a number
//! the stream does not have, and JetStream answers 10071.

use std::time::Duration;

use crate::support::broker::{Broker, Kind};
use crate::support::chaos::{self, judge};
use crate::support::daemon::{Daemon, Site};
use crate::support::postgres::{Cluster, Database, Session};
use crate::support::{eventually, throughout, together};

#[tokio::test]
async fn order_per_key_in_nats_survives_kills() {
    chaos::verdict(Kind::Nats).await.assert_ordered();
}

#[tokio::test]
async fn order_per_key_in_kafka_survives_kills() {
    chaos::verdict(Kind::Kafka).await.assert_ordered();
}

struct Scene {
    broker: Broker,
    database: Database,
    session: Session,
    site: Site,
}

const REFUSED: &str = r#"{"Nats-Expected-Last-Sequence": "999999"}"#;

/// A daemon on NATS with one route, its `order` and some more keys of that route given.
async fn scene(route: &str) -> (Scene, Daemon) {
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders"]).await;
    let database = Cluster::shared().database().await;
    let routes = format!("[[routes]]\ntopic = \"*\"\ntransport = \"main\"\n{route}\n");
    let site = Site::new(&database, &(broker.section("main") + &routes));
    site.migrate();
    let daemon = site.start().await;
    let session = database.connect().await;
    (
        Scene {
            broker,
            database,
            session,
            site,
        },
        daemon,
    )
}

impl Scene {
    /// One transaction: key `a` refused, then two more of `a`, and two of `b`.
    async fn insert_behind_a_refused_row(&self) {
        let insert = format!(
            "insert into outbox_messages (topic, key, payload, headers) values
             ('orders', 'a', '1', '{REFUSED}'), ('orders', 'b', '1', '{{}}'), ('orders', 'a', '2', '{{}}'),
             ('orders', 'b', '2', '{{}}'), ('orders', 'a', '3', '{{}}')"
        );
        self.session.run(&insert).await;
    }

    async fn relayed(&self, key: &str) -> i64 {
        let query = "select count(*) from outbox_messages where relayed_at is not null and key = $1";
        self.session.query_one(query, &[&key]).await.expect("a count").get(0)
    }

    async fn until_relayed(&self, key: &str, rows: i64) {
        let what = format!("{rows} rows of key {key} are relayed");
        eventually(&what, Duration::from_secs(15), || async {
            (self.relayed(key).await == rows).then_some(())
        })
        .await;
    }

    async fn until_failed(&self) {
        let query = "select count(*) from outbox_messages where failed_at is not null";
        eventually("the refused row has failed", Duration::from_secs(20), || async {
            (self.session.count(query).await == 1).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_retrying_row_holds_its_key_and_no_other() {
    let _guard = together().await;
    let (scene, daemon) = scene("order = \"key\"\nmax_attempts = 3\nbackoff_min = \"1s\"\nbackoff_max = \"1s\"").await;
    scene.insert_behind_a_refused_row().await;
    scene.until_relayed("b", 2).await;
    let attempt = "select attempt::bigint from outbox_messages where seq = 1";
    eventually("the first attempt is counted", Duration::from_secs(10), || async {
        (scene.session.count(attempt).await == 2).then_some(())
    })
    .await;
    assert_eq!(scene.relayed("a").await, 0, "key a waits behind its retrying row");
    // It goes on once the row has failed for good.
    scene.until_failed().await;
    scene.until_relayed("a", 2).await;
    let verdict = judge(&scene.database, &scene.broker, &["orders"]).await;
    verdict.assert_nothing_lost();
    verdict.assert_ordered();
    assert_eq!(scene.session.count(attempt).await, 4, "three attempts used up");
    assert_eq!(scene.session.count("select count(*) from outboxd_attempts").await, 3);
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

#[tokio::test]
async fn a_strict_key_waits_until_an_operator_acts() {
    let _guard = together().await;
    let (scene, daemon) = scene("order = \"strict\"\nmax_attempts = 1").await;
    scene.insert_behind_a_refused_row().await;
    scene.until_relayed("b", 2).await;
    scene.until_failed().await;
    throughout("key a waits", Duration::from_secs(1), || async {
        scene.relayed("a").await == 0
    })
    .await;
    // A restart forgets nothing.
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
    let daemon = scene.site.start().await;
    throughout("key a still waits", Duration::from_secs(1), || async {
        scene.relayed("a").await == 0
    })
    .await;

    scene
        .session
        .run("update outbox_messages set headers = '{}' where seq = 1")
        .await;
    scene.site.succeed(&["failed", "retry", "1"]);
    scene.until_relayed("a", 3).await;
    let verdict = judge(&scene.database, &scene.broker, &["orders"]).await;
    verdict.assert_nothing_lost();
    verdict.assert_ordered();
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

#[tokio::test]
async fn with_order_none_nobody_waits() {
    let _guard = together().await;
    let (scene, daemon) = scene("order = \"none\"\nmax_attempts = 5\nbackoff_min = \"1h\"\nbackoff_max = \"1h\"").await;
    scene.insert_behind_a_refused_row().await;
    scene.until_relayed("b", 2).await;
    scene.until_relayed("a", 2).await;
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

#[tokio::test]
async fn in_commit_order_a_late_commit_is_not_overtaken_and_its_transaction_is_named() {
    let _guard = together().await;
    let (scene, daemon) = scene("commit_order = true").await;
    let late = scene.database.connect().await;
    late.run("set application_name = 'nightly import'; begin").await;
    late.run("insert into outbox_messages (topic, key, payload) values ('orders', 'a', '1')")
        .await;
    scene
        .session
        .run("insert into outbox_messages (topic, key, payload) select 'orders', 'a', '2' from generate_series(1, 50)")
        .await;
    let named = "commit order waits for pid";
    eventually("the transaction is named", Duration::from_secs(15), || async {
        scene.site.log().contains(named).then_some(())
    })
    .await;
    assert!(scene.site.log().contains("(nightly import, idle in transaction)"));
    assert_eq!(scene.relayed("a").await, 0, "an earlier number may still come");
    let status = scene.site.succeed(&["status"]);
    assert!(status.contains("nightly import"), "{status}");
    late.run("commit").await;
    scene.until_relayed("a", 51).await;
    let verdict = judge(&scene.database, &scene.broker, &["orders"]).await;
    verdict.assert_nothing_lost();
    verdict.assert_ordered();
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

/// Two hours of backoff before the crash are two hours after it: the row holds its key from the database, not memory.
#[tokio::test]
async fn a_held_key_is_held_again_after_a_kill() {
    let _guard = together().await;
    let (scene, daemon) = scene("order = \"key\"\nbackoff_min = \"2h\"\nbackoff_max = \"2h\"").await;
    scene.insert_behind_a_refused_row().await;
    scene.until_relayed("b", 2).await;
    let waiting =
        "select count(*) from outbox_messages where attempt = 2 and available_at > now() + interval '50 minutes'";
    eventually(
        "the refused row waits for its retry",
        Duration::from_secs(10),
        || async { (scene.session.count(waiting).await == 1).then_some(()) },
    )
    .await;
    daemon.kill9();
    let daemon = scene.site.start().await;
    scene
        .session
        .run("insert into outbox_messages (topic, key, payload) values ('orders', 'a', '4'), ('orders', 'b', '3')")
        .await;
    scene.until_relayed("b", 3).await;
    assert_eq!(scene.relayed("a").await, 0, "key a is held again");
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}
