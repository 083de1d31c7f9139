//! Bulk commands on failed messages as an operator meets them: on a terminal, interrupted, beside a running daemon.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

use crate::support::broker::{Broker, Kind};
use crate::support::chaos::judge;
use crate::support::command::Site;
use crate::support::daemon::{self, BINARY};
use crate::support::postgres::{Cluster, try_session};
use crate::support::web::{post, with_token};
use crate::support::{eventually, throughout, together};

const DEADLINE: Duration = Duration::from_secs(60);

/// Ctrl-C on a real terminal, while a step waits for a lock: that step is finished, and nothing after it begun.
#[tokio::test]
async fn ctrl_c_ends_a_bulk_command_between_two_steps() {
    let _guard = together().await;
    let site = Site::migrated();
    site.fail(50_000);
    let holder = try_session(&site.database.url).await.expect("a connection");
    holder
        .run("begin; select from outbox_messages where seq = 25500 for update")
        .await;
    let watcher = try_session(&site.database.url).await.expect("a connection");

    let mut terminal = Command::new("script");
    terminal
        .args([
            "-qec",
            &format!("stty cols 80 rows 24; TERM=xterm exec {BINARY} failed retry --all"),
            "/dev/null",
        ])
        .env("OUTBOXD_CONFIG", site.file())
        .env_remove("NO_COLOR")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut terminal = terminal.spawn().expect("script is installed: apt-get install bsdutils");
    let shown = Arc::new(Mutex::new(String::new()));
    let reader = {
        let (shown, mut output) = (Arc::clone(&shown), terminal.stdout.take().unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                shown
                    .lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        })
    };
    // Not any lock: a table that grows is locked for moments too.
    let waits = "select count(*) from pg_stat_activity where wait_event in ('transactionid', 'tuple') and datname = current_database()";
    eventually("a step waits for the row", DEADLINE, || async {
        (watcher.count(waits).await == 1).then_some(())
    })
    .await;
    terminal.stdin.as_mut().unwrap().write_all(b"\x03").unwrap();
    eventually("the terminal took it", DEADLINE, || async {
        shown.lock().unwrap().contains("^C").then_some(())
    })
    .await;
    holder.run("commit").await;
    let terminal = RefCell::new(terminal);
    let status = eventually("it has ended", DEADLINE, || async {
        terminal.borrow_mut().try_wait().expect("it is ours")
    })
    .await;
    reader.join().unwrap();

    let shown = shown.lock().unwrap().clone();
    assert_eq!(status.code(), Some(1), "{shown}");
    assert!(shown.contains(" of 50,000, "), "a bar was shown: {shown}");
    assert!(
        shown.contains("outboxd: stopped: 26,000 of 50,000 messages retried; run it again for the rest"),
        "{shown}"
    );
    let changed = "select count(*), max(seq) from outbox_messages where failed_at is null and attempt = 1";
    assert_eq!(site.one(changed), "26000|26000");
    assert_eq!(
        site.one("select sum(count), max(count) from outboxd_audit"),
        "26000|1000"
    );
    let rest =
        "select count(*) from outbox_messages where failed_at is not null and attempt = 6 and updated_at = inserted_at";
    assert_eq!(site.one(rest), "24000");
    assert_eq!(
        site.call(&["failed", "retry", "--all"]).done(),
        "retried 24,000 messages\n"
    );
}

#[tokio::test]
async fn discarding_the_failed_row_releases_a_strict_key() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders"]).await;
    let database = Cluster::shared().database().await;
    let route = "[[routes]]\ntopic = \"*\"\ntransport = \"main\"\norder = \"strict\"\nmax_attempts = 1\n";
    let site = daemon::Site::new(&database, &(broker.section("main") + route));
    site.migrate();
    let daemon = site.start().await;
    let session = database.connect().await;
    // JetStream refuses the first for a reason that may pass.
    session
        .run(
            r#"insert into outbox_messages (topic, key, payload, headers) values
               ('orders', 'a', '1', '{"Nats-Expected-Last-Sequence": "999999"}'), ('orders', 'a', '2', '{}'),
               ('orders', 'b', '1', '{}'), ('orders', 'a', '3', '{}')"#,
        )
        .await;
    let failed = "select count(*) from outbox_messages where failed_at is not null";
    eventually("the first has failed", DEADLINE, || async {
        (session.count(failed).await == 1).then_some(())
    })
    .await;
    let relayed = "select count(*) from outbox_messages where relayed_at is not null and key = 'a'";
    throughout("key a waits", Duration::from_secs(1), || async {
        session.count(relayed).await == 0
    })
    .await;
    site.succeed(&["failed", "discard", "1"]);
    eventually("key a goes on", DEADLINE, || async {
        (session.count(relayed).await == 2).then_some(())
    })
    .await;
    judge(&database, &broker, &["orders"]).await.assert_ordered();
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

