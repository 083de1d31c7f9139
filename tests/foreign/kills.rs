//! Nothing is lost, and not much sent twice, when the daemon is killed under load; and two instances share the work.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::phoenix::{CONFIG, DDL, TABLE};
use super::scene::Scene;
use crate::support::daemon::Site;
use crate::support::postgres::Database;
use crate::support::together;

const PENDING: &str = "select count(*) from outbox_messages where relayed_at is null and failed_at is null";
const ROOM: &str = "[relay]\nbatch_size = 100\nmax_in_flight = 500\n";

/// Inserts for as long as `span`: many small transactions, some of which stay open for seconds, and some are rolled back.
async fn write(database: &Database, span: Duration) {
    let ends = Instant::now() + span;
    let writers = (0..5_u64).map(|writer| async move {
        let session = database.connect().await;
        let mut round = 0_u64;
        while Instant::now() < ends {
            round += 1;
            let rows = 1 + (round + writer) % 5;
            let insert = format!(
                "insert into outbox_messages (id, topic, payload, inserted_at, updated_at)
                 select gen_random_uuid(), 'orders.' || g % 3, jsonb_build_object('n', g), clock_timestamp() at time zone 'utc',
                        clock_timestamp() at time zone 'utc' from generate_series(1, {rows}) g"
            );
            session.run("begin").await;
            session.run(&insert).await;
            if writer == 0 && round.is_multiple_of(7) {
                tokio::time::sleep(Duration::from_millis(900 * (round % 20) + 500)).await;
            } else {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            session.run(if round.is_multiple_of(11) { "rollback" } else { "commit" }).await;
        }
    });
    futures_util::future::join_all(writers).await;
}

/// How often each message arrived; all that are committed did.
async fn judge(scene: &Scene) -> (usize, usize) {
    scene.counts(PENDING, 0).await;
    let rows = scene
        .session
        .query("select id::text from outbox_messages", &[])
        .await
        .unwrap();
    let committed: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    let mut arrived: BTreeMap<String, usize> = BTreeMap::new();
    for letter in scene.letters().await {
        *arrived.entry(letter.id).or_default() += 1;
    }
    let lost: Vec<&String> = committed.iter().filter(|id| !arrived.contains_key(*id)).collect();
    assert!(
        lost.is_empty(),
        "{} of {} lost: {:?}",
        lost.len(),
        committed.len(),
        lost.first()
    );
    let made_up = arrived.keys().filter(|id| !committed.contains(*id)).count();
    assert_eq!(made_up, 0, "nothing is sent that was rolled back");
    let copies: usize = arrived.values().map(|count| count - 1).sum();
    (committed.len(), copies)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_daemon_is_killed_twenty_times() {
    let _guard = together().await;
    let scene = Scene::new(TABLE, DDL, &format!("{CONFIG}{ROOM}"), &["orders.>"]).await;
    let killing = async {
        for round in 0..20 {
            let daemon = scene.site.start().await;
            tokio::time::sleep(Duration::from_millis(400 + 70 * round)).await;
            daemon.kill9();
        }
        scene.site.start().await
    };
    let (_daemon, ()) = tokio::join!(killing, write(&scene.database, Duration::from_secs(25)));
    let (committed, copies) = judge(&scene).await;
    println!("killed 20 times: {committed} committed, {copies} copies");
    assert!(committed > 2_000, "{committed}");
    assert!(copies <= 20 * 500, "{copies}");
    scene.is_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_instances_share_the_work_and_send_nothing_twice() {
    let _guard = together().await;
    let scene = Scene::new(TABLE, DDL, &format!("{CONFIG}{ROOM}"), &["orders.>"]).await;
    let transport = scene.broker.section("main");
    let other = Site::with_lease(&scene.database, "ttl = \"3s\"\n", &format!("{transport}{CONFIG}{ROOM}"));
    let (_first, _second) = (scene.site.start().await, other.start().await);
    let shared = "select count(distinct owner) from outboxd_lanes where owner is not null";
    scene.counts(shared, 2).await;
    write(&scene.database, Duration::from_secs(10)).await;
    let (committed, copies) = judge(&scene).await;
    println!("two instances: {committed} committed, {copies} copies");
    assert!(committed > 1_000, "{committed}");
    assert_eq!(copies, 0);
}
