//! What an application, or a person, does to rows and tables while they are enlisted.

use std::time::Duration;

use super::scene::{DEADLINE, Scene};
use crate::support::daemon::Site;
use crate::support::postgres::Cluster;
use crate::support::{eventually, throughout, together};

const DDL: &str = "create table outbox (id uuid primary key default gen_random_uuid(), topic text not null, key text, payload jsonb not null,
  due_at timestamptz not null default now(), relayed_at timestamptz, failed_at timestamptz, created_at timestamptz not null default clock_timestamp());
  create index on outbox (relayed_at, created_at);";
const CONFIG: &str = "
[outbox]
table = \"outbox\"
[outbox.columns]
available_at = \"due_at\"
inserted_at = \"created_at\"
";
const PENDING: &str = "select count(*) from outbox where relayed_at is null";
const ENLISTED: &str = "select count(*) from outboxd_rows_outbox";

/// A topic without a stream waits; corrected, it goes where it should, and its key with it.
#[tokio::test]
async fn what_is_corrected_while_it_waits_goes_as_it_is_then() {
    let _guard = together().await;
    let scene = Scene::new("outbox", DDL, CONFIG, &["orders"]).await;
    let _daemon = scene.site.start().await;
    scene
        .session
        .run("insert into outbox (topic, key, payload) select 'ordres', 'k', to_jsonb(g) from generate_series(1, 3) g")
        .await;
    scene.counts(ENLISTED, 3).await;
    scene
        .session
        .run("update outbox set topic = 'orders', key = 'q' where payload <> '3'; update outbox set topic = 'orders' where payload = '3'")
        .await;
    scene.counts(PENDING, 0).await;
    let letters = scene.held(3).await;
    let keys: Vec<Option<&str>> = letters.iter().map(|letter| letter.key.as_deref()).collect();
    assert_eq!(letters.len(), 3);
    assert_eq!(keys.iter().filter(|key| **key == Some("q")).count(), 2, "{letters:?}");
}

/// An application puts messages off, and brings them forward.
#[tokio::test]
async fn a_time_that_is_changed_counts() {
    let _guard = together().await;
    let scene = Scene::new("outbox", DDL, CONFIG, &["orders"]).await;
    let _daemon = scene.site.start().await;
    scene
        .session
        .run(
            "insert into outbox (topic, payload, due_at) values ('orders', '1', now() + interval '4 seconds'),
             ('orders', '2', now() + interval '1 day')",
        )
        .await;
    scene.counts(ENLISTED, 2).await;
    scene
        .session
        .run(
            "update outbox set due_at = case payload when '1' then now() + interval '1 day' else now() - interval '1 second' end",
        )
        .await;
    scene
        .counts(
            "select count(*) from outbox where payload = '2' and relayed_at is not null",
            1,
        )
        .await;
    throughout("what was put off waits", Duration::from_secs(6), || async {
        scene.broker.held().await == 1
    })
    .await;
    assert_eq!(scene.letters().await[0].body, "2");
    assert_eq!(scene.session.count(ENLISTED).await, 1);
}

/// Whatever the zone of the database is.
#[tokio::test]
async fn a_due_time_without_a_zone_is_utc() {
    let _guard = together().await;
    let ddl = DDL.replace("due_at timestamptz not null default now()", "due_at timestamp not null");
    let scene = Scene::new("outbox", &ddl, CONFIG, &["orders"]).await;
    let _daemon = scene.site.start().await;
    let insert = "insert into outbox (topic, payload, due_at) values ('orders', '1', now() at time zone 'utc' + interval '2 seconds'),
        ('orders', '2', now() at time zone 'utc' + interval '1 hour'), ('orders', '3', now() at time zone 'utc' - interval '1 hour')";
    scene.session.run(insert).await;
    scene.counts(PENDING, 1).await;
    let early = "select count(*) from outbox where payload = '1' and relayed_at at time zone 'utc' < due_at";
    assert_eq!(scene.session.count(early).await, 0);
    assert_eq!(scene.held(2).await.len(), 2);
}

/// The new row under an old id is another message: what is new goes where it says, and nothing goes where the old one would have.
#[tokio::test]
async fn an_id_that_is_deleted_and_inserted_anew_is_the_new_message() {
    let _guard = together().await;
    let scene = Scene::new("outbox", DDL, CONFIG, &["orders", "payments"]).await;
    scene.site.succeed(&["pause", "orders"]);
    let _daemon = scene.site.start().await;
    scene
        .session
        .run("insert into outbox (topic, payload) select 'orders', to_jsonb(g) from generate_series(1, 20) g")
        .await;
    scene.counts(ENLISTED, 20).await;
    scene
        .session
        .run(
            "create temp table kept as select id, payload from outbox; delete from outbox;
             insert into outbox (id, topic, payload) select id, 'payments', to_jsonb('new ' || payload::text) from kept",
        )
        .await;
    scene.site.succeed(&["resume", "orders"]);
    scene.counts(PENDING, 0).await;
    let letters = scene.held(20).await;
    assert_eq!(letters.len(), 20);
    let is_new = |letter: &&super::scene::Letter| letter.topic == "payments" && letter.body.starts_with("\"new ");
    assert_eq!(letters.iter().filter(is_new).count(), 20, "{letters:?}");
}

