//! Whatever the database says of a row stays in the database: neither log (at any level), status line, HTTP without the token nor
//! the command line repeats what an error, its detail or a notice quotes of a message.

use std::process::Stdio;
use std::time::Duration;

use tokio::net::UnixDatagram;

use crate::support::broker::{Broker, Kind};
use crate::support::command;
use crate::support::daemon::{BINARY, Site, http_get};
use crate::support::postgres::{Cluster, try_session};
use crate::support::processes::{guarded, scratch, spawn};
use crate::support::{eventually, logins, together};

/// In payload, headers and key of each message.
const MARKER: &str = "mArKeR";
const INSERT: &str = r#"insert into outbox_messages (topic, key, payload, headers)
    values ('orders', 'key-mArKeR', '{"note": "mArKeR"}', '{"note": "mArKeR"}')"#;

/// Ways to fail while a message is marked, each of which puts its contents into the error.
const TROUBLES: [(&str, &str); 21] = [
    (
        "P0001",
        "raise exception 'no %', new.payload using detail = new.headers::text, hint = new.key",
    ),
    (
        "P0002",
        "raise no_data_found using message = new.payload::text, detail = new.key",
    ),
    ("22P02", "perform (new.payload ->> 'note')::integer"),
    ("22001", "insert into narrow values (new.payload ->> 'note')"),
    ("22007", "perform (new.payload ->> 'note')::timestamptz"),
    ("23505", "insert into single values (new.key)"),
    ("23503", "insert into child values (new.key)"),
    ("23514", "insert into checked values (new.key)"),
    ("23502", "insert into filled values (null, new.key)"),
    (
        "40001",
        "raise serialization_failure using message = new.key, detail = new.payload::text",
    ),
    (
        "42501",
        "raise insufficient_privilege using message = new.key, detail = new.payload::text",
    ),
    (
        "57014",
        "raise query_canceled using message = new.key, detail = new.payload::text",
    ),
    (
        "55P03",
        "raise lock_not_available using message = 'a lock', detail = new.payload::text",
    ),
    (
        "XX001",
        "raise data_corrupted using message = 'corrupt', detail = new.payload::text",
    ),
    // Names made of what the row holds.
    (
        "42P01",
        "execute format('insert into %I values (1)', 'audit_' || (new.payload ->> 'note'))",
    ),
    (
        "3F000",
        "execute format('create table %I.t ()', new.payload ->> 'note')",
    ),
    ("42704", "execute format('select null::%I', new.payload ->> 'note')"),
    ("42883", "execute format('select %I()', new.payload ->> 'note')"),
    ("42703", "execute format('select %I', new.payload ->> 'note')"),
    (UNPREPARED, "execute format('execute %I', new.payload ->> 'note')"),
    (
        "23000",
        "raise exception using errcode = '23000', message = 'no', constraint = new.key, column = new.key, table = new.key",
    ),
];

/// Of a person's command it is taken for the connection's.
const UNPREPARED: &str = "26000";

const TABLES: &str = "create table narrow (v varchar(2)); create table single (v text primary key); insert into single values ('key-mArKeR');
    create table child (v text references single (v)); create table checked (v text check (v not like 'key%'));
    delete from single where false; create table filled (a text not null, v text);
    grant insert on narrow, single, child, checked, filled to public; grant select on single to public";

/// A trigger that says what it likes and then fails, on marks only.
fn trigger(statement: &str) -> String {
    format!(
        "create or replace function quote_it() returns trigger language plpgsql as $$
         begin
           raise notice 'notice %', new.payload;
           raise warning 'warning %', new.key using detail = new.headers::text;
           {statement};
           return new;
         end $$;
         drop trigger if exists quote_it on outbox_messages;
         create trigger quote_it before update on outbox_messages for each row execute function quote_it()"
    )
}

