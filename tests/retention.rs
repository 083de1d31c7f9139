//! P5: retention deletes exactly what is old, in small steps and in nobody's way; by the daemon and by `outboxd prune`.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::broker::{Broker, Kind};
use crate::support::command::{Site, finish};
use crate::support::daemon::Site as Installation;
use crate::support::fleet::Fleet;
use crate::support::postgres::{Cluster, Session, try_session};
use crate::support::{eventually, logins, together};

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

/// As an application or an ORM makes it: with the columns, and without anything else of ours.
const BY_HAND: &str = "create table outbox_messages (
    seq bigserial primary key, id uuid not null default gen_random_uuid(), topic text not null, key text, payload jsonb not null,
    headers jsonb not null default '{}', attempt integer not null default 1, max_attempts integer,
    priority smallint not null default 0, available_at timestamptz not null default now(), replay integer not null default 0,
    relayed_at timestamptz, failed_at timestamptz, last_error text, inserted_at timestamptz not null default now(),
    updated_at timestamptz not null default now())";

/// 300 rows that somebody relayed a month ago.
const HISTORY: &str = "insert into outbox_messages (topic, payload, relayed_at)
    select 't', to_jsonb(g), now() - interval '30 days' from generate_series(1, 300) g";

const ROWS: &str = "select count(*) from outbox_messages";

/// The daemon's log says that retention is off, and from then on no round deletes anything.
async fn keeps_its_history(site: &Installation, session: &Session) {
    let daemon = site.start().await;
    eventually("it says that retention is off", DEADLINE, || async {
        site.log()
            .contains("retention is off for public.outbox_messages")
            .then_some(())
    })
    .await;
    let log = site.log();
    assert!(log.contains("set retention.relayed = \"7days\""), "{log}");
    assert_eq!(session.count(ROWS).await, 300);
    assert!(daemon.terminate(DEADLINE).await.success());
    assert_eq!(
        site.log().matches("retention is off").count(),
        1,
        "once: {}",
        site.log()
    );
    assert_eq!(session.count(ROWS).await, 300);
}

async fn loses_its_history(site: &Installation, session: &Session) {
    let daemon = site.start().await;
    eventually("what is old is deleted", DEADLINE, || async {
        (session.count(ROWS).await == 0).then_some(())
    })
    .await;
    assert!(daemon.terminate(DEADLINE).await.success());
}

/// The default of `retention.relayed` is no reason to empty somebody's table.
#[tokio::test]
async fn a_table_made_by_hand_keeps_its_history_until_the_key_is_set() {
    let _guard = together().await;
    let database = Cluster::shared().database().await;
    let session = database.connect().await;
    session.run(BY_HAND).await;
    session.run(HISTORY).await;
    let site = Installation::new(&database, "[transports.out.stdout]\n");
    site.migrate();
    let may = "select count(*) where has_table_privilege('outboxd_relay', 'outbox_messages', 'delete')";
    assert_eq!(session.count(may).await, 0, "nor is it one for the right to delete");
    keeps_its_history(&site, &session).await;
    let set = std::fs::read_to_string(site.config()).expect("the configuration") + "[retention]\nrelayed = \"7d\"\n";
    site.configure(&set);
    site.grant();
    assert_eq!(session.count(may).await, 1);
    loses_its_history(&site, &session).await;
}

