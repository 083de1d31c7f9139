//! The database comes and goes: restarted, reset, behind a pooler that dies, or silent. The daemon is never restarted;
//! nothing is lost, no attempt is counted, and it comes back by itself in a bounded time.

use std::time::{Duration, Instant};

use crate::support::pgbouncer::PgBouncer;
use crate::support::postgres::{Cluster, Database, Session};
use crate::support::proxy::{Proxy, Weather};
use crate::support::scene::{RELAYED, Scene};
use crate::support::{eventually, together};

const LISTENING: &str = "select count(*) from pg_stat_activity
    where application_name like 'outboxd/%/listen' and datname = current_database()";
/// When the youngest of them connected, in microseconds.
const NEWEST_LISTENER: &str = "select (extract(epoch from max(backend_start)) * 1000000)::bigint from pg_stat_activity
    where application_name like 'outboxd/%/listen' and datname = current_database()";
const TERMINATE: &str = "select count(pg_terminate_backend(pid)) from pg_stat_activity
    where application_name like 'outboxd/%' and datname = current_database()";
/// What is sent on the listener's connection in this time has had no answer.
const LISTENER_ASKS: Duration = Duration::from_secs(16);
/// So seldom that only notifications explain quick relaying.
const SELDOM: &str = "[relay]\npoll_interval_max = \"30s\"\n";

async fn listens(session: &Session, deadline: Duration) {
    eventually("the daemon listens", deadline, || async {
        (session.count(LISTENING).await == 1).then_some(())
    })
    .await;
}

/// A listener younger than `before` ([`NEWEST_LISTENER`]).
async fn listens_anew(session: &Session, before: i64) {
    let newest = format!("select coalesce(({NEWEST_LISTENER}), 0)");
    eventually("the daemon listens anew", Duration::from_secs(30), || async {
        (session.count(&newest).await > before).then_some(())
    })
    .await;
}

/// Rows one by one, each relayed within two seconds though polls are half a minute apart: notifications wake the daemon.
async fn notified(session: &Session) {
    for _ in 0..5 {
        let insert = "insert into outbox_messages (topic, key, payload) values ('orders', 'once', '{}')";
        session.run(insert).await;
        session.drained(Duration::from_secs(2)).await;
    }
}

#[tokio::test]
async fn ten_immediate_restarts_of_postgresql_lose_nothing() {
    let _guard = together().await;
    let cluster = Cluster::own();
    let scene = Scene::direct(cluster.database().await, "").await;
    let mut slowest = Duration::ZERO;
    for _ in 0..10 {
        scene.writing.write_more(200).await;
        cluster.stop_immediately();
        cluster.start();
        let session = scene.database.connect_when_up().await;
        slowest = slowest.max(scene.relays_again(&session, Duration::from_secs(20)).await);
    }
    println!("relaying again at most {slowest:.0?} after PostgreSQL was back");
    listens(&scene.database.connect().await, Duration::from_secs(10)).await;
    scene.judge("ten immediate restarts").await;
}

#[tokio::test]
async fn backend_terminated_listener_comes_back() {
    let _guard = together().await;
    let mut scene = Scene::direct(Cluster::shared().database().await, SELDOM).await;
    let session = scene.database.connect().await;
    for _ in 0..5 {
        scene.writing.write_more(100).await;
        let listener = session.count(NEWEST_LISTENER).await;
        assert!(
            session.count(TERMINATE).await >= 2,
            "the listener, and the pool as far as it is back"
        );
        listens_anew(&session, listener).await;
    }
    scene.rest().await;
    notified(&session).await;
    scene.judge("every backend terminated five times").await;
}

