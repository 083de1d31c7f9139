//! Ever so many destinations that take nothing, beside one that lives; and topics that no route matches.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::support::broker::{Broker, Kind};
use crate::support::daemon::{Daemon, Site};
use crate::support::nats::{NatsServer, programs};
use crate::support::postgres::{Cluster, Session};
use crate::support::processes::signal;
use crate::support::{alone, eventually, together};

const DEAD: u64 = 20_000;
const WATCHED: Duration = Duration::from_secs(20);

/// Seconds of processor time that the daemon has used.
fn cpu(daemon: &Daemon) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    // Fields 14 and 15 of proc(5), in hundredths of a second.
    let ticks = |index: usize| fields[index].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}

fn threads(daemon: &Daemon) -> usize {
    std::fs::read_dir(format!("/proc/{}/task", daemon.pid()))
        .unwrap()
        .count()
}

/// Counts the questions about streams that anybody asks.
async fn questions(server: &NatsServer, tasks: &mut JoinSet<()>) -> Arc<AtomicU64> {
    let client = async_nats::connect(server.url()).await.unwrap();
    let mut asked = client.subscribe("$JS.API.STREAM.NAMES").await.unwrap();
    client.flush().await.unwrap();
    let count = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&count);
    tasks.spawn(async move {
        let _connected = client;
        while asked.next().await.is_some() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    count
}

/// What the daemon used while a live topic's rows were sent beside [`DEAD`] dead ones, and what those took.
#[derive(Debug)]
struct Beside {
    p99_ms: i64,
    cores: f64,
    /// Questions a second.
    asked: f64,
    threads: usize,
    grown: u64,
}

/// Starts a daemon on rows of ever so many dead topics, and then writes a live one's. `asked` counts its questions.
async fn beside_the_dead(site: &Site, session: &Session, asked: &AtomicU64) -> (Daemon, Beside) {
    session
        .run(&format!(
            "insert into outbox_messages (topic, key, payload) select 'dead.' || n, 'k', '{{}}' from generate_series(1, {DEAD}) n"
        ))
        .await;
    let daemon = site.start().await;
    let refused = "outboxd_destination_paused";
    eventually("all that are shown are paused", Duration::from_secs(60), || async {
        let metrics = daemon.metrics().await;
        (metrics.keys().filter(|name| name.starts_with(refused)).count() >= 1_000).then_some(())
    })
    .await;
    // Whatever was read with them has been tried by then.
    let live = "insert into outbox_messages (topic, key, payload) values ('live', 'k', '{}')";
    session.run(live).await;
    let relayed = "select count(*) from outbox_messages where topic = 'live' and relayed_at is not null";
    eventually("the live one is relayed", Duration::from_secs(60), || async {
        (session.count(relayed).await == 1).then_some(())
    })
    .await;
    let (asked_before, cpu_before, memory) = (asked.load(Ordering::Relaxed), cpu(&daemon), daemon.peak_rss());
    let begun = std::time::Instant::now();
    while begun.elapsed() < WATCHED {
        session.run(live).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let took = begun.elapsed().as_secs_f64();
    let asked = asked.load(Ordering::Relaxed) - asked_before;
    let cores = (cpu(&daemon) - cpu_before) / took;
    eventually("the live ones are relayed", Duration::from_secs(10), || async {
        let waiting = "select count(*) from outbox_messages where topic = 'live' and relayed_at is null";
        (session.count(waiting).await == 0).then_some(())
    })
    .await;
    let p99 = "select (1000 * extract(epoch from percentile_disc(0.99) within group (order by relayed_at - inserted_at)))::bigint
        from (select * from outbox_messages where topic = 'live' order by seq offset 1) live";
    let beside = Beside {
        p99_ms: session.count(p99).await,
        cores,
        asked: asked as f64 / took,
        threads: threads(&daemon),
        grown: daemon.peak_rss() - memory,
    };
    println!("beside {DEAD} dead topics: {beside:?}");
    assert!(beside.asked < 20.0 && beside.cores < 0.3, "{beside:?}");
    assert!(beside.grown < 20 << 20, "{beside:?}");
    assert!(beside.p99_ms < 2_000, "{beside:?}");
    (daemon, beside)
}

/// Each was looked at twice a second and read again by itself: none of the others' rows was sent for minutes.
#[tokio::test]
async fn twenty_thousand_dead_subjects_harm_no_other() {
    let _guard = alone().await;
    for program in programs() {
        beside_dead_subjects(&NatsServer::of(&program, "")).await;
    }
}

async fn beside_dead_subjects(server: &NatsServer) {
    server.create_stream("live", &["live"]).await;
    let database = Cluster::shared().database().await;
    let site = Site::new(
        &database,
        &format!("[transports.main.nats]\nurl = \"{}\"\n", server.url()),
    );
    site.migrate();
    let session = database.connect().await;
    let mut tasks = JoinSet::new();
    let asked = questions(server, &mut tasks).await;
    let (daemon, beside) = beside_the_dead(&site, &session, &asked).await;
    assert!(beside.threads < 20, "{beside:?}");
    server.create_stream("dead", &["dead.>"]).await;
    session.drained(Duration::from_secs(10)).await;
    let counted = "select count(*) from outbox_messages where attempt > 1 or failed_at is not null";
    assert_eq!(session.count(counted).await, 0);
    assert!(daemon.terminate(Duration::from_secs(20)).await.success());
}

/// Each batch with one of them waited until librdkafka gave it up, and so did what else it carried.
#[tokio::test]
async fn twenty_thousand_dead_kafka_topics_harm_no_other() {
    let _guard = alone().await;
    let broker = Broker::start_with(Kind::Kafka, "auto.create.topics.enable=false");
    broker.prepare(&["live"]).await;
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, &broker.section("main"));
    site.migrate();
    let session = database.connect().await;
    let (daemon, beside) = beside_the_dead(&site, &session, &AtomicU64::new(0)).await;
    assert!(beside.threads < 40, "{beside:?}");
    let (back, rest): (Vec<String>, _) = (
        (1..=200).map(|n| format!("dead.{n}")).collect(),
        "split_part(topic, '.', 2)::int > 200",
    );
    session
        .run(&format!("delete from outbox_messages where topic <> 'live' and {rest}"))
        .await;
    broker
        .prepare(&back.iter().map(String::as_str).collect::<Vec<_>>())
        .await;
    session.drained(Duration::from_secs(20)).await;
    let counted = "select count(*) from outbox_messages where attempt > 1 or failed_at is not null";
    assert_eq!(session.count(counted).await, 0);
    assert!(daemon.terminate(Duration::from_secs(20)).await.success());
}

/// A topic that is made later takes its messages, whatever outages count as: nobody looks at it then, and each was refused for
/// what had been known before.
#[tokio::test]
async fn a_topic_that_is_made_later_is_used_where_outages_count() {
    let _guard = together().await;
    let broker = Broker::start_with(Kind::Kafka, "auto.create.topics.enable=false");
    let database = Cluster::shared().database().await;
    let counting =
        "[relay]\nmax_attempts = 100\ncount_outages = true\nbackoff_min = \"200ms\"\nbackoff_max = \"500ms\"\n";
    let site = Site::new(&database, &(broker.section("main") + counting));
    site.migrate();
    let session = database.connect().await;
    let daemon = site.start().await;
    session
        .run("insert into outbox_messages (topic, key, payload) values ('later', 'k', '1')")
        .await;
    eventually("it is refused", Duration::from_secs(20), || async {
        (session
            .count("select count(*) from outbox_messages where attempt > 2")
            .await
            == 1)
            .then_some(())
    })
    .await;
    broker.prepare(&["later"]).await;
    session.drained(Duration::from_secs(20)).await;
    assert!(daemon.terminate(Duration::from_secs(20)).await.success());
}

/// Where brokers make topics, one that is not there is made by the first message to it, and nothing pauses.
#[tokio::test]
async fn a_topic_that_the_broker_makes_is_made() {
    let _guard = together().await;
    let broker = Broker::start_with(Kind::Kafka, "auto.create.topics.enable=true");
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, &broker.section("main"));
    site.migrate();
    let session = database.connect().await;
    let daemon = site.start().await;
    session
        .run("insert into outbox_messages (topic, key, payload) select 'made.' || n % 20, 'k', '1' from generate_series(1, 200) n")
        .await;
    session.drained(Duration::from_secs(30)).await;
    let counted = "select count(*) from outbox_messages where attempt > 1 or failed_at is not null";
    assert_eq!(session.count(counted).await, 0);
    assert!(!site.log().contains("paused"), "{}", site.log());
    assert!(daemon.terminate(Duration::from_secs(20)).await.success());
}

