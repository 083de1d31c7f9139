//! P8, loud: a misconfiguration stops the start with exit code 64 and one line that names the key; no progress while
//! rows are due fails readiness.

use std::process::Output;
use std::time::Duration;

use crate::support::broker::{Broker, Kind};
use crate::support::daemon::Site;
use crate::support::postgres::{Cluster, Database};
use crate::support::{eventually, together};

/// Runs `outboxd run` against `site` and expects it to refuse: code 64, one line on stderr with every one of `words`.
async fn assert_refused(site: &Site, words: &[&str]) {
    let mut daemon = site.launch();
    let status = daemon.ended(Duration::from_secs(20)).await;
    let said = site.log();
    let expected = format!("the daemon ended with {status}, said:\n{said}");
    assert_eq!(status.code(), Some(64), "{expected}");
    let last = said.lines().last().unwrap_or_default();
    for word in words {
        assert!(last.contains(word), "{word:?} is missing in the last line: {expected}");
    }
}

/// Whether it was exit code 64 and one line on stderr with every one of `words`; else what it was.
fn refusal(output: &Output, words: &[&str]) -> Result<(), String> {
    let said = String::from_utf8_lossy(&output.stderr);
    let is_one_line = said.lines().count() == 1;
    if output.status.code() == Some(64) && is_one_line && words.iter().all(|word| said.contains(word)) {
        return Ok(());
    }
    Err(format!("{}, {said:?}", output.status))
}

const NOWHERE: &str = "[transports.main.nats]\nurl = \"nats://127.0.0.1:1\"\n";

async fn migrated() -> (Database, Site) {
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, NOWHERE);
    site.migrate();
    (database, site)
}

#[tokio::test]
async fn a_missing_table_is_named() {
    let _guard = together().await;
    let site = Site::new(&Cluster::shared().database().await, NOWHERE);
    assert_refused(&site, &["outbox.table", "outbox_messages", "migrate"]).await;
}

#[tokio::test]
async fn a_missing_column_is_named() {
    let _guard = together().await;
    let (database, site) = migrated().await;
    database
        .connect()
        .await
        .run("alter table outbox_messages drop column payload")
        .await;
    assert_refused(&site, &["payload"]).await;
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let _guard = together().await;
    let (_database, site) = migrated().await;
    let taken = std::net::TcpListener::bind(("127.0.0.1", site.port())).expect("the port is still free");
    assert_refused(&site, &["http.listen", &site.port().to_string()]).await;
    drop(taken);
}

#[tokio::test]
async fn a_second_process_of_one_instance_is_refused() {
    let _guard = together().await;
    let (_database, site) = migrated().await;
    let daemon = site.start().await;
    // The first one has the port too, so the second is told to use none.
    let text = std::fs::read_to_string(site.config()).expect("the configuration");
    let listen = format!("listen = \"127.0.0.1:{}\"", site.port());
    site.configure(&text.replace(&listen, "listen = \"\""));
    assert_refused(&site, &["lease.instance"]).await;
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

#[test]
fn wrong_keys_and_values_are_named() {
    let database = "[database]\nurl = \"postgres://postgres@127.0.0.1:1/none\"\n";
    let mut wrong = Vec::new();
    for (text, words) in [
        (
            format!("{database}{NOWHERE}[relay]\nbatch_sise = 5\n"),
            vec!["batch_sise"],
        ),
        (
            format!("{database}{NOWHERE}[relay]\nbackoff_min = \"soon\"\n"),
            vec!["backoff_min"],
        ),
        (
            format!("{database}{NOWHERE}[relay]\nmax_in_flight = 0\n"),
            vec!["relay.max_in_flight"],
        ),
        (
            format!("{database}{NOWHERE}[relay]\nmax_in_flight_bytes = \"many\"\n"),
            vec!["max_in_flight_bytes"],
        ),
        (
            format!("{database}{NOWHERE}[outbox]\nlanes = 0\n"),
            vec!["outbox.lanes"],
        ),
        (
            format!("{database}{NOWHERE}[outbox]\non_relayed = \"burn\"\n"),
            vec!["on_relayed"],
        ),
        (
            format!("{database}{NOWHERE}[lease]\nttl = \"10ms\"\n"),
            vec!["lease.ttl"],
        ),
        (
            format!("{database}{NOWHERE}[http]\nlisten = \"here\"\n"),
            vec!["http.listen"],
        ),
        (
            format!("[database]\nurl = \"postgres://[\"\n{NOWHERE}"),
            vec!["database.url"],
        ),
        (database.to_owned(), vec!["transports"]),
        (
            format!("{database}[transports.main.pigeon]\nurl = \"x\"\n"),
            vec!["pigeon"],
        ),
        (
            format!("{database}[transports.main.nats]\nurl = \"http://x\"\n"),
            vec!["transports.main.nats.url"],
        ),
        (
            format!("{database}{NOWHERE}[[routes]]\ntopic = \"*\"\ntransport = \"other\"\n"),
            vec!["routes", "other"],
        ),
        (
            format!("{database}{NOWHERE}[[routes]]\ntopic = \"[\"\ntransport = \"main\"\n"),
            vec!["routes", "topic"],
        ),
        ("this is no toml".to_owned(), vec!["outboxd.toml"]),
    ] {
        let site = Site::bare();
        site.configure(&text);
        for verb in ["check", "run"] {
            if let Err(complaint) = refusal(&site.outboxd(&[verb]), &words) {
                wrong.push(format!("outboxd {verb} with\n{text}expected {words:?}: {complaint}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_missing_configuration_file_is_named() {
    refusal(&Site::bare().outboxd(&["run"]), &["outboxd.toml"]).expect("one line, exit code 64");
}

/// A row that holds a lock on the outbox keeps everything from moving: readiness says so, and comes back by itself.
#[tokio::test]
async fn no_progress_while_rows_are_due_fails_readiness() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders"]).await;
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, &broker.section("main"));
    let text = std::fs::read_to_string(site.config()).expect("the configuration");
    site.configure(&text.replace("[http]\n", "[http]\nready_max_age = \"2s\"\n"));
    site.migrate();
    let mut daemon = site.start().await;
    broker.kill9().await;
    let session = database.connect().await;
    session
        .run("insert into outbox_messages (topic, payload) values ('orders', '1')")
        .await;
    let reasons = eventually("/readyz answers 503", Duration::from_secs(20), || async {
        daemon
            .get("/readyz")
            .await
            .filter(|(status, _)| *status == 503)
            .map(|(_, body)| body)
    })
    .await;
    println!("{reasons}");
    serde_json::from_str::<serde_json::Value>(&reasons).expect("the reasons are JSON");
    assert_eq!(
        daemon.get("/livez").await.map(|(status, _)| status),
        Some(200),
        "it lives all the same"
    );
    broker.bring_back();
    daemon.ready(Duration::from_secs(20)).await;
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}
