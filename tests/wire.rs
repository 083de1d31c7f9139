//! What a consumer gets: message id, key, headers and body, as the guide describes them (the wire).

use std::time::Duration;

use crate::support::broker::{Broker, Kind};
use crate::support::consumer::Arrival;
use crate::support::daemon::Site;
use crate::support::postgres::Cluster;
use crate::support::together;

/// Three rows: everything set, an empty key, no key.
async fn sent(kind: Kind) -> Vec<Arrival> {
    let _guard = together().await;
    let broker = Broker::start(kind);
    broker.prepare(&["orders"]).await;
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, &broker.section("main"));
    site.migrate();
    let daemon = site.start().await;
    let session = database.connect().await;
    session
        .run(
            r#"insert into outbox_messages (id, topic, key, payload, headers) values
               ('00000000-0000-4000-8000-000000000001', 'orders', 'alice', '{"total": 42.50}',
                '{"shop": "demo", "count": 3, "tags": ["a", "b"], "id": "mine", "Outbox-Id": "mine", "Nats-Msg-Id": "mine",
                  "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}'),
               ('00000000-0000-4000-8000-000000000002', 'orders', '', '"text"', '{}'),
               ('00000000-0000-4000-8000-000000000003', 'orders', null, 'null', '{"empty": ""}')"#,
        )
        .await;
    session.drained(Duration::from_secs(20)).await;
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
    let mut arrivals = broker.arrivals(&["orders"]).await;
    arrivals.sort_by_key(|arrival| arrival.id);
    assert_eq!(arrivals.len(), 3);
    arrivals
}

fn assert_common(arrivals: &[Arrival]) {
    let first = &arrivals[0];
    assert_eq!(first.id.to_string(), "00000000-0000-4000-8000-000000000001");
    assert_eq!(first.header("shop"), Some("demo"), "a JSON string goes as its text");
    assert_eq!(first.header("count"), Some("3"), "anything else as JSON text");
    let tags: serde_json::Value = serde_json::from_str(first.header("tags").expect("tags")).expect("JSON");
    assert_eq!(tags, serde_json::json!(["a", "b"]));
    assert_eq!(
        first.header("traceparent"),
        Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    );
    // jsonb's own text: PostgreSQL normalises spaces, keeps the number's digits.
    assert_eq!(first.payload, br#"{"total": 42.50}"#);
    assert_eq!(arrivals[1].payload, br#""text""#);
    assert_eq!(arrivals[2].payload, b"null");
    let keys: Vec<Option<&str>> = arrivals.iter().map(|arrival| arrival.key.as_deref()).collect();
    assert_eq!(
        keys,
        [Some("alice"), Some(""), None],
        "an empty key is a key, NULL is none"
    );
    assert_eq!(arrivals[2].header("empty"), Some(""));
}

#[tokio::test]
async fn nats_messages_carry_id_key_and_headers() {
    let arrivals = sent(Kind::Nats).await;
    assert_common(&arrivals);
    let copies = |name: &str| arrivals[0].headers.iter().filter(|(found, _)| found == name).count();
    assert_eq!(
        arrivals[0].header("Nats-Msg-Id"),
        Some("00000000-0000-4000-8000-000000000001")
    );
    assert_eq!(
        (copies("Nats-Msg-Id"), copies("Outbox-Id")),
        (1, 1),
        "the relay's own names are the relay's"
    );
    assert_eq!(
        arrivals[0].header("id"),
        Some("mine"),
        "a name the relay does not use here is the row's"
    );
}

#[tokio::test]
async fn kafka_records_carry_id_key_and_headers() {
    let arrivals = sent(Kind::Kafka).await;
    assert_common(&arrivals);
    let ids = arrivals[0].headers.iter().filter(|(found, _)| found == "id").count();
    assert_eq!(ids, 1, "the relay's own id header is the relay's");
    assert_eq!(arrivals[0].headers[0].0, "id", "it stands before the row's");
}

/// Numbers no type of ours holds, in a jsonb column and in a json column: as the database prints them, at any depth.
#[tokio::test]
async fn numbers_in_headers_arrive_digit_by_digit() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders"]).await;
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, &broker.section("main"));
    site.migrate();
    let session = database.connect().await;
    let insert = |id: u8| {
        format!(
            r#"insert into outbox_messages (id, topic, payload, headers) values
               ('00000000-0000-4000-8000-00000000000{id}', 'orders', '1',
                '{{"long": 123456789012345678901234567890, "price": 1.10, "huge": 1e400, "text": "1.10",
                   "deep": {{"list": [1.10, {{"n": 100000000000000000000.50, "s": "a  \" b"}}]}}}}')"#
        )
    };
    for (id, kind) in [(1, "jsonb"), (2, "json")] {
        let retype = format!(
            "alter table outbox_messages alter column headers drop default, alter column headers type {kind} using headers::{kind}"
        );
        session.run(&retype).await;
        session.run(&insert(id)).await;
        let daemon = site.start().await;
        session.drained(Duration::from_secs(20)).await;
        assert!(daemon.terminate(Duration::from_secs(30)).await.success());
    }
    let mut arrivals = broker.arrivals(&["orders"]).await;
    arrivals.sort_by_key(|arrival| arrival.id);
    // jsonb prints a number without its exponent, json as it was written.
    let huge = [format!("1{}", "0".repeat(400)), "1e400".to_owned()];
    assert_eq!(arrivals.len(), huge.len());
    for (arrival, huge) in arrivals.iter().zip(&huge) {
        assert_eq!(arrival.header("long"), Some("123456789012345678901234567890"));
        assert_eq!(arrival.header("price"), Some("1.10"));
        assert_eq!(arrival.header("huge"), Some(huge.as_str()));
        assert_eq!(arrival.header("text"), Some("1.10"));
        assert_eq!(
            arrival.header("deep"),
            Some(r#"{"list":[1.10,{"n":100000000000000000000.50,"s":"a  \" b"}]}"#)
        );
    }
}
