//! Messages that are stuck are seen from everywhere: what an instance has written down is in `status`, the API, the doctor's report
//! and on the dashboard, as long as its lease has not ended.

use std::time::Duration;

use serde_json::json;

use crate::support::broker::{Broker, Kind};
use crate::support::daemon::{Daemon, Site};
use crate::support::postgres::{Cluster, Session};
use crate::support::web::call;
use crate::support::{eventually, together};

/// Registers another instance, alive or not, that knows these rows.
pub(crate) async fn registers(session: &Session, name: &str, alive: bool, report: &serde_json::Value) {
    let lease = if alive { "1 hour" } else { "-1 minute" };
    session
        .run(&format!(
            "insert into outboxd_instances
             select (jsonb_populate_record(i, jsonb_build_object('instance', '{name}', 'session', gen_random_uuid(), 'machine', 'elsewhere',
               'expires_at', now() + interval '{lease}', 'stuck', '{report}'::jsonb || jsonb_build_object('at', extract(epoch from now()) - 60)))).*
             from outboxd_instances i limit 1"
        ))
        .await;
}

#[tokio::test]
async fn what_instances_write_down_is_shown_until_their_lease_ends() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders"]).await;
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, &broker.section("main"));
    site.migrate();
    let daemon = site.start().await;
    let session = database.connect().await;
    let row = |seq: i64, reason: &str, detail: &str| json!({"seq": seq, "id": "0197-a", "reason": reason, "detail": detail, "seconds": 5});
    let alive = json!({"count": 3, "rows": [
        row(42, "locked", "pid 4711 (psql, idle in transaction)"),
        row(43, "refused", "a check constraint is violated, constraint price (23514)"),
    ]});
    registers(&session, "neighbour", true, &alive).await;
    registers(
        &session,
        "late",
        false,
        &json!({"count": 1, "rows": [row(99, "slow", "")]}),
    )
    .await;

    let said = site.succeed(&["status"]);
    for part in [
        "3 messages stuck",
        "42 (id 0197-a): another transaction locks it: pid 4711 (psql, idle in transaction)",
        "for 1m 5s, known to neighbour",
        "constraint price (23514)",
        "... and 1 more",
    ] {
        assert!(said.contains(part), "{part:?} is not in\n{said}");
    }
    assert!(!said.contains("99 (id"), "its lease has ended:\n{said}");
    let status: serde_json::Value = serde_json::from_str(&site.succeed(&["status", "--json"])).unwrap();
    assert_eq!(status["stuck_count"], 3);
    let first = &status["stuck"][0];
    assert_eq!(
        (&first["seq"], &first["reason"], &first["instance"]),
        (&json!(42), &json!("locked"), &json!("neighbour"))
    );
    assert!(first["seconds"].as_u64().unwrap() >= 65, "{first}");
    for path in ["/api/v1/status", "/api/v1/summary"] {
        let answer = call(site.port(), "GET", path, &[], "").await.done();
        assert_eq!(
            (&answer["stuck_count"], &answer["stuck"][1]["seq"]),
            (&json!(3), &json!(43)),
            "{path}"
        );
    }
    let report = site.outboxd(&["check", "--connect", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
    let stuck: Vec<&serde_json::Value> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["code"] == "stuck")
        .collect();
    assert_eq!(stuck.len(), 2, "{report}");
    assert!(
        stuck
            .iter()
            .any(|one| one["fix"].as_str().unwrap().contains("pg_terminate_backend")),
        "{report}"
    );
    nobody_else_is_troubled(&daemon).await;
}

async fn nobody_else_is_troubled(daemon: &Daemon) {
    assert_eq!(
        daemon.get("/readyz").await.unwrap().0,
        200,
        "others' stuck messages make nobody unready"
    );
    let metrics = daemon.metrics().await;
    for reason in ["refused", "locked", "suppressed", "unreadable", "slow"] {
        assert!(
            metrics.contains_key(&format!("outboxd_rows_stuck{{reason=\"{reason}\"}}")),
            "{reason}"
        );
    }
}

#[tokio::test]
async fn what_a_predecessor_wrote_down_is_forgotten_at_the_start() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, &broker.section("main"));
    site.migrate();
    let daemon = site.start().await;
    let session = database.connect().await;
    daemon.kill9();
    session
        .run("update outboxd_instances set stuck = '{\"count\": 1, \"rows\": [], \"at\": 0}'")
        .await;
    let _daemon = site.start().await;
    eventually("its list is empty", Duration::from_secs(20), || async {
        let left = "select count(*) from outboxd_instances where stuck is not null";
        (session.count(left).await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_right_that_was_taken_away_is_named_with_what_to_do() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders"]).await;
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, &broker.section("main"));
    site.migrate();
    let daemon = site.start().await;
    let session = database.connect().await;
    session
        .run("revoke update on outbox_messages from outboxd_relay; insert into outbox_messages (topic, payload) values ('orders', '1')")
        .await;
    let said = eventually("/readyz names the right", Duration::from_secs(20), || async {
        let (status, body) = daemon.get("/readyz").await?;
        (status == 503 && body.contains("permission denied for table outbox_messages (42501)")).then_some(body)
    })
    .await;
    assert!(
        said.contains("the database refuses the role") && said.contains("outboxd roles --print"),
        "{said}"
    );
    assert!(
        !said.contains("has not answered") && !site.log().contains("does not answer"),
        "{said}"
    );
    let metrics = daemon.metrics().await;
    assert_eq!(metrics.get("outboxd_database_unavailable{reason=\"role\"}"), Some(&1.0));
    site.grant();
    session.drained(Duration::from_secs(20)).await;
}