#[tokio::test]
async fn nothing_of_a_row_leaves_the_process() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders"]).await;
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, &broker.section("main"));
    let text = std::fs::read_to_string(site.config()).unwrap();
    site.configure(&text.replace("format = \"text\"", "format = \"text\"\nlevel = \"trace\""));
    site.migrate();
    let session = database.connect().await;
    session.run(TABLES).await;
    // The foreign key fails for a value that `single` does not hold.
    let log = site.config().with_file_name("daemon.log");
    let file = std::fs::File::create(&log).unwrap();
    let directory = scratch("quotes");
    let socket = UnixDatagram::bind(directory.join("notify")).unwrap();
    let mut command = guarded(BINARY, "KILL");
    logins::sign_in(&mut command, &site.config(), &["run"]);
    command
        .args(["run", "--config"])
        .arg(site.config())
        .env("RUNTIME_DIRECTORY", &directory)
        .env("NOTIFY_SOCKET", directory.join("notify"))
        .stdout(file.try_clone().unwrap())
        .stderr(file);
    let mut daemon = spawn(command);
    let mut said = String::new();
    for (code, statement) in TROUBLES {
        let statement = if code == "23503" {
            "insert into child values (new.key || 'x')"
        } else {
            statement
        };
        session.run(&trigger(statement)).await;
        session.run(INSERT).await;
        eventually(&format!("{code} is met"), Duration::from_secs(40), || async {
            let seen = std::fs::read_to_string(&log).unwrap()
                + &http_get(site.port(), "/readyz").await.unwrap_or_default().1
                + &http_get(site.port(), "/api/v1/summary").await.unwrap_or_default().1;
            seen.contains(&format!("({code})")).then_some(())
        })
        .await;
        for path in ["/readyz", "/metrics", "/api/v1/summary"] {
            said.push_str(&http_get(site.port(), path).await.unwrap_or_default().1);
        }
        session.run("drop trigger quote_it on outbox_messages").await;
        session.drained(Duration::from_secs(40)).await;
        said.push_str(&http_get(site.port(), "/api/v1/status").await.unwrap_or_default().1);
    }
    let mut buffer = [0; 8192];
    // What has come is told only to those who have asked whether something has.
    let readable = tokio::time::timeout(Duration::from_secs(10), socket.readable()).await;
    readable.expect("systemd would have heard something").unwrap();
    while let Ok(length) = socket.try_recv(&mut buffer) {
        said.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    for args in [&["status"][..], &["check", "--connect"], &["failed", "list"]] {
        let output = site.outboxd(args);
        said.push_str(&(String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr)));
    }
    let log = std::fs::read_to_string(&log).unwrap();
    let quoted = |text: &str| {
        let lines = text.lines().filter(|line| line.contains(MARKER));
        lines.take(5).map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(said.contains("STATUS="), "systemd was told nothing");
    assert!(log.contains("INFO"), "the log holds nothing");
    assert!(quoted(&said).is_empty(), "{:#?}", quoted(&said));
    assert!(quoted(&log).is_empty(), "{:#?}", quoted(&log));
}

#[tokio::test]
async fn a_message_that_is_refused_by_hand_is_told_why_without_being_quoted() {
    let _guard = together().await;
    let site = command::Site::migrated();
    let session = try_session(&site.database.url).await.unwrap();
    for (payload, why) in [
        (
            &b"{\"note\": mArKeR}"[..],
            "the payload on standard input is not JSON: expected value at line 1 column 10 (22P02)",
        ),
        (b"", "the payload on standard input is not JSON: EOF"),
        (b"\"\xff mArKeR\"", "the payload on standard input is not UTF-8"),
        (b"\"mArKeR \\u0000\"", "\\u0000, which jsonb does not store"),
    ] {
        let called = site.call_with(&["enqueue", "orders"], payload);
        let line = called.refused(1);
        assert!(line.contains(why) && !line.contains(MARKER), "{line}");
    }
    session.run(TABLES).await;
    let on_insert = |statement: &str| trigger(statement).replace("before update", "before insert");
    for (code, statement) in TROUBLES.into_iter().filter(|(code, _)| *code != UNPREPARED) {
        session.run(&on_insert(statement)).await;
        for args in [
            &["enqueue", "orders", "--key", "key-mArKeR"][..],
            &["enqueue", "--lines"],
        ] {
            let line = "{\"topic\": \"orders\", \"key\": \"key-mArKeR\", \"payload\": {\"note\": \"mArKeR\"}}";
            let payload = if args.len() == 2 {
                line
            } else {
                "{\"note\": \"mArKeR\"}"
            };
            let mut command = site.command(args);
            command.stdin(Stdio::piped());
            let called = site.call_with(args, payload.as_bytes());
            assert!(
                !called.out.contains(MARKER) && !called.err.contains(MARKER),
                "{}",
                called.err
            );
            if code != "23503" {
                assert!(called.refused(1).contains(&format!("({code})")), "{}", called.err);
            }
        }
    }
}
