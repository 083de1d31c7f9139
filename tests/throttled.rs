//! P2 and P4 where a broker takes less than is offered: slow is not dead. Nothing is counted, nothing is sent twice, each key
//! stays in order, and it goes at the broker's pace. And a broker that answers nothing holds up no stop.

use std::time::{Duration, Instant};

use crate::support::broker::{Broker, Kind};
use crate::support::chaos::{judge, print_attempts};
use crate::support::daemon::{Daemon, Site};
use crate::support::kafka::limit_producers;
use crate::support::postgres::{Cluster, Database, Session};
use crate::support::processes::threads;
use crate::support::redis::RedisServer;
use crate::support::{assert_within, eventually, together};

const TOPICS: &[&str] = &["orders"];

struct Scene {
    broker: Broker,
    database: Database,
    session: Session,
    site: Site,
    daemon: Daemon,
}

impl Scene {
    /// A daemon before a Kafka that takes `quota` bytes a second of each producer.
    async fn set(quota: f64, lease: &str, rest: &str) -> Self {
        let broker = Broker::start(Kind::Kafka);
        broker.prepare(TOPICS).await;
        limit_producers(&broker.address(), quota).await;
        let database = Cluster::shared().database().await;
        let site = Site::with_lease(&database, lease, &(broker.section("main") + rest));
        site.migrate();
        let daemon = site.start().await;
        let session = database.connect().await;
        Self {
            broker,
            database,
            session,
            site,
            daemon,
        }
    }

    async fn insert(&self, rows: usize, bytes: usize) {
        let insert = format!(
            "insert into outbox_messages (topic, key, payload)
             select 'orders', 'k' || n % 100, jsonb_build_object('filler', repeat('x', {bytes})) from generate_series(1, {rows}) n"
        );
        self.session.run(&insert).await;
    }

    /// Nothing was counted, came twice or out of order.
    async fn judge(&self, what: &str) {
        let verdict = judge(&self.database, &self.broker, TOPICS).await;
        println!("{what}: {verdict}");
        print_attempts(&self.session).await;
        verdict.assert_ordered();
        verdict.assert_duplicates_within(0);
        assert_eq!((verdict.failed, verdict.attempts_counted), (0, 0), "{verdict}");
        let counted = self.session.count("select count(*) from outboxd_attempts").await;
        assert_eq!(counted, 0, "attempts were counted");
    }
}

/// With a quota of 400 kB/s, 8,000 rows of 5 kB: 3,340 rows with an attempt counted, 4,007 copies, 842 out of order, 150 s
/// where 100 were right. Here a part of that: what the quota lets through at once (11 s of it), and 13 seconds more.
async fn a_quota(lease: &str) {
    let _guard = together().await;
    let scene = Scene::set(400_000.0, lease, "").await;
    let began = Instant::now();
    scene.insert(2_000, 5_000).await;
    scene.session.drained(Duration::from_secs(60)).await;
    let took = began.elapsed();
    scene.judge(&format!("a quota of 400 kB/s {lease}, {took:.1?}")).await;
    assert_within("10 MB at the quota's pace", took, Duration::from_secs(30));
    let log = scene.site.log();
    assert!(!log.contains("destination paused"), "taken for an outage: {log}");
    assert!(scene.daemon.terminate(Duration::from_secs(30)).await.success());
}

#[tokio::test]
async fn a_kafka_quota_counts_nothing_and_sends_nothing_twice() {
    a_quota("").await;
}

#[tokio::test]
async fn a_kafka_quota_is_no_outage_where_the_lease_is_short() {
    a_quota("ttl = \"3s\"").await;
}

/// Ten times what the quota lets through, for `OUTBOXD_THROTTLED_SECONDS` (600: ten minutes), with `OUTBOXD_THROTTLED_TTL` as
/// `lease.ttl` (3s); then a stop, which leaves nothing unmarked.
#[tokio::test]
async fn a_tenth_of_what_is_offered_goes_through_kafka() {
    let _guard = together().await;
    let span = std::env::var("OUTBOXD_THROTTLED_SECONDS").map_or(20, |span| span.parse().expect("a number"));
    let ttl = std::env::var("OUTBOXD_THROTTLED_TTL").map_or(String::new(), |ttl| format!("ttl = \"{ttl}\""));
    let scene = Scene::set(100_000.0, &ttl, "").await;
    let (began, span) = (Instant::now(), Duration::from_secs(span));
    for second in 1.. {
        scene.insert(1_000, 900).await;
        if began.elapsed() >= span {
            break;
        }
        tokio::time::sleep_until((began + Duration::from_secs(second)).into()).await;
    }
    let relayed = scene
        .session
        .count("select count(*) from outbox_messages where relayed_at is not null")
        .await;
    let expected = 100.0 * span.as_secs_f64();
    println!("{relayed} rows of 1 kB in {span:?}");
    assert!(relayed as f64 > expected * 0.6, "{relayed} rows in {span:?}");
    let Scene {
        broker,
        database,
        session,
        site,
        daemon,
    } = scene;
    assert!(daemon.terminate(Duration::from_secs(31)).await.success());
    let verdict = judge(&database, &broker, TOPICS).await;
    println!("{verdict}");
    verdict.assert_ordered();
    verdict.assert_duplicates_within(0);
    assert_eq!((verdict.failed, verdict.attempts_counted), (0, 0), "{verdict}");
    let relayed = session
        .count("select count(*) from outbox_messages where relayed_at is not null")
        .await;
    assert_eq!(
        usize::try_from(relayed).expect("a count"),
        verdict.arrived,
        "a clean stop leaves nothing unmarked: {}",
        site.log()
    );
}

