//! Another server takes over: a standby is promoted, a primary is demoted, a backup is restored. The daemon finds it by
//! itself, never reads on where the lost server stood, and loses nothing.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::checker::{committed, compare};
use crate::support::enduring::{Enduring, assert_durable};
use crate::support::postgres::{Cluster, Database, Session, bin};
use crate::support::proxy::Proxy;
use crate::support::scene::{Scene, TOPIC};
use crate::support::{eventually, processes, throughout, together};

/// How far the sequence of the outbox has come.
const SEQUENCE: &str = "select coalesce(pg_sequence_last_value(pg_get_serial_sequence('outbox_messages', 'seq')), 0)";

/// Every commit waits for the standby.
async fn synchronous(primary: &Cluster) {
    let session = primary.maintenance().connect().await;
    session.run("alter system set synchronous_standby_names = '*'").await;
    session.run("select pg_reload_conf()").await;
    let standbys = "select count(*) from pg_stat_replication where sync_state = 'sync'";
    eventually("the standby is synchronous", Duration::from_secs(20), || async {
        (session.count(standbys).await == 1).then_some(())
    })
    .await;
}

async fn promote(standby: &Cluster) {
    let session = standby.maintenance().connect().await;
    let promoted = "select case when pg_promote() then 1 else 0 end::bigint";
    assert_eq!(
        session.count(promoted).await,
        1,
        "the standby is promoted within a minute"
    );
}

#[tokio::test]
async fn promotion_of_standby_loses_nothing() {
    let _guard = together().await;
    let primary = Cluster::own();
    let database = primary.database().await;
    let standby = primary.standby();
    synchronous(&primary).await;
    let url = format!(
        "postgres://postgres@127.0.0.1:{},127.0.0.1:{}/{}?target_session_attrs=read-write",
        primary.port(),
        standby.port(),
        database.name
    );
    let name = database.name.clone();
    let mut scene = Scene::set(database, &format!("url = \"{url}\""), "", &url).await;
    scene.writing.write_more(3_000).await;

    primary.stop_immediately();
    promote(&standby).await;
    let promoted = Instant::now();
    scene.database = standby.database_called(&name);
    let session = scene.database.connect().await;
    scene.relays_again(&session, Duration::from_secs(30)).await;
    let back = promoted.elapsed();
    println!("relaying from the promoted standby after {back:.2?}");
    assert!(back < Duration::from_secs(10), "back only after {back:?}");
    scene.writing.write_more(1_000).await;
    scene.judge("a standby promoted under load").await;
}

/// The old primary lives on, read-only, with the daemon connected to it; new connections reach the promoted standby. What
/// one connection learns is true for all: the cursor must not stay with the old server, which would answer for ever.
#[tokio::test]
async fn a_demoted_primary_is_left_by_every_connection() {
    let _guard = together().await;
    let primary = Cluster::own();
    let database = primary.database().await;
    let standby = primary.standby();
    let proxy = Proxy::to(primary.port());
    let through = Database {
        name: database.name.clone(),
        port: proxy.port(),
    };
    let name = database.name.clone();
    let mut scene = Scene::set(database, &format!("url = \"{}\"", through.url()), "", &through.url()).await;
    scene.writing.write_more(1_000).await;

    let old = scene.database.connect().await;
    old.run("alter system set default_transaction_read_only = on").await;
    old.run("select pg_reload_conf()").await;
    // A transaction that began before may still commit.
    let caught_up = "select count(*) from pg_stat_replication where replay_lsn = pg_current_wal_lsn()";
    let writing = "select count(*) from pg_stat_activity where backend_xid is not null";
    eventually(
        "nothing is written any more, and the standby has it all",
        Duration::from_secs(20),
        || async { (old.count(writing).await == 0 && old.count(caught_up).await == 1).then_some(()) },
    )
    .await;
    proxy.aim(standby.port());
    promote(&standby).await;
    let promoted = Instant::now();
    scene.database = standby.database_called(&name);
    let session = scene.database.connect().await;
    scene.writing.write_more(1_000).await;
    scene.relays_again(&session, Duration::from_secs(20)).await;
    println!("left the demoted primary within {:.1?}", promoted.elapsed());
    scene.judge("a primary demoted under load").await;
    assert!(!old.is_closed(), "the old primary was up all the time");
}

/// A server that refuses writes is waited for, and so is a standby that answers under the primary's address.
#[tokio::test]
async fn a_read_only_server_is_waited_for() {
    let _guard = together().await;
    let primary = Cluster::own();
    let database = primary.database().await;
    let standby = primary.standby();
    let proxy = Proxy::to(primary.port());
    let through = Database {
        name: database.name.clone(),
        port: proxy.port(),
    };
    let mut scene = Scene::set(database, &format!("url = \"{}\"", through.url()), "", &through.url()).await;
    let session = scene.database.connect().await;

    for command in [
        "set default_transaction_read_only = on",
        "reset default_transaction_read_only",
    ] {
        session.run(&format!("alter system {command}")).await;
        session.run("select pg_reload_conf()").await;
        let log = |text: &str| scene.site.log().contains(text);
        if command.starts_with("set") {
            eventually(
                "the daemon meets the read-only server",
                Duration::from_secs(20),
                || async { log("read-only transaction").then_some(()) },
            )
            .await;
        } else {
            scene.relays_again(&session, Duration::from_secs(10)).await;
        }
    }
    let name = scene.database.name.clone();
    scene.rest().await;
    let position = "select count(*) from pg_stat_replication where replay_lsn = pg_current_wal_lsn()";
    eventually("the standby has it all", Duration::from_secs(20), || async {
        (session.count(position).await == 1).then_some(())
    })
    .await;
    proxy.switch(standby.port());
    primary.stop_immediately();
    scene.writing = Enduring::start(&through.url(), 3, TOPIC);
    throughout("the daemon waits on the standby", Duration::from_secs(3), || async {
        scene
            .daemon
            .get("/livez")
            .await
            .is_some_and(|(status, _)| status == 200)
    })
    .await;
    promote(&standby).await;
    scene.database = standby.database_called(&name);
    let session = scene.database.connect().await;
    let back = scene.relays_again(&session, Duration::from_secs(20)).await;
    println!("relaying {back:.1?} after the standby took writes");
    scene
        .judge("a read-only server, and a standby at the primary's address")
        .await;
}

