//! P1 and P3 where `seq` is not the order of commits: savepoints, rollbacks, prepared transactions, COPY, numbers drawn
//! early, and a snapshot held open all the while.

use std::time::Duration;

use crate::support::broker::{Broker, Kind};
use crate::support::chaos::judge;
use crate::support::daemon::Site;
use crate::support::postgres::Cluster;
use crate::support::writers::{Habits, Writers};
use crate::support::{eventually, together};

const TOPICS: &[&str] = &["orders", "payments"];

#[tokio::test]
async fn late_commit_lower_id_is_published() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(TOPICS).await;
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, &broker.section("main"));
    site.migrate();
    let daemon = site.start().await;

    let early = database.connect().await;
    let late = database.connect().await;
    early
        .run("begin; insert into outbox_messages (topic, key, payload) values ('orders', 'early', '1')")
        .await;
    late.run("insert into outbox_messages (topic, key, payload) values ('orders', 'late', '2')")
        .await;
    let relayed = "select count(*) from outbox_messages where relayed_at is not null";
    eventually(
        "the higher number is relayed first",
        Duration::from_secs(10),
        || async { (late.count(relayed).await == 1).then_some(()) },
    )
    .await;
    early.run("commit").await;
    eventually("the lower number follows, at once", Duration::from_secs(2), || async {
        (late.count(relayed).await == 2).then_some(())
    })
    .await;
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

#[tokio::test]
async fn writers_with_every_habit_lose_nothing() {
    every_habit(false).await;
}

#[tokio::test]
async fn writers_with_every_habit_lose_nothing_through_a_kill() {
    every_habit(true).await;
}

/// Eight writers, a snapshot held open all the while; the daemon killed halfway if asked.
async fn every_habit(kill: bool) {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(TOPICS).await;
    let database = Cluster::two_phase().database().await;
    let site = Site::new(&database, &broker.section("main"));
    site.migrate();
    let mut daemon = site.start().await;

    let snapshot = database.connect().await;
    snapshot
        .run("begin isolation level repeatable read; select count(*) from outbox_messages")
        .await;
    let writers = Writers {
        connections: 8,
        rows: 12_000,
        keys: 400,
        topics: TOPICS,
        habits: Habits::Adversarial,
    };
    let mut writing = writers.start(&database).await;
    let half = tokio::sync::Mutex::new(&mut writing);
    eventually("half of the rows are written", Duration::from_secs(120), || async {
        let mut writing = half.lock().await;
        (writing.committed() > 6_000 || writing.done()).then_some(())
    })
    .await;
    if kill {
        daemon.kill9();
        daemon = site.start().await;
    }
    writing.join().await;
    snapshot.run("rollback").await;

    database.connect().await.drained(Duration::from_secs(60)).await;
    let verdict = judge(&database, &broker, TOPICS).await;
    println!("late commits, killed halfway: {kill}: {verdict}");
    verdict.assert_nothing_lost();
    verdict.assert_ordered();
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

/// One transaction is open across a restart, commits, and its session writes the same key again, while an unrelated
/// transaction stays open: the first row still comes first.
#[tokio::test]
async fn a_transaction_open_across_a_restart_keeps_its_key_in_order() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(TOPICS).await;
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, &broker.section("main"));
    site.migrate();
    let daemon = site.start().await;
    let (writer, bystander) = (database.connect().await, database.connect().await);
    let insert = "insert into outbox_messages (topic, key, payload) values";
    bystander
        .run(&format!("begin; {insert} ('orders', 'bystander', '1')"))
        .await;
    writer.run(&format!("begin; {insert} ('orders', 'a', '1')")).await;
    let session = database.connect().await;
    session.run(&format!("{insert} ('orders', 'b', '1')")).await;
    session.drained(Duration::from_secs(10)).await;
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());

    let daemon = site.start().await;
    session.run(&format!("{insert} ('orders', 'b', '2')")).await;
    session.drained(Duration::from_secs(10)).await;
    writer.run("commit").await;
    writer.run(&format!("{insert} ('orders', 'a', '2')")).await;
    session.drained(Duration::from_secs(10)).await;
    bystander.run("commit").await;
    session.drained(Duration::from_secs(10)).await;
    let verdict = judge(&database, &broker, TOPICS).await;
    verdict.assert_nothing_lost();
    verdict.assert_ordered();
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

/// A prepared transaction that outlives the daemon is relayed when it is committed at last.
#[tokio::test]
async fn a_prepared_transaction_committed_after_a_restart_is_relayed() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(TOPICS).await;
    let database = Cluster::two_phase().database().await;
    let site = Site::new(&database, &broker.section("main"));
    site.migrate();
    let daemon = site.start().await;
    let session = database.connect().await;
    let name = &database.name;
    session
        .run("begin; insert into outbox_messages (topic, payload) values ('orders', '1')")
        .await;
    session.run(&format!("prepare transaction '{name}'")).await;
    session
        .run("insert into outbox_messages (topic, payload) values ('orders', '2')")
        .await;
    session.drained(Duration::from_secs(10)).await;
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
    let daemon = site.start().await;
    session
        .run("insert into outbox_messages (topic, payload) values ('orders', '3')")
        .await;
    session.drained(Duration::from_secs(10)).await;
    session.run(&format!("commit prepared '{name}'")).await;
    session.drained(Duration::from_secs(5)).await;
    assert_eq!(judge(&database, &broker, TOPICS).await.arrived, 3);
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}
