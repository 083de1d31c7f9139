//! Ids that are unique within their table only, that come again, or that are odd texts: no message is taken for the copy of another.

use std::collections::BTreeMap;
use std::time::Duration;

use super::order;
use super::scene::{DEADLINE, Letter, Scene, letters};
use crate::support::broker::{Broker, Kind, STREAM};
use crate::support::daemon::Site;
use crate::support::postgres::Cluster;
use crate::support::{eventually, throughout, together};

/// A stream that remembers message ids for as long as it does where nobody says otherwise.
async fn remembering(subjects: &[&str]) -> Broker {
    let broker = Broker::start(Kind::Nats);
    let client = async_nats::connect(broker.address()).await.unwrap();
    let config = async_nats::jetstream::stream::Config {
        name: STREAM.to_owned(),
        subjects: subjects.iter().map(|subject| (*subject).to_owned()).collect(),
        duplicate_window: Duration::from_secs(120),
        ..Default::default()
    };
    let stream = async_nats::jetstream::new(client).create_stream(config).await;
    stream.expect("a new stream");
    broker
}

fn by_id(letters: &[Letter]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for letter in letters {
        *counts.entry(letter.id.as_str()).or_default() += 1;
    }
    counts
}

/// The first twenty rows of three tables, two of a database and one of another, have the same ids, and the same places.
#[tokio::test]
async fn equal_numbers_of_several_tables_arrive_in_one_stream() {
    let _guard = together().await;
    let broker = remembering(&["orders"]).await;
    let (shop, office) = (Cluster::shared().database().await, Cluster::shared().database().await);
    let mut daemons = Vec::new();
    let mut sites = Vec::new();
    for (database, table) in [(&shop, "a"), (&shop, "b"), (&office, "a")] {
        let session = database.connect().await;
        session
            .run(&format!(
                "create table {table} (id bigserial primary key, topic text not null, payload text not null, relayed_at timestamptz);
                 insert into {table} (topic, payload) select 'orders', '{table}' || current_database() from generate_series(1, 20)"
            ))
            .await;
        let config = format!(
            "{}[outbox]\ntable = \"{table}\"\n[outbox.columns]\nseq = \"id\"\n",
            broker.section("main")
        );
        let site = Site::new(database, &config);
        site.migrate();
        daemons.push(site.start().await);
        sites.push((site, session, table));
    }
    for (_, session, table) in &sites {
        let pending = format!("select count(*) from {table} where relayed_at is null");
        eventually("all of it is relayed", DEADLINE, || async {
            (session.count(&pending).await == 0).then_some(())
        })
        .await;
    }
    let letters = letters(&broker.address()).await;
    let counts = by_id(&letters);
    assert_eq!((letters.len(), counts.len()), (60, 20), "{counts:?}");
    assert!(counts.values().all(|count| *count == 3), "{counts:?}");
}

/// Whoever wants a message again makes its row pending again, and a sequence may be set back: the broker remembers the id.
#[tokio::test]
async fn a_row_that_is_pending_again_and_an_id_that_comes_again_arrive() {
    let _guard = together().await;
    let broker = remembering(&["orders"]).await;
    let scene = Scene::with(
        broker,
        "outbox_messages",
        order::DDL,
        "[outbox.columns]\nseq = \"id\"\n",
    )
    .await;
    let _daemon = scene.site.start().await;
    let insert =
        "insert into outbox_messages (topic, payload) select 'orders', to_jsonb(g) from generate_series(1, 5) g";
    scene.session.run(insert).await;
    scene.held(5).await;
    let pending = "select count(*) from outbox_messages where relayed_at is null";
    scene.counts(pending, 0).await;
    scene
        .session
        .run("update outbox_messages set relayed_at = null where id <= 3")
        .await;
    scene.counts(pending, 0).await;
    scene.held(8).await;
    scene
        .session
        .run(&format!("truncate outbox_messages restart identity; {insert}"))
        .await;
    scene.counts(pending, 0).await;
    let letters = scene.held(13).await;
    let counts = by_id(&letters);
    let expected = [("1", 3), ("2", 3), ("3", 3), ("4", 2), ("5", 2)];
    assert_eq!(counts, BTreeMap::from(expected));
}

/// A message whose acknowledgement nobody read is known to the broker when it comes again, whatever its id is made of.
#[tokio::test]
async fn a_copy_is_still_known_for_one() {
    let _guard = together().await;
    let broker = remembering(&["orders"]).await;
    let scene = Scene::with(
        broker,
        "outbox_messages",
        order::DDL,
        "[outbox.columns]\nseq = \"id\"\n",
    )
    .await;
    let session = &scene.session;
    session
        .run("insert into outbox_messages (topic, payload) select 'orders', to_jsonb(g) from generate_series(1, 50) g")
        .await;
    // Marks wait for this lock: everything is sent, nothing can be written.
    session.run("begin; select from outbox_messages for update").await;
    let daemon = scene.site.start().await;
    scene.held(50).await;
    daemon.kill9();
    let _daemon = scene.site.start().await;
    throughout("copies are known", Duration::from_secs(4), || async {
        scene.broker.held().await == 50
    })
    .await;
    session.run("commit").await;
    scene
        .counts("select count(*) from outbox_messages where relayed_at is null", 0)
        .await;
    assert_eq!(scene.letters().await.len(), 50);
}

