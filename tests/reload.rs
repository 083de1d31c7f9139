//! SIGHUP takes up routes, limits, transports, logins and the log level while rows flow: nothing is lost, sent twice or out of
//! order because of it, and a file that is wrong changes nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::net::UnixDatagram;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::support::broker::{Broker, Kind};
use crate::support::checker::{committed, compare};
use crate::support::daemon::{BINARY, Daemon, Site};
use crate::support::kafka::KafkaServer;
use crate::support::nats::NatsServer;
use crate::support::ports;
use crate::support::postgres::{Cluster, Database};
use crate::support::processes::{guarded, scratch, signal, spawn};
use crate::support::redis::RedisServer;
use crate::support::rows::{insert, relayed, until_relayed};
use crate::support::{assert_within, eventually, together};

const SOON: Duration = Duration::from_secs(20);

fn text(site: &Site) -> String {
    std::fs::read_to_string(site.config()).unwrap()
}

/// Puts `new` in place of `old` in the configuration and sends SIGHUP.
fn change(site: &Site, daemon: &Daemon, old: &str, new: &str) {
    let before = text(site);
    assert!(before.contains(old), "{old} is not in\n{before}");
    site.configure(&before.replace(old, new));
    signal(daemon.pid(), "HUP");
}

/// Waits until the log has `what` for the `times`th time.
async fn said(site: &Site, what: &str, times: usize) {
    eventually(what, SOON, || async {
        (site.log().matches(what).count() >= times).then_some(())
    })
    .await;
}

/// Applications at work, until told to end.
struct Writing {
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
}

impl Writing {
    /// Up to 6,000 rows a second over 100 keys.
    async fn start(database: &Database) -> Self {
        let (mut tasks, stop) = (JoinSet::new(), Arc::new(AtomicBool::default()));
        for writer in 0..2 {
            let (session, stop) = (database.connect().await, Arc::clone(&stop));
            tasks.spawn(async move {
                let insert = format!(
                    "insert into outbox_messages (topic, key, payload)
                     select 'orders', 'w{writer}-' || (random() * 50)::int, jsonb_build_object('n', n)
                     from generate_series(1, 60) as n"
                );
                let mut ticks = tokio::time::interval(Duration::from_millis(20));
                while !stop.load(Ordering::Relaxed) {
                    ticks.tick().await;
                    session.run(&insert).await;
                }
            });
        }
        Self { tasks, stop }
    }

    async fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

/// Waits until a message has come to `destination`.
async fn used(stream: &async_nats::jetstream::stream::Stream, destination: &str) {
    eventually(&format!("{destination} is used"), SOON, || async {
        stream.get_last_raw_message_by_subject(destination).await.ok().map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_changes_of_a_route_under_load_lose_nothing_and_change_no_order() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders.*"]).await;
    let database = Cluster::shared().database().await;
    let routes = "[[routes]]\ntopic = \"orders\"\ndestination = \"orders.0\"\n";
    let site = Site::new(&database, &(broker.section("main") + routes));
    site.migrate();
    let daemon = site.start().await;
    let session = database.connect().await;
    let writing = Writing::start(&database).await;
    let stream = async_nats::jetstream::new(async_nats::connect(broker.address()).await.unwrap());
    let stream = stream.get_stream(crate::support::broker::STREAM).await.unwrap();
    used(&stream, "orders.0").await;
    let (began, mut slowest) = (Instant::now(), Duration::ZERO);
    for round in 1..=20 {
        let (old, new) = (format!("\"orders.{}\"", round - 1), format!("\"orders.{round}\""));
        if round == 10 {
            change(&site, &daemon, &old, "\"{nonsense}\"");
            said(&site, "the old one stays", 1).await;
            let refused = site.log();
            let line = refused.lines().find(|line| line.contains("the old one stays")).unwrap();
            assert!(line.contains("routes[0].destination"), "{line}");
            change(&site, &daemon, "\"{nonsense}\"", &old);
        }
        change(&site, &daemon, &old, &new);
        let changed = Instant::now();
        used(&stream, &format!("orders.{round}")).await;
        slowest = slowest.max(changed.elapsed());
        said(&site, "configuration reloaded: routes", round).await;
    }
    let before = relayed(&session, "orders").await;
    eventually("rows go on", SOON, || async {
        (relayed(&session, "orders").await > before + 1_000).then_some(())
    })
    .await;
    let offered = session.count("select count(*) from outbox_messages").await as f64 / began.elapsed().as_secs_f64();
    println!("at {offered:.0} rows a second the slowest of twenty changes was seen after {slowest:.0?}");
    assert_within("a new destination", slowest, Duration::from_secs(1));
    writing.end().await;
    session.drained(Duration::from_secs(60)).await;
    let metrics = daemon.metrics().await;
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());

    let rows = committed(&session).await.unwrap();
    let mut arrivals = broker.arrivals(&[]).await;
    let mut destinations: Vec<u32> = Vec::new();
    for arrival in &mut arrivals {
        let number = arrival.topic.strip_prefix("orders.").unwrap().parse().unwrap();
        if destinations.last() != Some(&number) {
            destinations.push(number);
        }
        arrival.topic = "orders".to_owned();
    }
    let verdict = compare(&rows, &arrivals);
    println!("twenty changes under load: {verdict}");
    verdict.assert_nothing_lost();
    verdict.assert_ordered();
    verdict.assert_duplicates_within(0);
    assert_eq!(destinations, (0..=20).collect::<Vec<_>>(), "one after the other");
    let series = "outboxd_messages_relayed_total{transport=\"main\",route=\"orders\"}";
    assert_eq!(metrics[series] as usize, rows.len(), "the route's series goes on");
}

#[tokio::test]
async fn routes_come_and_change_their_limits() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["held", "slow", "new"]).await;
    let database = Cluster::shared().database().await;
    let routes = "[[routes]]\ntopic = \"held\"\npaused = true\n[[routes]]\ntopic = \"slow\"\nrate = 20\n";
    let site = Site::new(&database, &(broker.section("main") + routes));
    site.migrate();
    let daemon = site.start().await;
    let session = database.connect().await;
    insert(&session, "held", 100).await;
    insert(&session, "slow", 2_000).await;
    eventually("the slow route sends", SOON, || async {
        (relayed(&session, "slow").await > 5).then_some(())
    })
    .await;
    assert_eq!(relayed(&session, "held").await, 0);
    assert!(relayed(&session, "slow").await < 1_500, "its rate is kept");

