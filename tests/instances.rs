//! P7, several instances share the work: they divide the lanes evenly, one that dies is replaced within `lease.ttl` and a
//! little, one that restarts resumes at once, one that leaves hands over without a duplicate.
//!
//! The long form of the first (300,000 rows in three minutes) is `dev/chaos --holds`.

use std::time::Duration;

use crate::support::broker::{Broker, Kind};
use crate::support::fleet::{TTL, shares};
use crate::support::kills::under_kills;
use crate::support::load::Load;
use crate::support::postgres::Cluster;
use crate::support::stage::{Stage, TOPICS, seed};
use crate::support::{assert_within, audit, daemon::Site, eventually, throughout, together};

async fn three_instances_under_kills(kind: Kind) {
    let _guard = together().await;
    let (rounds, verdict) = under_kills(kind, 20_000, Duration::from_secs(25)).await;
    assert_eq!((verdict.failed, verdict.attempts_counted), (0, 0), "{verdict}");
    let (owned, flowing) = rounds.takeover.expect("it was measured");
    // Judged by what the machine was like then.
    let limit = (TTL + Duration::from_secs(2)).mul_f64(rounds.crowding);
    assert_within("taking lanes over", owned, limit);
    assert_within("rows that flow again", flowing, limit);
    // That an instance does not wait for its own lease is what counts here.
    let restarts = rounds.sorted();
    assert_within("going on after a restart", restarts[restarts.len() / 2], TTL / 2);
}

#[tokio::test]
async fn three_instances_under_kills_on_nats() {
    three_instances_under_kills(Kind::Nats).await;
}

#[tokio::test]
async fn three_instances_under_kills_on_kafka() {
    three_instances_under_kills(Kind::Kafka).await;
}

/// 1, 2, 3, 2, 1 instances under load: after each change the lanes are even and everyone marks rows.
async fn joining_and_leaving(kind: Kind) {
    let _guard = together().await;
    let mut stage = Stage::new(kind, 3, "").await;
    let load = Load {
        connections: 4,
        keys: 2_000,
        topics: TOPICS,
        per_second: 2_000,
        rows: usize::MAX,
    };
    stage.fleet.start(0).await;
    let loading = load.start(&stage.database, seed());
    let session = stage.session().await;
    let mut settled = Vec::new();
    for step in ["0", "+1", "+2", "-0", "-2", "+0", "-1"] {
        match step.split_at(1) {
            ("+", number) => stage.fleet.start(number.parse().expect("a number")).await,
            ("-", number) => stage.fleet.leave(number.parse().expect("a number")).await,
            _ => {}
        }
        stage.fleet.even(&session, TTL * 4).await;
        let mut even: Vec<i64> = shares(&session).await.into_values().collect();
        even.sort_unstable();
        settled.push(even);
        let since = audit::now(&session).await.expect("the database has a clock");
        let live = stage.fleet.live();
        eventually("every live instance takes part", Duration::from_secs(10), || async {
            let marks = audit::marks(&session, since).await.expect("the audit can be read");
            let part = |name: &String| marks.get(name).is_some_and(|rows| *rows >= 200);
            live.iter().all(part).then_some(())
        })
        .await;
    }
    loading.end().await;
    let verdict = stage.verdict().await;
    println!("{kind:?}, lanes after each change: {settled:?}");
    assert_eq!(verdict.duplicates, 0, "{verdict}");
    assert_eq!(
        settled,
        [
            vec![64],
            vec![32, 32],
            vec![21, 21, 22],
            vec![32, 32],
            vec![64],
            vec![32, 32],
            vec![64]
        ]
    );
}

#[tokio::test]
async fn joining_and_leaving_cleanly_duplicates_nothing() {
    joining_and_leaving(Kind::Nats).await;
}

#[tokio::test]
async fn joining_and_leaving_cleanly_duplicates_nothing_in_kafka() {
    joining_and_leaving(Kind::Kafka).await;
}

