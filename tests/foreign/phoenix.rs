//! A table as an Elixir application's framework makes it: uuid, times without a zone, a short column for errors.

use std::time::Duration;

use super::scene::Scene;
use crate::support::{eventually, throughout, together};

pub const TABLE: &str = "outbox_messages";
pub const DDL: &str = "
create table outbox_messages (id uuid primary key default gen_random_uuid(), topic varchar(255) not null, payload jsonb not null,
  headers jsonb default '{}', attempt integer default 1, relayed_at timestamp, failed_at timestamp, last_error varchar(255),
  inserted_at timestamp not null, updated_at timestamp not null);
create index outbox_messages_relayed_at_inserted_at_index on outbox_messages (relayed_at, inserted_at);
create index outbox_messages_failed_at_index on outbox_messages (failed_at);";
pub const CONFIG: &str = "
[outbox.columns]
seq = \"\"
key = \"\"
max_attempts = \"\"
priority = \"\"
available_at = \"\"
";

const PENDING: &str = "select count(*) from outbox_messages where relayed_at is null and failed_at is null";
/// All columns, by the application's clock.
const INSERT: &str =
    "insert into outbox_messages (id, topic, payload, headers, attempt, relayed_at, failed_at, last_error, inserted_at,
  updated_at) values ";

fn row(id: u32, topic: &str, n: u32) -> String {
    format!(
        "{INSERT} ('{}', '{topic}', '{{\"n\": {n}}}', '{{\"h\": \"v\"}}', 1, null, null, null, now() at time zone 'utc',
         now() at time zone 'utc')",
        uuid(id)
    )
}

fn uuid(id: u32) -> String {
    format!("00000000-0000-4000-8000-{id:012}")
}

