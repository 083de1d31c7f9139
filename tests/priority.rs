//! Rows with a priority go before everything that is in no batch yet; order holds within one priority.

use std::time::{Duration, Instant};

use crate::support::broker::{Broker, Kind};
use crate::support::chaos::judge;
use crate::support::daemon::{Daemon, Site};
use crate::support::postgres::{Cluster, Database, Session};
use crate::support::rows::{insert, until_relayed};
use crate::support::{alone, eventually, together};

/// Rows that wait: `OUTBOXD_BACKLOG`, else 300,000.
fn backlog() -> usize {
    let given = std::env::var("OUTBOXD_BACKLOG").ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(300_000)
}

const LIMITED: &str = "[[routes]]\ntopic = \"orders\"\nrate = 1000\n[[routes]]\ntopic = \"*\"\n";

struct Scene {
    broker: Broker,
    database: Database,
    session: Session,
    site: Site,
}

async fn scene(kind: Kind, rest: &str) -> (Scene, Daemon) {
    let broker = Broker::start(kind);
    broker.prepare(&["orders", "mail"]).await;
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, &(broker.section("main") + rest));
    site.migrate();
    let daemon = site.start().await;
    let session = database.connect().await;
    let scene = Scene {
        broker,
        database,
        session,
        site,
    };
    (scene, daemon)
}

impl Scene {
    async fn urgent(&self, topic: &str, priority: i32) -> i64 {
        let insert = format!(
            "insert into outbox_messages (topic, key, payload, priority)
             values ('{topic}', 'k7', '1', {priority}) returning seq"
        );
        self.session.count(&insert).await
    }

    /// From its insert until it is marked.
    async fn until_marked(&self, seq: i64) {
        let query = format!("select count(*) from outbox_messages where seq = {seq} and relayed_at is not null");
        eventually("the urgent row is relayed", Duration::from_secs(20), || async {
            (self.session.count(&query).await == 1).then_some(())
        })
        .await;
    }

    async fn relayed(&self) -> i64 {
        let query = "select count(*) from outbox_messages where relayed_at is not null";
        self.session.count(query).await
    }
}

async fn urgent_rows_pass_a_backlog(kind: Kind) {
    let _guard = alone().await;
    let (scene, daemon) = scene(kind, LIMITED).await;
    let rows = backlog();
    let fill = format!(
        "insert into outbox_messages (topic, key, payload) select 'orders', 'k' || n % 1000, '0'
         from generate_series(1, {rows}) as n"
    );
    scene.session.run(&fill).await;
    eventually("rows flow", Duration::from_secs(20), || async {
        (scene.relayed().await > 1_000).then_some(())
    })
    .await;
    let (mut took, mut passed) = (Vec::new(), 0);
    for number in 0..20 {
        let (started, before) = (Instant::now(), scene.relayed().await);
        let seq = scene.urgent("orders", 1 + number % 3).await;
        scene.until_marked(seq).await;
        took.push(started.elapsed());
        passed = passed.max(scene.relayed().await - before);
    }
    took.sort();
    let (median, worst) = (took[10], took[19]);
    let left = i64::try_from(rows).unwrap() - scene.relayed().await;
    // Marked is later than at the broker: it is seen by polls 20 ms apart, and written up to 10 ms after the answer.
    println!(
        "20 urgent rows before {left} of {rows}: until marked {median:?}, at worst {worst:?}; {passed} went before one at most"
    );
    assert!(left > i64::try_from(rows).unwrap() / 2, "there was a backlog");
    // At 1,000 a second these are two seconds, on a machine that does nothing else a tenth of one.
    assert!(passed < 2_000, "{passed} others went before an urgent row");
    drop(daemon);
}

#[tokio::test]
async fn urgent_rows_pass_a_backlog_to_nats() {
    urgent_rows_pass_a_backlog(Kind::Nats).await;
}

#[tokio::test]
async fn urgent_rows_pass_a_backlog_to_kafka() {
    urgent_rows_pass_a_backlog(Kind::Kafka).await;
}

/// Thousands of urgent rows that cannot be sent stand before one that can.
#[tokio::test]
async fn urgent_rows_of_a_paused_topic_hold_up_no_other() {
    let _guard = together().await;
    let (scene, daemon) = scene(Kind::Nats, "[relay]\nmax_in_flight = 500\nbatch_size = 100\n").await;
    scene.site.succeed(&["pause", "orders"]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let fill = "insert into outbox_messages (topic, key, payload, priority)
        select 'orders', 'k' || n % 100, '0', 9 from generate_series(1, 5000) as n";
    scene.session.run(fill).await;
    // The relay is behind, for as long as it is limited.
    let config = std::fs::read_to_string(scene.site.config()).unwrap();
    scene
        .site
        .configure(&(config + "[[routes]]\ntopic = \"mail\"\nrate = 200\n[[routes]]\ntopic = \"*\"\n"));
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
    let daemon = scene.site.start().await;
    insert(&scene.session, "mail", 20_000).await;
    eventually("rows flow", Duration::from_secs(20), || async {
        (scene.relayed().await > 100).then_some(())
    })
    .await;
    let before = scene.relayed().await;
    let seq = scene.urgent("mail", 1).await;
    scene.until_marked(seq).await;
    let passed = scene.relayed().await - before;
    assert!(passed < 1_000, "{passed} others went before it");
    scene.site.succeed(&["resume", "orders"]);
    until_relayed(&scene.session, "orders", 5_000, Duration::from_secs(60)).await;
    drop(daemon);
}

async fn order_within_a_priority_survives_kills(kind: Kind) {
    let _guard = together().await;
    let rest = "[relay]\nmax_in_flight = 1000\nbatch_size = 100\n[[routes]]\ntopic = \"*\"\nrate = 4000\n";
    let (scene, mut daemon) = scene(kind, rest).await;
    let mut kills = 0;
    for part in 0..60 {
        // One writer: what it commits later was inserted later.
        let insert = "insert into outbox_messages (topic, key, payload, priority)
            select 'orders', 'k' || n % 40, to_jsonb(n), case when random() < 0.3 then (1 + random() * 2)::int else 0 end
            from generate_series(1, 500) as n";
        scene.session.run(insert).await;
        if part % 10 == 5 {
            daemon.kill9();
            daemon = scene.site.start().await;
            kills += 1;
        }
    }
    scene.session.drained(Duration::from_secs(120)).await;
    let verdict = judge(&scene.database, &scene.broker, &["orders"]).await;
    println!("priorities on {kind:?}: {verdict}, {kills} kills");
    verdict.assert_nothing_lost();
    verdict.assert_ordered();
    verdict.assert_duplicates_within(kills * 1_000);
    let overtaken =
        "select count(*) from outbox_messages u where u.priority > 0 and exists (select from outbox_messages m
        where m.priority = 0 and m.seq < u.seq and m.seq > u.seq - 2000 and m.relayed_at > u.relayed_at)";
    let overtaken = scene.session.count(overtaken).await;
    assert!(overtaken > 100, "{overtaken} have overtaken others");
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

#[tokio::test]
async fn order_within_a_priority_survives_kills_on_nats() {
    order_within_a_priority_survives_kills(Kind::Nats).await;
}

#[tokio::test]
async fn order_within_a_priority_survives_kills_on_kafka() {
    order_within_a_priority_survives_kills(Kind::Kafka).await;
}
