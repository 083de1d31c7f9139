//! A lock that somebody else holds is told from a server that does not answer: whoever waits for it names the table, the holder and
//! what to do, soon; nothing is thrown away for it, and it goes on when the lock ends.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::broker::{Broker, Kind};
use crate::support::command::{self, Called};
use crate::support::daemon::{Daemon, Site};
use crate::support::postgres::{Cluster, Database, Session, try_session};
use crate::support::web::{post, with_token};
use crate::support::{eventually, together};

/// Two seconds of patience, and what a busy machine adds.
const SOON: Duration = Duration::from_secs(8);
const LOCK: &str = "set application_name = 'a migration'; begin; lock table outbox_messages in access exclusive mode";

/// A database with a message of each kind, to call the program on.
fn outbox() -> command::Site {
    let site = command::Site::migrated();
    site.fail(3);
    site.one(
        "insert into outbox_messages (topic, payload, relayed_at) select 'done', '1', now() from generate_series(1, 3)",
    );
    site
}

async fn pid(session: &Session) -> i64 {
    session.count("select pg_backend_pid()::bigint").await
}

/// The call ended soon, with this code and one line that names table, holder and what to do.
#[track_caller]
fn named(called: &Called, took: Duration, code: i32, parts: &[&str]) {
    let line = called.refused(code);
    for part in parts {
        assert!(line.contains(part), "{part:?} is not in {line}");
    }
    assert!(took < SOON, "only after {took:?}: {line}");
}

fn timed(site: &command::Site, args: &[&str]) -> (Called, Duration) {
    let began = Instant::now();
    let called = site.call_with(args, b"1");
    (called, began.elapsed())
}

#[tokio::test]
async fn every_verb_names_who_holds_the_outbox() {
    let _guard = together().await;
    let site = outbox();
    let session = try_session(&site.database.url).await.unwrap();
    session.run(LOCK).await;
    let pid = pid(&session).await;
    let (holder, end) = (
        format!("pid {pid} (a migration, user postgres, idle in transaction, open for "),
        format!("select pg_terminate_backend({pid})"),
    );
    let parts = ["table public.outbox_messages is locked by", &*holder, &*end];
    let verbs: [&[&str]; 9] = [
        &["status"],
        &["failed", "list"],
        &["failed", "show", "1"],
        &["failed", "retry", "--all"],
        &["failed", "discard", "1"],
        &["failed", "export"],
        &["replay", "--topic", "done"],
        &["prune"],
        &["enqueue", "t"],
    ];
    std::thread::scope(|scope| {
        let site = &site;
        let calls = verbs.map(|args| (args, scope.spawn(move || timed(site, args))));
        for (args, call) in calls {
            let (called, took) = call.join().unwrap();
            println!("{args:?} after {took:.1?}: {}", called.err.trim_end());
            named(&called, took, 1, &parts);
        }
    });
    let (called, took) = timed(&site, &["wait", "--timeout", "3s"]);
    named(
        &called,
        took,
        2,
        &["timed out after 3s: ", parts[0], parts[1], parts[2]],
    );
    let report: Value = serde_json::from_str(&site.call(&["check", "--connect", "--json"]).out).unwrap();
    let finding = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["code"] == "locked");
    let finding = finding.unwrap_or_else(|| panic!("{report}"));
    assert_eq!(finding["level"], "fault");
    assert!(finding["what"].as_str().unwrap().contains(parts[1]), "{finding}");
    assert!(finding["fix"].as_str().unwrap().contains(parts[2]), "{finding}");
    session.run("commit").await;
    site.call(&["status"]).done();
}

