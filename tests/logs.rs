//! The log as an operator's tools read it: one JSON object a line, lasting conditions said once, a summary of what was done.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::broker::{Broker, Kind};
use crate::support::command;
use crate::support::daemon::{BINARY, Site};
use crate::support::postgres::Cluster;
use crate::support::{alone, eventually, throughout, together};

/// Every line of the log, which must all be JSON.
fn lines(site: &Site) -> Vec<Value> {
    let log = site.log();
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
    log.lines().map(parse).collect()
}

fn count(lines: &[Value], message: &str) -> usize {
    let says = |line: &&Value| line["message"].as_str().is_some_and(|text| text.starts_with(message));
    lines.iter().filter(says).count()
}

#[tokio::test]
async fn a_hundred_paused_destinations_are_ten_lines_and_the_end_is_summed_up() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, &broker.section("main"));
    let text = std::fs::read_to_string(site.config()).expect("the configuration");
    site.configure(&text.replace("format = \"text\"", "format = \"auto\""));
    site.migrate();
    let daemon = site.start().await;
    let session = database.connect().await;
    session
        .run(
            "insert into outbox_messages (topic, payload) select 'orders.' || n, '1' from generate_series(1, 100) as n",
        )
        .await;
    eventually("all are paused", Duration::from_secs(20), || async {
        let metrics = daemon.metrics().await;
        let paused = metrics
            .keys()
            .filter(|name| name.starts_with("outboxd_destination_paused"));
        (paused.count() == 100).then_some(())
    })
    .await;
    assert_eq!(count(&lines(&site), "destination paused"), 10);
    broker.prepare(&["orders.>"]).await;
    session.drained(Duration::from_secs(30)).await;
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
    let lines = lines(&site);
    for line in &lines {
        for field in ["timestamp", "level", "target", "message"] {
            assert!(line[field].is_string(), "no {field} in {line}");
        }
    }
    assert_eq!(count(&lines, "destination takes messages again"), 10);
    let summaries: Vec<&Value> = lines.iter().filter(|line| line["message"] == "summary").collect();
    let relayed: u64 = summaries.iter().filter_map(|line| line["relayed"].as_u64()).sum();
    assert_eq!(relayed, 100, "{summaries:?}");
    assert!(
        summaries[0]["per_second"].is_number() && summaries[0]["oldest_due"].is_number(),
        "{summaries:?}"
    );
}

/// A cause that fails every message does not also fill the disk.
#[tokio::test]
async fn five_hundred_failed_messages_are_a_hundred_lines() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders"]).await;
    let database = Cluster::shared().database().await;
    let routes = "[[routes]]\ntopic = \"orders\"\ntransport = \"main\"\n";
    let site = Site::new(&database, &(broker.section("main") + routes));
    site.migrate();
    let daemon = site.start().await;
    let session = database.connect().await;
    // Half of them no transport takes, the others no route.
    let insert = "insert into outbox_messages (topic, payload, headers)
                  select case n % 2 when 0 then 'orders' else 'nowhere' end, '1', '[1]' from generate_series(1, 500) as n";
    session.run(insert).await;
    session.drained(Duration::from_secs(20)).await;
    let failed = "select count(*) from outbox_messages where failed_at is not null";
    assert_eq!(session.count(failed).await, 500);
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
    assert_eq!(site.log().matches("message failed").count(), 100);
    assert!(
        site.log().contains("failed=500"),
        "the summary counts all of them: {}",
        site.log()
    );
}

#[tokio::test]
async fn nothing_done_is_nothing_said() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, &broker.section("main"));
    site.migrate();
    let daemon = site.start().await;
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
    assert!(!site.log().contains("summary"), "{}", site.log());
}

