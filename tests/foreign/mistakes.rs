//! What cannot be relayed is refused at once, by one line that names the key.

use crate::support::daemon::Site;
use crate::support::postgres::Cluster;
use crate::support::together;

const ID: &str = "id uuid primary key";

/// What is said of a table, and how it is refused.
type Mistake = (&'static str, String, &'static str);

const DELETE: &str = "on_relayed = \"delete\"\n";

fn of_columns() -> Vec<Mistake> {
    let columns = |line: &str| format!("{DELETE}[outbox.columns]\n{line}\n");
    let no_index = "outbox.columns.id: column id of table public.theirs has no unique index";
    let of_theirs = "outbox.columns.key: table public.theirs has no column nope";
    let is_number = "outbox.columns.payload: n of table public.theirs is integer";
    let is_date = "outbox.columns.id: column id of table public.theirs is date";
    let unmarked = "[outbox.columns]\nrelayed_at = \"\"\n".to_owned();
    let nowhere = "outbox.columns.headers: column t.nope does not exist";
    vec![
        (ID, columns("headers = { sql = \"t.nope\" }"), nowhere),
        (ID, columns("key = \"nope\""), of_theirs),
        (
            ID,
            columns("inserted_at = \"topic\""),
            "outbox.columns.inserted_at: it is text",
        ),
        (ID, columns("payload = \"n\""), is_number),
        ("id uuid", DELETE.to_owned(), no_index),
        ("id uuid, primary key (id, n)", DELETE.to_owned(), no_index),
        ("id date primary key", DELETE.to_owned(), is_date),
        (ID, unmarked, "outbox.columns.relayed_at: table public.theirs has none"),
        (ID, columns("topic = \"\""), "outbox.columns.topic: "),
    ]
}

fn of_state() -> Vec<Mistake> {
    let state = |line: &str| format!("{DELETE}[outbox.state]\n{line}\n");
    let pending = "outbox.state.pending: column t.nope does not exist";
    let relayed = "outbox.state.relayed: :error is not known here";
    let two = "pending = \"true; drop table theirs\"";
    vec![
        (ID, state("pending = \"t.nope\""), pending),
        (
            ID,
            state("failed = \"nope = :error\""),
            "outbox.state.failed: column \"nope\"",
        ),
        (ID, state("relayed = \"topic = :error\""), relayed),
        (ID, state("retrying = \"topic = (\""), "outbox.state.retrying: "),
        (ID, state(two), "outbox.state.pending: "),
        (ID, format!("{DELETE}commit_order = true\n"), "commit_order: "),
        (
            ID,
            format!("{DELETE}[retention]\nrelayed = \"7d\"\n"),
            "retention.relayed: ",
        ),
    ]
}

#[tokio::test]
async fn what_cannot_be_relayed_is_refused_by_one_line_that_names_the_key() {
    let _guard = together().await;
    for (id, config, key) in of_columns().into_iter().chain(of_state()) {
        let database = Cluster::shared().database().await;
        let session = database.connect().await;
        session
            .run(&format!(
                "create table theirs (n integer, topic text not null, payload jsonb, {id})"
            ))
            .await;
        let (outbox, rest) = config.split_once('[').unwrap_or((&config, ""));
        let rest = if rest.is_empty() {
            String::new()
        } else {
            format!("[{rest}")
        };
        let config = format!("[outbox]\ntable = \"theirs\"\n{outbox}{rest}\n[transports.main.stdout]\n");
        let site = Site::new(&database, &config);
        for verb in [&["migrate"][..], &["run"], &["status"]] {
            let output = site.outboxd(verb);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(64), "{verb:?} of {config}: {said}");
            let line = said.lines().last().unwrap_or_default();
            assert!(line.contains(key), "{verb:?} of {config} says {line}");
        }
    }
}

/// Before the tables of outboxd are made for it, a daemon says so; and the table is never taken for one of ours.
#[tokio::test]
async fn a_table_that_was_not_migrated_is_refused() {
    let _guard = together().await;
    let database = Cluster::shared().database().await;
    let session = database.connect().await;
    session
        .run("create table theirs (id uuid primary key, topic text, payload jsonb, relayed_at timestamptz)")
        .await;
    let config = "[outbox]\ntable = \"theirs\"\n[transports.main.stdout]\n";
    let site = Site::new(&database, config);
    let output = site.outboxd(&["run"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{said}");
    assert!(
        said.contains("outboxd_rows_theirs does not exist: run: outboxd migrate"),
        "{said}"
    );
    site.migrate();
    let columns = "select count(*) from information_schema.columns where table_name = 'theirs'";
    assert_eq!(session.count(columns).await, 4);
    let checked = site.succeed(&["check", "--connect"]);
    assert!(checked.contains("foreign_no_place"), "{checked}");
}