/// Refuses to let message 1 be updated, and message 50 be deleted.
const IN_THE_WAY: &str = "create function refuse() returns trigger language plpgsql as $$ begin
       if old.seq = 1 then raise exception 'secret %', old.payload; end if; return new; end $$;
     create trigger refuse before update on outbox_messages for each row execute function refuse();
     create table child (message bigint references outbox_messages);
     insert into child values (50)";

#[test]
fn rows_that_refuse_are_named_and_all_others_are_done() {
    let site = Site::migrated();
    site.fail(101);
    site.one(IN_THE_WAY);
    let id = |seq: u32| site.one(&format!("select id from outbox_messages where seq = {seq}"));
    let audited = |action: &str| {
        site.one(&format!(
            "select coalesce(sum(count), 0) from outboxd_audit where action = '{action}'"
        ))
    };

    let (first, fiftieth) = (id(1), id(50));
    let called = site.call(&["failed", "retry", "--all"]);
    let line = called.refused(1);
    assert!(line.contains("100 of 101 messages retried, 1 refused"), "{line}");
    let named =
        format!("refused: message 1 ({first}): a trigger or function raised an error, function refuse (P0001)\n");
    assert_eq!(called.out, format!("retried 100 messages\n{named}"));
    assert_eq!(audited("retry"), "100");
    assert_eq!(
        site.one("select string_agg(seq::text, ',') from outbox_messages where failed_at is not null"),
        "1"
    );
    // Alone it is refused as well, and nothing is done.
    let called = site.call(&["failed", "retry", "1"]);
    assert!(called.refused(1).contains("0 of 1 message retried"), "{}", called.err);
    assert_eq!(audited("retry"), "100");

    site.one("alter table outbox_messages disable trigger refuse; update outbox_messages set failed_at = now()");
    let called = site.call(&["failed", "discard", "--all"]);
    let line = called.refused(1);
    assert!(line.contains("100 of 101 messages discarded, 1 refused"), "{line}");
    assert!(
        called
            .out
            .starts_with(&format!("discarded 100 messages\nrefused: message 50 ({fiftieth}): "))
            && called.out.contains("constraint child_message_fkey (23503)"),
        "{}",
        called.out
    );
    assert_eq!(site.one("select string_agg(seq::text, ',') from outbox_messages"), "50");
    assert_eq!(audited("discard"), "100");
    site.one("drop table child");
    assert_eq!(
        site.call(&["failed", "discard", "--all"]).done(),
        "discarded 1 message\n"
    );
}

/// Where the table refuses everything, no row is to blame.
#[test]
fn a_trigger_that_refuses_every_statement_is_no_rows_fault() {
    let site = Site::migrated();
    site.fail(3);
    site.one(
        "create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
         create trigger refuse before update on outbox_messages for each statement execute function refuse()",
    );
    let called = site.call(&["failed", "retry", "--all"]);
    let line = called.refused(1);
    assert!(
        line.contains("0 of 3 messages retried") && line.contains("(P0001)"),
        "{line}"
    );
    assert_eq!(called.out, "");
}

#[tokio::test]
async fn over_http_rows_that_refuse_are_named_and_all_others_are_done() {
    let _guard = together().await;
    let database = Cluster::shared().database().await;
    let site = daemon::Site::new(&database, "[transports.main.stdout]\n");
    with_token(&site);
    site.migrate();
    let daemon = site.start().await;
    let session = database.connect().await;
    session
        .run(
            "insert into outbox_messages (topic, payload, failed_at, last_error)
             select 'orders', to_jsonb(g), now(), 'no' from generate_series(1, 101) g",
        )
        .await;
    session.run(IN_THE_WAY).await;
    let discard = "/api/v1/failed/discard";
    let said = post(site.port(), discard, &json!({"all": true})).await.refused(503);
    let names = |said: &str| said.starts_with("message 50 (") && said.contains("child_message_fkey (23503)");
    assert!(
        names(&said) && said.ends_with("100 messages were done, 1 are left"),
        "{said}"
    );
    assert_eq!(session.count("select sum(seq)::bigint from outbox_messages").await, 50);
    assert_eq!(session.count("select sum(count)::bigint from outboxd_audit").await, 100);
    let said = post(site.port(), discard, &json!({"ids": [50]})).await.refused(503);
    assert!(names(&said), "{said}");
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}
