//! Tables of other frameworks, one by one: status words, counters from 0, epochs, envelopes, rows that are deleted.

use std::time::Duration;

use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};

use super::scene::{DEADLINE, Scene};
use crate::support::arrivals::{kafka_arrival, kafka_config};
use crate::support::broker::{Broker, Kind};
use crate::support::{eventually, throughout, together};

pub const DEBEZIUM: &str =
    "create table outbox (id uuid primary key, aggregatetype varchar(255) not null, aggregateid varchar(255) not null,
  type varchar(255) not null, payload jsonb";
const DEBEZIUM_CONFIG: &str = "
[outbox.columns]
topic = \"aggregatetype\"
key = \"aggregateid\"
headers = { sql = \"jsonb_build_object('eventType', t.type)\" }
[[routes]]
topic = \"*\"
transport = \"main\"
destination = \"outbox.event.{topic}\"
";

/// Value, key and headers of a record; a null value is none.
type Record = (Option<String>, String, String, String);

fn records(brokers: &str, topic: &str, count: usize) -> Vec<Record> {
    let consumer: BaseConsumer = kafka_config(brokers).create().unwrap();
    let mut partitions = TopicPartitionList::new();
    for partition in 0..3 {
        partitions
            .add_partition_offset(topic, partition, Offset::Beginning)
            .unwrap();
    }
    consumer.assign(&partitions).unwrap();
    let mut records = Vec::new();
    while records.len() < count {
        let message = consumer.poll(DEADLINE).expect("a record comes").unwrap();
        let arrival = kafka_arrival(&message).unwrap();
        let header = |name: &str| {
            arrival
                .headers
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, value)| value.clone())
        };
        records.push((
            message
                .payload()
                .map(|value| String::from_utf8_lossy(value).into_owned()),
            arrival.key.clone().unwrap_or_default(),
            header("eventType").unwrap_or_default(),
            header("id").unwrap_or_default(),
        ));
    }
    records
}

/// No column for a time, none for an order: what PostgreSQL knows of it orders the rows of one transaction, through savepoints, and
/// transactions that follow each other. A null payload is a null value.
#[tokio::test]
async fn debeziums_table_with_a_mark_goes_to_kafka() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Kafka);
    broker.prepare(&["outbox.event.order"]).await;
    let config = format!("[outbox]\ntable = \"outbox\"\n{DEBEZIUM_CONFIG}");
    let scene = Scene::with(
        broker,
        "outbox",
        &format!("{DEBEZIUM}, relayed_at timestamptz);"),
        &config,
    )
    .await;
    let daemon = scene.site.start().await;
    for round in 0..100 {
        scene
            .session
            .run(&format!(
                "begin; insert into outbox values (gen_random_uuid(), 'order', '{round}', 'OrderCreated', '{{\"id\": 42, \"total\": 1.50}}');
                 savepoint a; insert into outbox values (gen_random_uuid(), 'order', '{round}', 'OrderPaid', '{{\"id\": 42}}');
                 release a; commit"
            ))
            .await;
        scene
            .session
            .run(&format!(
                "insert into outbox values (gen_random_uuid(), 'order', '{round}', 'OrderDeleted', null)"
            ))
            .await;
    }
    scene
        .counts("select count(*) from outbox where relayed_at is null", 0)
        .await;
    let address = scene.broker.address();
    let records = tokio::task::spawn_blocking(move || records(&address, "outbox.event.order", 300));
    let records = records.await.unwrap();
    for round in 0..100 {
        let key = round.to_string();
        let of_key: Vec<(Option<&str>, &str)> = records
            .iter()
            .filter(|(_, of, _, _)| *of == key)
            .map(|(value, _, kind, _)| (value.as_deref(), kind.as_str()))
            .collect();
        let expected = [
            (Some("{\"id\": 42, \"total\": 1.50}"), "OrderCreated"),
            (Some("{\"id\": 42}"), "OrderPaid"),
            (None, "OrderDeleted"),
        ];
        assert_eq!(of_key, expected, "of key {key}");
    }
    let ids = scene
        .session
        .query("select id::text from outbox order by 1", &[])
        .await
        .unwrap();
    let mut sent: Vec<&str> = records.iter().map(|(_, _, _, id)| id.as_str()).collect();
    sent.sort_unstable();
    let ids: Vec<String> = ids.iter().map(|row| row.get(0)).collect();
    assert_eq!(sent, ids);
    scene.is_untouched();
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