/// Hung brokers: SIGTERM took 15.2 s where `shutdown_timeout` was 10.
async fn a_stop(section: &str, hang: impl FnOnce(), topics: &[&str]) -> Duration {
    const TIMEOUT: Duration = Duration::from_secs(3);
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, &format!("{section}[relay]\nshutdown_timeout = \"3s\"\n"));
    site.migrate();
    let mut daemon = site.start().await;
    let session = database.connect().await;
    let insert = |topic: &str| {
        format!(
            "insert into outbox_messages (topic, key, payload)
             select '{topic}', 'k' || n % 10, '1' from generate_series(1, 500) n"
        )
    };
    session.run(&insert(topics[0])).await;
    session.drained(Duration::from_secs(20)).await;
    hang();
    session.run(&insert(topics[0])).await;
    eventually("rows are on their way", Duration::from_secs(20), || async {
        let metrics = daemon.metrics().await;
        (metrics.get("outboxd_in_flight_messages").copied() > Some(0.0)).then_some(())
    })
    .await;
    let told = Instant::now();
    crate::support::processes::signal(daemon.pid(), "TERM");
    daemon.ended(TIMEOUT * 4).await;
    let took = told.elapsed();
    assert_within("the stop", took, TIMEOUT + Duration::from_secs(1));
    assert!(took < TIMEOUT * 3, "however busy the machine is: {took:?}");
    let counted = session
        .count("select count(*) from outbox_messages where attempt > 1 or failed_at is not null")
        .await;
    assert_eq!(counted, 0, "attempts were counted");
    took
}

#[tokio::test]
async fn a_hung_kafka_holds_up_no_stop() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Kafka);
    broker.prepare(TOPICS).await;
    let took = a_stop(&broker.section("main"), || broker.freeze(), TOPICS).await;
    println!("stopped {took:.1?} after SIGTERM");
}

#[tokio::test]
async fn a_hung_nats_server_holds_up_no_stop() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(TOPICS).await;
    let took = a_stop(&broker.section("main"), || broker.freeze(), TOPICS).await;
    println!("stopped {took:.1?} after SIGTERM");
}

#[tokio::test]
async fn a_hung_redis_holds_up_no_stop() {
    let _guard = together().await;
    let redis = tokio::task::spawn_blocking(RedisServer::start).await.unwrap();
    let section = format!("[transports.main.redis]\nurl = \"{}\"\n", redis.url());
    let took = a_stop(&section, || redis.signal("STOP"), TOPICS).await;
    redis.signal("CONT");
    println!("stopped {took:.1?} after SIGTERM");
}

/// About 1,200 missing topics made 522 threads, one for each question.
#[tokio::test]
async fn a_thousand_missing_topics_take_neither_threads_nor_the_live_one_s_time() {
    let _guard = together().await;
    let broker = Broker::start_with(Kind::Kafka, "auto.create.topics.enable=false");
    broker.prepare(TOPICS).await;
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, &broker.section("main"));
    site.migrate();
    let daemon = site.start().await;
    let session = database.connect().await;
    session
        .run("insert into outbox_messages (topic, payload) values ('orders', '1')")
        .await;
    session.drained(Duration::from_secs(20)).await;
    session
        .run(
            "insert into outbox_messages (topic, key, payload)
             select 'missing.' || n, 'k', '1' from generate_series(1, 1200) n",
        )
        .await;
    let relayed = "select count(*) from outbox_messages where topic = 'orders' and relayed_at is not null";
    let began = Instant::now();
    let (mut most, mut slowest, mut early, mut rounds) = (0, Duration::ZERO, 0, 1);
    while began.elapsed() < Duration::from_secs(12) {
        let inserted = Instant::now();
        session
            .run("insert into outbox_messages (topic, key, payload) values ('orders', 'k', '1')")
            .await;
        rounds += 1;
        eventually("the live topic is relayed", Duration::from_secs(20), || async {
            (session.count(relayed).await == rounds).then_some(())
        })
        .await;
        slowest = slowest.max(inserted.elapsed());
        most = most.max(threads(daemon.pid()));
        if early == 0 || began.elapsed() < Duration::from_secs(4) {
            early = daemon.peak_rss();
        }
    }
    let late = daemon.peak_rss();
    println!("{rounds} rounds, the slowest took {slowest:.1?}; {most} threads; {early} bytes, then {late}");
    assert!(most < 60, "{most} threads");
    assert!(late < early + (40 << 20), "{early} bytes, then {late}");
    assert_within("a live topic's row", slowest, Duration::from_secs(3));
    let counted = session
        .count("select count(*) from outbox_messages where attempt > 1 or failed_at is not null")
        .await;
    assert_eq!(counted, 0, "attempts were counted");
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}