/// Reads succeed and writes do not, four times a second: one condition, however often it seems to end.
#[tokio::test]
async fn a_database_that_refuses_writes_fills_no_journal() {
    let _guard = alone().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders"]).await;
    let database = Cluster::shared().database().await;
    let site = Site::with_lease(&database, "ttl = \"5s\"", &broker.section("main"));
    site.migrate();
    let mut daemon = site.start().await;
    let session = database.connect().await;
    let name = &database.name;
    let others = "select pg_terminate_backend(pid) from pg_stat_activity
                  where datname = current_database() and pid <> pg_backend_pid()";
    session
        .run(&format!("alter database {name} set default_transaction_read_only = on"))
        .await;
    session.run(others).await;
    session
        .run("insert into outbox_messages (topic, payload) values ('orders', '1')")
        .await;
    let told = |text: &str| site.log().matches(text).count();
    eventually("the log says so", Duration::from_secs(20), || async {
        (told("the lease could not be renewed") > 0).then_some(())
    })
    .await;
    let before = site.log().lines().count();
    throughout("few lines are written", Duration::from_secs(6), || async {
        site.log().lines().count() <= before + 12
    })
    .await;
    assert!(told("the database does not answer") <= 2, "{}", site.log());
    assert!(told("the lease could not be renewed") <= 2, "{}", site.log());
    session
        .run(&format!("alter database {name} reset default_transaction_read_only"))
        .await;
    session.run(others).await;
    session.drained(Duration::from_secs(30)).await;
    daemon.ready(Duration::from_secs(20)).await;
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

/// A line feed that begins a line of the log, a sequence that clears a terminal in one and in two bytes, a line turned around.
const FORGED: &str =
    "E'orders\\n2026-01-01T00:00:00.000000Z ERROR forged \\x1b[2J\\u009b2J\\u202e\\u2066\\u200f\\u2028\\u061c'";
const SHOWN: &str =
    r"orders\n2026-01-01T00:00:00.000000Z ERROR forged \u{1b}[2J\u{9b}2J\u{202e}\u{2066}\u{200f}\u{2028}\u{61c}";

/// What begins a line or steers a terminal, but for the ends of lines.
fn steering(text: &str) -> Option<char> {
    let steers = |c: &char| (c.is_control() && *c != '\n') || "\u{61c}\u{200f}\u{2028}\u{202e}\u{2066}".contains(*c);
    text.chars().find(steers)
}

#[tokio::test]
async fn a_topic_with_a_line_feed_forges_no_line_of_the_log() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    let database = Cluster::shared().database().await;
    let routes = "[relay]\nunrouted = \"fail\"\n[[routes]]\ntopic = \"no.such.topic\"\ntransport = \"main\"\n";
    let site = Site::new(&database, &(broker.section("main") + routes));
    site.migrate();
    let session = database.connect().await;
    let text = std::fs::read_to_string(site.config()).expect("the configuration");
    for (format, failed) in [("text", 1), ("json", 2)] {
        site.configure(&text.replace("format = \"text\"", &format!("format = \"{format}\"")));
        let before = site.log().len();
        let daemon = site.start().await;
        session
            .run(&format!(
                "insert into outbox_messages (topic, key, payload) values ({FORGED}, {FORGED}, '1')"
            ))
            .await;
        let count = "select count(*) from outbox_messages where failed_at is not null";
        eventually("it has failed", Duration::from_secs(20), || async {
            (session.count(count).await == failed).then_some(())
        })
        .await;
        assert!(daemon.terminate(Duration::from_secs(30)).await.success());
        let log = site.log().split_off(before);
        assert_eq!(steering(&log), None, "{log:?}");
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("message failed")).collect();
        assert_eq!(lines.len(), 1, "{log}");
        if format == "text" {
            assert!(lines[0].contains(&format!("topic={SHOWN} ")), "{}", lines[0]);
            assert!(!log.lines().any(|line| line.starts_with("2026-01-01T00")), "{log}");
        } else {
            let line: Value = serde_json::from_str(lines[0]).expect("JSON");
            let topic = line["topic"].as_str().expect("a topic");
            assert!(topic.starts_with("orders\n") && steering(topic).is_some(), "{line}");
        }
    }
}

#[tokio::test]
async fn a_topic_with_an_escape_sequence_steers_no_terminal() {
    let _guard = together().await;
    let site = command::Site::migrated();
    site.database.psql(&format!(
        "insert into outbox_messages (topic, key, payload, attempt, failed_at, last_error)
             values ({FORGED}, {FORGED}, to_jsonb({FORGED}::text), 2, now(), {FORGED})"
    ));
    let on_a_terminal = |verb: &str| {
        let mut terminal = Command::new("script");
        let run = format!("stty cols 200 rows 24; NO_COLOR=1 TERM=xterm exec {BINARY} {verb}");
        terminal
            .args(["-qec", &run, "/dev/null"])
            .env("OUTBOXD_CONFIG", site.file())
            .stdin(Stdio::null());
        let output = terminal
            .output()
            .expect("script is installed: apt-get install bsdutils");
        // A terminal ends its lines so.
        String::from_utf8(output.stdout).expect("UTF-8").replace("\r\n", "\n")
    };
    for verb in [
        "failed list",
        "failed list --json",
        "failed show 1",
        "failed show 1 --json",
        "failed export",
        "status",
        "wait 1",
    ] {
        let shown = on_a_terminal(verb);
        assert_eq!(steering(&shown), None, "{verb}: {shown:?}");
        if verb.ends_with("--json") || verb == "failed export" {
            let json: Value =
                serde_json::from_str(shown.trim_end()).unwrap_or_else(|error| panic!("{verb}: {error}: {shown}"));
            let topic = json.get(0).unwrap_or(&json)["topic"].as_str().expect("a topic");
            assert!(steering(topic).is_some(), "{verb} says the same: {topic:?}");
        }
    }
    assert!(on_a_terminal("failed show 1").contains(SHOWN));
    assert!(on_a_terminal("wait 1").contains(&format!("message 1 has failed: {SHOWN}")));
}
