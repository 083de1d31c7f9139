//! `outboxd status --row` and `/api/v1/messages/{seq}`: why a message was not sent yet, for one in each place where it can be.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::broker::{Broker, Kind};
use crate::support::daemon::{Daemon, Site};
use crate::support::postgres::{Cluster, Database, Session};
use crate::support::{eventually, together};

const ROUTES: &str = r#"
[[routes]]
topic = "paused"
paused = true
transport = "main"

[[routes]]
topic = "ordered"
commit_order = true
transport = "main"

[[routes]]
topic = "limited"
rate = 1
transport = "main"

[[routes]]
topic = "slow"
transport = "frozen"

[[routes]]
topic = "a"
transport = "main"

[[routes]]
topic = "stopped"
transport = "main"

[[routes]]
topic = "dark"
transport = "main"

[[routes]]
topic = "trouble"
transport = "main"
"#;

/// What the command line says of a message.
fn why(site: &Site, seq: i64) -> Value {
    serde_json::from_str(&site.succeed(&["status", "--row", &seq.to_string(), "--json"])).unwrap()
}

fn reason(site: &Site, seq: i64) -> String {
    why(site, seq)["reason"].as_str().unwrap().to_owned()
}

async fn becomes(site: &Site, seq: i64, wanted: &str) {
    let started = Instant::now();
    while reason(site, seq) != wanted {
        let late = started.elapsed() > Duration::from_secs(20);
        assert!(!late, "message {seq} is not {wanted}: {}", why(site, seq));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Inserts a row (`columns` beside the payload) and answers its seq.
async fn row(session: &Session, columns: &str, values: &str) -> i64 {
    let insert = format!("insert into outbox_messages (payload, {columns}) values ('{{}}', {values}) returning seq");
    session.count(&insert).await
}

/// Rows whose reason stands in the database, or is the same whenever they are asked about.
async fn plant(session: &Session) -> BTreeMap<&'static str, i64> {
    let mut planted = BTreeMap::new();
    for (reason, columns, values) in [
        ("relayed", "topic, relayed_at", "'a', now()"),
        (
            "failed",
            "topic, failed_at, last_error",
            "'a', now(), 'the broker said no'",
        ),
        (
            "retry",
            "topic, key, attempt, available_at, last_error",
            "'a', 'k', 2, now() + interval '1 hour', 'the broker said no'",
        ),
        ("key_held", "topic, key", "'a', 'k'"),
        ("delayed", "topic, available_at", "'a', now() + interval '1 hour'"),
        ("no_route", "topic", "'lost'"),
        ("route_paused", "topic", "'paused'"),
        ("topic_paused", "topic", "'stopped'"),
        ("destination_paused", "topic", "'dark'"),
    ] {
        planted.insert(reason, row(session, columns, values).await);
    }
    planted
}

#[tokio::test]
async fn a_message_says_why_it_was_not_sent_yet() {
    let _guard = together().await;
    let (broker, frozen) = (Broker::start(Kind::Nats), Broker::start(Kind::Nats));
    broker
        .prepare(&["paused", "ordered", "limited", "a", "stopped", "trouble"])
        .await;
    frozen.prepare(&["slow"]).await;
    let database = Cluster::shared().database().await;
    let transports = broker.section("main") + &frozen.section("frozen");
    let site = Site::new(&database, &(transports + ROUTES));
    site.migrate();
    let session = database.connect().await;
    let planted = plant(&session).await;
    assert_eq!(reason(&site, planted["no_route"]), "no_instance", "nobody runs");
    site.succeed(&["pause", "stopped"]);
    let daemon = site.start().await;
    for (reason, seq) in &planted {
        becomes(&site, *seq, reason).await;
    }
    let holder = format!(": message {}", planted["retry"]);
    for (reason, says) in [
        ("key_held", holder.as_str()),
        ("retry", "the broker said no"),
        ("failed", "the broker said no"),
        ("destination_paused", "dark (transport main)"),
        ("topic_paused", "\"stopped\""),
    ] {
        let said = why(&site, planted[reason])["sentence"].as_str().unwrap().to_owned();
        assert!(said.contains(says), "{said}");
    }
    what_only_a_running_relay_knows(&site, &database, &session).await;
    frozen.freeze();
    let slow = row(&session, "topic", "'slow'").await;
    becomes(&site, slow, "in_flight").await;
    let said = why(&site, slow);
    assert!(
        said["sentence"].as_str().unwrap().contains("slow (transport frozen)"),
        "{said}"
    );
    frozen.thaw();
    becomes(&site, slow, "relayed").await;
    over_http(&daemon, &site, &planted).await;
    for_people(&site, &planted);

    daemon.freeze();
    let asked = Instant::now();
    assert_eq!(reason(&site, planted["no_route"]), "no_answer");
    assert!(
        asked.elapsed() < Duration::from_secs(20),
        "it is not waited for for ever"
    );
    daemon.thaw();
    daemon.kill9();
    becomes(&site, planted["no_route"], "no_instance").await;
}

async fn what_only_a_running_relay_knows(site: &Site, database: &Database, session: &Session) {
    let other = database.connect().await;
    other
        .run("begin; insert into outbox_messages (topic, payload) values ('a', '{}')")
        .await;
    let ordered = row(session, "topic", "'ordered'").await;
    becomes(site, ordered, "earlier_commit").await;
    other.run("commit").await;
    becomes(site, ordered, "relayed").await;
    for _ in 0..60 {
        row(session, "topic, key", "'limited', 'k'").await;
    }
    let last = session.count("select max(seq) from outbox_messages").await;
    becomes(site, last, "route_limit").await;
    session
        .run(
            "create function refuse() returns trigger language plpgsql as $$ begin raise exception 'not today'; end $$;
             create trigger refuse before update on outbox_messages for each row when (new.topic = 'trouble')
             execute function refuse()",
        )
        .await;
    let stuck = row(session, "topic", "'trouble'").await;
    becomes(site, stuck, "stuck").await;
    let said = why(site, stuck);
    assert!(said["sentence"].as_str().unwrap().contains("function refuse"), "{said}");
}

/// In 80 columns; and what is not there.
fn for_people(site: &Site, planted: &BTreeMap<&str, i64>) {
    let said = site.succeed(&["status", "--row", &planted["destination_paused"].to_string()]);
    assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");
    let parts = ["topic dark: pending for", "next: outboxd check --connect"];
    assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    let missing = site.outboxd(&["status", "--row", "999999"]);
    assert_eq!(missing.status.code(), Some(1));
    let missing = String::from_utf8(missing.stderr).unwrap();
    assert!(missing.contains("there is no message 999999"), "{missing}");
    assert_eq!(missing.lines().count(), 1, "{missing}");
}

/// The same over HTTP.
async fn over_http(daemon: &Daemon, site: &Site, planted: &BTreeMap<&str, i64>) {
    for (reason, seq) in planted {
        let (code, body) = daemon.get(&format!("/api/v1/messages/{seq}")).await.unwrap();
        assert_eq!(code, 200, "{body}");
        let (mut told, mut printed): (Value, Value) = (serde_json::from_str(&body).unwrap(), why(site, *seq));
        assert_eq!(told["reason"], **reason, "{told}");
        for told in [&mut told, &mut printed] {
            for moving in ["due_seconds", "sentence"] {
                told.as_object_mut().unwrap().remove(moving).unwrap();
            }
        }
        assert_eq!(told, printed);
    }
    for (path, code) in [("999999", 404), ("x", 400), ("99999999999999999999", 400)] {
        let answer = daemon.get(&format!("/api/v1/messages/{path}")).await.unwrap();
        assert_eq!(answer.0, code, "{answer:?}");
    }
}

/// Whatever a row says, and whoever holds the questions locked: answers stay short, and relaying goes on.
#[tokio::test]
async fn odd_rows_and_locked_questions_harm_nobody() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["light"]).await;
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, &(broker.section("main") + "[[routes]]\ntopic = \"*\"\n"));
    site.migrate();
    let daemon = site.start().await;
    let session = database.connect().await;
    for (columns, values, wanted) in [
        ("topic", "repeat('t', 3000000)", &["rejected", "failed"][..]),
        (
            "topic, key",
            "'dark', repeat('k', 5000000)",
            &["rejected", "failed", "destination_paused"],
        ),
        ("topic", "'dark.☃'", &["destination_paused", "failed"]),
        ("topic, key", r"'dark', E'k\x01☃'", &["destination_paused"]),
        ("topic, available_at", "'dark', 'infinity'", &["delayed"]),
        ("topic, available_at", "'dark', '-infinity'", &["destination_paused"]),
        ("topic, attempt", "'dark', -5", &["destination_paused"]),
        ("topic, seq", "'dark', -5", &["destination_paused"]),
        ("topic, seq", "'dark', 9223372036854775806", &["destination_paused"]),
    ] {
        let seq = row(&session, columns, values).await;
        let started = Instant::now();
        let mut said = why(&site, seq);
        while !wanted.contains(&said["reason"].as_str().unwrap()) {
            assert!(started.elapsed() < Duration::from_secs(20), "{columns}: {said}");
            said = why(&site, seq);
        }
        let length = said.to_string().len();
        assert!(length < 8_000, "{columns}: {length} bytes");
    }
    for locks in [
        "lock table outboxd_questions in access exclusive mode",
        "delete from outboxd_questions; insert into outboxd_questions (outbox, instance, seq) values ('x', 'y', 1)",
    ] {
        let holder = database.connect().await;
        holder.run(&format!("begin; {locks}")).await;
        let started = Instant::now();
        let delayed = "'light', now() + interval '1 second'";
        let seq = row(&session, "topic, available_at", delayed).await;
        let relayed = format!("select count(*) from outbox_messages where seq = {seq} and relayed_at is not null");
        eventually("a delayed row is relayed", Duration::from_secs(10), || async {
            (session.count(&relayed).await == 1).then_some(())
        })
        .await;
        println!("{locks}: {:?}", started.elapsed());
        holder.run("rollback").await;
    }
    eventually("nothing is left over", Duration::from_secs(60), || async {
        (session.count("select count(*) from outboxd_questions").await == 0).then_some(())
    })
    .await;
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

