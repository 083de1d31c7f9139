//! P1 and P8 for rows that can never be sent: each is `failed_at` at its first attempt with a `last_error` that says
//! why, and every other row of its batch is relayed.

use std::time::Duration;

use futures_util::TryStreamExt;

use crate::support::broker::{Broker, Kind};
use crate::support::chaos::judge;
use crate::support::daemon::Site;
use crate::support::postgres::{Cluster, Session};
use crate::support::together;

/// A failed row's attempt and last_error, by its key.
async fn failure(session: &Session, key: &str) -> (i32, String) {
    let query = "select attempt, last_error from outbox_messages where key = $1 and failed_at is not null";
    let row = session.query_opt(query, &[&key]).await.expect("a query");
    let row = row.unwrap_or_else(|| panic!("the row {key:?} is in failed_at"));
    (row.get(0), row.get(1))
}

/// Asserts that the row with this key failed at its first attempt, and that `last_error` has one of `words`.
async fn assert_rejected(session: &Session, key: &str, words: &[&str]) {
    let (attempt, error) = failure(session, key).await;
    println!("{key}: {error}");
    assert_eq!(attempt, 2, "{key}: one attempt, then no more");
    let lower = error.to_lowercase();
    assert!(
        words.iter().any(|word| lower.contains(word)),
        "{key}: {error:?} says none of {words:?}"
    );
    assert!(!error.contains('\n'), "{key}: last_error is one line: {error:?}");
}

