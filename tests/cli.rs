//! The command line from outside: the built program against a scratch PostgreSQL. Output, `--json`, exit codes.

use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::support::command::{Site, finish, fits};
use crate::support::daemon;
use crate::support::postgres::Cluster;
use crate::support::{assert_within, eventually, together};

#[test]
fn a_wrong_call_is_64_and_says_so() {
    let site = Site::empty();
    for args in [
        &["bogus"][..],
        &[],
        &["failed"],
        &["enqueue"],
        &["failed", "retry", "not-an-id"],
        &["status", "--nope"],
    ] {
        let called = site.call(args);
        assert_eq!(called.code, 64, "{args:?}: {}", called.err);
        assert!(
            !called.err.is_empty() && !called.err.contains("panicked"),
            "{}",
            called.err
        );
    }
    for args in [
        &["--help"][..],
        &["--version"],
        &["failed", "retry", "--help"],
        &["completions", "bash"],
        &["man"],
    ] {
        assert!(site.call(args).done().contains("outboxd"), "{args:?}");
    }
}

#[test]
fn the_configuration_is_named_before_or_after_the_verb_or_by_the_environment() {
    let site = Site::migrated();
    let file = site.file();
    let file = file.to_str().unwrap();
    for args in [
        &["--config", file, "check"][..],
        &["check", "--config", file],
        &["failed", "list", "--config", file],
    ] {
        finish(site.command(args).env_remove("OUTBOXD_CONFIG").output().unwrap()).done();
    }
    assert!(
        site.call(&["--config", "/nowhere/outboxd.toml", "check"])
            .refused(64)
            .contains("/nowhere/outboxd.toml")
    );
}

#[test]
fn an_unknown_key_is_64_and_named() {
    let site = Site::empty();
    site.configure("lains = 9");
    for args in [&["check"][..], &["migrate"], &["status"], &["failed", "list"], &["run"]] {
        assert!(site.call(args).refused(64).contains("lains"), "{args:?}");
    }
    site.configure("");
    let called = finish(
        site.command(&["check"])
            .env("OUTBOXD__OUTBOX__LANES", "many")
            .output()
            .unwrap(),
    );
    assert_eq!(called.code, 64, "{}", called.err);
    assert_eq!(called.err.lines().count(), 1, "{}", called.err);
    assert!(called.err.contains("OUTBOXD__OUTBOX__LANES"), "{}", called.err);
}

/// Without line breaks.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn check_says_what_is_wrong_with_the_database() {
    let site = Site::empty();
    assert!(site.call(&["check"]).done().starts_with("configuration ok"));
    let called = site.call(&["check", "--connect"]);
    assert_eq!(called.code, 1);
    for part in [
        "fault schema",
        "table public.outbox_messages does not exist",
        "do: outboxd migrate",
    ] {
        assert!(flat(&called.out).contains(part), "{}", called.out);
    }
    site.call(&["migrate"]).done();
    assert!(site.call(&["check", "--connect"]).done().contains("jsonb"));
    for (sql, fault) in [
        ("alter table outbox_messages drop column replay", "has no column replay"),
        (
            "alter table outbox_messages add replay text",
            "column replay of table public.outbox_messages is text",
        ),
        (
            "alter table outbox_messages alter replay type integer using 0; drop table outboxd_attempts",
            "outboxd_attempts does not exist",
        ),
    ] {
        site.one(sql);
        let called = site.call(&["check", "--connect"]);
        assert_eq!(called.code, 1);
        assert!(flat(&called.out).contains(fault), "{fault}: {}", called.out);
    }
}

#[test]
fn check_warns_of_what_works_badly() {
    let site = Site::migrated();
    site.one("alter sequence outbox_messages_seq_seq cache 20; drop index outbox_messages_waiting");
    let out = flat(site.call(&["check", "--connect"]).done());
    assert!(out.contains("alter sequence outbox_messages_seq_seq cache 1"), "{out}");
    assert!(out.contains("index outbox_messages_waiting is missing"), "{out}");
}

