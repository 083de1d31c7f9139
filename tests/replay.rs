//! `outboxd replay`: relayed messages again, in order, and so that brokers do not take them for duplicates.

use std::collections::HashMap;
use std::process::Stdio;
use std::time::Duration;

use crate::support::arrivals::Arrival;
use crate::support::broker::{Broker, Kind, STREAM};
use crate::support::command::{self, finish};
use crate::support::daemon::Site;
use crate::support::postgres::{Cluster, Session};
use crate::support::processes::signal;
use crate::support::{eventually, together};

const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_replay_arrives_inside_the_duplicate_window() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    let client = async_nats::connect(broker.address()).await.expect("nats-server is up");
    let stream = async_nats::jetstream::stream::Config {
        name: STREAM.to_owned(),
        subjects: vec!["orders".to_owned()],
        duplicate_window: Duration::from_secs(120),
        ..Default::default()
    };
    async_nats::jetstream::new(client)
        .create_stream(stream)
        .await
        .expect("a stream");
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, &broker.section("main"));
    site.migrate();
    let daemon = site.start().await;
    let session = database.connect().await;
    session
        .run("insert into outbox_messages (topic, key, payload) select 'orders', 'a', to_jsonb(g) from generate_series(1, 3) g")
        .await;
    session.drained(DEADLINE).await;
    assert_eq!(broker.held().await, 3);

    assert_eq!(site.succeed(&["replay", "2"]), "replayed 1 message\n");
    session.drained(DEADLINE).await;
    let arrivals = broker.arrivals(&["orders"]).await;
    assert_eq!(arrivals.len(), 4, "the copy is no duplicate to the server");
    let (first, again) = (&arrivals[1], &arrivals[3]);
    assert_eq!(
        (first.id, &first.payload, &first.key),
        (again.id, &again.payload, &again.key)
    );
    assert_eq!(first.header("Nats-Msg-Id"), Some(first.id.to_string().as_str()));
    assert_eq!(again.header("Nats-Msg-Id"), Some(format!("{}.1", first.id).as_str()));
    assert!(daemon.terminate(DEADLINE).await.success());
}

/// Asserts that `arrivals` are 300 messages, those of each key in the order of their `seq`.
async fn assert_all_in_order(session: &Session, arrivals: &[Arrival]) {
    let rows = session
        .query("select id, seq from outbox_messages", &[])
        .await
        .expect("rows");
    let seqs: HashMap<uuid::Uuid, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut last: HashMap<&str, i64> = HashMap::new();
    let mut seen = std::collections::HashSet::new();
    for arrival in arrivals {
        let (seq, key) = (seqs[&arrival.id], arrival.key.as_deref().expect("all have a key"));
        let before = last.insert(key, seq).unwrap_or(0);
        assert!(before < seq, "{seq} of key {key} came after {before}");
        assert!(seen.insert(seq), "{seq} came twice");
    }
    assert_eq!((arrivals.len(), last.len()), (300, 5));
}

#[tokio::test]
async fn replayed_messages_keep_the_order_of_their_key() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders"]).await;
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, &broker.section("main"));
    site.migrate();
    let daemon = site.start().await;
    let session = database.connect().await;
    session
        .run("insert into outbox_messages (topic, key, payload) select 'orders', 'k' || g % 5, to_jsonb(g) from generate_series(1, 300) g")
        .await;
    session.drained(DEADLINE).await;
    // Some needed several attempts; replayed, they must not hold back what goes before them.
    session
        .run("update outbox_messages set attempt = 3, last_error = 'no' where seq % 7 = 0")
        .await;
    // Steps of 50 messages.
    assert_eq!(
        site.succeed(&["replay", "--topic", "orders", "--rate", "200"]),
        "replayed 300 messages\n"
    );
    session.drained(DEADLINE).await;
    assert!(daemon.terminate(DEADLINE).await.success());
    assert_all_in_order(&session, &broker.arrivals(&["orders"]).await[300..]).await;

    // And when a daemon finds them as it starts.
    session
        .run("update outbox_messages set attempt = 3, last_error = 'no' where seq % 7 = 0")
        .await;
    assert_eq!(site.succeed(&["replay", "--all"]), "replayed 300 messages\n");
    let daemon = site.start().await;
    session.drained(DEADLINE).await;
    assert_all_in_order(&session, &broker.arrivals(&["orders"]).await[600..]).await;
    assert!(daemon.terminate(DEADLINE).await.success());
}

/// 30 relayed rows, `g` minutes ago, keys `k0` to `k2`; then a failed and a pending one.
fn site() -> command::Site {
    let site = command::Site::migrated();
    site.one(
        "insert into outbox_messages (topic, key, payload, relayed_at)
         select 'orders', 'k' || g % 3, to_jsonb(g), now() - (31 - g) * interval '1 minute' from generate_series(1, 30) g;
         insert into outbox_messages (topic, payload, failed_at, last_error) values ('orders', '1', now(), 'no');
         insert into outbox_messages (topic, payload) values ('orders', '1')",
    );
    site
}