/// Everything goes, what was enlisted with it; what comes then is sent.
#[tokio::test]
async fn a_table_that_is_emptied_or_exchanged_is_what_it_is_now() {
    let _guard = together().await;
    let scene = Scene::new("outbox", DDL, CONFIG, &["orders"]).await;
    scene.site.succeed(&["pause", "orders"]);
    let _daemon = scene.site.start().await;
    let insert = |first: u32| {
        format!(
            "insert into outbox (topic, payload) select 'orders', to_jsonb(g) from generate_series({first}, {}) g",
            first + 9
        )
    };
    scene.session.run(&insert(1)).await;
    scene.counts(ENLISTED, 10).await;
    scene.session.run("truncate outbox").await;
    scene.counts(ENLISTED, 0).await;
    scene.session.run(&insert(11)).await;
    scene.counts(ENLISTED, 10).await;
    scene
        .session
        .run(&format!(
            "begin; alter table outbox rename to outbox_before; create table outbox (like outbox_before including all);
             grant select, update on outbox to outboxd_relay; commit; {}",
            insert(21)
        ))
        .await;
    scene.site.succeed(&["resume", "orders"]);
    scene.counts(PENDING, 0).await;
    let mut bodies: Vec<u32> = scene
        .held(10)
        .await
        .iter()
        .map(|letter| letter.body.parse().unwrap())
        .collect();
    bodies.sort_unstable();
    assert_eq!(bodies, (21..=30).collect::<Vec<u32>>());
    assert_eq!(
        scene
            .session
            .count("select count(*) from outbox_before where relayed_at is null")
            .await,
        10
    );
}

/// A column of another type: what is read of it is read anew.
#[tokio::test]
async fn columns_may_change_their_type_under_way() {
    let _guard = together().await;
    let scene = Scene::new("outbox", DDL, CONFIG, &["orders"]).await;
    let daemon = scene.site.start().await;
    for (place, change) in [
        "alter table outbox alter topic type varchar(100)",
        "alter table outbox alter payload type text",
        "alter table outbox alter payload type bytea using convert_to(payload, 'UTF8')",
        "alter table outbox alter payload type jsonb using convert_from(payload, 'UTF8')::jsonb, add column more text",
    ]
    .iter()
    .enumerate()
    {
        scene.session.run(change).await;
        let value = if change.contains("bytea using") {
            "'1'::bytea"
        } else {
            "'1'"
        };
        scene
            .session
            .run(&format!(
                "insert into outbox (topic, payload) select 'orders', {value} from generate_series(1, 10)"
            ))
            .await;
        scene.counts(PENDING, 0).await;
        scene.held(10 * (place + 1)).await;
    }
    assert!(scene.letters().await.iter().all(|letter| letter.body == "1"));
    assert!(daemon.terminate(DEADLINE).await.success());
}

