//! The `file` transport as a service meets its file: rotated under load, on a full disk, in a place that is not there.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::support::daemon::{BINARY, Site};
use crate::support::postgres::Cluster;
use crate::support::processes::signal;
use crate::support::rows::{insert, until_relayed};
use crate::support::{eventually, together};

const SOON: Duration = Duration::from_secs(30);

/// An installation that archives into a folder beside its configuration.
async fn archiving() -> (Site, crate::support::postgres::Session, PathBuf) {
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, "");
    let file = site.config().with_file_name("outbox.jsonl");
    let section = format!("[transports.archive.file]\npath = {file:?}\n");
    let text = std::fs::read_to_string(site.config()).unwrap();
    site.configure(&(text + &section));
    site.migrate();
    (site, database.connect().await, file)
}

/// The whole lines of `files`, and how many are not whole.
fn lines(files: &[PathBuf]) -> (Vec<Value>, usize) {
    let mut whole = Vec::new();
    let mut torn = 0;
    for file in files {
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "the end of {}", file.display());
        for line in text.lines() {
            match serde_json::from_str(line) {
                Ok(line) => whole.push(line),
                Err(_) => torn += 1,
            }
        }
    }
    (whole, torn)
}

fn assert_in_order(lines: &[Value], count: usize) {
    assert_eq!(lines.len(), count);
    let mut last: HashMap<&str, i64> = HashMap::new();
    for line in lines {
        let n = line["payload"]["n"].as_i64().unwrap();
        let before = last.insert(line["key"].as_str().unwrap(), n);
        assert!(before.is_none_or(|before| before < n), "{before:?} before {n}");
    }
}

#[tokio::test]
async fn a_file_rotated_under_load_gets_every_message_once_and_in_order() {
    let _guard = together().await;
    let (site, session, file) = archiving().await;
    let daemon = site.start().await;
    insert(&session, "orders", 20_000).await;
    let mut files = Vec::new();
    for number in 1..=5 {
        eventually("there is something to rotate", SOON, || async {
            file.metadata().is_ok_and(|found| found.len() > 0).then_some(())
        })
        .await;
        let rotated = file.with_extension(format!("jsonl.{number}"));
        std::fs::rename(&file, &rotated).unwrap();
        files.push(rotated);
        // As logrotate does it, every second time: without, the next batch goes to a new file all the same.
        if number % 2 == 0 {
            signal(daemon.pid(), "HUP");
        }
        insert(&session, "orders.more", 1).await;
    }
    until_relayed(&session, "orders", 20_000, SOON).await;
    until_relayed(&session, "orders.more", 5, SOON).await;
    if file.exists() {
        files.push(file.clone());
    }
    let (whole, torn) = lines(&files);
    assert_eq!(torn, 0);
    let orders: Vec<Value> = whole.into_iter().filter(|line| line["topic"] == "orders").collect();
    assert_in_order(&orders, 20_000);
    let mode = std::fs::metadata(&files[0]).unwrap().permissions().mode();
    assert_eq!(mode & 0o137, 0, "{mode:o}");
    assert!(daemon.terminate(SOON).await.success());
}

/// `ulimit -f` is a disk that is full for this file alone: a write ends half-way, and the next one not at all.
#[tokio::test]
async fn a_full_disk_counts_no_attempt_and_leaves_no_half_line() {
    let _guard = together().await;
    let (mut site, session, file) = archiving().await;
    let script = site.config().with_file_name("limited");
    std::fs::write(
        &script,
        format!("#!/bin/sh\ntrap '' XFSZ\nulimit -f 1000\nexec {BINARY} \"$@\"\n"),
    )
    .unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    site.install(script);
    let daemon = site.start().await;
    insert(&session, "orders", 10_000).await;
    let status = eventually("somebody says that there is no room", SOON, || async {
        let status = site.succeed(&["status", "--json"]);
        let (_, ready) = daemon.get("/api/v1/summary").await?;
        (status + &ready).contains("File too large").then_some(ready)
    })
    .await;
    assert!(status.contains(file.to_str().unwrap()), "{status}");
    let log = site.log();
    let counted = "select count(*) from outbox_messages where attempt > 1 or failed_at is not null";
    assert_eq!(session.count(counted).await, 0);
    let mut files = Vec::new();
    for number in 1.. {
        let settled = session
            .count("select count(*) from outbox_messages where relayed_at is null")
            .await
            == 0;
        if settled {
            break;
        }
        let full = file.metadata().is_ok_and(|found| found.len() > 400_000);
        if full {
            let rotated = file.with_extension(format!("jsonl.{number}"));
            std::fs::rename(&file, &rotated).unwrap();
            files.push(rotated);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(number < 600, "it goes on once there is room: {log}");
    }
    files.push(file);
    let (whole, torn) = lines(&files);
    assert_eq!(torn, 0);
    assert_in_order(&whole, 10_000);
    assert_eq!(session.count(counted).await, 0);
}

#[tokio::test]
async fn a_place_that_is_not_there_is_named_by_the_check_and_waited_for() {
    let _guard = together().await;
    let (site, session, file) = archiving().await;
    let folder = file.with_file_name("not-yet");
    let text = std::fs::read_to_string(site.config()).unwrap();
    let inside = folder.join("outbox.jsonl");
    site.configure(&text.replace(file.to_str().unwrap(), inside.to_str().unwrap()));
    let found = String::from_utf8(site.outboxd(&["check", "--connect"]).stdout).unwrap();
    let flat = found.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains("make its directory"), "{found}");
    let daemon = site.start().await;
    insert(&session, "orders", 100).await;
    eventually("the log names the place", SOON, || async {
        site.log().contains(inside.to_str().unwrap()).then_some(())
    })
    .await;
    std::fs::create_dir(&folder).unwrap();
    until_relayed(&session, "orders", 100, SOON).await;
    assert_in_order(&lines(&[inside]).0, 100);
    let found = site.succeed(&["check", "--connect"]);
    assert!(found.contains("transports.archive: file answers"), "{found}");
    assert!(daemon.terminate(SOON).await.success());
}

#[tokio::test]
async fn a_path_that_depends_on_where_one_stands_is_refused() {
    let _guard = together().await;
    let (site, _session, file) = archiving().await;
    let text = std::fs::read_to_string(site.config()).unwrap();
    site.configure(&text.replace(file.to_str().unwrap(), "outbox.jsonl"));
    let refused = site.outboxd(&["check"]);
    assert_eq!(refused.status.code(), Some(64));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        said.contains("transports.archive.file.path: \"outbox.jsonl\""),
        "{said}"
    );
}