#[tokio::test]
async fn what_nats_cannot_take_fails_alone() {
    let _guard = together().await;
    let broker = Broker::start_with(Kind::Nats, "max_payload: 65536");
    broker.prepare(&["orders", "orders.>"]).await;
    let database = Cluster::shared().database().await;
    let routes = "[[routes]]\ntopic = \"orders*\"\ntransport = \"main\"\n";
    let fails = "[relay]\nunrouted = \"fail\"\n";
    let site = Site::new(&database, &(broker.section("main") + fails + routes));
    site.migrate();
    let session = database.connect().await;
    // One statement, so that good and bad rows share their batches.
    let insert = "insert into outbox_messages (topic, key, payload, headers)
        select case when n = 40 then 'orders one' when n = 50 then 'nowhere' else 'orders' end,
               case n when 20 then 'large' when 30 then 'array' when 40 then 'space' when 50 then 'unrouted'
                      when 60 then 'newline' else 'k' || n % 7 end,
               case when n = 20 then to_jsonb(repeat('x', 100000)) else to_jsonb(n) end,
               case n when 30 then '[1]'::jsonb when 60 then jsonb_build_object('a', E'x\\r\\nb: y') else '{}' end
        from generate_series(1, 500) as n";
    session.run(insert).await;
    let daemon = site.start().await;
    session.drained(Duration::from_secs(20)).await;

    assert_rejected(&session, "large", &["payload", "too large", "exceed"]).await;
    assert_rejected(&session, "array", &["headers must be a json object"]).await;
    assert_rejected(&session, "space", &["subject"]).await;
    assert_rejected(&session, "unrouted", &["no route"]).await;
    assert_rejected(&session, "newline", &["header"]).await;
    let verdict = judge(&database, &broker, &["orders"]).await;
    verdict.assert_nothing_lost();
    verdict.assert_ordered();
    assert_eq!((verdict.failed, verdict.arrived), (5, 495), "{verdict}");
    let attempts = "select count(*) from outboxd_attempts where lower(class) = 'rejected'";
    assert_eq!(
        session.count(attempts).await,
        5,
        "each rejection is in outboxd_attempts"
    );
    let listed = site.succeed(&["failed", "list", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("failed list --json is JSON");
    assert_eq!(listed.as_array().map(Vec::len), Some(5), "{listed}");
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

/// Who may insert rows, and nothing else, reaches neither a stream's management nor what a control header does to it.
#[tokio::test]
async fn no_row_reaches_what_is_the_nats_servers_own() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders"]).await;
    let database = Cluster::shared().database().await;
    let routes = "[[routes]]\ntopic = \"keyed\"\ntransport = \"main\"\ndestination = \"{key}\"
        [[routes]]\ntopic = \"*\"\ntransport = \"main\"\n";
    let site = Site::new(&database, &(broker.section("main") + routes));
    site.migrate();
    let session = database.connect().await;
    let daemon = site.start().await;
    session
        .run("insert into outbox_messages (topic, key, payload) select 'orders', 'k', '{}' from generate_series(1, 50)")
        .await;
    session.drained(Duration::from_secs(20)).await;
    let streams = async_nats::jetstream::new(async_nats::connect(broker.address()).await.unwrap());
    let names = || async { streams.stream_names().try_collect::<Vec<String>>().await.unwrap() };
    let stream = names().await.pop().expect("a stream");
    let attacks = format!(
        "insert into outbox_messages (topic, key, payload, headers) values
           ('$JS.API.STREAM.DELETE.{stream}', 'delete', '{{}}', '{{}}'),
           ('$JS.API.STREAM.PURGE.{stream}', 'purge', '{{}}', '{{}}'),
           ('$JS.API.STREAM.CREATE.mine', 'create', '{{\"name\": \"mine\", \"subjects\": [\"mine\"]}}', '{{}}'),
           ('_INBOX.abc.1', 'inbox', '{{}}', '{{}}'),
           ('keyed', '$JS.API.STREAM.DELETE.{stream}', '{{}}', '{{}}'),
           ('orders', 'rollup', '{{}}', '{{\"Nats-Rollup\": \"all\"}}'),
           ('orders', 'lower', '{{}}', '{{\"nats-rollup\": \"all\"}}'),
           ('orders', 'expect', '{{}}', '{{\"Nats-Expected-Stream\": \"another\"}}')"
    );
    session.run(&attacks).await;
    session
        .run("insert into outbox_messages (topic, key, payload) values (repeat('x', 5000), 'long', '{}')")
        .await;
    session.drained(Duration::from_secs(20)).await;
    for key in [
        "delete",
        "purge",
        "create",
        "inbox",
        &format!("$JS.API.STREAM.DELETE.{stream}"),
    ] {
        assert_rejected(&session, key, &["the broker's own"]).await;
    }
    for key in ["rollup", "lower", "expect"] {
        assert_rejected(&session, key, &["allow_headers"]).await;
    }
    assert_rejected(&session, "long", &["longer than"]).await;
    assert_eq!(names().await, [stream]);
    assert_eq!(broker.arrivals(&["orders"]).await.len(), 50);
    assert!(!site.log().contains("publishing stops"), "{}", site.log());
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());

    // What an operator allows is allowed.
    let file = std::fs::read_to_string(site.config()).unwrap();
    site.configure(&file.replace("\"Nats-Expected-Last-Sequence\"", "\"Nats-Expected-Stream\""));
    let daemon = site.start().await;
    session
        .run(&format!(
            "insert into outbox_messages (topic, key, payload, headers)
             values ('orders', 'right', '{{}}', jsonb_build_object('Nats-Expected-Stream', '{}'))",
            names().await[0]
        ))
        .await;
    session.drained(Duration::from_secs(20)).await;
    assert_eq!(broker.arrivals(&["orders"]).await.len(), 51);
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

#[tokio::test]
async fn what_kafka_cannot_take_fails_alone() {
    let _guard = together().await;
    let broker = Broker::start_with(Kind::Kafka, "message.max.bytes=200000");
    broker.prepare(&["orders"]).await;
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, &broker.section("main"));
    site.migrate();
    let session = database.connect().await;
    // Random text: what compresses well would fit after all.
    let insert = "insert into outbox_messages (topic, key, payload, headers)
        select case when n = 40 then 'orders one' when n = 50 then '__consumer_offsets' else 'orders' end,
               case n when 20 then 'large' when 30 then 'array' when 40 then 'space' when 50 then 'internal' else 'k' || n % 7 end,
               case when n = 20 then (select jsonb_agg(md5(n::text || i)) from generate_series(1, 12000) as i) else to_jsonb(n) end,
               case n when 30 then '[1]'::jsonb else '{}' end
        from generate_series(1, 500) as n";
    session.run(insert).await;
    let daemon = site.start().await;
    session.drained(Duration::from_secs(30)).await;

    assert_rejected(&session, "large", &["too large", "exceeds"]).await;
    assert_rejected(&session, "array", &["headers must be a json object"]).await;
    assert_rejected(&session, "space", &["topic"]).await;
    assert_rejected(&session, "internal", &["the broker's own"]).await;
    let verdict = judge(&database, &broker, &["orders"]).await;
    verdict.assert_nothing_lost();
    verdict.assert_ordered();
    assert_eq!((verdict.failed, verdict.arrived), (4, 496), "{verdict}");
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

/// One statement, one batch, one message above the limit in the middle of it: it fails, its neighbours of the same key do not.
#[tokio::test]
async fn one_oversize_message_fails_alone() {
    let _guard = together().await;
    let broker = Broker::start_with(Kind::Nats, "max_payload: 65536");
    broker.prepare(&["orders"]).await;
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, &broker.section("main"));
    site.migrate();
    let session = database.connect().await;
    session
        .run(
            "insert into outbox_messages (topic, key, payload)
             select 'orders', 'k', case n when 25 then to_jsonb(repeat('x', 100000)) else to_jsonb(n) end
             from generate_series(1, 50) as n",
        )
        .await;
    let daemon = site.start().await;
    session.drained(Duration::from_secs(20)).await;
    let failed = "select seq from outbox_messages where failed_at is not null";
    assert_eq!(session.count(failed).await, 25);
    let verdict = judge(&database, &broker, &["orders"]).await;
    verdict.assert_nothing_lost();
    verdict.assert_ordered();
    assert_eq!(
        (verdict.failed, verdict.arrived, verdict.attempts_counted),
        (1, 49, 1),
        "{verdict}"
    );
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

/// Three whole batches of poison in front, then good rows: the good ones arrive, and the poison is tried once.
#[tokio::test]
async fn full_batch_of_poison_does_not_starve() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders"]).await;
    let database = Cluster::shared().database().await;
    let site = Site::new(
        &database,
        &(broker.section("main") + "[relay]\nbatch_size = 100\nmax_in_flight = 200\n"),
    );
    site.migrate();
    let session = database.connect().await;
    session
        .run(
            "insert into outbox_messages (topic, key, payload, headers)
             select 'orders', 'k' || n % 10, '1', case when n <= 300 then '[]'::jsonb else '{}' end
             from generate_series(1, 400) as n",
        )
        .await;
    let daemon = site.start().await;
    session.drained(Duration::from_secs(20)).await;
    let verdict = judge(&database, &broker, &["orders"]).await;
    verdict.assert_nothing_lost();
    assert_eq!((verdict.failed, verdict.arrived), (300, 100), "{verdict}");
    assert_eq!(
        session.count("select count(*) from outboxd_attempts").await,
        300,
        "each is tried once"
    );
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}
