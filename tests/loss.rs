//! P1, nothing is lost: every committed row ends acknowledged by the broker or in `failed_at`, whatever is killed.

use std::time::Duration;

use crate::support::broker::{Broker, Kind};
use crate::support::chaos::{self, judge};
use crate::support::daemon::Site;
use crate::support::postgres::Cluster;
use crate::support::writers::{Habits, Writers};
use crate::support::{eventually, together};

#[tokio::test]
async fn nothing_is_lost_to_nats_while_daemon_and_broker_are_killed() {
    chaos::verdict(Kind::Nats).await.assert_nothing_lost();
}

#[tokio::test]
async fn nothing_is_lost_to_kafka_while_daemon_and_broker_are_killed() {
    chaos::verdict(Kind::Kafka).await.assert_nothing_lost();
}

/// The marks are written with `synchronous_commit = off`: what a crash of PostgreSQL takes of them is sent again, and
/// what it takes of nothing else.
#[tokio::test]
async fn nothing_is_lost_when_postgres_is_killed() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders"]).await;
    let cluster = Cluster::own();
    let database = cluster.database().await;
    let site = Site::new(&database, &broker.section("main"));
    site.migrate();
    let daemon = site.start().await;

    for round in 0..3 {
        let session = database.connect_when_up().await;
        let insert = "insert into outbox_messages (topic, key, payload)
            select 'orders', 'k' || n % 100, jsonb_build_object('n', n) from generate_series(1, 5000) as n";
        session.run(insert).await;
        eventually(
            "the daemon is in the middle of them",
            Duration::from_secs(30),
            || async { (broker.held().await > 5_000 * round).then_some(()) },
        )
        .await;
        cluster.kill9().await;
        cluster.start();
    }
    let session = database.connect_when_up().await;
    session.drained(Duration::from_secs(60)).await;
    let verdict = judge(&database, &broker, &["orders"]).await;
    println!("PostgreSQL killed three times: {verdict}");
    assert_eq!(verdict.committed, 15_000);
    verdict.assert_nothing_lost();
    verdict.assert_ordered();
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

/// A daemon that starts on a backlog relays all of it, and so does one whose database or broker comes up after it.
#[tokio::test]
async fn a_daemon_started_before_its_servers_waits_for_them() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders"]).await;
    let cluster = Cluster::own();
    let database = cluster.database().await;
    let site = Site::new(&database, &broker.section("main"));
    site.migrate();
    let writers = Writers {
        connections: 2,
        rows: 2_000,
        keys: 50,
        topics: &["orders"],
        habits: Habits::Plain,
    };
    writers.start(&database).await.join().await;

    cluster.kill9().await;
    broker.kill9().await;
    let mut daemon = site.launch();
    eventually(
        "the daemon says that the database is away",
        Duration::from_secs(20),
        || async { daemon.get("/readyz").await.filter(|(status, _)| *status == 503) },
    )
    .await;
    cluster.start();
    broker.bring_back();
    daemon.ready(Duration::from_secs(30)).await;
    database.connect_when_up().await.drained(Duration::from_secs(30)).await;
    let verdict = judge(&database, &broker, &["orders"]).await;
    verdict.assert_nothing_lost();
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

/// A process stopped for longer than its lease (a suspended machine, a debugger) goes on without loss.
#[tokio::test]
async fn a_daemon_frozen_beyond_its_lease_goes_on() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders"]).await;
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, &(broker.section("main") + "ack_timeout = \"1s\"\n"));
    let text = std::fs::read_to_string(site.config()).expect("the configuration");
    site.configure(&text.replace("[lease]\n", "[lease]\nttl = \"3s\"\n"));
    site.migrate();
    let daemon = site.start().await;
    let writers = Writers {
        connections: 4,
        rows: 8_000,
        keys: 100,
        topics: &["orders"],
        habits: Habits::Plain,
    };
    let writing = writers.start(&database).await;
    eventually("rows pass", Duration::from_secs(20), || async {
        (broker.held().await > 500).then_some(())
    })
    .await;
    daemon.freeze();
    let session = database.connect().await;
    let expired = "select count(*) from outboxd_instances where expires_at < now()";
    eventually("the lease has expired", Duration::from_secs(20), || async {
        (session.count(expired).await == 1).then_some(())
    })
    .await;
    daemon.thaw();
    writing.join().await;
    session.drained(Duration::from_secs(60)).await;
    let verdict = judge(&database, &broker, &["orders"]).await;
    println!("frozen beyond the lease: {verdict}");
    verdict.assert_nothing_lost();
    verdict.assert_ordered();
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}
