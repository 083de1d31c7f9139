//! P2, a clean stop sends nothing twice: SIGTERM finishes and settles what is in flight, then exits 0.

use std::time::Duration;

use crate::support::broker::{Broker, Kind};
use crate::support::chaos::judge;
use crate::support::daemon::Site;
use crate::support::postgres::Cluster;
use crate::support::processes::signal;
use crate::support::writers::{Habits, Writers};
use crate::support::{eventually, together};

const TOPICS: &[&str] = &["orders", "payments"];

/// Ten stops while rows are written; each new daemon goes on where the last one ended.
async fn ten_stops_under_load(kind: Kind) {
    let _guard = together().await;
    let broker = Broker::start(kind);
    broker.prepare(TOPICS).await;
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, &broker.section("main"));
    site.migrate();
    let writers = Writers {
        connections: 4,
        rows: 30_000,
        keys: 400,
        topics: TOPICS,
        habits: Habits::Plain,
    };
    let writing = writers.start(&database).await;
    let session = database.connect().await;
    for round in 1..=10 {
        let daemon = site.start().await;
        let relayed = "select count(*) from outbox_messages where relayed_at is not null";
        let before = session.count(relayed).await;
        eventually("this daemon relays", Duration::from_secs(20), || async {
            let pending = "select count(*) from outbox_messages where relayed_at is null";
            (session.count(relayed).await > before || session.count(pending).await == 0).then_some(())
        })
        .await;
        let status = daemon.terminate(Duration::from_secs(30)).await;
        assert!(status.success(), "stop {round} ended with {status}");
    }
    writing.join().await;
    let daemon = site.start().await;
    session.drained(Duration::from_secs(60)).await;
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
    let verdict = judge(&database, &broker, TOPICS).await;
    println!("ten stops under load, {kind:?}: {verdict}");
    verdict.assert_nothing_lost();
    verdict.assert_ordered();
    verdict.assert_duplicates_within(0);
}

#[tokio::test]
async fn ten_stops_under_load_send_nothing_twice_to_nats() {
    ten_stops_under_load(Kind::Nats).await;
}

#[tokio::test]
async fn ten_stops_under_load_send_nothing_twice_to_kafka() {
    ten_stops_under_load(Kind::Kafka).await;
}

/// With the broker dead there is nothing to wait for: the stop is within `relay.shutdown_timeout`, and clean.
#[tokio::test]
async fn a_stop_during_an_outage_is_clean_and_in_time() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(TOPICS).await;
    let database = Cluster::shared().database().await;
    let site = Site::new(
        &database,
        &(broker.section("main") + "[relay]\nshutdown_timeout = \"10s\"\n"),
    );
    site.migrate();
    let daemon = site.start().await;
    broker.kill9().await;
    let session = database.connect().await;
    session
        .run("insert into outbox_messages (topic, payload) select 'orders', '1' from generate_series(1, 500)")
        .await;
    eventually("the destination is paused", Duration::from_secs(15), || async {
        let metrics = daemon.metrics().await;
        let paused = metrics
            .iter()
            .any(|(name, value)| name.starts_with("outboxd_destination_paused{") && *value > 0.0);
        paused.then_some(())
    })
    .await;
    let status = daemon.terminate(Duration::from_secs(12)).await;
    assert!(status.success(), "the stop ended with {status}");
    assert_eq!(
        session
            .count("select count(*) from outbox_messages where attempt > 1")
            .await,
        0
    );
}

/// A stop while a batch waits for the broker: what the broker acknowledges then is marked before the end, and nothing
/// else is.
#[tokio::test]
async fn sigterm_mid_batch_marks_acked_rows() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(TOPICS).await;
    let database = Cluster::shared().database().await;
    let relay = "[relay]\nmax_in_flight = 500\nbatch_size = 100\n";
    let site = Site::new(&database, &(broker.section("main") + relay));
    site.migrate();
    let mut daemon = site.start().await;
    let session = database.connect().await;
    broker.freeze();
    session
        .run(
            "insert into outbox_messages (topic, key, payload)
             select 'orders', 'k' || n, '{}' from generate_series(1, 5000) as n",
        )
        .await;
    eventually("the window is full", Duration::from_secs(10), || async {
        let metrics = daemon.metrics().await;
        (metrics.get("outboxd_in_flight_messages").copied() >= Some(500.0)).then_some(())
    })
    .await;
    signal(daemon.pid(), "TERM");
    eventually("it says that it stops", Duration::from_secs(10), || async {
        site.log().contains("stopping").then_some(())
    })
    .await;
    broker.thaw();
    let status = daemon.ended(Duration::from_secs(30)).await;
    assert!(status.success(), "the stop ended with {status}");
    let marked = session
        .count("select count(*) from outbox_messages where relayed_at is not null")
        .await;
    let held = broker.held().await;
    println!("stopped in the middle of 5,000 rows: the broker holds {held}, {marked} are marked");
    assert!(held > 0 && held < 5_000, "the stop came in the middle: {held}");
    assert_eq!(
        u64::try_from(marked).expect("a count"),
        held,
        "what is acknowledged is marked"
    );
    assert_eq!(
        session
            .count("select count(*) from outbox_messages where attempt > 1 or failed_at is not null")
            .await,
        0
    );
}
