//! `outboxd status --row` and `/api/v1/messages/{seq}`: why a message was not sent yet, for one in each place where it can be.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::broker::{Broker, Kind};
use crate::support::daemon::{Daemon, Site};
use crate::support::postgres::{Cluster, Session};
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
    let mut planted: BTreeMap<&str, i64> = BTreeMap::new();
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
        planted.insert(reason, row(&session, columns, values).await);
    }
    assert_eq!(reason(&site, planted["no_route"]), "no_instance", "nobody runs");
    site.succeed(&["pause", "stopped"]);
    let daemon = site.start().await;
    for (reason, seq) in &planted {
        becomes(&site, *seq, reason).await;
    }
    let sentence = |reason: &str| why(&site, planted[reason])["sentence"].as_str().unwrap().to_owned();
    let holder = planted["retry"];
    assert!(
        sentence("key_held").ends_with(&format!(": message {holder}")),
        "{}",
        sentence("key_held")
    );
    assert!(
        sentence("retry").contains("the broker said no"),
        "{}",
        sentence("retry")
    );
    assert!(
        sentence("destination_paused").contains("dark (transport main)"),
        "{}",
        sentence("destination_paused")
    );

    // What only a running relay knows.
    let other = database.connect().await;
    other
        .run("begin; insert into outbox_messages (topic, payload) values ('a', '{}')")
        .await;
    let ordered = row(&session, "topic", "'ordered'").await;
    becomes(&site, ordered, "earlier_commit").await;
    other.run("commit").await;
    becomes(&site, ordered, "relayed").await;
    for _ in 0..30 {
        row(&session, "topic, key", "'limited', 'k'").await;
    }
    let last = session.count("select max(seq) from outbox_messages").await;
    becomes(&site, last, "route_limit").await;
    session
        .run(
            "create function refuse() returns trigger language plpgsql as $$ begin raise exception 'not today'; end $$;
             create trigger refuse before update on outbox_messages for each row when (new.topic = 'trouble')
             execute function refuse()",
        )
        .await;
    let stuck = row(&session, "topic", "'trouble'").await;
    becomes(&site, stuck, "stuck").await;
    assert!(
        why(&site, stuck)["sentence"]
            .as_str()
            .unwrap()
            .contains("function refuse")
    );
    frozen.freeze();
    let slow = row(&session, "topic", "'slow'").await;
    becomes(&site, slow, "in_flight").await;
    assert!(
        why(&site, slow)["sentence"]
            .as_str()
            .unwrap()
            .contains("slow (transport frozen)")
    );
    frozen.thaw();
    becomes(&site, slow, "relayed").await;
    over_http(&daemon, &site, &planted).await;

    // For people, in 80 columns; and what is not there.
    let said = site.succeed(&["status", "--row", &planted["destination_paused"].to_string()]);
    assert!(said.lines().all(|line| line.chars().count() <= 80), "{said}");
    assert!(
        said.contains("topic dark: pending for") && said.contains("next: outboxd check --connect"),
        "{said}"
    );
    let missing = site.outboxd(&["status", "--row", "999999"]);
    assert_eq!(missing.status.code(), Some(1));
    let missing = String::from_utf8(missing.stderr).unwrap();
    assert!(
        missing.contains("there is no message 999999") && missing.lines().count() == 1,
        "{missing}"
    );
    assert_eq!(
        session.count("select count(*) from outboxd_questions").await,
        0,
        "nothing is left over"
    );

    daemon.freeze();
    let asked = Instant::now();
    assert_eq!(reason(&site, planted["no_route"]), "no_answer");
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "it is not waited for for ever"
    );
    daemon.thaw();
    daemon.kill9();
    becomes(&site, planted["no_route"], "no_instance").await;
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