/// The hash that makes lanes would send a key to two owners.
#[tokio::test]
async fn an_instance_with_other_lanes_is_refused() {
    let _guard = together().await;
    let database = Cluster::shared().database().await;
    let first = Site::new(&database, "[transports.out.stdout]\n");
    first.migrate();
    let daemon = first.start().await;
    let second = Site::new(&database, "[transports.out.stdout]\n[outbox]\nlanes = 32\n");
    let refused = second.outboxd(&["run"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(64), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(
        said.contains("outbox.lanes") && said.contains("64") && said.contains("32"),
        "{said}"
    );
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

/// Versions may divide the work differently: a newcomer waits until those of another version are gone, and says so.
#[tokio::test]
async fn an_instance_of_another_version_stands_by_loudly() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders"]).await;
    let database = Cluster::shared().database().await;
    let site = Site::with_lease(&database, "ttl = \"3s\"\n", &broker.section("main"));
    site.migrate();
    let session = database.connect().await;
    session
        .run(
            "insert into outboxd_instances (instance, session, machine, version, lanes, expires_at)
             values ('older', gen_random_uuid(), 'elsewhere', '0.0.0', 64, now() + interval '6 seconds');
             update outboxd_lanes set owner = 'older', epoch = 1;
             insert into outbox_messages (topic, key, payload) values ('orders', 'k', '{}')",
        )
        .await;
    let daemon = site.start().await;
    let theirs = "select count(*) from outboxd_lanes where owner = 'older'";
    let live =
        "select count(*) from outboxd_instances where instance = 'older' and expires_at > now() + interval '200 ms'";
    throughout("the other version keeps its lanes", Duration::from_secs(4), || async {
        session.count(theirs).await == 64 || session.count(live).await == 0
    })
    .await;
    session.drained(TTL * 4).await;
    assert_eq!(
        session.count(theirs).await,
        0,
        "its lanes are taken when its lease has ended"
    );
    let log = site.log();
    let said: Vec<&str> = log.lines().filter(|line| line.contains("0.0.0")).collect();
    assert_eq!(said.len(), 1, "said once:\n{log}");
    assert!(said[0].contains("older"), "and who it is: {}", said[0]);
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

/// A clean-up between tests truncates whatever it finds, under a daemon that is at work.
#[tokio::test]
async fn lanes_that_were_deleted_are_put_back_and_work_goes_on() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders"]).await;
    let database = Cluster::shared().database().await;
    let site = Site::with_lease(&database, "ttl = \"3s\"\n", &broker.section("main"));
    site.migrate();
    let session = database.connect().await;
    let daemon = site.start().await;
    let insert = "insert into outbox_messages (topic, key, payload) select 'orders', 'k' || g, '{}' from generate_series(1, 200) g";
    session.run(insert).await;
    session.drained(TTL * 10).await;
    for (round, cleaning) in [
        "truncate outbox_messages, outboxd_lanes, outboxd_instances, outboxd_paused, outboxd_attempts, outboxd_audit restart identity",
        "delete from outboxd_lanes where lane >= 32",
        "truncate outboxd_lanes",
    ]
    .into_iter()
    .enumerate()
    {
        let highest = "select max(epoch) from outboxd_lanes";
        let before = session.count(highest).await;
        session.run(cleaning).await;
        session.run(insert).await;
        eventually(cleaning, TTL * 4, || async {
            let held = "select count(*) from outboxd_lanes l join outboxd_instances i on i.instance = l.owner";
            (session.count(held).await == 64).then_some(())
        })
        .await;
        session.drained(TTL * 5).await;
        let others = format!("select count(*) from outboxd_lanes where lane >= 32 and epoch <= {before}");
        assert_eq!(session.count(&others).await, 0, "an epoch comes again: {cleaning}");
        let said = site.log().matches("rows of outboxd_lanes were deleted: put back").count();
        assert_eq!(said, round + 1, "{cleaning}:\n{}", site.log());
    }
    let another = "select count(*) from outboxd_lanes where epoch <= 1000000";
    assert_eq!(session.count(another).await, 0);
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

/// Everything is made anew under a running daemon, as some test suites do between tests: lanes have the epochs they had before.
#[tokio::test]
async fn a_schema_made_anew_is_relayed_from_and_marked_with_the_next_renewal() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders"]).await;
    let database = Cluster::shared().database().await;
    let site = Site::with_lease(&database, "ttl = \"3s\"\n", &broker.section("main"));
    site.migrate();
    let session = database.connect().await;
    let daemon = site.start().await;
    let insert = "insert into outbox_messages (topic, key, payload) select 'orders', 'k' || g, '{}' from generate_series(1, 20) g";
    session.run(insert).await;
    session.drained(TTL * 10).await;
    for _ in 0..3 {
        session.run("drop schema public cascade; create schema public").await;
        site.migrate();
        session.run(insert).await;
        session.drained(Duration::from_secs(10)).await;
    }
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

/// Roles that were granted before 0.3 may not: the daemon says what to run, and goes on by itself then.
#[tokio::test]
async fn lanes_that_may_not_be_put_back_are_said_loudly() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders"]).await;
    let database = Cluster::shared().database().await;
    let site = Site::with_lease(&database, "ttl = \"3s\"\n", &broker.section("main"));
    site.migrate();
    let session = database.connect().await;
    session
        .run("revoke insert (outbox, lane, epoch) on outboxd_lanes from outboxd_relay")
        .await;
    let daemon = site.start().await;
    // The first half would look like a whole, but for the live instance.
    session.run("delete from outboxd_lanes where lane >= 32").await;
    eventually("the log says what to run", TTL * 4, || async {
        let log = site.log();
        let line = |line: &str| line.contains("WARN") && line.contains("32 of 64") && line.contains("outboxd migrate");
        log.lines().any(line).then_some(())
    })
    .await;
    let second = Site::new(&database, "[transports.out.stdout]\n");
    let refused = second.outboxd(&["run"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(64), "{said}");
    assert!(said.contains("32 of 64") && said.contains("outboxd migrate"), "{said}");
    let said = site.succeed(&["migrate"]);
    assert!(said.contains("put back: 32 lanes"), "{said}");
    session
        .run("insert into outbox_messages (topic, key, payload) select 'orders', 'k' || g, '{}' from generate_series(1, 200) g")
        .await;
    session.drained(TTL * 10).await;
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}