#[test]
fn a_database_that_is_not_there_is_one_line() {
    let site = Site::empty();
    let url = "postgres://nobody@127.0.0.1:1/none";
    for args in [&["status"][..], &["migrate"], &["failed", "list"]] {
        let called = finish(site.command(args).env("OUTBOXD__DATABASE__URL", url).output().unwrap());
        let said = called.refused(1);
        assert!(
            said.contains("database unavailable") && said.contains("check the server and database.url"),
            "{said}"
        );
    }
    // One that takes connections and says nothing.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("postgres://nobody@{}/none", listener.local_addr().unwrap());
    let began = std::time::Instant::now();
    let called = finish(
        site.command(&["status"])
            .env("OUTBOXD__DATABASE__URL", silent)
            .output()
            .unwrap(),
    );
    assert!(
        called.refused(1).contains("no answer within 1.5s; check the server"),
        "{}",
        called.err
    );
    assert_within("the refusal", began.elapsed(), std::time::Duration::from_secs(2));
    let called = finish(
        site.command(&["check", "--connect"])
            .env("OUTBOXD__DATABASE__URL", url)
            .output()
            .unwrap(),
    );
    assert_eq!(called.code, 1);
    assert!(
        flat(&called.out).contains("check the server and database.url"),
        "{}",
        called.out
    );
}

