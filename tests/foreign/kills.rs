//! Nothing is lost, and not much sent twice, when the daemon is killed under load; and two instances share the work.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::order;
use super::phoenix::{CONFIG, DDL, TABLE};
use super::scene::Scene;
use crate::support::daemon::{Daemon, Site};
use crate::support::postgres::Database;
use crate::support::together;

const PENDING: &str = "select count(*) from outbox_messages where relayed_at is null and failed_at is null";
const ROOM: &str = "[relay]\nbatch_size = 100\nmax_in_flight = 500\n";

/// Some rows of an application, whose clock it is.
fn uuids(rows: u64) -> String {
    format!(
        "insert into outbox_messages (id, topic, payload, inserted_at, updated_at)
         select gen_random_uuid(), 'orders.' || g % 3, jsonb_build_object('n', g), clock_timestamp() at time zone 'utc',
                clock_timestamp() at time zone 'utc' from generate_series(1, {rows}) g"
    )
}

/// Some rows whose ids are numbers of a sequence.
fn numbers(rows: u64) -> String {
    format!(
        "insert into outbox_messages (topic, key, payload)
         select 'orders.' || g % 3, 'k' || g % 2, jsonb_build_object('n', g) from generate_series(1, {rows}) g"
    )
}

/// Inserts for as long as `span`: many small transactions, some of which stay open for up to 20 seconds, and some are rolled back.
async fn write(database: &Database, span: Duration, insert: fn(u64) -> String) {
    let ends = Instant::now() + span;
    let writers = (0..5_u64).map(|writer| async move {
        let session = database.connect().await;
        let mut round = 0_u64;
        while Instant::now() < ends {
            round += 1;
            let rows = 1 + (round + writer) % 5;
            session.run("begin").await;
            session.run(&insert(rows)).await;
            if writer == 0 && round.is_multiple_of(7) {
                tokio::time::sleep(Duration::from_millis(975 * (round % 20) + 500)).await;
            } else {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            session
                .run(if round.is_multiple_of(11) { "rollback" } else { "commit" })
                .await;
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

/// Kills the daemon so many times while rows are written: nothing is lost, and no more is sent twice than was on its way.
async fn under_kills(ddl: &str, config: &str, insert: fn(u64) -> String, kills: u64) {
    let _guard = together().await;
    let scene = Scene::new(TABLE, ddl, &format!("{config}{ROOM}"), &["orders.>"]).await;
    let began = Instant::now();
    let killing = async {
        for round in 0..kills {
            let daemon = scene.site.start().await;
            tokio::time::sleep(Duration::from_millis(400 + 70 * round)).await;
            daemon.kill9();
        }
        scene.site.start().await
    };
    let span = Duration::from_millis(5_000 + 1_000 * kills);
    let (_daemon, ()) = tokio::join!(killing, write(&scene.database, span, insert));
    let (committed, copies) = judge(&scene).await;
    println!(
        "killed {kills} times in {:?}: {committed} committed, {copies} copies",
        began.elapsed()
    );
    assert!(committed > 2_000, "{committed}");
    assert!(copies <= usize::try_from(kills).unwrap() * 500, "{copies}");
    scene.is_untouched();
}

/// How often: `OUTBOXD_KILLS` for the long form.
fn kills(short: u64) -> u64 {
    let given = std::env::var("OUTBOXD_KILLS").ok().and_then(|text| text.parse().ok());
    given.unwrap_or(short)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_daemon_is_killed_twenty_times() {
    under_kills(DDL, CONFIG, uuids, kills(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_of_a_sequence_survive_kills_too() {
    under_kills(order::DDL, "[outbox.columns]\nseq = \"id\"\n", numbers, kills(6)).await;
}

/// Two instances on a table of another program.
async fn two(scene: &Scene) -> (Site, Daemon, Daemon) {
    let transport = scene.broker.section("main");
    let other = Site::with_lease(&scene.database, "ttl = \"3s\"\n", &format!("{transport}{CONFIG}{ROOM}"));
    let (first, second) = (scene.site.start().await, other.start().await);
    let shared = "select count(distinct owner) from outboxd_lanes where owner is not null";
    scene.counts(shared, 2).await;
    (other, first, second)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_instances_share_the_work_and_send_nothing_twice() {
    let _guard = together().await;
    let scene = Scene::new(TABLE, DDL, &format!("{CONFIG}{ROOM}"), &["orders.>"]).await;
    let _daemons = two(&scene).await;
    write(&scene.database, Duration::from_secs(10), uuids).await;
    let (committed, copies) = judge(&scene).await;
    println!("two instances: {committed} committed, {copies} copies");
    assert!(committed > 1_000, "{committed}");
    assert_eq!(copies, 0);
}

/// One is stopped past its lease, the other takes over, and then it goes on: what it had on its way is all that may come twice, and what
/// it enlists, marks or fails afterwards is as if it were new.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_was_stopped_sends_nothing_that_another_has_sent() {
    let _guard = together().await;
    let scene = Scene::new(TABLE, DDL, &format!("{CONFIG}{ROOM}"), &["orders.>"]).await;
    let (_other, first, second) = two(&scene).await;
    let stops = kills(3);
    let stopping = async {
        for round in 0..stops {
            let daemon = if round % 2 == 0 { &first } else { &second };
            tokio::time::sleep(Duration::from_millis(500)).await;
            daemon.freeze();
            tokio::time::sleep(Duration::from_millis(4_500)).await;
            daemon.thaw();
            let shared = "select count(distinct owner) from outboxd_lanes where owner is not null";
            scene.counts(shared, 2).await;
        }
    };
    let span = Duration::from_secs(8 * stops);
    tokio::join!(stopping, write(&scene.database, span, uuids));
    let (committed, copies) = judge(&scene).await;
    println!("stopped {stops} times: {committed} committed, {copies} copies");
    assert!(committed > 1_000, "{committed}");
    assert!(copies <= usize::try_from(stops).unwrap() * 500, "{copies}");
    scene.is_untouched();
}
