//! A paused topic: its messages wait, everything else goes on, and on resume they arrive in order.

use std::time::Duration;

use serde_json::Value;

use crate::support::broker::{Broker, Kind};
use crate::support::chaos::judge;
use crate::support::daemon::Site;
use crate::support::postgres::Cluster;
use crate::support::rows::{insert, relayed, until_relayed};
use crate::support::{eventually, throughout, together};

const SOON: Duration = Duration::from_secs(20);

fn status(site: &Site) -> Value {
    serde_json::from_str(&site.succeed(&["status", "--json"])).unwrap()
}

#[tokio::test]
async fn a_paused_topic_waits_and_arrives_in_order_on_resume() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["held", "free"]).await;
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, &broker.section("main"));
    let text = std::fs::read_to_string(site.config()).unwrap();
    site.configure(&text.replace("[http]\n", "[http]\nready_max_age = \"1s\"\n"));
    site.migrate();
    let daemon = site.start().await;
    let session = database.connect().await;
    insert(&session, "held", 100).await;
    until_relayed(&session, "held", 100, SOON).await;

    assert_eq!(site.succeed(&["pause", "held"]), "held: paused\n");
    assert_eq!(site.succeed(&["pause", "held"]), "held: paused already\n");
    // Instances hear of it, and finish what is on its way.
    tokio::time::sleep(Duration::from_secs(1)).await;
    insert(&session, "held", 3_000).await;
    insert(&session, "free", 500).await;
    until_relayed(&session, "free", 500, SOON).await;
    throughout("the paused topic waits", Duration::from_secs(6), || async {
        relayed(&session, "held").await == 100
    })
    .await;

    // Nobody is called at night because of it: its messages are not due.
    let (code, body) = daemon.get("/readyz").await.unwrap();
    assert_eq!(code, 200, "{body}");
    let found = status(&site);
    assert_eq!(
        (&found["pending"]["due"], &found["pending"]["held"]),
        (&0.into(), &3_000.into()),
        "{found}"
    );
    assert_eq!(found["paused_topics"][0]["topic"], "held");
    assert!(site.succeed(&["status"]).contains("PAUSED TOPIC"));

    eventually(
        "the dashboard's figures name the topic",
        Duration::from_secs(10),
        || async {
            let (_, summary) = daemon.get("/api/v1/summary").await?;
            let summary: Value = serde_json::from_str(&summary).ok()?;
            (summary["paused_topics"][0]["topic"] == "held").then_some(())
        },
    )
    .await;

    // A restart changes nothing.
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
    let daemon = site.start().await;
    insert(&session, "held", 500).await;
    insert(&session, "free", 500).await;
    until_relayed(&session, "free", 1_000, SOON).await;
    assert_eq!(relayed(&session, "held").await, 100);

    assert_eq!(site.succeed(&["resume", "--all"]), "held: resumed\n");
    assert_eq!(site.succeed(&["resume", "held"]), "held: not paused\n");
    insert(&session, "held", 500).await;
    until_relayed(&session, "held", 4_100, SOON).await;
    let verdict = judge(&database, &broker, &["held", "free"]).await;
    verdict.assert_nothing_lost();
    verdict.assert_ordered();
    verdict.assert_duplicates_within(0);
    let audit = "select count(*) from outboxd_audit where action in ('pause', 'resume') and count = 1
        and filter = '{\"topics\": [\"held\"]}' and who <> ''";
    assert_eq!(session.count(audit).await, 2);
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

#[tokio::test]
async fn a_route_paused_in_the_configuration_waits_for_a_start_without_it() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders.*", "free"]).await;
    let database = Cluster::shared().database().await;
    let routes = "[[routes]]\ntopic = \"orders.*\"\npaused = true\n[[routes]]\ntopic = \"*\"\n";
    let site = Site::new(&database, &(broker.section("main") + routes));
    site.migrate();
    let daemon = site.start().await;
    let session = database.connect().await;
    insert(&session, "orders.new", 300).await;
    insert(&session, "free", 300).await;
    until_relayed(&session, "free", 300, SOON).await;
    assert_eq!(relayed(&session, "orders.new").await, 0);
    let found = status(&site);
    assert_eq!(
        (&found["pending"]["due"], &found["pending"]["held"]),
        (&0.into(), &300.into()),
        "{found}"
    );
    assert_eq!(found["paused_topics"][0]["topic"], "orders.new");
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
    let text = std::fs::read_to_string(site.config()).unwrap();
    site.configure(&text.replace("paused = true\n", ""));
    let daemon = site.start().await;
    until_relayed(&session, "orders.new", 300, SOON).await;
    judge(&database, &broker, &["orders.new", "free"])
        .await
        .assert_nothing_lost();
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

#[tokio::test]
async fn a_topic_that_no_route_takes_is_not_paused() {
    let database = Cluster::shared().database().await;
    let routes = "[transports.out.stdout]\n[[routes]]\ntopic = \"orders.*\"\n";
    let site = Site::new(&database, routes);
    site.migrate();
    let called = site.outboxd(&["pause", "order.created"]);
    assert_eq!(called.status.code(), Some(64));
    let error = String::from_utf8(called.stderr).unwrap();
    assert!(error.contains("no route matches topic \"order.created\""), "{error}");
    assert_eq!(site.succeed(&["resume", "--all"]), "no topic is paused\n");
}
