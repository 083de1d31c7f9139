//! P4, an outage is nobody's fault: while a broker or a stream cannot take messages, rows wait, no attempt is counted,
//! nothing fails, everything else goes on, and recovery takes about a probe interval.

use std::time::{Duration, Instant};

use crate::support::broker::{Broker, Kind};
use crate::support::chaos::{self, judge};
use crate::support::daemon::Site;
use crate::support::postgres::{Cluster, Session};
use crate::support::{assert_within, eventually, throughout, together};

const UNTOUCHED: &str = "select count(*) from outbox_messages
    where relayed_at is null and failed_at is null and attempt = 1 and last_error is null";

async fn insert(session: &Session, topic: &str, rows: usize) {
    let insert = format!(
        "insert into outbox_messages (topic, key, payload)
         select '{topic}', 'k' || n % 50, jsonb_build_object('n', n) from generate_series(1, {rows}) as n"
    );
    session.run(&insert).await;
}

/// Rows arrive, the broker is killed, rows are committed, it comes back: all of them arrive and none is any the worse.
async fn an_outage_burns_nothing(kind: Kind) {
    let _guard = together().await;
    let broker = Broker::start(kind);
    broker.prepare(&["orders"]).await;
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, &(broker.section("main") + "[relay]\nmax_attempts = 1\n"));
    site.migrate();
    let daemon = site.start().await;
    let session = database.connect().await;
    insert(&session, "orders", 100).await;
    session.drained(Duration::from_secs(20)).await;

    broker.kill9().await;
    insert(&session, "orders", 500).await;
    throughout("all 500 rows wait untouched", Duration::from_secs(7), || async {
        session.count(UNTOUCHED).await == 500
    })
    .await;
    broker.bring_back();
    let back = Instant::now();
    session.drained(Duration::from_secs(20)).await;
    let recovery = back.elapsed();
    println!("{kind:?}: all relayed {recovery:.0?} after the broker was back");
    let verdict = judge(&database, &broker, &["orders"]).await;
    verdict.assert_nothing_lost();
    verdict.assert_ordered();
    assert_eq!((verdict.failed, verdict.attempts_counted), (0, 0), "{verdict}");
    assert_eq!(session.count("select count(*) from outboxd_attempts").await, 0);
    // One probe interval, the client's own reconnect, and a machine that is busy with other tests.
    assert_within("recovery", recovery, Duration::from_secs(5));
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

#[tokio::test]
async fn a_dead_nats_server_burns_no_attempt() {
    an_outage_burns_nothing(Kind::Nats).await;
}

#[tokio::test]
async fn a_dead_kafka_burns_no_attempt() {
    an_outage_burns_nothing(Kind::Kafka).await;
}

#[tokio::test]
async fn chaos_burns_no_attempt_on_nats() {
    assert_eq!(chaos::verdict(Kind::Nats).await.attempts_counted, 0);
}

#[tokio::test]
async fn chaos_burns_no_attempt_on_kafka() {
    assert_eq!(chaos::verdict(Kind::Kafka).await.attempts_counted, 0);
}

/// The server answers the TCP handshake and nothing more: no connection is refused, everything times out.
#[tokio::test]
async fn a_frozen_nats_server_burns_no_attempt() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders"]).await;
    let database = Cluster::shared().database().await;
    let section = broker.section("main") + "ack_timeout = \"1s\"\n[relay]\nmax_attempts = 1\n";
    let site = Site::new(&database, &section);
    site.migrate();
    let daemon = site.start().await;
    let session = database.connect().await;
    insert(&session, "orders", 100).await;
    session.drained(Duration::from_secs(20)).await;
    broker.freeze();
    insert(&session, "orders", 500).await;
    throughout("all 500 rows wait untouched", Duration::from_secs(5), || async {
        session.count(UNTOUCHED).await == 500
    })
    .await;
    broker.thaw();
    session.drained(Duration::from_secs(20)).await;
    let verdict = judge(&database, &broker, &["orders"]).await;
    verdict.assert_nothing_lost();
    assert_eq!((verdict.failed, verdict.attempts_counted), (0, 0), "{verdict}");
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

/// A subject no stream takes is an outage of that destination, until somebody makes the stream.
#[tokio::test]
async fn a_missing_stream_waits_until_it_is_there() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, &(broker.section("main") + "[relay]\nmax_attempts = 1\n"));
    site.migrate();
    let daemon = site.start().await;
    let session = database.connect().await;
    insert(&session, "orders", 50).await;
    throughout("the rows wait untouched", Duration::from_secs(3), || async {
        session.count(UNTOUCHED).await == 50
    })
    .await;
    broker.prepare(&["orders"]).await;
    session.drained(Duration::from_secs(5)).await;
    judge(&database, &broker, &["orders"]).await.assert_nothing_lost();
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

/// Two transports, one dead, 20,000 rows for it in front and a window of 1,000: the other's rows pass at once.
#[tokio::test]
async fn a_dead_transport_does_not_hold_up_the_other() {
    let _guard = together().await;
    let (dead, live) = (Broker::start(Kind::Nats), Broker::start(Kind::Nats));
    dead.prepare(&["dead"]).await;
    live.prepare(&["live"]).await;
    let database = Cluster::shared().database().await;
    let routes =
        "[[routes]]\ntopic = \"dead\"\ntransport = \"dead\"\n[[routes]]\ntopic = \"live\"\ntransport = \"live\"\n";
    let relay = "[relay]\nmax_in_flight = 1000\nbatch_size = 200\n";
    let site = Site::new(
        &database,
        &[&dead.section("dead"), &live.section("live"), routes, relay].concat(),
    );
    site.migrate();
    let session = database.connect().await;
    dead.kill9().await;
    insert(&session, "dead", 20_000).await;
    let daemon = site.start().await;
    insert(&session, "live", 1_000).await;
    let inserted = Instant::now();
    let relayed = "select count(*) from outbox_messages where topic = 'live' and relayed_at is not null";
    eventually(
        "the living transport's rows are relayed",
        Duration::from_secs(10),
        || async { (session.count(relayed).await == 1_000).then_some(()) },
    )
    .await;
    println!(
        "1,000 rows passed 20,000 for a dead broker in {:.0?}",
        inserted.elapsed()
    );
    // While it is down, more of both, in one transaction.
    session.run("begin").await;
    insert(&session, "dead", 2_000).await;
    insert(&session, "live", 1_000).await;
    session.run("commit").await;
    eventually("and so are later ones", Duration::from_secs(10), || async {
        (session.count(relayed).await == 2_000).then_some(())
    })
    .await;
    assert_eq!(session.count(UNTOUCHED).await, 22_000);
    dead.bring_back();
    session.drained(Duration::from_secs(30)).await;
    let verdict = judge_both(&session, &dead, &live).await;
    verdict.assert_nothing_lost();
    verdict.assert_ordered();
    assert_eq!(verdict.attempts_counted, 0, "{verdict}");
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

async fn judge_both(session: &Session, dead: &Broker, live: &Broker) -> crate::support::checker::Verdict {
    let mut arrivals = dead.arrivals(&["dead"]).await;
    arrivals.extend(live.arrivals(&["live"]).await);
    let rows = crate::support::checker::committed(session)
        .await
        .expect("the outbox can be read");
    crate::support::checker::compare(&rows, &arrivals)
}
