//! `outboxd wait`, as a script uses it.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::command::{self, Called, finish};
use crate::support::daemon::{BINARY, Daemon, Site};
use crate::support::postgres::{Cluster, Session};
use crate::support::together;

/// A daemon that writes to standard output, and knows the topics `orders...` only.
async fn scene(outbox: &str) -> (Site, Daemon, Session) {
    let database = Cluster::shared().database().await;
    let rest = format!("[outbox]\n{outbox}\n[transports.main.stdout]\n[[routes]]\ntopic = \"orders*\"\n");
    let site = Site::new(&database, &rest);
    site.migrate();
    let daemon = site.start().await;
    (site, daemon, database.connect().await)
}

fn call(site: &Site, args: &[&str]) -> Called {
    finish(site.outboxd(args))
}

fn enqueue(site: &Site, topic: &str) -> String {
    let mut command = Command::new(BINARY);
    command.args(["enqueue", topic, "--config"]).arg(site.config());
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    std::io::Write::write_all(&mut child.stdin.take().expect("piped"), b"{}").expect("it reads");
    finish(child.wait_with_output().expect("it ends"))
        .done()
        .trim()
        .to_owned()
}

#[tokio::test]
async fn wait_ends_when_messages_are_relayed_or_failed() {
    let _guard = together().await;
    let (site, daemon, session) = scene("[relay]\nunrouted = \"fail\"\n").await;
    let (one, two) = (enqueue(&site, "orders.a"), enqueue(&site, "orders.b"));
    assert_eq!(
        call(&site, &["wait", "--id", &one, &two]).done(),
        "relayed 2 messages\n"
    );
    assert_eq!(
        call(&site, &["wait", "1", "--timeout", "5s"]).done(),
        "relayed 1 message\n",
        "relayed long before"
    );
    assert_eq!(call(&site, &["wait"]).done(), "");

    let lost = enqueue(&site, "nowhere");
    let line = call(&site, &["wait", &one, &lost]).refused(1).to_owned();
    assert!(
        line.contains(&format!("message {lost} has failed: ")) && line.contains("no route"),
        "{line}"
    );
    assert_eq!(
        call(&site, &["wait", "--topic", "nowhere"]).done(),
        "",
        "a failed message is not pending"
    );

    session
        .run(
            "insert into outbox_messages (topic, payload, available_at) values ('orders', '1', now() + interval '1 h')",
        )
        .await;
    let line = call(&site, &["wait", "4", "--timeout", "300ms"]).refused(2).to_owned();
    assert!(
        line.contains("timed out after 300ms: message 4 is still pending"),
        "{line}"
    );
    assert_eq!(call(&site, &["wait"]).done(), "", "a delayed message is not due");

    for unknown in ["00000000-0000-0000-0000-000000000001", "99"] {
        assert!(
            call(&site, &["wait", unknown]).refused(1).contains(unknown),
            "{unknown}"
        );
    }
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
    let waits = enqueue(&site, "orders.c");
    let line = call(&site, &["wait", "--timeout", "100ms"]).refused(2).to_owned();
    assert!(line.contains("still pending"), "{line}");
    assert_eq!(
        call(&site, &["wait", "--topic", "orders.z", "--timeout", "100ms"]).done(),
        ""
    );
    assert_eq!(call(&site, &["wait", &waits, "1", "--timeout", "0s"]).code, 2);
}

#[tokio::test]
async fn where_relayed_rows_are_deleted_gone_is_relayed() {
    let _guard = together().await;
    let (site, daemon, session) = scene("on_relayed = \"delete\"").await;
    let one = enqueue(&site, "orders.a");
    assert_eq!(call(&site, &["wait", &one]).done(), "relayed 1 message\n");
    assert_eq!(session.count("select count(*) from outbox_messages").await, 0);
    assert_eq!(call(&site, &["wait", "1", &one]).done(), "relayed 2 messages\n");
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

/// A server that takes connections and says nothing.
#[test]
fn a_silent_database_ends_the_wait_in_time() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://nobody@{}/none", silent.local_addr().unwrap());
    let site = command::Site::empty();
    let mut command = site.command(&["wait", "--timeout", "100ms"]);
    let called = finish(command.env("OUTBOXD__DATABASE__URL", url).output().unwrap());
    assert!(
        called
            .refused(2)
            .contains("timed out after 100ms: the database does not answer")
    );
}

/// An id among a hundred thousand newer rows, pending or failed, is found by the small indexes.
#[test]
fn an_old_message_that_waits_is_found() {
    let site = command::Site::migrated();
    site.one(
        "insert into outbox_messages (topic, payload, failed_at, last_error) values ('t', '1', now(), 'too large');
         insert into outbox_messages (topic, payload) values ('t', '1');
         insert into outbox_messages (topic, payload, relayed_at) select 't', '1', now() from generate_series(1, 100001)",
    );
    let id = |seq: i32| site.one(&format!("select id from outbox_messages where seq = {seq}"));
    assert!(
        site.call(&["wait", &id(1)])
            .refused(1)
            .contains("has failed: too large")
    );
    assert!(
        site.call(&["wait", &id(2), "--timeout", "50ms"])
            .refused(2)
            .contains("is still pending")
    );
    let relayed = id(3);
    assert_eq!(site.call(&["wait", "3"]).done(), "relayed 1 message\n");
    site.one(
        "insert into outbox_messages (topic, payload, relayed_at) select 't', '1', now() from generate_series(1, 2)",
    );
    assert!(
        site.call(&["wait", &relayed])
            .refused(1)
            .contains("it may have been relayed long ago")
    );
}
