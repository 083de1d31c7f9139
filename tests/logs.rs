//! The log as an operator's tools read it: one JSON object a line, lasting conditions said once, a summary of what was done.

use std::time::Duration;

use serde_json::Value;

use crate::support::broker::{Broker, Kind};
use crate::support::daemon::Site;
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
