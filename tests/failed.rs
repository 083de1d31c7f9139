//! Bulk commands on failed messages as an operator meets them: on a terminal, interrupted, beside a running daemon.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::broker::{Broker, Kind};
use crate::support::chaos::judge;
use crate::support::command::Site;
use crate::support::daemon::{self, BINARY};
use crate::support::postgres::{Cluster, try_session};
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
    let waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
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
