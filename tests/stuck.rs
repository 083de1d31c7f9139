//! P1, P4, P5 and P8 where single rows cannot be written: an application's trigger refuses, a constraint or a policy is violated,
//! another transaction holds a lock, a write is swallowed. All others are relayed, a stop is quick, a restart sends only those
//! again, and they go by themselves once they can.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::support::broker::{Broker, Kind};
use crate::support::checker::{committed, compare};
use crate::support::daemon::{Daemon, Site, on_relayed};
use crate::support::postgres::{Cluster, Database, Session};
use crate::support::{eventually, throughout, together};

/// Rows of which ten are bad.
const ROWS: usize = 10_000;
/// What is not relayed yet.
const PENDING: &str = "select count(*) from outbox_messages where relayed_at is null and failed_at is null";

/// What is wrong with the bad rows.
struct Trouble {
    /// Makes it so.
    setup: &'static str,
    /// Ends it.
    cure: &'static str,
    /// The reason given, and what else the line says.
    says: [&'static str; 2],
    /// `outbox.on_relayed`.
    deletes: bool,
    /// The daemon runs when it begins; and is not restarted, because it would not start.
    under_way: bool,
}

const TROUBLE: Trouble = Trouble {
    setup: "",
    cure: "drop trigger bad on outbox_messages",
    says: ["refused", ""],
    deletes: false,
    under_way: false,
};

/// A trigger on bad rows that does `body`.
macro_rules! on_bad_rows {
    ($when:literal, $body:literal) => {
        concat!(
            "create function bad() returns trigger language plpgsql security definer as $$ begin
               if old.payload->>'bad' is not null then ",
            $body,
            " end if; return coalesce(new, old); end $$;
             create trigger bad ",
            $when,
            " on outbox_messages for each row execute function bad()"
        )
    };
}

/// A daemon, its broker and its outbox.
struct Stage {
    broker: Broker,
    database: Database,
    session: Session,
    site: Site,
    deletes: bool,
}

impl Stage {
    async fn set(deletes: bool) -> Self {
        let broker = Broker::start(Kind::Nats);
        broker.prepare(&["orders"]).await;
        let database = Cluster::two_phase().database().await;
        let site = Site::new(&database, &(broker.section("main") + on_relayed(deletes)));
        site.migrate();
        Self {
            session: database.connect().await,
            broker,
            database,
            site,
            deletes,
        }
    }

    /// `count` rows, of which those divided by `nth` are bad, each with a key of its own.
    async fn insert(&self, count: usize, nth: usize) {
        self.session
            .run(&format!(
                "insert into outbox_messages (topic, key, payload)
                 select 'orders', case when n % {nth} = 3 then 'bad' || n else 'k' || n % 100 end,
                   case when n % {nth} = 3 then jsonb_build_object('n', n, 'bad', 'SECRET') else jsonb_build_object('n', n) end
                 from generate_series(1, {count}) n"
            ))
            .await;
    }

    async fn pending(&self) -> i64 {
        self.session.count(PENDING).await
    }

    async fn left(&self, rows: i64, deadline: Duration) {
        eventually(&format!("only {rows} rows are left"), deadline, || async {
            (self.pending().await == rows).then_some(())
        })
        .await;
    }

    async fn copies(&self) -> HashMap<Uuid, usize> {
        let mut copies = HashMap::new();
        for arrival in self.broker.arrivals(&["orders"]).await {
            *copies.entry(arrival.id).or_default() += 1;
        }
        copies
    }

    async fn says(&self, words: &[&str]) {
        let said = eventually("the daemon names the stuck rows", Duration::from_secs(20), || async {
            let log = self.site.log();
            let line = log.lines().find(|line| line.contains("a row is stuck"))?;
            Some(line.to_owned())
        })
        .await;
        for word in words {
            assert!(said.contains(word), "{word:?} is not in: {said}");
        }
        assert!(!self.site.log().contains("SECRET"), "the log quotes a row");
        assert!(
            !self.site.log().contains("the database does not answer"),
            "nothing is wrong with the database:\n{}",
            tail(&self.site.log())
        );
    }