/// A type of their own for the state, a domain, a generated column, partitions by the id; and a table that others inherit from, whose
/// ids are unique nowhere.
#[tokio::test]
async fn partitions_domains_and_generated_columns_are_as_good_as_any() {
    let _guard = together().await;
    let ddl = "create domain subject as text check (value <> ''); create type standing as enum ('new', 'sent', 'dead');
      create table outbox (id uuid not null, topic subject not null, payload jsonb not null, size int generated always as (length(payload::text)) stored,
        status standing not null default 'new', created_at timestamptz not null default clock_timestamp(), primary key (id)) partition by hash (id);
      create table outbox_0 partition of outbox for values with (modulus 2, remainder 0);
      create table outbox_1 partition of outbox for values with (modulus 2, remainder 1);
      create index on outbox (status, created_at);";
    let config = "[outbox]\ntable = \"outbox\"\n[outbox.columns]\ninserted_at = \"created_at\"\n[outbox.state]\npending = \"t.status = 'new'\"\n\
        relayed = \"status = 'sent'\"\nfailed = \"status = 'dead'\"\nretried = \"status = 'new'\"\n";
    let scene = Scene::new("outbox", ddl, config, &["orders"]).await;
    let _daemon = scene.site.start().await;
    scene
        .session
        .run(
            "insert into outbox (id, topic, payload) select gen_random_uuid(), case when g = 7 then 'no subject' else 'orders' end, to_jsonb(g)
             from generate_series(1, 40) g",
        )
        .await;
    scene
        .counts("select count(*) from outbox where status = 'sent' and size > 0", 39)
        .await;
    scene
        .counts("select count(*) from outbox where status = 'dead'", 1)
        .await;
    assert_eq!(scene.held(39).await.len(), 39);
    scene.is_untouched();

    let database = Cluster::shared().database().await;
    let session = database.connect().await;
    session
        .run(
            "create table outbox (id uuid primary key, topic text, payload jsonb, relayed_at timestamptz);
             create table outbox_of_may (primary key (id)) inherits (outbox)",
        )
        .await;
    let site = Site::new(&database, "[outbox]\ntable = \"outbox\"\n[transports.main.stdout]\n");
    let output = site.outboxd(&["migrate"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{said}");
    assert!(
        said.contains("outbox.columns.id") && said.contains("no unique index"),
        "{said}"
    );
}

/// A row without an id is none that could be told from others: it waits for one, and nothing waits for it.
#[tokio::test]
async fn a_row_without_an_id_is_not_the_others_trouble() {
    let _guard = together().await;
    let ddl = DDL.replace("id uuid primary key default gen_random_uuid()", "id uuid unique");
    let scene = Scene::new("outbox", &ddl, CONFIG, &["orders"]).await;
    let _daemon = scene.site.start().await;
    let insert = "insert into outbox (id, topic, payload) select case when g = 2 then null else gen_random_uuid() end, 'orders', to_jsonb(g)
        from generate_series(1, 3) g";
    scene.session.run(insert).await;
    scene.counts(PENDING, 1).await;
    scene
        .session
        .run("update outbox set id = gen_random_uuid() where id is null")
        .await;
    scene.counts(PENDING, 0).await;
    assert_eq!(scene.held(3).await.len(), 3);
}

/// A row of long ago in which the condition itself cannot be evaluated keeps nothing new from being sent.
#[tokio::test]
async fn a_row_that_breaks_the_condition_is_not_the_others_trouble() {
    let _guard = together().await;
    let ddl = "create table outbox (id uuid primary key default gen_random_uuid(), topic text not null, payload text not null, wanted text not null,
      relayed_at timestamptz, created_at timestamptz not null default clock_timestamp()); create index on outbox (relayed_at, created_at);";
    let config = "[outbox]\ntable = \"outbox\"\n[outbox.columns]\ninserted_at = \"created_at\"\n[outbox.state]\n\
        pending = \"t.relayed_at is null and t.wanted::boolean\"\n";
    let scene = Scene::new("outbox", ddl, config, &["orders"]).await;
    let _daemon = scene.site.start().await;
    scene
        .session
        .run("insert into outbox (topic, payload, wanted) values ('orders', '1', 'yes')")
        .await;
    scene.held(1).await;
    scene
        .session
        .run(
            "insert into outbox (topic, payload, wanted, created_at) values ('orders', '2', 'perhaps', now() - interval '1 day');
             insert into outbox (topic, payload, wanted) select 'orders', '3', 'yes' from generate_series(1, 10)",
        )
        .await;
    scene.held(11).await;
    eventually("it is said", DEADLINE, || async {
        scene.site.log().contains("cannot be looked for").then_some(())
    })
    .await;
    scene
        .session
        .run("insert into outbox (topic, payload, wanted) select 'orders', '4', 'yes' from generate_series(1, 10)")
        .await;
    scene.held(21).await;
}

/// Two tables of others and outboxd's own in one schema, each with a daemon: everything of each is relayed.
#[tokio::test]
async fn two_tables_and_an_own_one_in_a_schema_are_relayed_side_by_side() {
    let _guard = together().await;
    let scene = Scene::new("outbox", DDL, CONFIG, &["orders", "payments", "letters"]).await;
    scene
        .session
        .run("create table \"Outbox\" (id bigserial primary key, topic text not null, payload text not null, sent boolean not null default false)")
        .await;
    let transport = scene.broker.section("main");
    let second = Site::new(
        &scene.database,
        &format!(
            "{transport}[outbox]\ntable = \"Outbox\"\n[outbox.columns]\nseq = \"id\"\n[outbox.state]\npending = \"not t.sent\"\nrelayed = \"sent = true\"\n"
        ),
    );
    let own = Site::new(&scene.database, &transport);
    second.migrate();
    own.migrate();
    let _daemons = (scene.site.start().await, second.start().await, own.start().await);
    for _ in 0..20 {
        scene
            .session
            .run(
                "insert into outbox (topic, payload) select 'orders', '1' from generate_series(1, 10);
                 insert into \"Outbox\" (topic, payload) select 'payments', '1' from generate_series(1, 10);
                 insert into outbox_messages (topic, payload) select 'letters', '1' from generate_series(1, 10)",
            )
            .await;
    }
    scene.counts(PENDING, 0).await;
    scene.counts("select count(*) from \"Outbox\" where not sent", 0).await;
    scene
        .counts("select count(*) from outbox_messages where relayed_at is null", 0)
        .await;
    let letters = scene.held(600).await;
    for topic in ["orders", "payments", "letters"] {
        assert_eq!(
            letters.iter().filter(|letter| letter.topic == topic).count(),
            200,
            "{topic}"
        );
    }
    let owned = "select count(distinct (outbox, owner)) from outboxd_lanes";
    assert_eq!(scene.session.count(owned).await, 3);
    scene.is_untouched();
}
