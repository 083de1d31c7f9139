//! P2, at least once with a bound: a message is sent twice only if its acknowledgement or mark was in flight when
//! something died, so at most `relay.max_in_flight` copies too many per crash.
//!
//! The stream of these tests forgets message ids after 100 ms: each copy that is sent is seen.

use std::time::Duration;

use crate::support::broker::{Broker, Kind};
use crate::support::chaos::{self, KILLS, MAX_IN_FLIGHT, judge};
use crate::support::daemon::Site;
use crate::support::postgres::Cluster;
use crate::support::{eventually, together};

#[tokio::test]
async fn duplicates_in_nats_stay_within_the_window_per_kill() {
    chaos::verdict(Kind::Nats)
        .await
        .assert_duplicates_within(KILLS * MAX_IN_FLIGHT);
}

#[tokio::test]
async fn duplicates_in_kafka_stay_within_the_window_per_kill() {
    chaos::verdict(Kind::Kafka)
        .await
        .assert_duplicates_within(KILLS * MAX_IN_FLIGHT);
}

/// A backlog, the daemon killed in the middle of it again and again: each time at most a window of rows is sent twice.
#[tokio::test]
async fn kill9_duplicates_within_bound() {
    const WINDOW: usize = 300;
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders"]).await;
    let database = Cluster::shared().database().await;
    let relay = format!("[relay]\nmax_in_flight = {WINDOW}\nbatch_size = 100\n");
    let site = Site::new(&database, &(broker.section("main") + &relay));
    site.migrate();
    let session = database.connect().await;
    session
        .run(
            "insert into outbox_messages (topic, key, payload)
             select 'orders', 'k' || n % 100, '{}' from generate_series(1, 20000) as n",
        )
        .await;
    let mut kills = 0;
    loop {
        let before = broker.held().await;
        let daemon = site.start().await;
        eventually("it sends, or is through", Duration::from_secs(20), || async {
            let pending = "select count(*) from outbox_messages where relayed_at is null";
            (broker.held().await > before + 2_000 || session.count(pending).await == 0).then_some(())
        })
        .await;
        if kills == 5 {
            session.drained(Duration::from_secs(30)).await;
            assert!(daemon.terminate(Duration::from_secs(30)).await.success());
            break;
        }
        daemon.kill9();
        kills += 1;
    }
    let verdict = judge(&database, &broker, &["orders"]).await;
    println!("{kills} kills in a backlog, window {WINDOW}: {verdict}");
    verdict.assert_nothing_lost();
    verdict.assert_ordered();
    verdict.assert_duplicates_within(kills * WINDOW);
}

/// A stream that remembers ids as long as streams do.
async fn stream_with_a_memory(broker: &Broker) {
    let client = async_nats::connect(broker.address()).await.unwrap();
    let config = async_nats::jetstream::stream::Config {
        name: crate::support::broker::STREAM.to_owned(),
        subjects: vec!["orders".to_owned()],
        duplicate_window: Duration::from_secs(120),
        ..Default::default()
    };
    async_nats::jetstream::new(client).create_stream(config).await.unwrap();
}

/// JetStream takes the second for a copy of the first and stores nothing: that is not relayed.
#[tokio::test]
async fn a_second_row_with_the_same_id_has_failed_and_says_why() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    stream_with_a_memory(&broker).await;
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, &broker.section("main"));
    site.migrate();
    let session = database.connect().await;
    session
        .run(
            "insert into outbox_messages (topic, key, payload, id)
             select 'orders', 'k' || g, to_jsonb(g), md5((g % 10)::text)::uuid from generate_series(1, 20) g",
        )
        .await;
    let found = site.outboxd(&["check", "--connect"]);
    assert!(
        String::from_utf8_lossy(&found.stdout).contains("duplicate_ids"),
        "{found:?}"
    );
    let daemon = site.start().await;
    session.drained(Duration::from_secs(30)).await;
    let stored = broker.arrivals(&["orders"]).await.len();
    let failed =
        "select count(*) from outbox_messages where failed_at is not null and last_error like '%has the same id%'";
    assert_eq!((stored, session.count(failed).await), (10, 10));
    let told = "select count(*) from outboxd_attempts where class = 'rejected' and code = 'duplicate_id'";
    assert_eq!(session.count(told).await, 10);

    // What was sent before a crash and is sent again has no such twin.
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
    session
        .run("delete from outbox_messages where failed_at is not null; update outbox_messages set relayed_at = null")
        .await;
    let daemon = site.start().await;
    session.drained(Duration::from_secs(30)).await;
    assert_eq!(
        session
            .count("select count(*) from outbox_messages where relayed_at is not null")
            .await,
        10
    );
    assert_eq!(broker.arrivals(&["orders"]).await.len(), 10);
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}
