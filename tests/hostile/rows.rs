//! Rows an attacker would write, to every broker: each arrives as it was written or fails with a reason, none adds a header or a
//! command, and none keeps another from arriving.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use uuid::Uuid;

use crate::support::arrivals::{kafka_arrivals, nats_arrivals};
use crate::support::daemon::Site;
use crate::support::kafka::KafkaServer;
use crate::support::nats::{NatsServer, programs};
use crate::support::postgres::{Cluster, Session};
use crate::support::redis::RedisServer;
use crate::support::together;

/// A row by name: SQL of its topic behind the broker's letter, of key, payload (bytea) and headers (json), and the brokers (`n` of
/// any version, `k`, `r`, `s`) that cannot carry it.
type Bad = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
);

const PLAIN: &str = "'.orders'";
const BODY: &str = "'1'";
const NONE: &str = "'{}'";
const BAD: [Bad; 26] = [
    (
        "control characters in the key",
        PLAIN,
        r"E'a\x01\x1f\x7f'",
        BODY,
        NONE,
        "",
    ),
    (
        "a line end in the key",
        PLAIN,
        r"E'a\r\nInjected: yes'",
        BODY,
        NONE,
        "n",
    ),
    ("a key of a megabyte", PLAIN, "repeat('k', 1000000)", BODY, NONE, "n"),
    (
        "a line end in a value",
        PLAIN,
        "'k'",
        BODY,
        r#"'{"a": "x\r\nInjected: yes"}'"#,
        "nkrs",
    ),
    (
        "a line feed in a value",
        PLAIN,
        "'k'",
        BODY,
        r#"'{"a": "x\nInjected: yes"}'"#,
        "nkrs",
    ),
    (
        "a line end in a name",
        PLAIN,
        "'k'",
        BODY,
        r#"'{"a\r\nInjected": "yes"}'"#,
        "nkrs",
    ),
    (
        "a colon in a name",
        PLAIN,
        "'k'",
        BODY,
        r#"'{"Injected: yes": "x"}'"#,
        "n",
    ),
    ("a NUL in a value", PLAIN, "'k'", BODY, r#"'{"a": "x\u0000y"}'"#, "nkrs"),
    ("a NUL in a name", PLAIN, "'k'", BODY, r#"'{"a\u0000": "x"}'"#, "nkrs"),
    ("an empty name", PLAIN, "'k'", BODY, r#"'{"": "x"}'"#, "nkrs"),
    (
        "the names of the relay",
        PLAIN,
        "'k'",
        BODY,
        r#"'{"nats-msg-id": "x", "OUTBOX-ID": "x", "outbox-key": "x", "ID": "x"}'"#,
        "",
    ),
    ("headers that are a list", PLAIN, "'k'", BODY, "'[1]'", "nkrs"),
    ("headers that are a text", PLAIN, "'k'", BODY, "'\"x\"'", "nkrs"),
    ("headers that are a number", PLAIN, "'k'", BODY, "'7'", "nkrs"),
    (
        "deep headers",
        PLAIN,
        "'k'",
        BODY,
        r#"('{"a":' || repeat('[', 5000) || repeat(']', 5000) || '}')"#,
        "nkrs",
    ),
    (
        "ten thousand headers",
        PLAIN,
        "'k'",
        BODY,
        "(select json_object_agg('h' || g, g) from generate_series(1, 10000) g)::text",
        "n",
    ),
    (
        "a deep payload",
        PLAIN,
        "'k'",
        "repeat('[', 10000) || repeat(']', 10000)",
        NONE,
        "",
    ),
    ("an empty payload", PLAIN, "'k'", "''", NONE, ""),
    ("bytes that are no text", PLAIN, "'k'", r"'\xff00fe0d0a'", NONE, ""),
    ("a space in the name", "'. a'", "'k'", BODY, NONE, "nk"),
    ("a wildcard", "'.>'", "'k'", BODY, NONE, "nk"),
    ("another wildcard", "'.*'", "'k'", BODY, NONE, "nk"),
    ("an empty token", "'..a b'", "'k'", BODY, NONE, "nk"),
    ("a long name", "'.' || repeat('x', 300)", "'k'", BODY, NONE, "k"),
    (
        "a line end in the name",
        r"E'.a\r\nPUB x 1\r\nx'",
        "'k'",
        BODY,
        NONE,
        "nk",
    ),
    ("no name at all", "'-by-key'", "''", BODY, NONE, "nkrs"),
];

/// What a broker holds of one message: its body and its headers' names.
type Held = BTreeMap<Uuid, (Vec<u8>, Vec<String>)>;

async fn redis_holds(server: &RedisServer) -> Held {
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let streams: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap();
    let mut held = Held::new();
    for stream in streams {
        type Entries = Vec<(String, BTreeMap<String, Vec<u8>>)>;
        let mut range = redis::cmd("XRANGE");
        let entries: Entries = range
            .arg(&stream)
            .arg("-")
            .arg("+")
            .query_async(&mut connection)
            .await
            .unwrap();
        for (_, mut entry) in entries {
            let id = String::from_utf8(entry.remove("id").unwrap()).unwrap().parse().unwrap();
            let headers: serde_json::Value = serde_json::from_slice(&entry["headers"]).unwrap();
            let names = headers.as_object().unwrap().keys().cloned().collect();
            assert!(held.insert(id, (entry.remove("payload").unwrap(), names)).is_none());
        }
    }
    held
}

/// Of a line of standard output as much as matters: some are deeper than a reader goes.
#[derive(serde::Deserialize)]
struct Line {
    id: Uuid,
}

/// The lines of standard output; those of the log are no JSON.
fn stdout_holds(log: &str) -> BTreeSet<Uuid> {
    let lines = log.lines().filter(|line| line.starts_with("{\"id\""));
    let line = |line| serde_json::from_str::<Line>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    lines.map(|text| line(text).id).collect()
}

/// Each version's nats-server, by the letters of the first two.
fn nats_servers() -> Vec<(&'static str, NatsServer)> {
    let programs = programs();
    let server = |program: &String| NatsServer::of(program, "");
    ["n", "m"].into_iter().zip(programs.iter().map(server)).collect()
}

fn configuration(nats: &[(&str, NatsServer)], kafka: &KafkaServer, redis: &RedisServer) -> String {
    let mut text = format!(
        "[transports.k.kafka]\nbrokers = \"{}\"\n[transports.r.redis]\nurl = \"{}\"\n[transports.s.stdout]\n",
        kafka.brokers(),
        redis.url()
    );
    for (name, server) in nats {
        text.push_str(&format!("[transports.{name}.nats]\nurl = \"{}\"\n", server.url()));
    }
    for name in nats.iter().map(|(name, _)| *name).chain(["k", "r", "s"]) {
        let bomb = "{{[!a]*,*?}*,?*}*?*[!b]*".repeat(3);
        text.push_str(&format!(
            "[[routes]]\ntopic = \"{bomb}z\"\ntransport = \"s\"\n\
             [[routes]]\ntopic = \"{name}-by-key\"\ntransport = \"{name}\"\ndestination = \"{{key}}\"\n\
             [[routes]]\ntopic = \"{name}.*\"\ntransport = \"{name}\"\n"
        ));
    }
    text
}

/// Writes each bad row for each broker, with good ones around it; answers those that are to fail.
async fn insert(session: &Session, brokers: &[&str]) -> BTreeSet<String> {
    let mut expected = BTreeSet::new();
    for broker in brokers {
        // Two versions of one broker.
        let kind = if *broker == "m" { "n" } else { broker };
        for (number, (note, topic, key, payload, headers, refusing)) in BAD.iter().enumerate() {
            let insert = format!(
                "insert into outbox_messages (topic, key, payload, headers, note)
                 select '{broker}' || {topic}, {key}, case when {payload} like '\\\\x%' then ({payload})::bytea
                        else convert_to({payload}, 'UTF8') end, ({headers})::json, '{broker}: {note}'
                 union all
                 select '{broker}.orders', 'k' || g, '2', '{{}}', null from generate_series({number}, {number} + 4) g"
            );
            session.run(&insert).await;
            if refusing.contains(kind) {
                expected.insert(format!("{broker}: {note}"));
            }
        }
    }
    expected
}

/// Asserts that the broker holds what was relayed to it, as it was written, and nothing else.
async fn assert_held(session: &Session, broker: &str, held: &Held) {
    let sent =
        "select id, payload, coalesce(note, '') from outbox_messages where relayed_at is not null and topic like $1";
    let rows = session.query(sent, &[&format!("{broker}%")]).await.unwrap();
    assert_eq!(
        rows.len(),
        held.len(),
        "{broker}: everything relayed is there, and nothing else"
    );
    for row in rows {
        let (id, payload, note): (Uuid, Vec<u8>, String) = (row.get(0), row.get(1), row.get(2));
        let (body, names) = &held[&id];
        assert_eq!(body, &payload, "{broker}: {note}");
        assert!(
            !names.iter().any(|name| name == "Injected"),
            "{broker}: {note}: {names:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_rows_arrive_as_they_are_or_fail_alone() {
    let _guard = together().await;
    let nats = nats_servers();
    for (name, server) in &nats {
        server.create_stream("hostile", &[&format!("{name}.>")]).await;
    }
    let kafka = tokio::task::block_in_place(KafkaServer::shared);
    kafka.create_topic("k.orders", 3).await;
    let redis = RedisServer::start();
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, &configuration(&nats, kafka, &redis));
    site.migrate();
    let session = database.connect().await;
    session
        .run(
            "alter table outbox_messages alter column headers drop default, alter column payload type bytea using ''::bytea;
             alter table outbox_messages alter column headers type json using '{}'::json;
             alter table outbox_messages add column note text",
        )
        .await;
    let brokers: Vec<&str> = nats.iter().map(|(name, _)| *name).chain(["k", "r", "s"]).collect();
    let expected = insert(&session, &brokers).await;
    let daemon = site.start().await;
    session.drained(Duration::from_secs(60)).await;

    let mut failed = BTreeSet::new();
    let query =
        "select coalesce(note, 'a neighbour of ' || topic), attempt, coalesce(last_error, '') from outbox_messages
                 where failed_at is not null";
    for row in session.query(query, &[]).await.unwrap() {
        let (note, attempt, error): (String, i32, String) = (row.get(0), row.get(1), row.get(2));
        assert_eq!(attempt, 2, "{note}: {error}");
        assert!(!error.is_empty() && !error.contains(['\n', '\r']), "{note}: {error:?}");
        failed.insert(note);
    }
    assert_eq!(failed, expected);
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());

    let of = |arrivals: Vec<crate::support::arrivals::Arrival>| -> Held {
        let names = |headers: Vec<(String, String)>| headers.into_iter().map(|(name, _)| name).collect();
        arrivals
            .into_iter()
            .map(|one| (one.id, (one.payload, names(one.headers))))
            .collect()
    };
    let bootstrap = kafka.brokers();
    let in_kafka = tokio::task::block_in_place(|| kafka_arrivals(&bootstrap, &["k.orders"])).unwrap();
    let mut held = vec![("k", of(in_kafka)), ("r", redis_holds(&redis).await)];
    for (name, server) in &nats {
        held.push((name, of(nats_arrivals(&server.url(), "hostile").await.unwrap())));
    }
    for (broker, held) in held {
        assert_held(&session, broker, &held).await;
    }
    let printed = "select count(*) from outbox_messages where relayed_at is not null and topic like 's%'";
    assert_eq!(session.count(printed).await, stdout_holds(&site.log()).len() as i64);
}
