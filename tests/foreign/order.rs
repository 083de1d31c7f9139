//! Numbers out of a sequence: what is written one after the other arrives so.

use std::collections::BTreeMap;
use std::time::Duration;

use super::scene::Scene;
use crate::support::together;

pub const DDL: &str = "
create table outbox_messages (id bigserial primary key, topic varchar(255) not null, key text, payload jsonb not null,
  headers jsonb default '{}', attempt integer default 1, relayed_at timestamp, failed_at timestamp, last_error varchar(255),
  inserted_at timestamp not null default now(), updated_at timestamp not null default now());
create index on outbox_messages (relayed_at, inserted_at);
create table business (key text primary key, n bigint not null default 0);
insert into business select 'k' || g from generate_series(1, 20) g;";

/// Transactions that serialise themselves per key by the row of their business, and overlap before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_a_key_arrive_in_the_order_of_their_sequence() {
    let _guard = together().await;
    let scene = Scene::new("outbox_messages", DDL, "[outbox.columns]\nseq = \"id\"\n", &["orders"]).await;
    let daemon = scene.site.start().await;
    let writers = (0..6_u64).map(|writer| {
        let database = &scene.database;
        async move {
            let session = database.connect().await;
            for round in 0..150_u64 {
                let key = 1 + (round * 7 + writer * 3) % 20;
                session.run("begin").await;
                for _ in 0..=round % 3 {
                    let insert = format!(
                        "savepoint s; with b as (update business set n = n + 1 where key = 'k{key}' returning key, n)
                         insert into outbox_messages (topic, key, payload) select 'orders', key, to_jsonb(n) from b; release s"
                    );
                    session.run(&insert).await;
                }
                session.run(if round.is_multiple_of(9) { "rollback" } else { "commit" }).await;
            }
        }
    });
    futures_util::future::join_all(writers).await;
    scene
        .counts("select count(*) from outbox_messages where relayed_at is null", 0)
        .await;
    let letters = scene.letters().await;
    let mut highest: BTreeMap<String, i64> = BTreeMap::new();
    for letter in &letters {
        assert!(letter.id.parse::<i64>().is_ok(), "{}", letter.id);
        let key = letter.key.clone().expect("a key");
        let n: i64 = letter.body.parse().unwrap();
        let before = highest.insert(key, n).unwrap_or(0);
        assert!(n > before, "{n} after {before}");
    }
    let written = scene.session.count("select count(*) from outbox_messages").await;
    assert_eq!(i64::try_from(letters.len()).unwrap(), written);
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

/// A number is an id where it is said to be one; bare, it must not be two messages.
#[tokio::test]
async fn a_bare_number_that_is_the_id_of_one_and_the_place_of_another_is_refused() {
    let _guard = together().await;
    let scene = Scene::new("outbox_messages", DDL, "[outbox.columns]\nseq = \"id\"\n", &["orders"]).await;
    scene
        .session
        .run("select setval('outbox_messages_id_seq', 1); insert into outbox_messages (topic, payload) select 'no subject', '1' from generate_series(1, 2)")
        .await;
    let _daemon = scene.site.start().await;
    let failed = "select count(*) from outbox_messages where failed_at is not null";
    scene.counts(failed, 2).await;
    // Their ids are 2 and 3, their places 1 and 2.
    let output = scene.site.outboxd(&["failed", "discard", "2"]);
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    assert!(
        scene
            .site
            .succeed(&["failed", "discard", "--id", "2"])
            .contains("discarded 1")
    );
    assert_eq!(scene.session.count("select id from outbox_messages").await, 3);
    assert!(scene.site.succeed(&["failed", "discard", "3"]).contains("discarded 1"));
    assert_eq!(scene.session.count("select count(*) from outbox_messages").await, 0);
}

/// What one look finds is in the order of its times, or of its numbers, however it lies in the table.
#[tokio::test]
async fn what_one_look_finds_is_in_order() {
    let _guard = together().await;
    let by_time = "[outbox.columns]\ninserted_at = \"inserted_at\"\n";
    for (config, place) in [
        (
            by_time,
            "(1000 - g, 'orders', 'k', to_jsonb(g), now() at time zone 'utc' - interval '1 hour' + g * interval '1 second')",
        ),
        (
            "[outbox.columns]\nseq = \"id\"\n",
            "(g, 'orders', 'k', to_jsonb(g), now() at time zone 'utc' - g * interval '1 second')",
        ),
    ] {
        let scene = Scene::new("outbox_messages", DDL, config, &["orders"]).await;
        let rows = format!(
            "do $$ begin for g in reverse 200..1 loop insert into outbox_messages (id, topic, key, payload, inserted_at) values {place}; end loop; end $$"
        );
        scene.session.run(&rows).await;
        let _daemon = scene.site.start().await;
        scene
            .counts("select count(*) from outbox_messages where relayed_at is null", 0)
            .await;
        let letters = scene.held(200).await;
        let sent: Vec<i64> = letters.iter().map(|letter| letter.body.parse().unwrap()).collect();
        assert_eq!(sent, (1..=200).collect::<Vec<i64>>(), "{config}");
    }
}
