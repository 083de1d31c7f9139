//! Writes to their table that have no effect: a trigger or rule takes them back, a policy hides the row, or the configuration sets what
//! ends nothing. No message is sent again and again because of it, and none is forgotten.

use std::time::Duration;

use super::phoenix::{CONFIG, DDL, TABLE};
use super::scene::Scene;
use crate::support::daemon::Site;
use crate::support::postgres::Cluster;
use crate::support::{eventually, throughout, together};

fn row(topic: &str) -> String {
    format!(
        "insert into outbox_messages (topic, payload, inserted_at, updated_at)
         values ('{topic}', '{{}}', now() at time zone 'utc', now() at time zone 'utc')"
    )
}

/// A trigger before each update, for rows of `topic`.
fn with_trigger(topic: &str, body: &str) -> String {
    format!(
        "{DDL} create function keep() returns trigger language plpgsql as
         $$ begin if new.topic = '{topic}' then {body} end if; return new; end $$;
         create trigger keep before update on outbox_messages for each row execute function keep();"
    )
}

async fn says(scene: &Scene, what: &str) {
    eventually(&format!("status says {what}"), Duration::from_secs(30), || async {
        let status = scene.site.succeed(&["status", "--json"]);
        status.contains(what).then_some(())
    })
    .await;
}

const PENDING: &str = "select count(*) from outbox_messages where relayed_at is null and failed_at is null";
const ATTEMPTS: &str = "select count(*) from outboxd_attempts";

/// It would stand there as pending, be taken for one whose failure was taken back, and fail again, for ever.
#[tokio::test]
async fn a_failure_that_is_swallowed_is_said_and_not_repeated() {
    let _guard = together().await;
    for body in ["return null;", "new.failed_at = null; return new;"] {
        let scene = Scene::new(TABLE, &with_trigger("no subject", body), CONFIG, &["orders.>"]).await;
        let _daemon = scene.site.start().await;
        scene.session.run(&row("no subject")).await;
        for _ in 0..5 {
            scene.session.run(&row("orders.placed")).await;
        }
        scene.counts(PENDING, 1).await;
        says(&scene, "trigger keep").await;
        throughout("it is not tried again", Duration::from_secs(5), || async {
            scene.session.count(ATTEMPTS).await == 0
        })
        .await;
        // Mended, it goes as any other.
        scene
            .session
            .run("alter table outbox_messages disable trigger keep")
            .await;
        scene
            .counts("select count(*) from outbox_messages where failed_at is not null", 1)
            .await;
        assert_eq!(scene.held(5).await.len(), 5);
    }
}

/// The mark is written and taken back in the same row.
#[tokio::test]
async fn a_mark_that_is_turned_back_is_said_and_the_message_sent_once() {
    let _guard = together().await;
    let ddl = with_trigger("orders.kept", "new.relayed_at = null;");
    let scene = Scene::new(TABLE, &ddl, CONFIG, &["orders.>"]).await;
    let _daemon = scene.site.start().await;
    scene.session.run(&row("orders.kept")).await;
    scene.session.run(&row("orders.placed")).await;
    scene.counts(PENDING, 1).await;
    says(&scene, "trigger keep").await;
    throughout("nothing is sent again", Duration::from_secs(5), || async {
        scene.broker.held().await == 2
    })
    .await;
}

const EVENTS: &str = "create table events (id uuid primary key default gen_random_uuid(), topic text not null, payload text not null,
  status text not null default 'NEW', done_at timestamptz, error text, created_at timestamptz not null default clock_timestamp());
  create index on events (status, created_at);";
const MISTAKEN: &str = "
[outbox]
table = \"events\"
[outbox.columns]
inserted_at = \"created_at\"
[outbox.state]
pending = \"t.status = 'NEW'\"
relayed = \"done_at = :now\"
failed = \"error = :error\"
";

/// What is set when a message is relayed, or has failed, leaves the row pending.
#[tokio::test]
async fn a_state_that_ends_nothing_is_said_and_nothing_is_sent_twice() {
    let _guard = together().await;
    let scene = Scene::new("events", EVENTS, MISTAKEN, &["orders"]).await;
    let _daemon = scene.site.start().await;
    let insert = "insert into events (topic, payload) values ('orders', '1'), ('orders', '2'), ('no subject', '3')";
    scene.session.run(insert).await;
    scene.held(2).await;
    says(&scene, "look at outbox.state").await;
    throughout("nothing is sent or tried again", Duration::from_secs(5), || async {
        scene.broker.held().await == 2 && scene.session.count(ATTEMPTS).await == 0
    })
    .await;
    assert_eq!(
        scene.session.count("select count(*) from outboxd_rows_events").await,
        3,
        "nothing is forgotten"
    );
}