#[test]
fn filters_choose_what_is_replayed() {
    let site = site();
    let would = |args: &[&str]| site.call(&[&["replay", "--dry-run"], args].concat()).done().to_owned();
    assert_eq!(would(&["--all"]), "would replay 30 messages\n");
    assert_eq!(would(&["--key", "k1"]), "would replay 10 messages\n");
    assert_eq!(would(&["--since", "10m30s"]), "would replay 10 messages\n");
    assert_eq!(
        would(&["--until", "10m30s", "--topic", "orders"]),
        "would replay 20 messages\n"
    );
    assert_eq!(
        would(&["--since", "20m30s", "--until", "10m30s", "--key", "k0"]),
        "would replay 3 messages\n"
    );
    assert_eq!(would(&["--topic", "other"]), "would replay 0 messages\n");
    assert_eq!(
        site.one("select sum(replay), count(*) filter (where relayed_at is null) from outbox_messages"),
        "0|2"
    );
    assert_eq!(site.one("select count(*) from outboxd_audit"), "0");

    let id = site.one("select id from outbox_messages where seq = 7");
    assert_eq!(site.call(&["replay", "9", "--id", &id]).done(), "replayed 2 messages\n");
    let replayed = "select string_agg(seq || ' ' || replay || ' ' || attempt, ',' order by seq)
        from outbox_messages where relayed_at is null and failed_at is null and replay > 0 and available_at > inserted_at";
    assert_eq!(site.one(replayed), "7 1 1,9 1 1");
    let audit = "select action, count, filter ->> 'ids', who <> '' from outboxd_audit";
    assert_eq!(site.one(audit), format!("replay|2|[9, \"{id}\"]|t"));
}

#[test]
fn what_cannot_be_replayed_is_said() {
    let site = site();
    assert!(site.call(&["replay"]).refused(64).contains("--all"));
    for (args, what) in [
        (&["replay", "1", "404"][..], "no message has id 404"),
        (
            &["replay", "00000000-0000-0000-0000-000000000000"],
            "no message has id 00000000",
        ),
        (&["replay", "1", "31"], "message 31 has failed: outboxd failed retry 31"),
        (&["replay", "32"], "message 32 is not relayed yet"),
        (&["replay", "1", "--key", "k0"], "a filter leaves it out"),
    ] {
        assert!(site.call(args).refused(1).contains(what), "{args:?}");
    }
    site.configure("on_relayed = \"delete\"");
    assert!(
        site.call(&["replay", "--all"])
            .refused(64)
            .contains("cannot be replayed")
    );
    assert_eq!(
        site.one("select sum(replay) from outbox_messages"),
        "0",
        "nothing was changed"
    );
}

#[tokio::test]
async fn an_interrupted_replay_says_how_to_go_on() {
    let _guard = together().await;
    let site = command::Site::migrated();
    site.one(
        "insert into outbox_messages (topic, payload, relayed_at) select 't', to_jsonb(g), now() from generate_series(1, 2000) g",
    );
    let mut command = site.command(&["replay", "--all", "--rate", "400"]);
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = child.spawn().expect("it starts");
    eventually("it has begun", DEADLINE, || async {
        (site.one("select count(*) from outboxd_audit") != "0").then_some(())
    })
    .await;
    signal(child.id(), "INT");
    let called = finish(child.wait_with_output().expect("it ends"));
    let line = called.refused(1).to_owned();
    let done: i64 = site
        .one("select sum(replay) from outbox_messages")
        .parse()
        .expect("a number");
    assert!((1..2000).contains(&done), "{done}");
    assert_eq!(site.one("select sum(count) from outboxd_audit"), done.to_string());
    assert!(
        line.contains("stopped: ") && line.contains("replayed; for the rest run it again with --until "),
        "{line}"
    );
    // They are relayed again; what the line says leaves them alone.
    site.one("update outbox_messages set relayed_at = now() where relayed_at is null");
    let until = line.rsplit(' ').next().expect("a time");
    let rest = site.call(&["replay", "--until", until]).done().replace(',', "");
    assert_eq!(rest, format!("replayed {} messages\n", 2000 - done));
    assert_eq!(site.one("select min(replay), max(replay) from outbox_messages"), "1|1");
}

#[test]
fn a_replay_walks_the_primary_key() {
    let site = command::Site::migrated();
    site.one(
        "insert into outbox_messages (topic, key, payload, relayed_at) select 't', 'k' || g % 1000, '1', now() from generate_series(1, 100000) g;
         analyze outbox_messages; select pg_stat_reset()",
    );
    assert_eq!(site.call(&["replay", "--key", "k7"]).done(), "replayed 100 messages\n");
    let read = "select pg_stat_clear_snapshot(); select seq_tup_read, idx_tup_fetch < 110000 from pg_stat_user_tables where relname = 'outbox_messages'";
    assert_eq!(site.one(read).trim(), "0|t");
}

#[test]
fn a_row_that_cannot_be_replayed_is_named_and_all_others_are_replayed() {
    let site = site();
    site.one("update outbox_messages set replay = 2147483647 where seq = 7");
    let id = site.one("select id from outbox_messages where seq = 7");
    let called = site.call(&["replay", "--topic", "orders"]);
    let line = called.refused(1);
    assert!(
        line.contains("1 message could not be replayed: 29 messages replayed; for the rest run it again with --until "),
        "{line}"
    );
    assert_eq!(
        called.out,
        format!("replayed 29 messages\nrefused: message 7 ({id}): a number is out of range (22003)\n")
    );
    assert_eq!(
        site.one("select count(*), count(distinct available_at) > 1, sum(replay) from outbox_messages where replay in (0, 1) and seq <= 30 and relayed_at is null"),
        "29|t|29"
    );
    // Later steps have later times: a key is sent in the order of its numbers.
    assert_eq!(
        site.one(
            "select count(*) from outbox_messages a join outbox_messages b on a.seq < b.seq and a.available_at > b.available_at
             where a.replay = 1 and b.replay = 1"
        ),
        "0"
    );
    assert_eq!(site.one("select sum(count) from outboxd_audit"), "29");
}