/// Whoever may look and not ask is told what the row says, and who could ask.
#[tokio::test]
async fn who_may_not_ask_is_told_so() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, &(broker.section("main") + "[[routes]]\ntopic = \"*\"\n"));
    site.migrate();
    let daemon = site.start().await;
    let session = database.connect().await;
    let seq = row(&session, "topic", "'dark'").await;
    becomes(&site, seq, "destination_paused").await;
    session
        .run(&format!(
            "alter database {} set default_transaction_read_only = on",
            database.name
        ))
        .await;
    let said = why(&site, seq);
    session
        .run(&format!(
            "set default_transaction_read_only = off; alter database {} reset default_transaction_read_only",
            database.name
        ))
        .await;
    assert_eq!(said["state"], "pending", "{said}");
    assert_eq!(said["reason"], "cannot_ask", "{said}");
    assert!(said["sentence"].as_str().unwrap().contains("read-only"), "{said}");
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

/// Whoever has the message's lane is asked, and one that does not listen for notifications finds the question all the same.
#[tokio::test]
async fn the_instance_that_has_the_lane_is_asked() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["light"]).await;
    let database = Cluster::shared().database().await;
    let routes = broker.section("main") + "[[routes]]\ntopic = \"*\"\n";
    let listening = Site::new(&database, &routes);
    listening.migrate();
    let polling = Site::new(&database, &(routes + "[relay]\nnotify = false\n"));
    let daemons = (listening.start().await, polling.start().await);
    let session = database.connect().await;
    let both = "select count(distinct owner) from outboxd_lanes where owner is not null";
    eventually("both have lanes", Duration::from_secs(30), || async {
        (session.count(both).await == 2).then_some(())
    })
    .await;
    let mut seqs = Vec::new();
    for key in 0..12 {
        seqs.push(row(&session, "topic, key", &format!("'dark', 'k{key}'")).await);
    }
    let mut asked: BTreeMap<String, usize> = BTreeMap::new();
    for seq in seqs {
        becomes(&listening, seq, "destination_paused").await;
        let (mine, theirs) = (why(&listening, seq), why(&polling, seq));
        assert_eq!(mine["instance"], theirs["instance"], "whoever asks");
        *asked.entry(mine["instance"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(daemons.0.terminate(Duration::from_secs(30)).await.success());
    assert!(daemons.1.terminate(Duration::from_secs(30)).await.success());
}