#[tokio::test]
async fn rows_arrive_as_they_stand_and_are_marked_in_utc() {
    let _guard = together().await;
    let scene = Scene::new(TABLE, DDL, CONFIG, &["orders.>"]).await;
    let session = &scene.session;
    session
        .run(
            "insert into outbox_messages select gen_random_uuid(), 'orders.old', '{}', '{}', 1, t, null, null, t, t
             from (select now() at time zone 'utc' - interval '30 days' as t) t, generate_series(1, 50)",
        )
        .await;
    session.run(&row(1, "orders.placed", 1)).await;
    session
        .run(&format!(
            "insert into outbox_messages (id, topic, payload, headers, attempt, inserted_at, updated_at)
             values ('{}', 'orders.placed', '{{\"n\": 2}}', null, null, now() at time zone 'utc', now() at time zone 'utc')",
            uuid(2)
        ))
        .await;
    let their_relay = format!(
        "select id from outbox_messages where {} order by inserted_at limit 100",
        "relayed_at is null and failed_at is null"
    );
    assert_eq!(session.query(&their_relay, &[]).await.unwrap().len(), 2);
    let daemon = scene.site.start().await;
    scene.counts(PENDING, 0).await;

    let letters = scene.held(2).await;
    let of = |id: u32| letters.iter().find(|letter| letter.id == uuid(id)).expect("it arrived");
    assert_eq!(letters.len(), 2);
    assert_eq!((of(1).body.as_str(), of(1).header("h")), ("{\"n\": 1}", Some("v")));
    assert_eq!((of(2).body.as_str(), of(2).header("h")), ("{\"n\": 2}", None));
    assert_eq!((of(1).topic.as_str(), &of(1).key), ("orders.placed", &None));
    let late = "select count(*) from outbox_messages where relayed_at > now() at time zone 'utc' - interval '1 day'
        and abs(extract(epoch from relayed_at - now() at time zone 'utc')) > 30";
    assert_eq!(session.count(late).await, 0);
    // What was relayed long ago is nobody's to delete.
    assert_eq!(session.count("select count(*) from outbox_messages").await, 52);
    assert_eq!(
        session.count("select count(*) from outboxd_rows_outbox_messages").await,
        0
    );
    scene.is_untouched();
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

#[tokio::test]
async fn what_fails_is_theirs_to_see_and_anybodys_to_retry_and_discard() {
    let _guard = together().await;
    let scene = Scene::new(TABLE, DDL, CONFIG, &["orders.>"]).await;
    let (session, site) = (&scene.session, &scene.site);
    let _daemon = site.start().await;
    let long = "no subject ".repeat(23);
    for id in 1..=4 {
        session.run(&row(id, &long, id)).await;
    }
    let failed =
        "select count(*) from outbox_messages where failed_at is not null and attempt = 2 and length(last_error) <= 255
        and length(last_error) > 20 and abs(extract(epoch from failed_at - now() at time zone 'utc')) < 60";
    scene.counts(failed, 4).await;
    let listed: serde_json::Value = serde_json::from_str(&site.succeed(&["failed", "list", "--json"])).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 4);
    let shown: serde_json::Value =
        serde_json::from_str(&site.succeed(&["failed", "show", "--json", &uuid(1)])).unwrap();
    assert_eq!(shown["payload"]["n"], 1, "{shown}");
    assert_eq!(shown["attempts"].as_array().unwrap().len(), 1, "{shown}");
    let exported = site.succeed(&["failed", "export", &uuid(1)]);
    assert!(
        exported.contains("\"n\":1") || exported.contains("\"n\": 1"),
        "{exported}"
    );

    // By their own hand, corrected.
    session
        .run(&format!(
            "update outbox_messages set failed_at = null, attempt = 1, topic = 'orders.mended' where id = '{}'",
            uuid(1)
        ))
        .await;
    let letters = scene.held(1).await;
    assert_eq!(
        (letters[0].id.as_str(), letters[0].topic.as_str()),
        (uuid(1).as_str(), "orders.mended")
    );
    // By outboxd, corrected in their table before.
    let corrected = format!(
        "update outbox_messages set topic = 'orders.mended' where id = '{}'",
        uuid(2)
    );
    session.run(&corrected).await;
    assert!(site.succeed(&["failed", "retry", &uuid(2)]).contains("retried 1"));
    let sent = format!(
        "select count(*) from outbox_messages where id = '{}' and relayed_at is not null and attempt = 1",
        uuid(2)
    );
    scene.counts(&sent, 1).await;
    // And not corrected: it fails again.
    assert!(site.succeed(&["failed", "retry", &uuid(4)]).contains("retried 1"));
    let again = "select count(*) from outboxd_attempts";
    scene.counts(again, 5).await;
    assert!(site.succeed(&["failed", "discard", &uuid(3)]).contains("discarded 1"));
    assert_eq!(session.count("select count(*) from outbox_messages").await, 3);
    let kept = scene
        .text("select detail->>'payload' from outboxd_audit where action = 'discard'")
        .await;
    assert_eq!(kept, "{\"n\": 3}");
    for refused in [&["replay", "--all"][..], &["enqueue", "orders.placed"], &["prune"]] {
        let output = site.outboxd(refused);
        assert_eq!(output.status.code(), Some(64), "{refused:?}");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("is not outboxd's own"),
            "{output:?}"
        );
    }
    scene.is_untouched();
}