/// What is set when another attempt follows leaves a row that is not pending: nobody would ever look at it again.
#[tokio::test]
async fn a_retry_that_would_not_be_pending_is_said_and_not_forgotten() {
    let _guard = together().await;
    let config = format!(
        "{}retrying = \"status = 'RETRY'\"\n[relay]\ncount_outages = true\nbackoff_min = \"100ms\"\n",
        MISTAKEN.replace("done_at = :now", "status = 'DONE'")
    );
    let scene = Scene::new("events", EVENTS, &config, &["orders"]).await;
    let _daemon = scene.site.start().await;
    let insert = "insert into events (topic, payload) values ('nowhere', '1'), ('orders', '2')";
    scene.session.run(insert).await;
    scene
        .counts("select count(*) from events where status = 'DONE'", 1)
        .await;
    says(&scene, "look at outbox.state.retrying").await;
    assert_eq!(
        scene
            .session
            .count("select count(*) from events where status = 'NEW'")
            .await,
        1
    );
    assert_eq!(
        scene.session.count("select count(*) from outboxd_rows_events").await,
        1,
        "nothing is forgotten"
    );
}

/// What a person asks for is done there, or not said to be done.
#[tokio::test]
async fn a_retry_or_discard_that_is_swallowed_is_not_counted() {
    let _guard = together().await;
    let ddl = format!(
        "{DDL} create function keep() returns trigger language plpgsql as
         $$ begin if old.failed_at is not null then return null; end if; return case when tg_op = 'DELETE' then old else new end; end $$;
         create trigger keep before update or delete on outbox_messages for each row execute function keep();"
    );
    let scene = Scene::new(TABLE, &ddl, CONFIG, &["orders.>"]).await;
    let _daemon = scene.site.start().await;
    scene.session.run(&row("no subject")).await;
    let failed = "select count(*) from outbox_messages where failed_at is not null";
    scene.counts(failed, 1).await;
    for verb in ["retry", "discard"] {
        let output = scene.site.outboxd(&["failed", verb, "--all"]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!said.contains(" 1"), "{verb}: {output:?}");
        throughout("it is failed, here and there", Duration::from_secs(3), || async {
            let here = "select count(*) from outboxd_rows_outbox_messages where failed_at is not null";
            scene.session.count(failed).await == 1 && scene.session.count(here).await == 1
        })
        .await;
    }
}

/// Their own relay, or a person, was quicker than the failure: it is not written over that.
#[tokio::test]
async fn a_failure_does_not_undo_what_somebody_has_made_of_the_row() {
    let _guard = together().await;
    let config = format!(
        "{}\n[relay]\ncount_outages = true\nmax_attempts = 1\n",
        MISTAKEN
            .replace("done_at = :now", "status = 'DONE'")
            .replace("error = :error", "status = 'DEAD', error = :error")
    );
    let scene = Scene::new("events", EVENTS, &config, &["orders"]).await;
    let text = std::fs::read_to_string(scene.site.config()).unwrap();
    scene
        .site
        .configure(&text.replace("[transports.main.nats]", "[transports.main.nats]\nack_timeout = \"1s\""));
    let _daemon = scene.site.start().await;
    let insert = "insert into events (topic, payload) values ('orders', '1')";
    scene.session.run(insert).await;
    scene.held(1).await;
    scene.broker.freeze();
    scene.session.run(insert).await;
    scene.session.run(insert).await;
    let enlisted = "select count(*) from outboxd_rows_events";
    scene.counts(enlisted, 2).await;
    scene
        .session
        .run("update events set status = 'CANCELLED' where id = (select min(id::text)::uuid from events where status = 'NEW')")
        .await;
    scene
        .counts("select count(*) from events where status = 'DEAD'", 1)
        .await;
    scene.counts(enlisted, 1).await;
    scene.broker.thaw();
    let cancelled = "select count(*) from events where status = 'CANCELLED' and error is null";
    assert_eq!(scene.session.count(cancelled).await, 1);
}

/// Row-level security would hide rows, which would never be sent.
#[tokio::test]
async fn policies_that_hide_rows_of_theirs_are_refused() {
    let _guard = together().await;
    let database = Cluster::shared().database().await;
    let session = database.connect().await;
    session
        .run(
            "create table outbox (id uuid primary key, tenant text not null, topic text, payload jsonb, relayed_at timestamptz);
             alter table outbox enable row level security; create policy own on outbox using (tenant = current_user)",
        )
        .await;
    let site = Site::new(&database, "[outbox]\ntable = \"outbox\"\n[transports.main.stdout]\n");
    site.migrate();
    let output = site.outboxd(&["run"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{said}");
    assert!(said.contains("row-level security of \"public\".\"outbox\""), "{said}");
}
