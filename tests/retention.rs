//! P5: retention deletes exactly what is old, in small steps and in nobody's way; by the daemon and by `outboxd prune`.

use std::process::Stdio;
use std::time::Duration;

use crate::support::broker::{Broker, Kind};
use crate::support::command::{Site, finish};
use crate::support::fleet::Fleet;
use crate::support::postgres::{Cluster, try_session};
use crate::support::{eventually, together};

const DEADLINE: Duration = Duration::from_secs(60);

/// 20,000 rows: every fortieth relayed an hour ago, every hundredth delayed by a day, the 50 after 10,000 failed, the rest
/// relayed 8 days ago. A line of history for every tenth, as old.
const OLD_AND_YOUNG: &str = "insert into outbox_messages (topic, payload, relayed_at, failed_at, available_at)
    select 'orders', to_jsonb(g),
           case when g % 40 = 0 then now() - interval '1 hour' when g % 100 = 1 or g between 10001 and 10050 then null
                else now() - interval '8 days' end,
           case when g between 10001 and 10050 and g % 40 > 0 then now() - interval '8 days' end,
           case when g % 100 = 1 then now() + interval '1 day' else now() end
    from generate_series(1, 20000) g;
    insert into outboxd_attempts (seq, message_id, attempt, at, class, code)
    select seq, id, 1, now() - interval '8 days', 'failed', 'x' from outbox_messages where seq % 10 = 1;
    insert into outboxd_attempts (seq, message_id, attempt, class, code) values (-1, 'gone lately', 1, 'failed', 'x')";

const OLD: &str = "relayed_at < now() - interval '7 days'";

#[tokio::test]
async fn two_daemons_and_a_person_delete_exactly_what_is_old() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders"]).await;
    let database = Cluster::shared().database().await;
    let relay = "[relay]\nbatch_size = 100\n[retention]\nrelayed = \"7d\"\n";
    let mut fleet = Fleet::new(&database, 2, &(broker.section("main") + relay));
    let session = database.connect().await;
    session.run(OLD_AND_YOUNG).await;
    let all = session.count("select count(*) from outbox_messages").await;
    let old = session
        .count(&format!("select count(*) from outbox_messages where {OLD}"))
        .await;
    assert!((18_000..all).contains(&old), "{old}");
    let keep = "select md5(string_agg(m::text, ',' order by seq)) from outbox_messages m where relayed_at is null or not (relayed_at < now() - interval '7 days')";
    let kept: String = session.query_one(keep, &[]).await.expect("a sum").get(0);

    fleet.start_all().await;
    let by_hand = fleet.site(0).succeed(&["prune"]);
    assert!(by_hand.contains("relayed more than 7days ago"), "{by_hand}");
    eventually("what is old is deleted", DEADLINE, || async {
        (session.count("select count(*) from outbox_messages").await == all - old).then_some(())
    })
    .await;
    let history = "select count(*) from outboxd_attempts a where a.seq <> -1
        and not exists (select from outbox_messages m where m.seq = a.seq)";
    eventually("and its history", DEADLINE, || async {
        (session.count(history).await == 0).then_some(())
    })
    .await;
    fleet.leave_all().await;
    let left: String = session.query_one(keep, &[]).await.expect("a sum").get(0);
    assert_eq!(left, kept, "nothing else was touched");
    let history = "select count(*) from outboxd_attempts a where a.seq = -1
        or exists (select from outbox_messages m where m.seq = a.seq)";
    let lines = session
        .count("select count(*) from outbox_messages where seq % 10 = 1")
        .await;
    assert_eq!(
        session.count(history).await,
        lines + 1,
        "the history of what is left stays, and what is young"
    );
}