    /// A stop does not wait for them, and says how many stay.
    async fn stop(&self, daemon: Daemon) {
        let began = Instant::now();
        assert!(daemon.terminate(Duration::from_secs(10)).await.success());
        let took = began.elapsed();
        assert!(took < Duration::from_secs(4), "the stop took {took:?}");
        let log = self.site.log();
        assert!(log.contains("stopped with stuck rows"), "{}", tail(&log));
    }

    async fn judge(&self, daemon: Daemon, duplicates: usize) {
        if !self.deletes {
            let rows = committed(&self.session).await.unwrap();
            let verdict = compare(&rows, &self.broker.arrivals(&["orders"]).await);
            println!("{verdict}");
            verdict.assert_nothing_lost();
            verdict.assert_ordered();
            assert_eq!((verdict.failed, verdict.attempts_counted), (0, 0), "{verdict}");
            verdict.assert_duplicates_within(duplicates);
        }
        assert!(daemon.terminate(Duration::from_secs(10)).await.success());
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// Ten bad rows among ten thousand.
async fn ten_of_many(trouble: Trouble) {
    let _guard = together().await;
    let stage = Stage::set(trouble.deletes).await;
    let mut daemon = if trouble.under_way {
        let daemon = stage.site.start().await;
        stage.session.run(trouble.setup).await;
        stage.insert(ROWS, ROWS / 10).await;
        daemon
    } else {
        stage.insert(ROWS, ROWS / 10).await;
        stage.session.run(trouble.setup).await;
        stage.site.start().await
    };
    stage.left(10, Duration::from_secs(30)).await;
    stage.says(&trouble.says).await;
    holds_their_keys(&stage).await;
    let mut duplicates = 0;
    if !trouble.under_way {
        stage.stop(daemon).await;
        daemon = stage.site.start().await;
        eventually("they are sent again", Duration::from_secs(20), || async {
            let copies = stage.copies().await;
            (copies.values().filter(|copies| **copies == 2).count() == 10).then_some(())
        })
        .await;
        duplicates = 10;
        let copies = stage.copies().await;
        assert!(copies.values().all(|copies| *copies <= 2), "others are not sent again");
    }
    // Long enough for the pause to have grown.
    // What waited behind them may go after a restart, before it is known again that they are stuck.
    throughout("what is stuck stays", Duration::from_secs(4), || async {
        (10..=20).contains(&stage.pending().await)
    })
    .await;
    stage.session.run(trouble.cure).await;
    stage.left(0, Duration::from_secs(12)).await;
    eventually("it is said", Duration::from_secs(5), || async {
        let log = stage.site.log();
        log.contains("rows are no longer stuck").then_some(())
    })
    .await;
    stage.judge(daemon, duplicates).await;
}

/// Later rows of the keys of stuck rows wait; all others do not.
async fn holds_their_keys(stage: &Stage) {
    let step = ROWS / 10;
    stage
        .session
        .run(&format!(
            "insert into outbox_messages (topic, key, payload)
             select 'orders', case when n <= 10 then 'bad' || (n - 1) * {step} + 3 else 'k' || n % 100 end, '{{}}'
             from generate_series(1, 500) n"
        ))
        .await;
    stage.left(20, Duration::from_secs(20)).await;
}

#[tokio::test]
async fn a_trigger_refuses_rows() {
    ten_of_many(Trouble {
        setup: on_bad_rows!("before update", "raise exception 'no: %', old.payload;"),
        says: ["refused", "function bad (P0001)"],
        ..TROUBLE
    })
    .await;
}

/// A code of the application's own says nothing about the server.
#[tokio::test]
async fn a_trigger_refuses_rows_with_a_code_of_its_own() {
    ten_of_many(Trouble {
        setup: on_bad_rows!(
            "before update",
            "raise exception 'no: %', old.payload using errcode = 'OB001';"
        ),
        says: ["refused", "(OB001)"],
        ..TROUBLE
    })
    .await;
}

/// A code that is the server's where a statement of ours meets it: a file, a prepared statement that the trigger misses.
#[tokio::test]
async fn a_trigger_misses_what_it_asks_the_server_for() {
    ten_of_many(Trouble {
        setup: on_bad_rows!("before update", "perform pg_read_file('nofile');"),
        says: ["refused", "function bad (58P01)"],
        ..TROUBLE
    })
    .await;
    ten_of_many(Trouble {
        setup: on_bad_rows!("before update", "execute 'execute nosuch';"),
        says: ["refused", "function bad (26000)"],
        ..TROUBLE
    })
    .await;
}

/// Each bad row is found, and no other is taken for one.
#[tokio::test]
async fn a_fifth_of_all_rows_is_refused() {
    let _guard = together().await;
    let stage = Stage::set(false).await;
    stage.insert(2_000, 5).await;
    stage
        .session
        .run(on_bad_rows!("before update", "raise exception 'no';"))
        .await;
    let daemon = stage.site.start().await;
    stage.left(400, Duration::from_secs(30)).await;
    stage.says(&["refused", "function bad (P0001)"]).await;
    stage.session.run("drop trigger bad on outbox_messages").await;
    stage.left(0, Duration::from_secs(20)).await;
    stage.judge(daemon, 0).await;
}

/// The connection has another role from then on: it is not used again, and every row goes.
#[tokio::test]
async fn a_trigger_leaves_the_connection_with_another_role() {
    let _guard = together().await;
    let stage = Stage::set(false).await;
    stage.insert(2_000, 500).await;
    stage
        .session
        .run(
            "create role bystander nologin; grant bystander to tests_relay;
             create function bad() returns trigger language plpgsql as $$ begin
               if old.payload->>'bad' is not null then set role bystander; end if; return new; end $$;
             create trigger bad before update on outbox_messages for each row execute function bad()",
        )
        .await;
    let daemon = stage.site.start().await;
    stage.left(0, Duration::from_secs(30)).await;
    let log = stage.site.log();
    assert!(!log.contains("a row is stuck"), "{}", tail(&log));
    stage.judge(daemon, 0).await;
}

/// The trigger's own table is missing: not one of ours.
#[tokio::test]
async fn a_trigger_of_some_rows_is_broken() {
    ten_of_many(Trouble {
        setup: on_bad_rows!("after update", "insert into nowhere values (old.seq);"),
        says: ["refused", "(42P01)"],
        ..TROUBLE
    })
    .await;
}

/// Refused when the statement commits, not before.
#[tokio::test]
async fn a_deferred_trigger_refuses_rows() {
    ten_of_many(Trouble {
        setup: "create function bad() returns trigger language plpgsql as $$ begin
                  if old.payload->>'bad' is not null then raise exception 'no'; end if; return null; end $$;
                create constraint trigger bad after update on outbox_messages deferrable initially deferred
                  for each row execute function bad()",
        ..TROUBLE
    })
    .await;
}

#[tokio::test]
async fn a_foreign_key_refuses_rows() {
    ten_of_many(Trouble {
        setup: concat!(
            "create table parents (seq bigint primary key); create table children (seq bigint references parents);",
            on_bad_rows!("before update", "insert into children values (old.seq);")
        ),
        says: ["refused", "foreign key"],
        cure: "insert into parents select seq from outbox_messages",
        ..TROUBLE
    })
    .await;
}

#[tokio::test]
async fn a_foreign_key_refuses_deletes() {
    ten_of_many(Trouble {
        setup: "create table children (seq bigint references outbox_messages);
                insert into children select seq from outbox_messages where payload->>'bad' is not null",
        says: ["refused", "foreign key"],
        cure: "truncate children",
        deletes: true,
        ..TROUBLE
    })
    .await;
}

#[tokio::test]
async fn a_check_that_old_rows_violate_refuses_them() {
    ten_of_many(Trouble {
        setup: "alter table outbox_messages add constraint no_bad check (payload->>'bad' is null) not valid",
        says: ["refused", "no_bad"],
        cure: "alter table outbox_messages drop constraint no_bad",
        ..TROUBLE
    })
    .await;
}

#[tokio::test]
async fn a_value_is_too_long_for_a_triggers_table() {
    ten_of_many(Trouble {
        setup: concat!(
            "create table copies (payload varchar(3));",
            on_bad_rows!("before update", "insert into copies values (old.payload::text);")
        ),
        says: ["refused", "too long"],
        cure: "alter table copies alter payload type text",
        ..TROUBLE
    })
    .await;
}

#[tokio::test]
async fn a_number_is_out_of_range_in_a_trigger() {
    ten_of_many(Trouble {
        setup: concat!(
            "create table counts (n smallint); insert into counts values (1);",
            on_bad_rows!("before update", "update counts set n = 32767 + old.seq::int;")
        ),
        says: ["refused", "out of range"],
        ..TROUBLE
    })
    .await;
}

#[tokio::test]
async fn a_trigger_swallows_marks() {
    ten_of_many(Trouble {
        setup: on_bad_rows!("before update", "return null;"),
        says: ["suppressed", "trigger bad"],
        ..TROUBLE
    })
    .await;
}

/// The update reports its row and changes nothing.
#[tokio::test]
async fn a_trigger_puts_the_old_row_back() {
    ten_of_many(Trouble {
        setup: on_bad_rows!("before update", "return old;"),
        says: ["suppressed", "trigger bad"],
        ..TROUBLE
    })
    .await;
}

/// The row was written, and is written back.
#[tokio::test]
async fn a_trigger_takes_the_mark_back_afterwards() {
    ten_of_many(Trouble {
        setup: on_bad_rows!(
            "after update",
            "if new.relayed_at is not null then update outbox_messages set relayed_at = null where seq = old.seq; end if;"
        ),
        says: ["suppressed", "trigger bad"],
        ..TROUBLE
    })
    .await;
}

#[tokio::test]
async fn a_trigger_swallows_deletes() {
    ten_of_many(Trouble {
        setup: on_bad_rows!("before delete", "return new;"),
        says: ["suppressed", "trigger bad"],
        deletes: true,
        ..TROUBLE
    })
    .await;
}

#[tokio::test]
async fn a_rule_swallows_marks() {
    ten_of_many(Trouble {
        setup: "create rule bad as on update to outbox_messages where old.payload->>'bad' is not null do instead nothing",
        cure: "drop rule bad on outbox_messages",
        says: ["suppressed", "rule bad"],
        ..TROUBLE
    })
    .await;
}

#[tokio::test]
async fn a_policy_hides_rows_from_updates() {
    ten_of_many(Trouble {
        setup: "create policy reading on outbox_messages for select using (true);
                create policy writing on outbox_messages for update using (payload->>'bad' is null);
                alter table outbox_messages enable row level security",
        cure: "alter table outbox_messages disable row level security",
        says: ["suppressed", "policy writing"],
        under_way: true,
        ..TROUBLE
    })
    .await;
}

/// PostgreSQL calls that a lack of rights.
#[tokio::test]
async fn a_policy_refuses_what_rows_would_become() {
    ten_of_many(Trouble {
        setup: "create policy reading on outbox_messages for select using (true);
                create policy writing on outbox_messages for update using (true) with check (payload->>'bad' is null);
                alter table outbox_messages enable row level security",
        cure: "alter table outbox_messages disable row level security",
        says: ["refused", "(42501)"],
        under_way: true,
        ..TROUBLE
    })
    .await;
}

/// Ten rows locked by somebody who is named, and one alone.
#[tokio::test]
async fn somebody_holds_the_locks_of_rows() {
    let _guard = together().await;
    for deletes in [false, true] {
        let stage = Stage::set(deletes).await;
        stage.insert(ROWS, ROWS / 10).await;
        let holder = stage.database.connect().await;
        let pid = holder.count("select pg_backend_pid()::bigint").await;
        holder
            .run(
                "set application_name = 'a stuck migration';
                 begin; select * from outbox_messages where payload->>'bad' is not null for update",
            )
            .await;
        let daemon = stage.site.start().await;
        stage.left(10, Duration::from_secs(30)).await;
        stage
            .says(&["locked", &format!("pid {pid} (a stuck migration, idle in transaction)")])
            .await;
        holds_their_keys(&stage).await;
        stage.stop(daemon).await;
        let daemon = stage.site.start().await;
        throughout("what is locked stays", Duration::from_secs(4), || async {
            (10..=20).contains(&stage.pending().await)
        })
        .await;
        holder.run("commit").await;
        stage.left(0, Duration::from_secs(12)).await;
        stage.judge(daemon, 10).await;
    }
}

/// What is waited for is not the row, but one that a trigger locks for all of them.
#[tokio::test]
async fn somebody_holds_a_lock_that_a_trigger_wants() {
    let _guard = together().await;
    let stage = Stage::set(false).await;
    stage.insert(2_000, 500).await;
    stage
        .session
        .run(concat!(
            "create table counters (n bigint); insert into counters values (0);",
            on_bad_rows!("before update", "update counters set n = n + 1;")
        ))
        .await;
    let holder = stage.database.connect().await;
    let pid = holder.count("select pg_backend_pid()::bigint").await;
    holder.run("begin; update counters set n = 7").await;
    let daemon = stage.site.start().await;
    stage.left(4, Duration::from_secs(30)).await;
    stage.says(&["locked", &format!("pid {pid} ")]).await;
    stage.stop(daemon).await;
    let daemon = stage.site.start().await;
    holder.run("rollback").await;
    stage.left(0, Duration::from_secs(12)).await;
    stage.judge(daemon, 4).await;
}

/// A prepared transaction has no process: it is named.
#[tokio::test]
async fn a_prepared_transaction_holds_the_lock_of_a_row() {
    let _guard = together().await;
    let stage = Stage::set(false).await;
    stage.insert(100, 100).await;
    let holder = stage.database.connect().await;
    let name = format!("left behind {}", stage.database.name);
    holder
        .run(&format!(
            "begin; update outbox_messages set updated_at = now() where seq = 3; prepare transaction '{name}'"
        ))
        .await;
    let daemon = stage.site.start().await;
    stage.left(1, Duration::from_secs(30)).await;
    stage.says(&["locked", &name]).await;
    holder.run(&format!("rollback prepared '{name}'")).await;
    stage.left(0, Duration::from_secs(12)).await;
    stage.judge(daemon, 0).await;
}

/// A trigger that takes a minute for one row, and longer than a statement may.
#[tokio::test]
async fn a_row_takes_too_long_to_write() {
    let _guard = together().await;
    let stage = Stage::set(false).await;
    stage.insert(500, 500).await;
    stage
        .session
        .run(on_bad_rows!("before update", "perform pg_sleep(60);"))
        .await;
    let daemon = stage.site.start().await;
    stage.left(1, Duration::from_secs(60)).await;
    stage.says(&["slow", "takes longer than"]).await;
    stage.insert(500, 1_000).await;
    stage.left(2, Duration::from_secs(20)).await;
    stage.stop(daemon).await;
    stage.session.run("drop trigger bad on outbox_messages").await;
    let daemon = stage.site.start().await;
    stage.left(0, Duration::from_secs(30)).await;
    stage.judge(daemon, 2).await;
}

/// A minute for a few of them: everything else is written that can be, and a stop in the middle is quick.
#[tokio::test]
async fn a_stop_waits_for_no_slow_row() {
    let _guard = together().await;
    let stage = Stage::set(false).await;
    stage
        .session
        .run(on_bad_rows!("before update", "perform pg_sleep(60);"))
        .await;
    let daemon = stage.site.start().await;
    stage.insert(1_000, 250).await;
    let update = "select count(*) from pg_stat_activity where datname = current_database() and query like 'update%'
        and state = 'active' and wait_event = 'PgSleep'";
    eventually("a mark takes its time", Duration::from_secs(10), || async {
        (stage.session.count(update).await > 0).then_some(())
    })
    .await;
    stage.stop(daemon).await;
    let left = stage.pending().await;
    println!("{left} of 1,000 are left by a stop, of which four are slow");
    assert!((4..1_000).contains(&left), "{left} of 1,000 are left by a stop");
    stage.session.run("drop trigger bad on outbox_messages").await;
    let daemon = stage.site.start().await;
    stage.left(0, Duration::from_secs(30)).await;
    stage.judge(daemon, usize::try_from(left).unwrap()).await;
}

/// Every row takes its time, all together longer than any statement may: fewer are written at once.
#[tokio::test]
async fn all_rows_together_take_too_long_to_write() {
    let _guard = together().await;
    let stage = Stage::set(false).await;
    stage
        .session
        .run(
            "create function slowly() returns trigger language plpgsql as $$ begin perform pg_sleep(0.02); return new; end $$;
             create trigger slowly before update on outbox_messages for each row execute function slowly()",
        )
        .await;
    stage.insert(1_000, 10_000_000).await;
    let daemon = stage.site.start().await;
    stage.left(0, Duration::from_secs(60)).await;
    // On a busy machine one may take half a second all the same.
    let blamed = stage.site.log().matches("a row is stuck").count();
    assert!(blamed < 20, "no row is to blame:\n{}", tail(&stage.site.log()));
    stage.judge(daemon, 0).await;
}

/// Ten rows in ten thousand want a lock that a trigger takes elsewhere: all others go on, each blocked row costs a moment.
#[tokio::test]
async fn locks_elsewhere_slow_nobody_down() {
    let _guard = together().await;
    let stage = Stage::set(false).await;
    stage
        .session
        .run(concat!(
            "create table counters (n bigint); insert into counters values (0);",
            on_bad_rows!("before update", "update counters set n = n + 1;")
        ))
        .await;
    let holder = stage.database.connect().await;
    holder.run("begin; update counters set n = 7").await;
    let daemon = stage.site.start().await;
    let began = Instant::now();
    stage.insert(10_000, 1_000).await;
    stage.left(10, Duration::from_secs(30)).await;
    let took = began.elapsed();
    // Each had cost three waits of 100 ms and a fourth to name its holder.
    let waits = stage.site.log().matches("a row is stuck").count();
    assert!(waits <= 10, "{waits} lines for ten rows");
    println!("ten rows that wait elsewhere among 10,000: {took:?}");
    stage.stop(daemon).await;
    let daemon = stage.site.start().await;
    holder.run("rollback").await;
    stage.left(0, Duration::from_secs(12)).await;
    stage.judge(daemon, 10).await;
}

/// A trigger that waits for as long as somebody holds a lock of his own: only its row waits.
#[tokio::test]
async fn a_row_waits_for_a_lock_without_end() {
    let _guard = together().await;
    let stage = Stage::set(false).await;
    stage.insert(500, 500).await;
    let holder = stage.database.connect().await;
    let pid = holder.count("select pg_backend_pid()::bigint").await;
    holder.run("select pg_advisory_lock(4711)").await;
    stage
        .session
        .run(concat!(
            on_bad_rows!("before update", "perform pg_advisory_xact_lock(4711);"),
            "; alter function bad() set lock_timeout = '0'"
        ))
        .await;
    let daemon = stage.site.start().await;
    stage.left(1, Duration::from_secs(60)).await;
    stage.says(&["locked", &format!("pid {pid} ")]).await;
    stage.insert(500, 1_000).await;
    stage.left(2, Duration::from_secs(60)).await;
    holder.run("select pg_advisory_unlock(4711)").await;
    stage.left(0, Duration::from_secs(30)).await;
    stage.judge(daemon, 0).await;
}

/// Nothing can be written: the work stops within the window, is not done again and again, and goes on by itself.
#[tokio::test]
async fn every_row_is_refused() {
    let _guard = together().await;
    let stage = Stage::set(false).await;
    let section = std::fs::read_to_string(stage.site.config()).unwrap();
    stage
        .site
        .configure(&(section + "[relay]\nbatch_size = 100\nmax_in_flight = 500\n"));
    stage.insert(2_000, 1_000_000).await;
    stage
        .session
        .run(
            "create function bad() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
             create trigger bad before update on outbox_messages for each row execute function bad()",
        )
        .await;
    let daemon = stage.site.launch();
    // Three quarters are all that a destination is left when it has moved nothing for half a second.
    eventually("the window is full", Duration::from_secs(20), || async {
        (stage.copies().await.len() >= 375).then_some(())
    })
    .await;
    stage.says(&["refused"]).await;
    let before = crate::support::processes::cpu_seconds(daemon.pid());
    throughout("it waits", Duration::from_secs(5), || async {
        stage.pending().await == 2_000
    })
    .await;
    let took = crate::support::processes::cpu_seconds(daemon.pid()) - before;
    assert!(took < 1.5, "{took} s of CPU in 5 s of waiting");
    let copies = stage.copies().await;
    assert!(copies.len() <= 500 && copies.values().all(|copies| *copies == 1));
    let lines = stage.site.log().matches("a row is stuck").count();
    assert!(lines <= 200, "{lines} lines");
    stage.session.run("drop trigger bad on outbox_messages").await;
    stage.left(0, Duration::from_secs(20)).await;
    stage.judge(daemon, 0).await;
}

/// A message that can never be sent, and whose failure cannot be written.
#[tokio::test]
async fn failures_of_rows_are_refused() {
    let _guard = together().await;
    let stage = Stage::set(false).await;
    stage
        .session
        .run(
            "insert into outbox_messages (topic, key, payload, headers)
             select 'orders', 'k' || n, case when n % 100 = 7 then '{\"bad\": 1}'::jsonb else '{}' end,
               case when n % 10 = 7 then '[]'::jsonb else '{}' end
             from generate_series(1, 500) n",
        )
        .await;
    stage
        .session
        .run(on_bad_rows!("before update", "raise exception 'no';"))
        .await;
    let daemon = stage.site.start().await;
    stage.left(5, Duration::from_secs(20)).await;
    stage.says(&["refused"]).await;
    let failed = "select count(*) from outbox_messages where failed_at is not null";
    assert_eq!(stage.session.count(failed).await, 45);
    stage.stop(daemon).await;
    let daemon = stage.site.start().await;
    stage.left(5, Duration::from_secs(20)).await;
    stage.session.run("drop trigger bad on outbox_messages").await;
    stage.left(0, Duration::from_secs(12)).await;
    assert_eq!(stage.session.count(failed).await, 50);
    assert_eq!(stage.session.count("select count(*) from outboxd_attempts").await, 50);
    assert!(daemon.terminate(Duration::from_secs(10)).await.success());
}

/// The history is less than the message: where it cannot be written, the failure is.
#[tokio::test]
async fn a_history_that_cannot_be_written_stops_no_failure() {
    let _guard = together().await;
    for setup in [
        "create function bad() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
         create trigger bad before insert on outboxd_attempts for each row execute function bad()",
        "create function bad() returns trigger language plpgsql as $$ begin return null; end $$;
         create trigger bad before insert on outboxd_attempts for each row execute function bad()",
        "revoke insert on outboxd_attempts from outboxd_relay",
        "create rule bad as on update to outbox_messages where old.seq = 0 do instead nothing",
    ] {
        let stage = Stage::set(false).await;
        stage
            .session
            .run(
                "insert into outbox_messages (topic, key, payload, headers)
                 select 'orders', 'k' || n, '{}', case when n % 10 = 7 then '[]'::jsonb else '{}' end
                 from generate_series(1, 500) n",
            )
            .await;
        let daemon = stage.site.start().await;
        stage.left(0, Duration::from_secs(20)).await;
        stage.session.run(setup).await;
        stage
            .session
            .run(
                "insert into outbox_messages (topic, key, payload, headers)
                 select 'orders', 'l' || n, '{}', case when n % 10 = 7 then '[]'::jsonb else '{}' end
                 from generate_series(1, 500) n",
            )
            .await;
        stage.left(0, Duration::from_secs(20)).await;
        let failed = "select count(*) from outbox_messages where failed_at is not null";
        assert_eq!(stage.session.count(failed).await, 100, "{setup}");
        assert!(!stage.site.log().contains("a row is stuck"), "{setup}");
        assert!(daemon.terminate(Duration::from_secs(10)).await.success());
    }
}

/// Somebody has locked the history: failures are counted without it, and nothing else waits.
#[tokio::test]
async fn a_history_that_somebody_locks_holds_nothing_up() {
    let _guard = together().await;
    let stage = Stage::set(false).await;
    let daemon = stage.site.start().await;
    let holder = lock_history(&stage).await;
    goes_on_without_history(stage, daemon, holder).await;
}

/// Retention of the history has its turn right after the start.
#[tokio::test]
async fn a_history_that_was_locked_before_the_start_holds_nothing_up() {
    let _guard = together().await;
    let stage = Stage::set(false).await;
    let holder = lock_history(&stage).await;
    let daemon = stage.site.start().await;
    goes_on_without_history(stage, daemon, holder).await;
}

async fn lock_history(stage: &Stage) -> Session {
    let holder = stage.database.connect().await;
    holder
        .run("begin; lock table outboxd_attempts in access exclusive mode")
        .await;
    holder
}

async fn goes_on_without_history(stage: Stage, daemon: Daemon, holder: Session) {
    stage
        .session
        .run(
            "insert into outbox_messages (topic, key, payload, headers)
             select 'orders', 'k' || n, '{}', case when n % 10 = 7 then '[]'::jsonb else '{}' end
             from generate_series(1, 500) n",
        )
        .await;
    stage.left(0, Duration::from_secs(10)).await;
    let failed = "select count(*) from outbox_messages where failed_at is not null";
    assert_eq!(stage.session.count(failed).await, 50);
    assert!(
        !stage.site.log().contains("a row is stuck"),
        "{}",
        tail(&stage.site.log())
    );
    assert!(
        stage.site.log().contains("history cannot be written"),
        "{}",
        tail(&stage.site.log())
    );
    holder.run("rollback").await;
    assert!(daemon.terminate(Duration::from_secs(10)).await.success());
}

/// Row-level security that is switched on under a running relay, and hides rows or cannot be evaluated for one: nothing is passed
/// by in silence; it is said, and all goes on once it shows every row.
#[tokio::test]
async fn row_security_under_way_is_said_and_loses_nothing() {
    let _guard = together().await;
    for hides in [
        "alter table outbox_messages enable row level security",
        "create policy narrow on outbox_messages using ((payload->>'n')::int < 0 and payload->>'bad' is null);
         alter table outbox_messages enable row level security",
        "create policy all_of_them on outbox_messages using (true);
         create policy narrow on outbox_messages as restrictive using ((payload->>'word')::int < 0);
         alter table outbox_messages enable row level security",
    ] {
        let stage = Stage::set(false).await;
        let daemon = stage.site.start().await;
        stage.insert(100, 1_000_000).await;
        stage.left(0, Duration::from_secs(10)).await;
        stage.session.run(hides).await;
        stage
            .session
            .run("insert into outbox_messages (topic, key, payload) select 'orders', 'k', '{\"word\": \"no number\"}' from generate_series(1, 20)")
            .await;
        let reasons = eventually("it is said", Duration::from_secs(10), || async {
            let (status, body) = daemon.get("/readyz").await?;
            let body = body.to_string();
            (status == 503 && body.contains("row-level security")).then_some(body)
        })
        .await;
        assert!(reasons.contains("outbox_messages"), "{reasons}");
        assert!(!reasons.contains("no number"), "{reasons}");
        stage
            .session
            .run("alter table outbox_messages disable row level security")
            .await;
        stage.left(0, Duration::from_secs(10)).await;
        stage.judge(daemon, 0).await;
    }
}