#[tokio::test]
async fn ten_restarts_of_pgbouncer_lose_nothing() {
    let _guard = together().await;
    let database = Cluster::shared().database().await;
    let bouncer = PgBouncer::before(database.port, 4);
    let (through, direct) = (bouncer.to(&database), database.url());
    let scene = Scene::set(database, &format!("url = \"{}\"", through.url()), "", &direct).await;
    let session = scene.database.connect().await;
    let mut slowest = Duration::ZERO;
    for _ in 0..10 {
        scene.writing.write_more(200).await;
        bouncer.kill9();
        bouncer.start();
        slowest = slowest.max(scene.relays_again(&session, Duration::from_secs(20)).await);
    }
    println!("relaying again at most {slowest:.0?} after PgBouncer was back");
    let site = scene.judge("ten restarts of PgBouncer").await;
    let log = site.log();
    assert_eq!(
        log.matches("the pooler loses prepared statements").count(),
        1,
        "found out by itself:\n{log}"
    );
    assert!(!log.contains("the lease could have ended"), "{log}");
}

#[tokio::test]
async fn listen_through_pgbouncer_is_detected() {
    let _guard = together().await;
    let database = Cluster::shared().database().await;
    let bouncer = PgBouncer::before(database.port, 4);
    let (through, direct) = (bouncer.to(&database), database.url());
    let scene = Scene::set(database, &format!("url = \"{}\"", through.url()), "", &direct).await;
    let told = "notifications do not arrive";
    eventually(
        "it says that notifications do not arrive",
        Duration::from_secs(10),
        || async { scene.site.log().contains(told).then_some(()) },
    )
    .await;
    scene.writing.write_more(500).await;
    bouncer.kill9();
    bouncer.start();
    scene.writing.write_more(500).await;
    let site = scene.judge("polling through PgBouncer").await;
    assert_eq!(site.log().matches(told).count(), 1, "said once");
}

#[tokio::test]
async fn a_direct_listen_url_beside_pgbouncer_is_woken() {
    let _guard = together().await;
    let database = Cluster::shared().database().await;
    let bouncer = PgBouncer::before(database.port, 4);
    let direct = database.url();
    let section = format!("url = \"{}\"\nlisten_url = \"{direct}\"", bouncer.to(&database).url());
    let mut scene = Scene::set(database, &section, SELDOM, &direct).await;
    let session = scene.rest().await;
    listens(&session, Duration::from_secs(10)).await;
    notified(&session).await;
    let site = scene.judge("a direct listen_url").await;
    assert!(!site.log().contains("notifications"), "{}", site.log());
}

/// Two daemons share their pooler's server connections: the named statements of one are not the other's.
#[tokio::test]
async fn two_daemons_behind_one_pgbouncer_do_not_mix_their_statements() {
    let _guard = together().await;
    let database = Cluster::shared().database().await;
    let bouncer = PgBouncer::before(database.port, 2);
    let (through, direct) = (bouncer.to(&database), database.url());
    let section = format!("url = \"{}\"", through.url());
    let scene = Scene::set(database, &section, "", &direct).await;
    for _ in 0..3 {
        let other = crate::support::daemon::Site::at(&section, &scene.broker().section("main"));
        let daemon = other.start().await;
        scene.writing.write_more(300).await;
        assert!(
            daemon.terminate(Duration::from_secs(30)).await.success(),
            "{}",
            other.log()
        );
    }
    scene.judge("daemons that come and go behind one PgBouncer").await;
}

/// Three daemons under load: none ever runs a statement of another, and none takes the pooler's ways for an outage.
#[tokio::test]
async fn three_daemons_share_a_pgbouncer_without_noticing() {
    let _guard = together().await;
    let database = Cluster::shared().database().await;
    let bouncer = PgBouncer::before(database.port, 3);
    let (through, direct) = (bouncer.to(&database), database.url());
    let section = format!("url = \"{}\"", through.url());
    let scene = Scene::set(database, &section, "", &direct).await;
    let transport = scene.broker().section("main");
    let others = [(), ()].map(|()| crate::support::daemon::Site::at(&section, &transport));
    let mut daemons = Vec::new();
    for other in &others {
        daemons.push(other.start().await);
    }
    scene.writing.write_more(6_000).await;
    for daemon in daemons {
        assert!(daemon.terminate(Duration::from_secs(30)).await.success());
    }
    for log in others
        .iter()
        .map(crate::support::daemon::Site::log)
        .chain([scene.site.log()])
    {
        assert_eq!(
            log.matches("a pooler in transaction mode stands in between").count(),
            1,
            "found at the start:\n{log}"
        );
        for words in ["does not answer", "could not be renewed", "lease could have ended"] {
            let said: Vec<&str> = log.lines().filter(|line| line.contains(words)).collect();
            assert!(said.is_empty(), "{said:?}");
        }
    }
    scene.judge_without_copies("three daemons behind one PgBouncer").await;
}

