//! `outboxd adopt` prints what a table is to be relayed with, as far as it can be guessed.

use super::{order, phoenix, shapes};
use crate::support::daemon::Site;
use crate::support::postgres::Cluster;
use crate::support::together;

const TRANSPORT: &str = "[transports.main.stdout]\n";

/// What is printed is accepted, by `migrate` and by `check`; and says what counts.
#[tokio::test]
async fn what_is_printed_for_a_table_is_accepted() {
    let _guard = together().await;
    let debezium = |more: &str| format!("{}{more});", shapes::DEBEZIUM);
    let (marked, deleted) = (debezium(", relayed_at timestamptz"), debezium(""));
    for (table, ddl, printed, said) in [
        (
            phoenix::TABLE,
            phoenix::DDL,
            "[outbox.columns]\n",
            "found by outbox_messages_relayed_at_inserted_at_index",
        ),
        (
            "outbox_messages",
            order::DDL,
            "seq = \"id\"",
            "order: that of the sequence",
        ),
        ("outbox", &marked, "topic = \"aggregatetype\"", "add column seq bigint"),
        (
            "outbox",
            &deleted,
            "on_relayed = \"delete\"",
            "relayed rows are deleted",
        ),
        (
            "deliveries",
            shapes::DELIVERIES,
            "failed_at = \"dead_lettered_at\"",
            "from 0: check attempt",
        ),
        (
            "openoutbox_events",
            shapes::EVENTS,
            "\\\"status\\\" = 'DEAD'",
            "found by idx_openoutbox_processing_queue",
        ),
        (
            "message",
            shapes::TRAM,
            "t.\\\"published\\\" = 0",
            "milliseconds since 1970",
        ),
        (
            "published",
            shapes::PUBLISHED,
            "payload = \"Content\"",
            "check [outbox.state]",
        ),
    ] {
        let database = Cluster::shared().database().await;
        let session = database.connect().await;
        session.run(ddl).await;
        let site = Site::new(&database, TRANSPORT);
        let output = site.outboxd(&["adopt", table]);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (sections, notes) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{table}: {notes}");
        assert!(sections.contains(printed), "{table}: {sections}");
        assert!(notes.contains(said), "{table}: {notes}");
        let adopted = Site::new(&database, &format!("{sections}{TRANSPORT}"));
        adopted.migrate();
        let checked = adopted.outboxd(&["check", "--connect"]);
        assert!(checked.status.success(), "{table}: {sections}{checked:?}");
    }
}

#[tokio::test]
async fn a_sample_shows_messages_and_a_table_without_a_payload_is_none() {
    let _guard = together().await;
    let database = Cluster::shared().database().await;
    let session = database.connect().await;
    session.run(shapes::DELIVERIES).await;
    session
        .run(
            "insert into deliveries (id, kind, user_id, payload)
             select gen_random_uuid(), 'mail.welcome', 'u' || g, jsonb_build_object('n', g) from generate_series(1, 9) g;
             create table nothing (id uuid primary key, topic text)",
        )
        .await;
    let mut site = Site::new(&database, TRANSPORT);
    site.log_in_as_owner();
    let printed = site.succeed(&["adopt", "deliveries", "--sample", "5"]);
    let lines: Vec<serde_json::Value> = printed
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    assert_eq!(lines.len(), 5, "{printed}");
    assert_eq!(
        (&lines[0]["topic"], &lines[0]["payload"]["n"]),
        (&"mail.welcome".into(), &1.into())
    );
    for (table, said) in [("nothing", "looks like payload"), ("missing", "does not exist")] {
        let output = site.outboxd(&["adopt", table]);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains(said), "{output:?}");
    }
    let made = "select count(*) from pg_class where relname like 'outboxd%'";
    assert_eq!(session.count(made).await, 0, "nothing is made");
}