    let before = "[[routes]]\ntopic = \"held\"\npaused = true\n";
    change(
        &site,
        &daemon,
        before,
        "[[routes]]\ntopic = \"new\"\n[[routes]]\ntopic = \"held\"\n",
    );
    said(&site, "configuration reloaded: routes", 1).await;
    insert(&session, "new", 50).await;
    until_relayed(&session, "held", 100, SOON * 2).await;
    until_relayed(&session, "new", 50, SOON * 2).await;
    assert!(relayed(&session, "slow").await < 2_000, "its rate is kept");

    change(&site, &daemon, "rate = 20\n", "");
    until_relayed(&session, "slow", 2_000, SOON * 2).await;
    let metrics = daemon.metrics().await;
    for (route, rows) in [("held", 100.0), ("new", 50.0), ("slow", 2_000.0)] {
        let series = format!("outboxd_messages_relayed_total{{transport=\"main\",route=\"{route}\"}}");
        assert_eq!(metrics[&series], rows, "{route}");
    }

    change(&site, &daemon, "topic = \"new\"\n", "topic = \"new\"\npaused = true\n");
    said(&site, "configuration reloaded: routes", 3).await;
    insert(&session, "new", 50).await;
    insert(&session, "held", 50).await;
    until_relayed(&session, "held", 150, SOON * 2).await;
    assert_eq!(relayed(&session, "new").await, 50, "paused");
    assert!(site.succeed(&["status"]).contains("PAUSED TOPIC"));
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

#[tokio::test]
async fn what_cannot_be_taken_up_is_named_and_a_wrong_file_changes_nothing() {
    let _guard = together().await;
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, "[transports.out.stdout]\n");
    site.migrate();
    let daemon = site.start().await;
    let session = database.connect().await;
    let right = text(&site);
    for (old, new, key) in [
        ("[transports.out.stdout]", "[transports.out.stdin]", "transports.out"),
        ("format = \"text\"", "format = \"text\"\nlevel = \"loud\"", "log.level"),
        (
            "[transports.out.stdout]",
            "[transports.out.nats]\nurl = \"nats://127.0.0.1:1\"\ntoken_file = \"nowhere\"",
            "transports.out.nats.token_file",
        ),
        ("[transports.out.stdout]", "[transports", "TOML"),
    ] {
        let refused = site.log().matches("the old one stays").count();
        change(&site, &daemon, old, new);
        said(&site, "the old one stays", refused + 1).await;
        let log = site.log();
        let line = log.lines().rfind(|line| line.contains("the old one stays")).unwrap();
        assert!(line.contains(key), "{line}");
        site.configure(&right);
    }
    change(
        &site,
        &daemon,
        "[lease]",
        "pool_size = 9\n[relay]\nmax_in_flight = 2000\npoll_interval_max = \"1s\"\n[lease]",
    );
    said(&site, "configuration reloaded: relay.max_in_flight", 1).await;
    let log = site.log();
    let line = log.lines().find(|line| line.contains("at the next start")).unwrap();
    assert!(line.contains("database.pool_size, relay.poll_interval_max"), "{line}");
    signal(daemon.pid(), "HUP");
    said(&site, "configuration reloaded: nothing to take up", 1).await;
    insert(&session, "orders", 100).await;
    until_relayed(&session, "orders", 100, SOON * 2).await;
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

/// A cluster in which the role `rotated` needs a password.
fn cluster_with_passwords() -> Cluster {
    let hba = scratch("hba").join("pg_hba.conf");
    let lines = "host all rotated all scram-sha-256\nhost all all all trust\nlocal all all trust\n";
    std::fs::write(&hba, lines).unwrap();
    Cluster::own_with(&[&format!("hba_file={}", hba.display())])
}

#[tokio::test]
async fn a_rotated_password_of_the_database_is_taken_up() {
    let _guard = together().await;
    let cluster = cluster_with_passwords();
    let database = cluster.database().await;
    let site = Site::new(&database, "[transports.out.stdout]\n");
    site.migrate();
    let session = database.connect().await;
    session
        .run("create role rotated login in role outboxd_relay password 'first-mArKeR'")
        .await;
    let file = site.config().with_file_name("database-url");
    let url = |password: &str| database.url().replace("postgres@", &format!("rotated:{password}@"));
    std::fs::write(&file, url("first-mArKeR")).unwrap();
    let own = format!("url = \"{}\"", database.url());
    site.configure(&text(&site).replace(&own, "url_file = \"database-url\""));
    let daemon = site.start().await;
    insert(&session, "orders", 100).await;
    until_relayed(&session, "orders", 100, SOON * 2).await;

    // Connections there are go on; those that are made from now on are refused.
    session.run("alter role rotated password 'second-mArKeR'").await;
    session
        .run("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'rotated'")
        .await;
    said(&site, "password authentication failed", 1).await;
    insert(&session, "orders", 100).await;
    std::fs::write(&file, url("second-mArKeR")).unwrap();
    signal(daemon.pid(), "HUP");
    said(&site, "configuration reloaded: database.url", 1).await;
    until_relayed(&session, "orders", 200, SOON * 2).await;
    eventually("it listens again", SOON, || async {
        let listening = "select count(*) from pg_stat_activity where application_name like '%/listen'
                         and usename = 'rotated'";
        (session.count(listening).await == 1).then_some(())
    })
    .await;

    // Another database is not another login.
    std::fs::write(&file, url("second-mArKeR").replace("/test_", "/other_")).unwrap();
    signal(daemon.pid(), "HUP");
    said(&site, "at the next start", 1).await;
    insert(&session, "orders", 100).await;
    until_relayed(&session, "orders", 300, SOON * 2).await;
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
    let log = site.log();
    let line = log.lines().find(|line| line.contains("at the next start")).unwrap();
    assert!(line.contains("database.url"), "{line}");
    assert!(!log.contains("mArKeR"), "a secret is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_login_of_a_broker_is_taken_up_and_the_other_transport_keeps_its_connection() {
    let _guard = together().await;
    let users = "authorization { users: [ { user: outbox, password: \"first-mArKeR\" } ] }";
    let nats = NatsServer::with(users);
    let login = async_nats::ConnectOptions::with_user_and_password("outbox".to_owned(), "first-mArKeR".to_owned());
    nats.create_stream_as(login).await;
    let redis = RedisServer::start();
    let database = Cluster::shared().database().await;
    let site = Site::new(
        &database,
        &format!(
            "[transports.n.nats]\nurl = \"{}\"\nuser = \"outbox\"\npassword_file = \"secret\"\n\
             [transports.r.redis]\nurl = \"{}\"\n\
             [[routes]]\ntopic = \"orders\"\ntransport = \"n\"\n[[routes]]\ntopic = \"*\"\ntransport = \"r\"\n",
            nats.url(),
            redis.url()
        ),
    );
    let secret = site.config().with_file_name("secret");
    std::fs::write(&secret, "first-mArKeR\n").unwrap();
    site.migrate();
    let daemon = site.start().await;
    let session = database.connect().await;
    for topic in ["orders", "others"] {
        insert(&session, topic, 100).await;
        until_relayed(&session, topic, 100, SOON * 2).await;
    }
    nats.reconfigure("first-mArKeR", "second-mArKeR");
    insert(&session, "orders", 100).await;
    eventually("its destination is paused", SOON, || async {
        daemon
            .metrics()
            .await
            .contains_key("outboxd_destination_paused{transport=\"n\",destination=\"orders\"}")
            .then_some(())
    })
    .await;
    std::fs::write(&secret, "second-mArKeR\n").unwrap();
    signal(daemon.pid(), "HUP");
    said(&site, "configuration reloaded: transport n", 1).await;
    until_relayed(&session, "orders", 200, SOON * 2).await;
    insert(&session, "others", 100).await;
    until_relayed(&session, "others", 200, SOON * 2).await;
    assert_eq!(
        site.log().matches("connected to redis").count(),
        1,
        "it kept its connection"
    );
    let paused = |name: &&String| name.starts_with("outboxd_destination_paused{");
    assert_eq!(daemon.metrics().await.keys().find(paused), None);
    let failed = "select count(*) from outbox_messages where attempt > 1 or failed_at is not null";
    assert_eq!(session.count(failed).await, 0, "no attempt is counted");
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
    assert!(!site.log().contains("mArKeR"), "a secret is in the log");
}

/// The broker knows another password from now on; the file with it comes later.
async fn a_rotated_password_is_taken_up(section: &str, topic: &str, rotate: impl FnOnce()) {
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, section);
    let secret = site.config().with_file_name("secret");
    std::fs::write(&secret, "first-mArKeR\n").unwrap();
    site.migrate();
    let daemon = site.start().await;
    let session = database.connect().await;
    insert(&session, topic, 100).await;
    until_relayed(&session, topic, 100, SOON * 2).await;
    rotate();
    insert(&session, topic, 100).await;
    said(&site, "password_file", 1).await;
    assert_eq!(relayed(&session, topic).await, 100);
    std::fs::write(&secret, "second-mArKeR\n").unwrap();
    signal(daemon.pid(), "HUP");
    said(&site, "configuration reloaded: transport main", 1).await;
    until_relayed(&session, topic, 200, SOON * 2).await;
    let failed = "select count(*) from outbox_messages where attempt > 1 or failed_at is not null";
    assert_eq!(session.count(failed).await, 0, "no attempt is counted");
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
    assert!(!site.log().contains("mArKeR"), "a secret is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_password_of_redis_is_taken_up() {
    let _guard = together().await;
    let redis = RedisServer::with_options("--requirepass first-mArKeR");
    let section = format!(
        "[transports.main.redis]\nurl = \"{}\"\npassword_file = \"secret\"\n",
        redis.url()
    );
    a_rotated_password_is_taken_up(&section, "orders", || {
        let url = redis.url().replace("redis://", "redis://:first-mArKeR@");
        let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
        let change = ["set", "requirepass", "second-mArKeR"];
        redis::cmd("config").arg(&change).exec(&mut connection).unwrap();
        redis::cmd("client")
            .arg(&["kill", "type", "normal"])
            .exec(&mut connection)
            .unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_password_of_kafka_is_taken_up() {
    let _guard = together().await;
    let sasl = ports::free();
    let kafka = tokio::task::block_in_place(|| KafkaServer::with_login(sasl, "first-mArKeR", ""));
    kafka.create_topic("orders", 3).await;
    let section = format!(
        "[transports.main.kafka]\nbrokers = \"127.0.0.1:{sasl}\"\nack_timeout = \"3s\"\nsasl_mechanism = \"PLAIN\"\n\
         sasl_username = \"outbox\"\nsasl_password_file = \"secret\"\n"
    );
    a_rotated_password_is_taken_up(&section, "orders", || {
        tokio::task::block_in_place(|| kafka.reconfigure("first-mArKeR", "second-mArKeR"));
    })
    .await;
}

#[tokio::test]
async fn a_paused_destination_nothing_leads_to_any_more_is_forgotten() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["right"]).await;
    let database = Cluster::shared().database().await;
    let routes = "[[routes]]\ntopic = \"orders\"\ndestination = \"wrong\"\n";
    let site = Site::new(&database, &(broker.section("main") + routes));
    site.migrate();
    let daemon = site.start().await;
    let session = database.connect().await;
    insert(&session, "orders", 100).await;
    said(&site, "destination paused", 1).await;
    change(&site, &daemon, "\"wrong\"", "\"right\"");
    until_relayed(&session, "orders", 100, SOON * 2).await;
    let paused = |name: &&String| name.starts_with("outboxd_destination_paused{");
    assert_eq!(daemon.metrics().await.keys().find(paused), None);
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
    assert!(!site.log().contains("takes messages again"), "it does not");
}

#[tokio::test]
async fn sighup_before_the_database_is_there_and_twenty_in_a_second() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["first", "second", "third"]).await;
    let cluster = Cluster::own();
    let database = cluster.database().await;
    let routes = "[[routes]]\ntopic = \"orders\"\ndestination = \"first\"\n";
    let site = Site::new(&database, &(broker.section("main") + routes));
    site.migrate();
    cluster.stop_immediately();
    let mut daemon = site.launch();
    eventually("it waits for the database", SOON, || async {
        let (_, body) = daemon.get("/readyz").await?;
        body.contains("database").then_some(())
    })
    .await;
    change(&site, &daemon, "\"first\"", "\"second\"");
    said(&site, "configuration reloaded: routes", 1).await;
    cluster.start();
    let session = database.connect_when_up().await;
    insert(&session, "orders", 100).await;
    daemon.ready(Duration::from_secs(30)).await;
    until_relayed(&session, "orders", 100, SOON * 2).await;

    for round in 0..20 {
        let names = ["\"second\"", "\"third\""];
        change(&site, &daemon, names[round % 2], names[(round + 1) % 2]);
        insert(&session, "orders", 50).await;
    }
    until_relayed(&session, "orders", 1_100, SOON * 2).await;
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
    let seqs: HashMap<Uuid, i64> = committed(&session)
        .await
        .unwrap()
        .iter()
        .map(|row| (row.id, row.seq))
        .collect();
    let (mut last, mut places) = (HashMap::new(), HashMap::new());
    for arrival in broker.arrivals(&[]).await {
        let seq = seqs[&arrival.id];
        let before = last.insert(arrival.key.clone(), seq).unwrap_or_default();
        assert!(before < seq, "{before} came before {seq}");
        *places.entry(arrival.topic).or_insert(0) += 1;
    }
    assert_eq!(places.values().sum::<i32>(), 1_100, "each once: {places:?}");
    assert_eq!(places.get("first"), None, "{places:?}");
    assert!(!site.log().contains("the old one stays"), "none of them was wrong");
}

/// The manager hears that a reload begins, with the time, and that it is over, whether or not anything came of it.
#[tokio::test]
async fn systemd_hears_of_a_reload() {
    let _guard = together().await;
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, "[transports.out.stdout]\n");
    site.migrate();
    let directory = scratch("manager");
    let path = directory.join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut command = guarded(BINARY, "KILL");
    command
        .args(["run", "--config"])
        .arg(site.config())
        .env("RUNTIME_DIRECTORY", &directory)
        .env("NOTIFY_SOCKET", &path);
    let mut daemon = spawn(command);
    let heard = std::cell::RefCell::new(Vec::new());
    let hear = |what: &'static str, times: usize| {
        let (socket, heard) = (&socket, &heard);
        async move {
            eventually(what, SOON, || async {
                let mut buffer = [0; 4096];
                while let Ok(length) = socket.try_recv(&mut buffer) {
                    let lines = String::from_utf8_lossy(&buffer[..length]).into_owned();
                    let lines = lines.lines().filter(|line| !line.starts_with("STATUS="));
                    heard.borrow_mut().extend(lines.map(str::to_owned));
                }
                (heard.borrow().iter().filter(|line| *line == what).count() >= times).then_some(())
            })
            .await;
        }
    };
    hear("READY=1", 1).await;
    for (round, level) in ["debug", "loud"].into_iter().enumerate() {
        let format = "format = \"text\"\n";
        site.configure(&text(&site).replace(format, &format!("{format}level = \"{level}\"\n")));
        signal(daemon.id(), "HUP");
        hear("READY=1", 2 + round).await;
    }
    daemon.kill().ok();
    daemon.wait().ok();
    let heard = heard.borrow();
    let kinds: Vec<&str> = heard
        .iter()
        .filter_map(|line| line.split_once('='))
        .map(|(kind, _)| kind)
        .filter(|kind| ["READY", "RELOADING", "MONOTONIC_USEC"].contains(kind))
        .collect();
    let reload = ["RELOADING", "MONOTONIC_USEC", "READY"];
    assert_eq!(kinds, [&["READY"][..], &reload, &reload].concat());
}