/// A pooler that takes no transactions: every statement of the daemon is one by itself.
#[tokio::test]
async fn statement_pooling_works_too() {
    let _guard = together().await;
    let database = Cluster::shared().database().await;
    let bouncer = PgBouncer::with(database.port, 3, "pool_mode = statement\n");
    let (through, direct) = (bouncer.to(&database), database.url());
    let scene = Scene::set(database, &format!("url = \"{}\"", through.url()), "", &direct).await;
    scene.writing.write_more(500).await;
    scene.judge_without_copies("through PgBouncer in statement mode").await;
}

/// With two connections, and with one, everything goes on; the log says once what is missing and where the limit is.
async fn with_few_connections(free: usize) {
    let _guard = together().await;
    // The server keeps three for its superuser, and the test has one.
    let cluster = Cluster::own_with(&[&format!("max_connections={}", 4 + free)]);
    let database = cluster.database().await;
    let broker = crate::support::broker::Broker::start(crate::support::broker::Kind::Nats);
    broker.prepare(&["orders"]).await;
    let site = crate::support::daemon::Site::new(&database, &broker.section("main"));
    site.migrate();
    let session = database.connect().await;
    let daemon = site.start().await;
    for _ in 0..10 {
        session
            .run("insert into outbox_messages (topic, key, payload) select 'orders', 'k' || g % 5, '{}' from generate_series(1, 100) g")
            .await;
        session.drained(Duration::from_secs(20)).await;
    }
    let log = site.log();
    let said: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("takes no more connections"))
        .collect();
    assert_eq!(said.len(), 1, "{log}");
    assert!(
        said[0].contains("max_connections") && said[0].contains("wanted=4"),
        "{}",
        said[0]
    );
    assert_eq!(broker.arrivals(&["orders"]).await.len(), 1_000);
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

#[tokio::test]
async fn two_free_connections_are_enough() {
    with_few_connections(2).await;
}

#[tokio::test]
async fn one_free_connection_is_enough() {
    with_few_connections(1).await;
}