#[tokio::test]
async fn a_locked_service_table_is_named_too() {
    let _guard = together().await;
    let site = outbox();
    let session = try_session(&site.database.url).await.unwrap();
    let pid = pid(&session).await;
    for (table, verbs) in [
        (
            "outboxd_paused",
            &[&["status"][..], &["pause", "done"], &["resume", "--all"]][..],
        ),
        ("outboxd_migrations", &[&["migrate", "--status"], &["migrate"]]),
        ("outboxd_lanes", &[&["status"]]),
        ("outboxd_audit", &[&["enqueue", "t"]]),
    ] {
        session
            .run(&format!("begin; lock table {table} in access exclusive mode"))
            .await;
        for args in verbs {
            let (called, took) = timed(&site, args);
            let table = format!("table public.{table} is locked by pid {pid} ");
            named(&called, took, 1, &[&table, "pg_terminate_backend("]);
        }
        session.run("rollback").await;
    }
}

#[tokio::test]
async fn a_locked_row_is_named_by_who_would_change_it() {
    let _guard = together().await;
    let site = outbox();
    let session = try_session(&site.database.url).await.unwrap();
    session
        .run("begin; select from outbox_messages where seq = 1 for update")
        .await;
    let holder = format!(
        "row of public.outbox_messages is locked by pid {} ",
        pid(&session).await
    );
    for args in [&["failed", "discard", "1"][..], &["failed", "retry", "1"]] {
        let (called, took) = timed(&site, args);
        named(&called, took, 1, &[&holder, "pg_terminate_backend("]);
    }
}

#[tokio::test]
async fn the_root_of_a_queue_is_named() {
    let _guard = together().await;
    let site = outbox();
    let (reader, owner) = (
        try_session(&site.database.url).await.unwrap(),
        try_session(&site.database.url).await.unwrap(),
    );
    reader
        .run("set application_name = 'a report'; begin; select count(*) from outbox_messages")
        .await;
    let (root, middle) = (pid(&reader).await, pid(&owner).await);
    let alter = owner.batch_execute("alter table outbox_messages add column colour text");
    let asked = async {
        eventually("the change waits", SOON, || async {
            let waits = "select count(*) from pg_locks where not granted and pid <> 0 and locktype = 'relation'
                         and relation = 'outbox_messages'::regclass";
            (reader.count(waits).await > 0).then_some(())
        })
        .await;
        let (called, took) = timed(&site, &["failed", "list"]);
        named(
            &called,
            took,
            1,
            &[
                &format!("pid {root} (a report"),
                &format!("pid {middle} waits in front"),
                &format!("pg_terminate_backend({root})"),
            ],
        );
        reader.run("commit").await;
    };
    let (altered, ()) = tokio::join!(alter, asked);
    altered.unwrap();
}