const TEXTS: &str = "
create table outbox (id varchar(255) collate \"C\" primary key, topic text not null, payload text not null, failed_at timestamptz,
  relayed_at timestamptz, last_error varchar(40), created_at timestamptz not null default clock_timestamp());
create index on outbox (relayed_at, created_at);";

/// Upper and lower case, quotes, backslashes, what looks like an escape, spaces within, 255 characters, other scripts, a uuid, a number.
#[tokio::test]
async fn ids_may_be_any_text() {
    let _guard = together().await;
    let broker = remembering(&["orders"]).await;
    let config = "[outbox]\ntable = \"outbox\"\n[outbox.columns]\ninserted_at = \"created_at\"\n";
    let scene = Scene::with(broker, "outbox", TEXTS, config).await;
    let _daemon = scene.site.start().await;
    let ids = [
        "order-1",
        "ORDER-1",
        "Order-1",
        "it's",
        "it''s",
        "\"quoted\"",
        "back\\slash",
        "back\\\\slash",
        "\\x00",
        "\\u0000",
        "a b  c",
        "{1,2}",
        "null",
        "",
        "1",
        "01",
        "00000000-0000-4000-8000-000000000001",
        "00000000-0000-4000-8000-00000000000A",
        "00000000-0000-4000-8000-00000000000a",
        "bestellung-\u{e4}\u{f6}\u{fc}-\u{4e2d}",
        "%s;drop table outbox",
        "$1",
    ];
    let long = "x".repeat(255);
    let insert =
        "insert into outbox (id, topic, payload) select i, t, i from unnest($1::text[]) i, (select $2::text as t) t";
    let mut good: Vec<&str> = ids.to_vec();
    good.push(&long);
    scene.session.execute(insert, &[&good, &"orders"]).await.unwrap();
    scene
        .counts("select count(*) from outbox where relayed_at is null", 0)
        .await;
    let letters = scene.held(good.len()).await;
    assert_eq!(letters.len(), good.len());
    for id in &good {
        let letter = letters.iter().find(|letter| letter.body == *id);
        assert_eq!(letter.map(|letter| letter.id.as_str()), Some(*id));
    }
    fail_and_mend(&scene, insert, &good).await;
    let rules = "select count(distinct a.attcollation) from pg_attribute a where a.attname = 'id'
        and a.attrelid in ('outbox'::regclass, 'outboxd_rows_outbox'::regclass)";
    assert_eq!(scene.session.count(rules).await, 1, "the indexes of both serve");
    scene.is_untouched();
}

/// Where they fail, each is marked, retried and discarded by its own id.
async fn fail_and_mend(scene: &Scene, insert: &str, good: &[&str]) {
    let bad: Vec<String> = good
        .iter()
        .skip(1)
        .map(|id| format!("{}!", id.get(1..).unwrap_or("")))
        .collect();
    let bad: Vec<&String> = bad
        .iter()
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    scene.session.execute(insert, &[&bad, &"no subject"]).await.unwrap();
    let failed = "select count(*) from outbox where failed_at is not null and length(last_error) = 40";
    let all = i64::try_from(bad.len()).unwrap();
    scene.counts(failed, all).await;
    let discarded = scene.site.succeed(&["failed", "discard", "--id", "t's!"]);
    assert!(discarded.contains("discarded 1"), "{discarded}");
    scene.counts("select count(*) from outbox where id = 't''s!'", 0).await;
    scene
        .session
        .run("update outbox set topic = 'orders' where topic = 'no subject'")
        .await;
    scene.site.succeed(&["failed", "retry", "--all"]);
    scene
        .counts("select count(*) from outbox where relayed_at is null", 0)
        .await;
}

/// A serial that is about to end is made a bigint under way: ids past two thousand million are enlisted as before.
#[tokio::test]
async fn numbers_may_be_made_wider() {
    let _guard = together().await;
    let ddl = "create table outbox (id serial primary key, topic text not null, payload text not null, relayed_at timestamptz);";
    let config = "[outbox]\ntable = \"outbox\"\n[outbox.columns]\nseq = \"id\"\n";
    let scene = Scene::new("outbox", ddl, config, &["orders"]).await;
    let _daemon = scene.site.start().await;
    scene
        .session
        .run("insert into outbox (topic, payload) values ('orders', '1')")
        .await;
    let pending = "select count(*) from outbox where relayed_at is null";
    scene.held(1).await;
    scene
        .session
        .run(
            "alter table outbox alter id type bigint; alter sequence outbox_id_seq as bigint; select setval('outbox_id_seq', 3000000000);
             insert into outbox (topic, payload) values ('orders', '2')",
        )
        .await;
    scene.counts(pending, 0).await;
    let letters = scene.held(2).await;
    assert_eq!(letters[1].id, "3000000001");
}