/// Their own relay works beside it while they switch over; and what the application takes back is not sent.
#[tokio::test]
async fn what_is_marked_or_deleted_there_is_not_sent() {
    let _guard = together().await;
    let paused = format!(
        "{CONFIG}\n[[routes]]\ntopic = \"orders.held\"\ntransport = \"main\"\npaused = true\n[[routes]]\ntopic = \"*\"\ntransport = \"main\"\n"
    );
    let scene = Scene::new(TABLE, DDL, &paused, &["orders.>"]).await;
    let (session, site) = (&scene.session, &scene.site);
    let daemon = site.start().await;
    for id in 1..=3 {
        session.run(&row(id, "orders.held", id)).await;
    }
    let enlisted = "select count(*) from outboxd_rows_outbox_messages";
    scene.counts(enlisted, 3).await;
    session
        .run(&format!(
            "update outbox_messages set relayed_at = now() where id = '{}'; delete from outbox_messages where id = '{}'",
            uuid(1),
            uuid(2)
        ))
        .await;
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
    let text = std::fs::read_to_string(site.config()).unwrap();
    site.configure(&text.replace("paused = true", "paused = false"));
    let _daemon = site.start().await;
    session.run(&row(4, "orders.placed", 4)).await;
    scene.counts(PENDING, 0).await;
    scene.counts(enlisted, 0).await;
    let mut ids: Vec<String> = scene.held(2).await.into_iter().map(|letter| letter.id).collect();
    ids.sort();
    assert_eq!(ids, [uuid(3), uuid(4)]);
}

/// Who has not got its turn neither enlists nor strikes off: another may have sent what it would enlist. What was cancelled is not sent all
/// the same.
#[tokio::test]
async fn without_its_turn_an_instance_enlists_nothing_and_sends_nothing_that_was_cancelled() {
    let _guard = together().await;
    let scene = Scene::new(TABLE, DDL, CONFIG, &["orders.>"]).await;
    scene.site.succeed(&["pause", "orders.held"]);
    let _daemon = scene.site.start().await;
    for id in 1..=3 {
        scene.session.run(&row(id, "orders.held", id)).await;
    }
    let enlisted = "select count(*) from outboxd_rows_outbox_messages";
    scene.counts(enlisted, 3).await;
    let turn = "hashtextextended('\"public\".\"outboxd_rows_outbox_messages\"', 817)";
    scene.session.run(&format!("select pg_advisory_lock({turn})")).await;
    scene
        .session
        .run(&format!(
            "update outbox_messages set relayed_at = now() where id = '{}'; delete from outbox_messages where id = '{}'",
            uuid(1),
            uuid(2)
        ))
        .await;
    scene.session.run(&row(4, "orders.placed", 4)).await;
    scene.site.succeed(&["resume", "orders.held"]);
    scene.counts(PENDING, 1).await;
    throughout("nobody enlists or strikes off", Duration::from_secs(3), || async {
        scene.session.count(enlisted).await == 2
    })
    .await;
    assert_eq!(scene.held(1).await.len(), 1);
    scene.session.run(&format!("select pg_advisory_unlock({turn})")).await;
    scene.counts(PENDING, 0).await;
    scene.counts(enlisted, 0).await;
    let ids: Vec<String> = scene.letters().await.into_iter().map(|letter| letter.id).collect();
    assert_eq!(ids, [uuid(3), uuid(4)]);
}

/// A trigger of theirs that leaves a row as it was keeps it from being marked: it is not sent again and again.
#[tokio::test]
async fn a_row_that_cannot_be_marked_there_is_stuck_and_sent_once() {
    let _guard = together().await;
    let ddl = format!(
        "{DDL} create function keep() returns trigger language plpgsql as
         $$ begin if new.topic = 'orders.kept' then return null; end if; return new; end $$;
         create trigger keep before update on outbox_messages for each row execute function keep();"
    );
    let scene = Scene::new(TABLE, &ddl, CONFIG, &["orders.>"]).await;
    let _daemon = scene.site.start().await;
    scene.session.run(&row(1, "orders.kept", 1)).await;
    for id in 2..=20 {
        scene.session.run(&row(id, "orders.placed", id)).await;
    }
    scene.counts(PENDING, 1).await;
    eventually("it is said", Duration::from_secs(30), || async {
        let status = scene.site.succeed(&["status", "--json"]);
        status.contains("trigger keep").then_some(())
    })
    .await;
    let letters = scene.held(20).await;
    assert_eq!(letters.len(), 20, "each was sent once");
    scene.is_untouched();
}
