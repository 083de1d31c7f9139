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