/// A table that migrate made is known by what it made, also after a dump; copies of its rows or columns are somebody's own.
#[tokio::test]
async fn a_restored_table_is_known_and_a_copy_is_not() {
    let _guard = together().await;
    for (becomes, known) in [
        // As a dump brings it back.
        ("alter table outbox_messages drop constraint outbox_messages_state; alter table outbox_messages add constraint
          outbox_messages_state check (((relayed_at is null) or (failed_at is null)))", true),
        // Made by 0.1.0, vacuumed otherwise, its identity turned into a default.
        ("alter table outbox_messages reset (autovacuum_vacuum_threshold), alter seq drop identity;
          create sequence numbers owned by outbox_messages.seq; select setval('numbers', 1000);
          alter table outbox_messages alter seq set default nextval('numbers')", true),
        ("alter table outbox_messages rename to old; create table outbox_messages as select * from old;
          create sequence numbers owned by outbox_messages.seq; select setval('numbers', 1000);
          alter table outbox_messages alter seq set default nextval('numbers'), add primary key (seq)", false),
        ("alter table outbox_messages drop constraint outbox_messages_state,
          add constraint outbox_messages_state check (topic <> '')", false),
        ("alter table outbox_messages drop constraint outbox_messages_state,
          add constraint outbox_messages_state check (relayed_at > '-infinity' and topic <> '')", false),
    ] {
        let database = Cluster::shared().database().await;
        let session = database.connect().await;
        let site = Installation::new(&database, "[transports.out.stdout]\n");
        site.migrate();
        session.run(HISTORY).await;
        for statement in becomes.split(';') {
            session.run(statement).await;
        }
        site.grant();
        if known {
            loses_its_history(&site, &session).await;
        } else {
            keeps_its_history(&site, &session).await;
        }
    }
}

/// The table is exchanged for one made by hand while the daemon runs: the next round leaves that alone.
#[tokio::test]
async fn a_table_exchanged_for_one_made_by_hand_keeps_its_history() {
    let _guard = together().await;
    let database = Cluster::shared().database().await;
    let session = database.connect().await;
    let site = Installation::new(&database, "[transports.out.stdout]\n");
    site.migrate();
    let daemon = site.start().await;
    let exchange = format!(
        "begin; drop table outbox_messages; {BY_HAND}; {HISTORY};
         grant select, update, delete on outbox_messages to outboxd_relay; grant select on sequence outbox_messages_seq_seq to outboxd_relay; commit"
    );
    session.run(&exchange).await;
    eventually("it says that retention is off", DEADLINE, || async {
        site.log()
            .contains("retention is off for public.outbox_messages")
            .then_some(())
    })
    .await;
    assert_eq!(session.count(ROWS).await, 300);
    drop(daemon);
}

#[test]
fn a_prune_of_a_table_made_by_hand_needs_an_age_that_somebody_named() {
    let site = Site::empty();
    site.one(BY_HAND);
    site.one(HISTORY);
    site.call(&["migrate"]).done();
    for args in [&["prune"][..], &["prune", "--dry-run"]] {
        let refused = site.call(args);
        let line = refused.refused(64);
        assert!(
            line.contains("retention.relayed is not set") && line.contains("--relayed AGE"),
            "{line}"
        );
    }
    assert_eq!(site.one(ROWS), "300");
    assert_eq!(
        site.call(&["prune", "--relayed", "20days", "--dry-run"]).done(),
        "would delete 300 messages relayed more than 20days ago\n"
    );
    assert_eq!(
        site.call(&["prune", "--relayed", "30days 1h"]).done(),
        "deleted 0 messages relayed more than 30days 1h ago\n"
    );
    // What was said of failed messages says nothing of relayed ones.
    site.one("update outbox_messages set relayed_at = null, failed_at = relayed_at where seq <= 100");
    site.configure("[retention]\nfailed = \"1d\"");
    let said = site.call(&["prune"]).done().to_owned();
    assert!(
        said.contains("deleted 100 messages failed") && said.contains("retention is off"),
        "{said}"
    );
    assert_eq!(site.one(ROWS), "200");
    let mut command = site.command(&["prune"]);
    let said = finish(
        command
            .env("OUTBOXD__RETENTION__RELAYED", "7d")
            .output()
            .expect("it runs"),
    );
    assert!(said.done().contains("deleted 200 messages relayed"), "{}", said.out);
    assert!(
        site.call(&["prune", "--relayed", "0s", "--failed", "0s"])
            .refused(64)
            .contains("retention")
    );
}

/// Each makes deleting message 150 impossible in its own way: what is done, what it is undone by, and what is said.
const IN_THE_WAY: [(&str, &str, &str, &str); 6] = [
    (
        "create function refuse() returns trigger language plpgsql as $$ begin
           if old.seq = 150 then raise exception 'secret %', old.payload; end if; return old; end $$;
         create trigger refuse before delete on outbox_messages for each row execute function refuse()",
        "drop trigger refuse on outbox_messages",
        "refused",
        "function refuse (P0001)",
    ),
    (
        "create function refuse() returns trigger language plpgsql as $$ begin
           if old.seq = 150 then raise exception 'secret' using errcode = 'OB001', detail = 'secret'; end if; return old; end $$;
         create trigger refuse before delete on outbox_messages for each row execute function refuse()",
        "drop trigger refuse on outbox_messages",
        "refused",
        "OB001",
    ),
    (
        "create table nobodys (); create function refuse() returns trigger language plpgsql as $$ begin
           if old.seq = 150 then perform from nobodys; end if; return old; end $$;
         create trigger refuse before delete on outbox_messages for each row execute function refuse()",
        "drop trigger refuse on outbox_messages",
        "refused",
        "function refuse (42501)",
    ),
    (
        "create function swallow() returns trigger language plpgsql as $$ begin
           if old.seq = 150 then return null; end if; return old; end $$;
         create trigger swallow before delete on outbox_messages for each row execute function swallow()",
        "drop trigger swallow on outbox_messages",
        "suppressed",
        "has no effect",
    ),
    (
        "create table sent (message bigint references outbox_messages); insert into sent values (150)",
        "drop table sent",
        "refused",
        "constraint sent_message_fkey (23503)",
    ),
    (
        "create table sent (message bigint references outbox_messages deferrable initially deferred); insert into sent values (150)",
        "drop table sent",
        "refused",
        "constraint sent_message_fkey (23503)",
    ),
];

const OLD_ROWS: &str = "insert into outbox_messages (topic, payload, relayed_at)
    select 't', to_jsonb(g), now() - interval '30 days' from generate_series(1, 300) g;
    insert into outboxd_attempts (seq, message_id, attempt, at, class, code)
    select g, 'gone', 1, now() - interval '30 days', 'failed', 'x' from generate_series(1000, 1300) g";

#[tokio::test]
async fn one_row_that_cannot_be_deleted_is_named_and_passed_over_by_the_daemon() {
    let _guard = together().await;
    // Side by side: each waits for the second round of a daemon of its own.
    futures_util::future::join_all(IN_THE_WAY.map(passes_over)).await;
}

async fn passes_over((plant, undo, reason, says): (&str, &str, &str, &str)) {
    let database = Cluster::shared().database().await;
    let session = database.connect().await;
    let site = Installation::new(&database, "[transports.out.stdout]\n");
    site.migrate();
    session.run(OLD_ROWS).await;
    session.run(plant).await;
    let daemon = site.start().await;
    eventually("all others are deleted, and their history", DEADLINE, || async {
        let left = "select count(*) + (select count(*) from outboxd_attempts) from outbox_messages";
        (session.count(left).await == 1).then_some(())
    })
    .await;
    let named = "message 150 could not be deleted";
    eventually("it is named", DEADLINE, || async {
        site.log().contains(named).then_some(())
    })
    .await;
    let log = site.log();
    assert!(
        log.contains(says) && log.contains(reason) && !log.contains("secret"),
        "{says}: {log}"
    );
    session.run(undo).await;
    eventually("once nothing is in the way, it goes too", DEADLINE, || async {
        (session.count(ROWS).await == 0).then_some(())
    })
    .await;
    assert_eq!(site.log().matches(named).count(), 1, "once: {}", site.log());
    assert!(daemon.terminate(DEADLINE).await.success());
}

#[test]
fn one_row_that_cannot_be_deleted_is_named_by_prune() {
    for (plant, undo, reason, says) in IN_THE_WAY {
        let site = Site::migrated();
        site.one(OLD_ROWS);
        site.one(plant);
        let called = site.call(&["prune"]);
        assert!(
            called.refused(1).contains("1 message could not be deleted"),
            "{}",
            called.err
        );
        let kept = format!("kept: message 150 ({reason}): ");
        assert!(
            called.out.contains("deleted 299 messages") && called.out.contains(&kept) && called.out.contains(says),
            "{says}: {}",
            called.out
        );
        assert!(!called.out.contains("secret"), "{}", called.out);
        assert_eq!(
            site.one("select string_agg(seq::text, ',') from outbox_messages"),
            "150"
        );
        assert_eq!(site.one("select count(*) from outboxd_attempts"), "0");
        site.one(undo);
        assert!(site.call(&["prune"]).done().contains("deleted 1 message "));
    }
}

/// Anybody who may connect can take the lock under which old rows are deleted: who it is, is said.
#[tokio::test]
async fn who_keeps_the_lock_of_retention_is_named() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    let database = Cluster::shared().database().await;
    let site = Installation::new(&database, &broker.section("main"));
    site.migrate();
    let session = database.connect().await;
    session.run(OLD_AND_YOUNG).await;
    let stranger = database.connect().await;
    let pid = stranger.count("select pg_backend_pid()::bigint").await;
    stranger
        .run("set application_name = 'a stranger'; select pg_advisory_lock(hashtextextended('\"public\".\"outbox_messages\"', 816))")
        .await;
    let daemon = site.start().await;
    let said = eventually("the holder is named", DEADLINE, || async {
        let log = site.log();
        let line = log.lines().find(|line| line.contains("nothing old is deleted"))?;
        Some(line.to_owned())
    })
    .await;
    assert!(said.contains(&format!("pid {pid} (a stranger")), "{said}");
    let old = format!("select count(*) from outbox_messages where {OLD}");
    assert!(session.count(&old).await > 0);
    stranger.run("select pg_advisory_unlock_all()").await;
    eventually("then it is deleted", DEADLINE, || async {
        (session.count(&old).await == 0).then_some(())
    })
    .await;
    assert!(daemon.terminate(Duration::from_secs(20)).await.success());
}

/// Whoever holds a row's lock keeps that row, and nobody waits for it.
#[tokio::test]
async fn a_locked_row_is_passed_over_and_its_holder_is_named() {
    let _guard = together().await;
    let site = Site::migrated();
    site.one(OLD_ROWS);
    let holder = try_session(&site.database.url).await.expect("a connection");
    holder
        .run("set application_name = 'psql of alice'; begin; select from outbox_messages where seq = 150 for update")
        .await;
    let pid = holder.count("select pg_backend_pid()::bigint").await;
    let called = site.call(&["prune"]);
    assert_eq!(called.code, 1);
    let says = format!("kept: message 150 (locked): its lock is held by pid {pid} (psql of alice)");
    assert!(
        called.out.contains("deleted 299 messages") && called.out.contains(&says),
        "{}",
        called.out
    );
    holder.run("rollback").await;
    assert!(site.call(&["prune"]).done().contains("deleted 1 message "));
}

#[tokio::test]
async fn prune_waits_for_a_locked_service_table_no_longer_than_other_verbs() {
    let _guard = together().await;
    let site = Site::migrated();
    site.one(OLD_ROWS);
    let holder = try_session(&site.database.url).await.expect("a connection");
    holder
        .run("begin; lock table outboxd_audit in access exclusive mode")
        .await;
    let pid = holder.count("select pg_backend_pid()::bigint").await;
    let began = Instant::now();
    let called = site.call(&["prune"]);
    let took = began.elapsed();
    let line = called.refused(1);
    let says = format!("table public.outboxd_audit is locked by pid {pid} ");
    assert!(line.contains(&says) && line.contains("pg_terminate_backend("), "{line}");
    assert!(took < Duration::from_secs(8), "only after {took:?}");
    holder.run("rollback").await;
    assert_eq!(site.one(ROWS), "300", "what was given up is not done later");
    assert!(site.call(&["prune"]).done().contains("deleted 300 messages"));
}

/// The role's own limit is too short for a page: pages get smaller, and none is tried whole for ever.
#[test]
fn a_page_that_takes_too_long_is_halved() {
    let site = Site::migrated();
    site.one(OLD_ROWS);
    site.one(
        "create function slowly() returns trigger language plpgsql as $$ begin
           perform pg_sleep(case when old.seq = 150 then 60 else 0.004 end); return old; end $$;
         create trigger slowly before delete on outbox_messages for each row execute function slowly()",
    );
    let mut command = site.command(&["prune"]);
    let limited = format!(
        "{}?options=-c%20statement_timeout%3D500",
        logins::as_login(&site.database.url, "tests_operator")
    );
    let called = finish(
        command
            .env("OUTBOXD__DATABASE__URL", limited)
            .output()
            .expect("it runs"),
    );
    assert_eq!(called.code, 1, "{}{}", called.out, called.err);
    assert!(
        called.out.contains("deleted 299 messages") && called.out.contains("kept: message 150 (slow): "),
        "{}",
        called.out
    );
}

/// Where no row can be deleted it ends, names some and counts the others.
#[test]
fn a_table_from_which_nothing_can_be_deleted_is_walked_once() {
    let site = Site::migrated();
    site.one(OLD_ROWS);
    site.one("create table sent (message bigint references outbox_messages); insert into sent select seq from outbox_messages");
    let called = site.call(&["prune"]);
    assert!(
        called.refused(1).contains("300 messages could not be deleted"),
        "{}",
        called.err
    );
    assert_eq!(called.out.matches("kept: message").count(), 100, "{}", called.out);
    site.one("drop table sent; revoke delete on outbox_messages from outboxd_operator");
    let called = site.call(&["prune"]);
    assert!(
        called.refused(64).contains("permission denied"),
        "no row's fault: {}",
        called.err
    );
}

/// Times that nobody can subtract from, and an age that no table reaches.
#[test]
fn infinite_times_and_ages_stop_nothing() {
    let site = Site::migrated();
    site.one(
        "insert into outbox_messages (topic, payload, relayed_at, available_at, inserted_at)
           values ('t', '1', '-infinity', '-infinity', '-infinity'), ('t', '2', 'infinity', 'infinity', 'infinity'),
                  ('t', '3', '4713-01-01 BC', now(), now()), ('t', '4', now() - interval '30 days', 'infinity', '-infinity');
         insert into outboxd_attempts (seq, message_id, attempt, at, class, code)
           values (-1, 'x', 1, '-infinity', 'failed', 'x'), (-2, 'x', 1, 'infinity', 'failed', 'x'),
                  (-3, 'x', 1, '1970-01-02', 'failed', 'x')",
    );
    site.configure("[retention]\nrelayed = \"100000years\"\nfailed = \"500000000000years\"");
    let none = site.call(&["prune"]);
    assert_eq!(
        none.done().matches("deleted 2 messages relayed").count()
            + none.out.matches("deleted 0 messages failed").count(),
        2,
        "{}",
        none.out
    );
    site.configure("");
    assert!(site.call(&["prune"]).done().contains("deleted 1 message "));
    assert_eq!(
        site.one("select string_agg(payload::text, ',') from outbox_messages"),
        "2"
    );
    assert_eq!(
        site.one("select string_agg(seq::text, ',' order by seq) from outboxd_attempts"),
        "-2,-1"
    );
}