#[tokio::test]
async fn debeziums_five_columns_are_deleted() {
    let _guard = together().await;
    let config = format!("[outbox]\ntable = \"outbox\"\non_relayed = \"delete\"\n{DEBEZIUM_CONFIG}");
    let scene = Scene::new("outbox", &format!("{DEBEZIUM});"), &config, &["outbox.event.>"]).await;
    let _daemon = scene.site.start().await;
    scene
        .session
        .run(
            "insert into outbox select gen_random_uuid(), 'order', g::text, 'OrderCreated', jsonb_build_object('n', g)
             from generate_series(1, 200) g",
        )
        .await;
    scene.counts("select count(*) from outbox", 0).await;
    let letters = scene.held(200).await;
    assert_eq!(letters.len(), 200);
    assert!(
        letters
            .iter()
            .all(|letter| letter.header("eventType") == Some("OrderCreated"))
    );
    // A message without a body, where the broker knows none: it has failed, and stays.
    scene
        .session
        .run("insert into outbox values (gen_random_uuid(), 'order', '1', 'OrderDeleted', null)")
        .await;
    let failed = "select count(*) from outboxd_rows_outbox where last_error like 'payload is null%'";
    scene.counts(failed, 1).await;
    assert_eq!(scene.session.count("select count(*) from outbox").await, 1);
    scene.is_untouched();
}

pub const DELIVERIES: &str = "
create table deliveries (id uuid primary key, kind text not null, user_id text, payload jsonb not null, due_at timestamptz not null default now(),
  attempt_count integer not null default 0, max_attempts integer not null default 4, last_error text, published_at timestamptz,
  dead_lettered_at timestamptz, created_at timestamptz not null default now());";