#[tokio::test]
async fn the_daemon_alone_deletes_what_is_old() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders"]).await;
    let database = Cluster::shared().database().await;
    let relay = "[relay]\nbatch_size = 1000\n[retention]\nrelayed = \"7d\"\nfailed = \"7d\"\n";
    let mut fleet = Fleet::new(&database, 1, &(broker.section("main") + relay));
    let session = database.connect().await;
    session.run(OLD_AND_YOUNG).await;
    fleet.start(0).await;
    let left =
        "select count(*) from outbox_messages where relayed_at < now() - interval '7 days' or failed_at is not null";
    eventually("what is old is deleted", DEADLINE, || async {
        (session.count(left).await == 0).then_some(())
    })
    .await;
    assert_eq!(
        session
            .count("select count(*) from outbox_messages where available_at > now()")
            .await,
        199
    );
    assert_eq!(
        session
            .count("select count(*) from outbox_messages where relayed_at is not null")
            .await,
        500
    );
    let audit = "select count(*) from outboxd_audit";
    assert_eq!(session.count(audit).await, 0, "the audit is about people");
    fleet.leave_all().await;
}

/// A step that has to wait holds up no insert, and what an operator replays meanwhile stays.
#[tokio::test]
async fn a_prune_blocks_no_insert_and_spares_what_is_replayed_meanwhile() {
    let _guard = together().await;
    let site = Site::migrated();
    site.one(
        "insert into outbox_messages (topic, payload, relayed_at) select 't', to_jsonb(g), now() - interval '8 days' from generate_series(1, 3000) g",
    );
    let writer = try_session(&site.database.url).await.expect("a connection");
    writer
        .run("begin; insert into outbox_messages (topic, payload) values ('t', '0')")
        .await;
    let operator = try_session(&site.database.url).await.expect("a connection");
    operator
        .run("begin; update outbox_messages set relayed_at = null, replay = 1 where seq = 1500")
        .await;
    let mut command = site.command(&["prune"]);
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = child.spawn().expect("it starts");
    let watcher = try_session(&site.database.url).await.expect("a connection");
    let waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
    eventually("a step waits for the operator", DEADLINE, || async {
        (watcher.count(waits).await == 1).then_some(())
    })
    .await;
    watcher
        .run("set lock_timeout = '1s'; insert into outbox_messages (topic, payload) values ('t', '1')")
        .await;
    operator.run("commit").await;
    let called = finish(child.wait_with_output().expect("it ends"));
    assert_eq!(called.done(), "deleted 2,999 messages relayed more than 7days ago\n");
    writer.run("commit").await;
    assert_eq!(
        site.one("select string_agg(payload::text, ',' order by seq) from outbox_messages"),
        "1500,0,1"
    );
    assert_eq!(
        site.one("select action, sum(count), min(filter ->> 'relayed') from outboxd_audit group by 1"),
        "prune|2999|7days"
    );
}

#[test]
fn a_dry_run_of_prune_counts_and_never_is_said() {
    let site = Site::migrated();
    site.one(OLD_AND_YOUNG);
    site.configure("[retention]\nrelayed = \"30m\"\nfailed = \"1d\"");
    let all = site.one("select count(*) from outbox_messages");
    let (relayed, failed) = (
        site.one("select count(*) from outbox_messages where relayed_at is not null"),
        site.one("select count(*) from outbox_messages where failed_at is not null"),
    );
    let would = site.call(&["prune", "--dry-run"]).done().replace(',', "");
    assert_eq!(
        would,
        format!(
            "would delete {relayed} messages relayed more than 30m ago\nwould delete {failed} messages failed more than 1day ago\n"
        )
    );
    assert_eq!(site.one("select count(*) from outbox_messages"), all);
    site.configure("[retention]\nrelayed = \"0s\"");
    assert!(site.call(&["prune"]).refused(64).contains("retention.relayed"));
}

#[test]
fn a_prune_walks_the_primary_key() {
    let site = Site::migrated();
    site.one(
        "insert into outbox_messages (topic, payload, relayed_at) select 't', '1', now() - g * interval '1 minute' from generate_series(1, 100000) g;
         analyze outbox_messages; select pg_stat_reset()",
    );
    site.configure("[retention]\nrelayed = \"1d\"");
    assert_eq!(
        site.call(&["prune"]).done(),
        "deleted 98,561 messages relayed more than 1day ago\n"
    );
    let read = "select pg_stat_clear_snapshot(); select seq_tup_read, idx_tup_fetch < 210000 from pg_stat_user_tables where relname = 'outbox_messages'";
    assert_eq!(site.one(read).trim(), "0|t");
}