#[tokio::test]
async fn a_role_with_two_connections_is_enough() {
    let _guard = together().await;
    let cluster = Cluster::own();
    let database = cluster.database().await;
    let broker = crate::support::broker::Broker::start(crate::support::broker::Kind::Nats);
    broker.prepare(&["orders"]).await;
    let site = crate::support::daemon::Site::new(&database, &broker.section("main"));
    site.migrate();
    let session = database.connect().await;
    session.run("alter role tests_relay connection limit 2").await;
    let daemon = site.start().await;
    session
        .run("insert into outbox_messages (topic, key, payload) select 'orders', 'k' || g % 5, '{}' from generate_series(1, 1000) g")
        .await;
    session.drained(Duration::from_secs(20)).await;
    eventually("it says where the limit is", Duration::from_secs(5), || async {
        site.log().contains("alter role").then_some(())
    })
    .await;
    // With the limit gone everybody gets a connection, and somebody listens.
    session.run("alter role tests_relay connection limit -1").await;
    listens(&session, Duration::from_secs(30)).await;
    assert!(site.log().contains("all connections again"), "{}", site.log());
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

/// Cut twenty times, slow, refused: what TCP tells about is over in moments.
#[tokio::test]
async fn a_bad_network_to_postgresql_loses_nothing() {
    let _guard = together().await;
    let database = Cluster::shared().database().await;
    let proxy = Proxy::to(database.port);
    let (through, direct) = (at(&database, proxy.port()), database.url());
    let scene = Scene::set(database, &format!("url = \"{}\"", through.url()), "", &direct).await;
    let session = scene.database.connect().await;
    for _ in 0..20 {
        scene.writing.write_more(50).await;
        proxy.cut();
    }
    proxy.turn(Weather::Delay(Duration::from_millis(20)));
    scene.writing.write_more(500).await;
    scene.relays_again(&session, Duration::from_secs(10)).await;
    proxy.turn(Weather::Refuse);
    proxy.cut();
    scene.writing.write_more(500).await;
    proxy.heal();
    let back = scene.relays_again(&session, Duration::from_secs(10)).await;
    println!("relaying again {back:.0?} after the address answered");
    listens(&session, Duration::from_secs(10)).await;
    scene.judge("twenty cuts, delays and a refusal").await;
}

fn at(database: &Database, port: u16) -> Database {
    Database {
        name: database.name.clone(),
        port,
    }
}

/// Connections that stay open and carry nothing, in both directions or one: noticed by time limits alone.
async fn silence(weather: Weather) {
    let database = Cluster::shared().database().await;
    let proxy = Proxy::to(database.port);
    let (through, direct) = (at(&database, proxy.port()), database.url());
    let scene = Scene::set(database, &format!("url = \"{}\"", through.url()), SELDOM, &direct).await;
    let session = scene.database.connect().await;
    listens(&session, Duration::from_secs(10)).await;
    let listener = session.count(NEWEST_LISTENER).await;
    proxy.turn(weather);
    let silent = Instant::now();
    eventually("the daemon notices", Duration::from_secs(30), || async {
        scene.site.log().contains("the database does not answer").then_some(())
    })
    .await;
    let noticed = silent.elapsed();
    // Nothing is sent on the listener's connection but a question every ten seconds: before that it has lost nothing.
    tokio::time::sleep_until((silent + LISTENER_ASKS).into()).await;
    proxy.heal();
    let back = scene.relays_again(&session, Duration::from_secs(30)).await;
    println!("{weather:?} before PostgreSQL: noticed after {noticed:.1?}, relaying {back:.1?} after it ended");
    assert!(back < Duration::from_secs(15), "back only after {back:?}");
    listens_anew(&session, listener).await;
    scene.judge("a silent network").await;
}

#[tokio::test]
async fn a_silent_network_to_postgresql_is_noticed() {
    let _guard = together().await;
    tokio::join!(
        silence(Weather::BlackHole),
        silence(Weather::DeafServer),
        silence(Weather::DeafClient)
    );
}

/// The first of two addresses accepts connections and says nothing: the second is found, at start and later.
#[tokio::test]
async fn a_silent_host_does_not_hide_the_next_one() {
    let _guard = together().await;
    let database = Cluster::shared().database().await;
    let (first, second) = (Proxy::to(database.port), Proxy::to(database.port));
    first.turn(Weather::BlackHole);
    let section = format!(
        "url = \"postgres://postgres@127.0.0.1:{},127.0.0.1:{}/{}?connect_timeout=1\"",
        first.port(),
        second.port(),
        database.name
    );
    let direct = database.url();
    let started = Instant::now();
    let scene = Scene::set(database, &section, "", &direct).await;
    println!("started over the second address in {:.1?}", started.elapsed());
    first.heal();
    second.turn(Weather::BlackHole);
    second.cut();
    let session = scene.database.connect().await;
    let back = scene.relays_again(&session, Duration::from_secs(20)).await;
    println!("went over to the first address in {back:.1?}");
    assert!(session.count(RELAYED).await > 0);
    scene.judge("two addresses").await;
}