const DELIVERIES_CONFIG: &str = "
[outbox]
table = \"deliveries\"
[outbox.columns]
topic = \"kind\"
key = \"user_id\"
available_at = \"due_at\"
attempt = { sql = \"t.attempt_count + 1\" }
relayed_at = \"published_at\"
failed_at = \"dead_lettered_at\"
inserted_at = \"created_at\"
[outbox.state]
retrying = \"attempt_count = :attempt - 1, last_error = :error, due_at = :retry_at\"
failed = \"dead_lettered_at = :now, attempt_count = :attempt - 1, last_error = :error\"
retried = \"dead_lettered_at = null, attempt_count = 0\"
[relay]
count_outages = true
backoff_min = \"100ms\"
backoff_max = \"200ms\"
";

#[tokio::test]
async fn deliveries_wait_for_their_time_and_count_from_zero() {
    let _guard = together().await;
    let scene = Scene::new("deliveries", DELIVERIES, DELIVERIES_CONFIG, &["mail.>"]).await;
    let _daemon = scene.site.start().await;
    let insert = |kind: &str, seconds: u32| {
        format!(
            "insert into deliveries (id, kind, user_id, payload, due_at)
             values (gen_random_uuid(), '{kind}', 'u1', '{{\"to\": \"a@b\"}}', now() + interval '{seconds} s')"
        )
    };
    scene.session.run(&insert("mail.welcome", 3)).await;
    scene
        .counts("select count(*) from deliveries where published_at is not null", 1)
        .await;
    let late = scene
        .text("select extract(epoch from published_at - due_at) between 0 and 2 from deliveries")
        .await;
    assert_eq!(late, "true");
    // No stream takes it: four attempts, as its row says.
    scene.session.run(&insert("letter.welcome", 0)).await;
    let dead = "select count(*) from deliveries where kind = 'letter.welcome' and attempt_count = 4 and dead_lettered_at is not null
        and last_error is not null and due_at > created_at";
    scene.counts(dead, 1).await;
    scene.counts("select count(*) from outboxd_attempts", 4).await;
    assert!(scene.site.succeed(&["failed", "retry", "--all"]).contains("retried 1"));
    scene.counts("select count(*) from outboxd_attempts", 8).await;
    scene.counts(dead, 1).await;
    assert_eq!(scene.held(1).await.len(), 1);
    scene.is_untouched();
}

pub const EVENTS: &str = "
create table openoutbox_events (event_id uuid primary key, event_type text not null, partition_key text, payload bytea not null,
  headers jsonb, status text not null default 'PENDING' check (status in ('PENDING', 'DELIVERING', 'DELIVERED', 'DEAD')),
  attempts integer not null default 0, available_at timestamptz not null default now(), delivered_at timestamptz, last_error text,
  created_at timestamptz not null default now(), updated_at timestamptz not null default now());
create index idx_openoutbox_processing_queue on openoutbox_events (status, created_at);";
const EVENTS_CONFIG: &str = "
[outbox]
table = \"openoutbox_events\"
[outbox.columns]
id = \"event_id\"
topic = \"event_type\"
key = \"partition_key\"
relayed_at = \"delivered_at\"
failed_at = \"\"
attempt = { sql = \"t.attempts + 1\" }
inserted_at = \"created_at\"
[outbox.state]
pending = \"t.status = 'PENDING'\"
relayed = \"status = 'DELIVERED', delivered_at = :now, updated_at = :now\"
retrying = \"attempts = :attempt - 1, last_error = :error, available_at = :retry_at, updated_at = :now\"
failed = \"status = 'DEAD', attempts = :attempt - 1, last_error = :error, updated_at = :now\"
retried = \"status = 'PENDING', attempts = 0\"
";

#[tokio::test]
async fn status_words_are_theirs() {
    let _guard = together().await;
    let scene = Scene::new("openoutbox_events", EVENTS, EVENTS_CONFIG, &["orders.>"]).await;
    let _daemon = scene.site.start().await;
    let insert = |kind: &str| {
        format!(
            "insert into openoutbox_events (event_id, event_type, partition_key, payload, headers)
             values (gen_random_uuid(), '{kind}', 'k', '\\x00ff', '{{\"a\": \"b\"}}')"
        )
    };
    scene.session.run(&insert("orders.placed")).await;
    let delivered = "select count(*) from openoutbox_events where status = 'DELIVERED' and delivered_at is not null";
    scene.counts(delivered, 1).await;
    scene.session.run(&insert("no subject")).await;
    let dead =
        "select count(*) from openoutbox_events where status = 'DEAD' and attempts = 1 and last_error is not null";
    scene.counts(dead, 1).await;
    // A person mends it in their table.
    scene
        .session
        .run("update openoutbox_events set status = 'PENDING', event_type = 'orders.mended' where status = 'DEAD'")
        .await;
    scene.counts(delivered, 2).await;
    let letters = scene.held(2).await;
    assert_eq!(letters[1].topic, "orders.mended");
    assert_eq!(
        (letters[0].key.as_deref(), letters[0].header("a")),
        (Some("k"), Some("b"))
    );
    scene.is_untouched();
}

pub const TRAM: &str = "
create table message (id varchar(255) primary key, destination text not null, headers text not null, payload text not null,
  published smallint default 0, message_partition smallint, creation_time bigint);
create index message_published_idx on message (published, id);";
const TRAM_CONFIG: &str = "
[outbox]
table = \"message\"
[outbox.columns]
topic = \"destination\"
key = { sql = \"t.headers::jsonb ->> 'PARTITION_ID'\" }
inserted_at = { sql = \"to_timestamp(t.creation_time / 1000.0)\" }
[outbox.state]
pending = \"t.published = 0\"
relayed = \"published = 1\"
";

#[tokio::test]
async fn epochs_small_numbers_and_headers_in_a_text() {
    let _guard = together().await;
    let scene = Scene::new("message", TRAM, TRAM_CONFIG, &["orders"]).await;
    let _daemon = scene.site.start().await;
    scene
        .session
        .run(
            "insert into message (id, destination, headers, payload, creation_time)
             values ('0000018c5a-0242ac110002', 'orders', '{\"PARTITION_ID\":\"7\"}', '{\"a\":1}', 1700000000000)",
        )
        .await;
    scene
        .counts("select count(*) from message where published = 1", 1)
        .await;
    let letters = scene.held(1).await;
    let letter = &letters[0];
    assert_eq!(letter.id, "0000018c5a-0242ac110002");
    assert_eq!(
        (letter.key.as_deref(), letter.header("PARTITION_ID")),
        (Some("7"), Some("7"))
    );
    assert_eq!(letter.body, "{\"a\":1}");
    // What cannot be read of one row keeps nothing else from being sent.
    scene
        .session
        .run(
            "insert into message (id, destination, headers, payload, creation_time) select 'x' || g, 'orders',
             case when g = 2 then 'not json' when g = 3 then '[1]' else '{\"PARTITION_ID\":\"8\"}' end, '{}', 1700000000000 from generate_series(1, 5) g",
        )
        .await;
    scene
        .counts("select count(*) from message where published = 1", 4)
        .await;
    scene
        .counts(
            "select count(*) from outboxd_rows_message where failed_at is not null and id in ('x2', 'x3')",
            2,
        )
        .await;
    assert!(scene.site.succeed(&["failed", "list"]).contains("headers"));
    scene.is_untouched();
}

pub const PUBLISHED: &str = "
create table published (\"Id\" bigint primary key, \"Version\" varchar(20), \"Name\" varchar(200) not null, \"Content\" text, \"Retries\" integer,
  \"Added\" timestamp not null, \"ExpiresAt\" timestamp, \"StatusName\" varchar(50) not null);";
const PUBLISHED_CONFIG: &str = r#"
[outbox]
table = "published"
[outbox.columns]
id = "Id"
topic = "Name"
payload = { sql = "(t.\"Content\"::jsonb -> 'Value')::text" }
headers = { sql = "t.\"Content\"::jsonb -> 'Headers'" }
attempt = { sql = "t.\"Retries\" + 1" }
inserted_at = "Added"
[outbox.state]
pending = "t.\"StatusName\" = 'Scheduled'"
relayed = "\"StatusName\" = 'Succeeded', \"ExpiresAt\" = :now + interval '1 day'"
retrying = "\"Retries\" = :attempt - 1"
failed = "\"StatusName\" = 'Failed', \"Retries\" = :attempt - 1"
retried = "\"StatusName\" = 'Scheduled', \"Retries\" = 0"
"#;

#[tokio::test]
async fn the_body_stands_in_an_envelope() {
    let _guard = together().await;
    let scene = Scene::new("published", PUBLISHED, PUBLISHED_CONFIG, &["orders.>"]).await;
    let _daemon = scene.site.start().await;
    let insert = |id: u32, name: &str, content: &str| {
        format!(
            "insert into published values ({id}, 'v1', '{name}', '{content}', 0, now() at time zone 'utc', null, 'Scheduled')"
        )
    };
    let content = "{\"Headers\": {\"cap-msg-id\": \"9\", \"x\": null}, \"Value\": {\"a\": 1}}";
    scene.session.run(&insert(9, "orders.placed", content)).await;
    scene.counts("select count(*) from published where \"StatusName\" = 'Succeeded' and \"ExpiresAt\" > now() at time zone 'utc'", 1).await;
    let letters = scene.held(1).await;
    assert_eq!((letters[0].id.as_str(), letters[0].body.as_str()), ("9", "{\"a\": 1}"));
    assert_eq!(letters[0].header("cap-msg-id"), Some("9"));
    // An envelope that is none.
    scene.session.run(&insert(10, "orders.placed", "not json")).await;
    scene.session.run(&insert(11, "orders.placed", content)).await;
    scene
        .counts(
            "select count(*) from published where \"StatusName\" = 'Failed' and \"Id\" = 10",
            1,
        )
        .await;
    scene
        .counts("select count(*) from published where \"StatusName\" = 'Succeeded'", 2)
        .await;
    scene.is_untouched();
}

/// Rows of a destination that takes none are enlisted, and stand in nobody's way.
#[tokio::test]
async fn a_paused_topic_keeps_its_rows_and_lets_others_pass() {
    let _guard = together().await;
    let scene = Scene::new("openoutbox_events", EVENTS, EVENTS_CONFIG, &["orders.>"]).await;
    scene.site.succeed(&["pause", "orders.held"]);
    let _daemon = scene.site.start().await;
    let insert = |kind: &str, count: u32| {
        format!(
            "insert into openoutbox_events (event_id, event_type, payload) select gen_random_uuid(), '{kind}', '\\x00' from generate_series(1, {count})"
        )
    };
    scene.session.run(&insert("orders.held", 20_000)).await;
    scene.session.run(&insert("orders.placed", 10)).await;
    let began = std::time::Instant::now();
    scene
        .counts("select count(*) from openoutbox_events where status = 'DELIVERED'", 10)
        .await;
    println!("10 rows behind 20,000 that are held: {:?}", began.elapsed());
    let held = "select count(*) from openoutbox_events where status = 'PENDING'";
    throughout("they are held", Duration::from_secs(2), || async {
        scene.session.count(held).await == 20_000
    })
    .await;
    scene.site.succeed(&["resume", "orders.held"]);
    eventually("they are sent", DEADLINE, || async {
        (scene.session.count(held).await == 0).then_some(())
    })
    .await;
    assert_eq!(scene.held(20_010).await.len(), 20_010);
}