/// What `pg_dump` says of `database`, as SQL.
fn dump(database: &Database) -> String {
    processes::run(Command::new(bin("pg_dump")).args(["-d", &database.url()]))
}

fn restore(database: &Database, dump: &str) {
    let file = tempfile::NamedTempFile::new().expect("a scratch file");
    std::fs::write(file.path(), dump).expect("it is writable");
    let mut psql = Command::new(bin("psql"));
    psql.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", &database.url(), "-f"])
        .arg(file.path());
    processes::run(&mut psql);
}

/// Judges `database` by the messages whose rows it holds: those of rows that a restore undid are nobody's any more.
async fn judge_restored(scene: Scene, database: &Database, session: &Session, what: &str) {
    session.drained(Duration::from_secs(60)).await;
    let rows = committed(session).await.expect("the outbox can be read");
    let mut arrivals = scene.place.arrivals().await;
    let ids: std::collections::HashSet<_> = rows.iter().map(|row| row.id).collect();
    let before = arrivals.len();
    arrivals.retain(|arrival| ids.contains(&arrival.id));
    let verdict = compare(&rows, &arrivals);
    println!(
        "{what}: {verdict}; {} of rows the restore undid ({})",
        before - arrivals.len(),
        database.name
    );
    verdict.assert_nothing_lost();
    verdict.assert_ordered();
    assert_eq!((verdict.failed, verdict.attempts_counted), (0, 0), "{verdict}");
    assert!(scene.daemon.terminate(Duration::from_secs(30)).await.success());
}

/// A backup restored into another cluster, which takes over the address within milliseconds: fewer transactions, and a
/// sequence that stands lower than the daemon's cursor. Rows that get numbers a second time are new rows.
#[tokio::test]
async fn restore_into_new_cluster_keeps_delivering() {
    let _guard = together().await;
    let (old, new) = (Cluster::own(), Cluster::own());
    let database = old.database().await;
    let proxy = Proxy::to(old.port());
    let section = format!(
        "url = \"postgres://postgres@127.0.0.1:{}/{}\"",
        proxy.port(),
        database.name
    );
    let direct = database.url();
    let mut scene = Scene::set(database, &section, "", &direct).await;
    scene.writing.write_more(2_000).await;
    let backup = dump(&scene.database);
    scene.writing.write_more(3_000).await;
    let session = scene.rest().await;
    let stood = session.count(SEQUENCE).await;

    let restored = new.database().await;
    restore(&restored, &backup);
    let session = restored.connect().await;
    let stands = session.count(SEQUENCE).await;
    let xids = session.count("select txid_current()").await;
    println!("the sequence stepped back from {stood} to {stands}; the new cluster's transactions are at {xids}");
    assert!(stands + 1_000 < stood, "the sequence stepped back");
    let mut writing = Enduring::start(&restored.url(), 3, TOPIC);
    // The database's name must be the same under the address.
    assert_eq!(restored.name, scene.database.name);
    writing.write_more(100).await;
    proxy.switch(new.port());
    writing.write_more(1_000).await;
    let acknowledged = writing.stop().await;
    session.drained(Duration::from_secs(20)).await;
    assert_durable(
        &acknowledged,
        &committed(&session).await.expect("the outbox can be read"),
    );
    judge_restored(scene, &restored, &session, "restored into a new cluster").await;
}

/// The database is dropped, made anew and restored under the running daemon; for a while it is there without tables.
#[tokio::test]
async fn a_restore_in_place_is_waited_for() {
    let _guard = together().await;
    let cluster = Cluster::own();
    let mut scene = Scene::direct(cluster.database().await, "").await;
    scene.writing.write_more(1_000).await;
    scene.rest().await;
    let backup = dump(&scene.database);
    let (name, admin) = (scene.database.name.clone(), cluster.maintenance().connect().await);
    admin.run(&format!("drop database {name} with (force)")).await;
    admin.run(&format!("create database {name} template template0")).await;
    eventually(
        "the daemon meets a database without tables",
        Duration::from_secs(20),
        || async { scene.site.log().contains("does not exist").then_some(()) },
    )
    .await;
    throughout("it waits", Duration::from_secs(2), || async {
        scene
            .daemon
            .get("/livez")
            .await
            .is_some_and(|(status, _)| status == 200)
    })
    .await;
    restore(&scene.database, &backup);
    scene.writing = Enduring::start(&scene.database.url(), 3, TOPIC);
    scene.writing.write_more(500).await;
    scene.judge("restored in place").await;
}