#[test]
fn migrate_prints_applies_and_reports() {
    let site = Site::empty();
    let states = |site: &Site| -> Vec<String> {
        let list = site.call(&["migrate", "--status", "--json"]).json();
        list.as_array()
            .unwrap()
            .iter()
            .map(|file| file["state"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(states(&site), ["pending"; 8]);
    let printed = site.call(&["migrate", "--print"]).done().to_owned();
    assert_eq!(states(&site), ["pending"; 8], "printing changes nothing");
    site.one(&printed);
    assert_eq!(states(&site), ["applied"; 8]);
    assert_eq!(
        site.call(&["migrate"]).done(),
        "nothing to do: all migrations are applied\n"
    );
    fits(site.call(&["migrate", "--status"]).done());
    site.configure("schema = \"other\"");
    assert_eq!(
        site.call(&["migrate", "--payload-type", "bytea"])
            .done()
            .lines()
            .count(),
        8
    );
    assert_eq!(site.one("select atttypid::regtype from pg_attribute where attrelid = 'other.outbox_messages'::regclass and attname = 'payload'"), "bytea");
    assert_eq!(site.call(&["migrate", "--payload-type", "xml"]).code, 64);
    let called = finish(
        site.command(&["migrate"])
            .env("OUTBOXD__OUTBOX__LANES", "16")
            .output()
            .unwrap(),
    );
    assert!(called.refused(64).contains("outbox.lanes = 8"), "{}", called.err);
}

#[test]
fn commands_on_a_missing_table_say_migrate() {
    let site = Site::empty();
    for args in [
        &["status"][..],
        &["failed", "list"],
        &["failed", "retry", "--all"],
        &["failed", "show", "1"],
        &["enqueue", "t"],
    ] {
        assert!(
            site.call(args)
                .refused(64)
                .ends_with("does not exist: run: outboxd migrate"),
            "{args:?}"
        );
    }
}

#[test]
fn enqueue_prints_the_id_of_what_it_inserted() {
    let site = Site::migrated();
    let args = [
        "enqueue",
        "orders.created",
        "--key",
        "",
        "--header",
        "trace=a=b",
        "--header",
        "n=1",
        "--at",
        "1h",
    ];
    let id = site
        .call_with(&args, br#"{"n": 12345678901234567890}"#)
        .done()
        .trim()
        .to_owned();
    let row = site.one(&format!(
        "select topic, key = '', headers, payload, available_at - inserted_at from outbox_messages where id = '{id}'"
    ));
    assert_eq!(
        row,
        r#"orders.created|t|{"n": "1", "trace": "a=b"}|{"n": 12345678901234567890}|01:00:00"#
    );
    let refused = site.call_with(&["enqueue", "t"], b"{\"n\":");
    assert!(
        refused.refused(1).contains("the payload on standard input is not JSON"),
        "{}",
        refused.err
    );
    assert!(
        site.call_with(&["enqueue", "t"], b"\xff")
            .refused(1)
            .contains("is not UTF-8")
    );
    assert_eq!(
        site.call_with(&["enqueue", "t", "--header", "nonsense"], b"{}").code,
        64
    );
    assert_eq!(site.call_with(&["enqueue", "t", "--at", "soon"], b"{}").code, 64);
    assert_eq!(site.one("select count(*) from outbox_messages"), "1");
}

#[test]
fn enqueue_keeps_any_bytes_in_a_bytea_column() {
    let site = Site::empty();
    site.call(&["migrate", "--payload-type", "bytea"]).done();
    site.call_with(&["enqueue", "t"], b"\x00\xff{").done();
    assert_eq!(site.one("select payload from outbox_messages"), "\\x00ff7b");
}

#[test]
fn status_counts_each_pending_message_once() {
    let site = Site::migrated();
    let zero: Value = site.call(&["status", "--json"]).json();
    assert_eq!(
        zero["pending"],
        serde_json::json!({"due": 0, "delayed": 0, "retrying": 0, "held": 0})
    );
    assert_eq!(
        (&zero["failed"], zero["oldest_due_age_seconds"].as_f64()),
        (&Value::from(0), Some(0.0))
    );
    site.fail(7);
    site.one(
        "insert into outbox_messages (topic, payload, relayed_at) select 't', '{}', now() from generate_series(1, 200);
         insert into outbox_messages (topic, key, payload, available_at, inserted_at)
             select 't', 'a' || g, '{}', now() - interval '90 s', now() - interval '90 s' from generate_series(1, 5) g;
         insert into outbox_messages (topic, key, payload, available_at) select 't', 'b', '{}', now() + interval '1 day' from generate_series(1, 4);
         insert into outbox_messages (topic, key, payload, attempt, available_at) values ('t', 'slow', '{}', 3, now() + interval '1 h');
         insert into outbox_messages (topic, key, payload) select 't', 'slow', '{}' from generate_series(1, 2);
         insert into outboxd_instances (instance, session, machine, expires_at) values ('host-1', gen_random_uuid(), 'm', now() + interval '9 s');
         update outboxd_lanes set owner = 'host-1', epoch = 2 where lane < 3",
    );
    let status = site.call(&["status", "--json"]).json();
    assert_eq!(
        status["pending"],
        serde_json::json!({"due": 5, "delayed": 4, "retrying": 1, "held": 2})
    );
    assert_eq!(status["failed"], 7);
    assert!(
        (90.0..120.0).contains(&status["oldest_due_age_seconds"].as_f64().unwrap()),
        "{status}"
    );
    assert!(
        (status["rate_per_second"].as_f64().unwrap() - 20.0).abs() < 0.1,
        "{status}"
    );
    assert_eq!(
        (&status["instances"][0]["instance"], &status["instances"][0]["lanes"]),
        (&"host-1".into(), &3.into())
    );
    assert_eq!(
        (status["lanes"].as_array().unwrap().len(), &status["lanes"][3]["owner"]),
        (8, &Value::Null)
    );
    let held = &status["held_keys"];
    assert_eq!(held.as_array().unwrap().len(), 1, "{held}");
    assert_eq!(
        (&held[0]["key"], &held[0]["reason"], &held[0]["waiting"]),
        (&"slow".into(), &"retrying".into(), &2.into())
    );
    assert_eq!(status["paused_destinations"], serde_json::json!([]));
    let shown = site.call(&["status"]).done().to_owned();
    fits(&shown);
    for part in [
        "pending     12",
        "due       5",
        "failed      7",
        "oldest due  1m 3",
        "3 of 8 owned",
        "host-1",
        "is retrying",
    ] {
        assert!(shown.contains(part), "{part}:\n{shown}");
    }
}

/// More than one report names.
#[tokio::test]
async fn status_counts_all_messages_that_are_stuck() {
    let _guard = together().await;
    let deadline = Duration::from_secs(60);
    let database = Cluster::shared().database().await;
    let site = daemon::Site::new(&database, "[transports.main.stdout]\n");
    site.migrate();
    let session = database.connect().await;
    session
        .run(
            "create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
             create trigger refuse before update on outbox_messages for each row execute function refuse();
             insert into outbox_messages (topic, payload) select 'orders', to_jsonb(g) from generate_series(1, 150) g",
        )
        .await;
    let daemon = site.launch();
    eventually("all of them are counted", deadline, || async {
        let shown = site.succeed(&["status"]);
        (shown.contains("150 messages stuck") && shown.contains("... and 140 more")).then_some(())
    })
    .await;
    session.run("drop trigger refuse on outbox_messages").await;
    session.drained(deadline).await;
    eventually("none is", deadline, || async {
        (!site.succeed(&["status"]).contains("stuck")).then_some(())
    })
    .await;
    assert!(daemon.terminate(deadline).await.success());
}

#[test]
fn failed_list_filters() {
    let site = Site::migrated();
    site.fail(30);
    let seqs = |args: &[&str]| -> Vec<i64> {
        let list = site.call(&[&["failed", "list", "--json"], args].concat()).json();
        list.as_array()
            .unwrap()
            .iter()
            .map(|row| row["seq"].as_i64().unwrap())
            .collect()
    };
    assert_eq!(seqs(&[]), (1..=30).collect::<Vec<_>>());
    assert_eq!(seqs(&["--limit", "2"]), [1, 2]);
    assert_eq!(seqs(&["--topic", "orders.1"]).len(), 10);
    assert_eq!(seqs(&["--key", "k7"]), [7]);
    assert_eq!(seqs(&["--error", "10054", "--topic", "orders.0"]), [6, 12, 18, 24, 30]);
    site.one("update outbox_messages set failed_at = now() - seq * interval '1 hour'");
    assert_eq!(seqs(&["--since", "630m"]), (1..=10).collect::<Vec<_>>());
    assert_eq!(seqs(&["--since", "2020-01-01"]).len(), 30);
    assert_eq!(seqs(&["--since", "2099-01-01T00:00:00Z"]), [0; 0]);
    let id = site.one("select id from outbox_messages where seq = 9");
    assert_eq!(seqs(&["3", "--id", &id, "--id", "5"]), [3, 5, 9]);
    assert!(site.call(&["failed", "list", "3", "999"]).refused(1).contains("999"));
    let row = &site.call(&["failed", "list", "--json", "4"]).json()[0];
    assert_eq!(
        (&row["topic"], &row["key"], &row["attempt"]),
        (&"orders.1".into(), &"k4".into(), &6.into())
    );
    assert!(
        row["last_error"].as_str().unwrap().starts_with("too large") && row["failed_at"].is_string(),
        "{row}"
    );
    site.one("update outbox_messages set last_error = E'\\x1b[2J\\nboo', topic = repeat('long', 50) where seq = 30");
    fits(site.call(&["failed", "list"]).done());
    assert_eq!(
        Site::migrated().call(&["failed", "list"]).done(),
        "no failed messages\n"
    );
}

#[test]
fn failed_show_has_the_whole_row_and_its_attempts() {
    let site = Site::migrated();
    site.fail(2);
    site.one(
        "update outbox_messages set payload = '{\"big\": 12345678901234567890123}' where seq = 2;
         insert into outboxd_attempts (seq, message_id, attempt, at, instance, class, code, error, latency_ms)
         select seq, id, a, now() + a * interval '1 s', 'host-1', 'failed', '10071', 'wrong last sequence', 1.5
         from outbox_messages, generate_series(1, 2) a where seq = 2",
    );
    let id = site.one("select id from outbox_messages where seq = 2");
    for name in ["2", &id] {
        let called = site.call(&["failed", "show", "--json", name]);
        let row = called.json();
        assert!(called.out.contains("12345678901234567890123"), "{}", called.out);
        assert_eq!((&row["headers"]["h"], &row["key"]), (&"v".into(), &"k2".into()));
        assert_eq!(
            (row["attempts"].as_array().unwrap().len(), &row["attempts"][1]["code"]),
            (2, &"10071".into())
        );
    }
    let shown = site.call(&["failed", "show", "2"]).done().to_owned();
    assert!(
        shown.contains("12345678901234567890123") && shown.contains("wrong last sequence"),
        "{shown}"
    );
    assert!(site.call(&["failed", "show", "77"]).refused(1).contains("77"));
}

#[test]
fn a_bulk_change_needs_a_filter_or_all() {
    let site = Site::migrated();
    site.fail(3);
    for action in ["retry", "discard"] {
        assert!(site.call(&["failed", action]).refused(64).contains("--all"));
        assert!(
            site.call(&["failed", action, "--dry-run"])
                .refused(64)
                .contains("--all")
        );
    }
    assert_eq!(
        site.one("select count(*) from outbox_messages where failed_at is not null"),
        "3"
    );
}

#[test]
fn a_dry_run_changes_nothing() {
    let site = Site::migrated();
    site.fail(4);
    let all = "select md5(string_agg(m::text, ',' order by seq)) from outbox_messages m";
    let before = site.one(all);
    assert_eq!(
        site.call(&["failed", "retry", "--all", "--dry-run"]).done(),
        "would retry 4 messages\n"
    );
    assert_eq!(
        site.call(&["failed", "discard", "--key", "k1", "--dry-run"]).done(),
        "would discard 1 message\n"
    );
    assert_eq!(
        (site.one(all), site.one("select count(*) from outboxd_audit")),
        (before, "0".to_owned())
    );
}

#[test]
fn retry_makes_a_message_as_good_as_new() {
    let site = Site::migrated();
    site.fail(3);
    let id = site.one("select id from outbox_messages where seq = 2");
    assert_eq!(site.call(&["failed", "retry", &id]).done(), "retried 1 message\n");
    let row = "select failed_at is null, attempt, available_at > inserted_at, left(last_error, 9) from outbox_messages where seq = 2";
    assert_eq!(site.one(row), "t|1|t|too large");
    let audit = "select action, count, filter ->> 'ids', who <> '' from outboxd_audit";
    assert_eq!(site.one(audit), format!("retry|1|[\"{id}\"]|t"));
    // It is not failed any more.
    assert!(
        site.call(&["failed", "retry", "2"])
            .refused(1)
            .contains("no failed message has id 2")
    );
    // An unknown id among known ones changes nothing.
    assert!(site.call(&["failed", "retry", "1", "404"]).refused(1).contains("404"));
    assert_eq!(
        site.one("select count(*) from outbox_messages where failed_at is not null"),
        "2"
    );
}

#[test]
fn discard_keeps_the_row_whole_in_the_audit() {
    let site = Site::migrated();
    site.fail(3);
    let rows = "select string_agg(row_to_json(m)::text, ',' order by seq) from outbox_messages m where key <> 'k1'";
    let before = site.one(rows);
    assert_eq!(
        site.call(&["failed", "discard", "--id", "2", "3"]).done(),
        "discarded 2 messages\n"
    );
    assert_eq!(site.one("select string_agg(seq::text, ',') from outbox_messages"), "1");
    assert_eq!(
        site.one("select string_agg(detail::text, ',' order by id) from outboxd_audit where action = 'discard'"),
        before
    );
    assert_eq!(
        site.one("select count(distinct command), sum(count) from outboxd_audit"),
        "1|2"
    );
}

#[test]
fn three_thousand_failed_rows_are_retried_by_filter() {
    let site = Site::migrated();
    site.fail(9000);
    assert_eq!(
        site.call(&["failed", "retry", "--topic", "orders.2"]).done(),
        "retried 3,000 messages\n"
    );
    assert_eq!(
        site.one("select count(*), min(attempt), max(attempt) from outbox_messages where failed_at is null"),
        "3000|1|1"
    );
    assert_eq!(
        site.one("select count(*) from outbox_messages where failed_at is not null and topic <> 'orders.2'"),
        "6000"
    );
    assert_eq!(
        site.one("select sum(count), max(count), count(distinct command) from outboxd_audit where action = 'retry'"),
        "3000|1000|1"
    );
    assert_eq!(
        site.call(&["failed", "list", "--json"])
            .json()
            .as_array()
            .unwrap()
            .len(),
        6000
    );
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let site = Site::migrated();
    site.fail(5000);
    let mut child = site
        .command(&["failed", "list"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 10];
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut first).unwrap();
    drop(out);
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), String::from_utf8(output.stderr).unwrap()),
        (Some(0), String::new())
    );
}

#[test]
fn status_never_looks_at_the_history() {
    let site = Site::migrated();
    site.one(
        "insert into outbox_messages (topic, payload, relayed_at, inserted_at) select 't', '{}', now() - interval '1 h', now() - interval '2 h'
         from generate_series(1, 200000);
         insert into outbox_messages (topic, payload) select 't', '{}' from generate_series(1, 10);
         analyze outbox_messages; select pg_stat_reset()",
    );
    site.call(&["status", "--json"]).json();
    // The statistics of the program's session are written when it ends.
    let read = "select pg_stat_clear_snapshot(); select seq_tup_read, (seq_tup_read + idx_tup_fetch) < 90000 from pg_stat_user_tables where relname = 'outbox_messages'";
    assert_eq!(site.one(read).trim(), "0|t");
}

/// What a terminal shows that cannot be steered (`TERM=dumb`), or whose reader wants no colours.
#[test]
fn a_terminal_that_cannot_be_steered_is_not() {
    let site = Site::migrated();
    let shown = |verb: &str, variable: (&str, &str)| {
        let mut terminal = std::process::Command::new("script");
        let run = format!("exec {} {verb}", crate::support::daemon::BINARY);
        terminal
            .args(["-qec", &run, "/dev/null"])
            .env("OUTBOXD_CONFIG", site.file())
            .env("TERM", "xterm")
            .env_remove("NO_COLOR")
            .env(variable.0, variable.1)
            .stdin(Stdio::null());
        let output = terminal
            .output()
            .expect("script is installed: apt-get install bsdutils");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    site.fail(1);
    let lively = shown("failed list", ("TERM", "xterm"));
    assert!(lively.contains("\x1b[1m"), "a heading: {lively:?}");
    for variable in [("TERM", "dumb"), ("NO_COLOR", "1")] {
        let plain = shown("failed list", variable);
        assert!(
            plain.contains("orders.1") && !plain.contains('\x1b'),
            "{variable:?}: {plain:?}"
        );
    }
}