async fn waiting_topics(daemon: &Daemon) -> Vec<String> {
    let (_, status) = daemon.get("/api/v1/status").await.expect("it answers");
    let status: Value = serde_json::from_str(&status).unwrap();
    let paused = status["paused_destinations"].as_array().unwrap().clone();
    let nowhere = paused.iter().filter(|one| one["transport"] == "none");
    nowhere
        .map(|one| one["destination"].as_str().unwrap().to_owned())
        .collect()
}

/// A release that writes a new topic before the route for it is there: half of its rows failed for good.
#[tokio::test]
async fn a_topic_without_a_route_waits_for_one() {
    let _guard = together().await;
    let server = NatsServer::shared();
    let database = Cluster::shared().database().await;
    let (old, new) = (format!("old-{}", database.name), format!("new-{}", database.name));
    server.create_stream(&old, &[&old]).await;
    server.create_stream(&new, &[&new]).await;
    let head = format!("[transports.main.nats]\nurl = \"{}\"\n", server.url());
    let route = |topic: &str| format!("[[routes]]\ntopic = \"{topic}\"\ntransport = \"main\"\n");
    let site = Site::new(&database, &(head.clone() + &route(&old)));
    site.migrate();
    let session = database.connect().await;
    let daemon = site.start().await;
    let insert = format!(
        "insert into outbox_messages (topic, key, payload)
         select case when n % 2 = 0 then '{old}' else '{new}' end, 'k' || n % 7, to_jsonb(n) from generate_series(1, 200) n"
    );
    session.run(&insert).await;
    let relayed = "select count(*) from outbox_messages where relayed_at is not null";
    eventually("the others are relayed", Duration::from_secs(20), || async {
        (session.count(relayed).await == 100).then_some(())
    })
    .await;
    eventually("the topic is named", Duration::from_secs(20), || async {
        (waiting_topics(&daemon).await == [new.clone()]).then_some(())
    })
    .await;
    assert!(site.log().contains("no route matches topic"), "{}", site.log());
    let shown = site.succeed(&["status"]);
    assert!(shown.contains(&format!("no route: topic {new}\n")), "{shown}");
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    let config = std::fs::read_to_string(site.config()).unwrap();
    site.configure(&(config + &route(&new)));
    signal(daemon.pid(), "HUP");
    session.drained(Duration::from_secs(20)).await;
    let counted = "select count(*) from outbox_messages where attempt > 1 or failed_at is not null";
    assert_eq!(session.count(counted).await, 0);
    eventually("it is named no more", Duration::from_secs(10), || async {
        waiting_topics(&daemon).await.is_empty().then_some(())
    })
    .await;
    assert!(daemon.terminate(Duration::from_secs(20)).await.success());
}