#[tokio::test]
async fn a_prepared_transaction_is_named_with_its_end() {
    let _guard = together().await;
    let database = Cluster::two_phase().database().await;
    let site = Site::new(&database, "[transports.main.stdout]");
    site.migrate();
    let session = database.connect().await;
    session
        .run("begin; lock table outbox_messages in access exclusive mode; prepare transaction 'left behind'")
        .await;
    let output = site.outboxd(&["failed", "list"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains(
            "table public.outbox_messages is locked by prepared transaction 'left behind' (user postgres, open for "
        ) && said.contains("rollback prepared 'left behind'"),
        "{said}"
    );
    session.run("rollback prepared 'left behind'").await;
}

#[tokio::test]
async fn who_may_not_see_other_sessions_is_told_their_number() {
    let _guard = together().await;
    let site = outbox();
    let session = try_session(&site.database.url).await.unwrap();
    session
        .run("create role half_blind login; grant select on outbox_messages, outboxd_paused, outboxd_lanes to half_blind")
        .await;
    session.run(LOCK).await;
    let url = site.database.url.replacen("postgres@", "half_blind@", 1);
    let mut command = site.command(&["failed", "list"]);
    let output = command.env("OUTBOXD__DATABASE__URL", url).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    session
        .run("rollback; drop owned by half_blind; drop role half_blind")
        .await;
    let holder = format!(
        "is locked by pid {} (a migration, user postgres): ",
        pid(&session).await
    );
    assert!(said.contains(&holder), "{said}");
}

/// A daemon that relays to NATS.
struct Scene {
    broker: Broker,
    database: Database,
    site: Site,
    session: Session,
}

impl Scene {
    async fn set(more: &str) -> (Self, Daemon) {
        let broker = Broker::start(Kind::Nats);
        broker.prepare(&["orders"]).await;
        let database = Cluster::shared().database().await;
        let site = Site::new(&database, &(broker.section("main") + more));
        site.migrate();
        with_token(&site);
        let daemon = site.start().await;
        let session = database.connect().await;
        let scene = Self {
            broker,
            database,
            site,
            session,
        };
        scene.insert(100).await;
        scene.session.drained(Duration::from_secs(20)).await;
        (scene, daemon)
    }

    async fn insert(&self, count: u32) {
        let insert = format!(
            "insert into outbox_messages (topic, key, payload) select 'orders', 'k' || g, '1' from generate_series(1, {count}) g"
        );
        self.session.run(&insert).await;
    }

    /// The server processes of the daemon's pools.
    async fn backends(&self) -> BTreeSet<i32> {
        let instance = self.site.instance();
        let query = "select pid from pg_stat_activity where application_name like 'outboxd/' || $1 || '/%' and application_name !~ '/(locks|listen)$'";
        let rows = self.session.query(query, &[&instance]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }
}

async fn reason(daemon: &Daemon, part: &str, deadline: Duration) -> String {
    eventually(&format!("/readyz says {part:?}"), deadline, || async {
        let (status, body) = daemon.get("/readyz").await?;
        (status == 503 && body.contains(part)).then_some(body)
    })
    .await
}

#[tokio::test]
async fn a_daemon_names_the_lock_and_waits_with_its_connections() {
    let _guard = together().await;
    let (scene, daemon) = Scene::set("").await;
    let before = scene.backends().await;
    let holder = scene.database.connect().await;
    holder.run(LOCK).await;
    let pid = pid(&holder).await;
    let locked = format!("table public.outbox_messages is locked by pid {pid} (a migration");
    let said = reason(&daemon, &locked, SOON).await;
    assert!(said.contains(&format!("select pg_terminate_backend({pid})")), "{said}");
    let metrics = daemon.metrics().await;
    assert_eq!(metrics.get("outboxd_database_unavailable{reason=\"lock\"}"), Some(&1.0));
    // Longer than a statement may take otherwise.
    reason(&daemon, "waiting for a lock for 12s", Duration::from_secs(30)).await;
    let log = scene.site.log();
    assert!(log.contains(&locked) && !log.contains("does not answer"), "{log}");
    let (_, summary) = daemon.get("/api/v1/summary").await.unwrap();
    let summary: Value = serde_json::from_str(&summary).unwrap();
    assert!(summary["lock"]["what"].as_str().unwrap().contains(&locked), "{summary}");
    let status = scene.site.outboxd(&["status"]);
    assert!(String::from_utf8_lossy(&status.stderr).contains(&locked));
    let (code, body) = daemon.get("/api/v1/status").await.unwrap();
    assert!(code == 503 && body.contains(&locked), "{code} {body}");
    holder.run("commit").await;
    scene.insert(100).await;
    scene.session.drained(Duration::from_secs(5)).await;
    assert!(
        before.is_subset(&scene.backends().await),
        "connections were thrown away"
    );
    eventually("ready again", SOON, || async {
        daemon.get("/readyz").await.filter(|(status, _)| *status == 200)
    })
    .await;
    eventually("the end is in the log", Duration::from_secs(20), || async {
        scene.site.log().contains("the lock is released").then_some(())
    })
    .await;
    assert_eq!(scene.broker.held().await, 200, "nothing was sent twice");
}

#[tokio::test]
async fn a_lease_row_that_somebody_locks_is_named_while_messages_go_on() {
    let _guard = together().await;
    let (scene, daemon) = Scene::set("").await;
    let holder = scene.database.connect().await;
    holder.run("begin; select from outboxd_instances for update").await;
    let locked = format!(
        "a row of public.outboxd_instances is locked by pid {} ",
        pid(&holder).await
    );
    reason(&daemon, &locked, Duration::from_secs(20)).await;
    scene.insert(50).await;
    scene.session.drained(Duration::from_secs(5)).await;
    holder.run("rollback").await;
    eventually("ready again", SOON, || async {
        daemon.get("/readyz").await.filter(|(status, _)| *status == 200)
    })
    .await;
    let waiting = "select count(*) from pg_locks l join pg_stat_activity a using (pid) where not l.granted and a.datname = current_database()";
    eventually("nobody is left in the queue", SOON, || async {
        (scene.session.count(waiting).await == 0).then_some(())
    })
    .await;
}

/// Somebody's question waits for a lock and gives up; nothing else waits for it, and nobody tells when it is released.
#[tokio::test]
async fn a_lock_that_a_question_gave_up_on_is_forgotten_when_it_is_released() {
    let _guard = together().await;
    let (scene, daemon) = Scene::set("").await;
    let failed =
        "insert into outbox_messages (topic, payload, failed_at, last_error) values ('orders', '1', now(), 'no')";
    scene.session.run(failed).await;
    let holder = scene.database.connect().await;
    holder
        .run("begin; select from outbox_messages where failed_at is not null for update")
        .await;
    let locked = format!(
        "a row of public.outbox_messages is locked by pid {} ",
        pid(&holder).await
    );
    let retried = post(scene.site.port(), "/api/v1/failed/retry", &json!({"all": true})).await;
    let said = retried.refused(503);
    assert!(said.contains(&locked), "{said}");
    holder.run("rollback").await;
    eventually("ready again", SOON, || async {
        daemon.get("/readyz").await.filter(|(status, _)| *status == 200)
    })
    .await;
    let retried = post(scene.site.port(), "/api/v1/failed/retry", &json!({"all": true})).await;
    assert_eq!(retried.done()["remaining"], 0);
    // By this question, or by the one that was given up on, where the server ended it late.
    let failed = "select count(*) from outbox_messages where failed_at is not null";
    assert_eq!(scene.session.count(failed).await, 0);
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_lock() {
    let _guard = together().await;
    let (scene, daemon) = Scene::set("").await;
    let holder = scene.database.connect().await;
    holder
        .run("begin; lock table outbox_messages, outboxd_lanes, outboxd_instances, outboxd_paused in access exclusive mode")
        .await;
    reason(&daemon, "is locked by pid", SOON).await;
    let began = Instant::now();
    let ended = daemon.terminate(Duration::from_secs(20)).await;
    let took = began.elapsed();
    println!("everything locked: ended with {ended} after {took:.1?}");
    assert!(took < Duration::from_secs(6), "{took:?}");
    assert!(ended.success(), "nothing was unsettled: {ended}");
}

#[tokio::test]
async fn a_stop_says_what_a_lock_kept_from_being_marked() {
    let _guard = together().await;
    let (scene, daemon) = Scene::set("").await;
    scene.broker.freeze();
    scene.insert(100).await;
    eventually("they are on their way", SOON, || async {
        (daemon.metrics().await.get("outboxd_in_flight_messages") == Some(&100.0)).then_some(())
    })
    .await;
    let holder = scene.database.connect().await;
    // Read they may be, marked not.
    holder.run("begin; lock table outbox_messages in share mode").await;
    scene.broker.thaw();
    reason(
        &daemon,
        "table public.outbox_messages is locked by pid",
        Duration::from_secs(20),
    )
    .await;
    let began = Instant::now();
    let ended = daemon.terminate(Duration::from_secs(20)).await;
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    assert_eq!(ended.code(), Some(1));
    let log = scene.site.log();
    assert!(
        log.contains("a lock kept 100 acknowledged messages from being marked"),
        "{log}"
    );
}
