//! The way to the broker is silent, cut or slow; the broker is full, or its stream or topic was deleted: rows wait, no
//! attempt is counted, and relaying goes on by itself soon after.

use std::process::Child;
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::{Config, DiscardPolicy};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};

use crate::support::broker::{Broker, Kind, STREAM};
use crate::support::checker::{committed, compare};
use crate::support::daemon::{Daemon, Site};
use crate::support::postgres::{Cluster, Session};
use crate::support::proxy::{Proxy, Weather};
use crate::support::scene::{Place, Scene, TOPIC};
use crate::support::{eventually, ports, throughout, together};

/// A failed send would end the row: nothing of this may count.
const ONE_ATTEMPT: &str = "[relay]\nmax_attempts = 1\nmax_in_flight = 2000\n";
const COUNTED: &str = "select count(*) from outbox_messages where failed_at is not null or attempt > 1";
const WAITING: &str = "select count(*) from outbox_messages
    where relayed_at is null and failed_at is null and attempt = 1 and last_error is null";

/// A broker of `kind` that clients reach over the proxy alone.
async fn behind_proxy(kind: Kind) -> (Broker, Proxy, String) {
    let port = ports::free();
    let extra = match kind {
        Kind::Nats => String::new(),
        Kind::Kafka => format!("advertised.listeners=PLAINTEXT://127.0.0.1:{port}"),
    };
    let broker = Broker::start_with(kind, &extra);
    let proxy = Proxy::between(port, broker.port());
    broker.prepare(&[TOPIC]).await;
    let section = match kind {
        Kind::Nats => format!("[transports.main.nats]\nurl = \"nats://127.0.0.1:{port}\"\n"),
        Kind::Kafka => format!("[transports.main.kafka]\nbrokers = \"127.0.0.1:{port}\"\n"),
    };
    (broker, proxy, section)
}

async fn paused(daemon: &Daemon) -> bool {
    let metrics = daemon.metrics().await;
    metrics
        .iter()
        .any(|(name, value)| name.starts_with("outboxd_destination_paused") && *value == 1.0)
}

/// Connections stay open and carry nothing, for 20 seconds.
async fn silence(kind: Kind, weather: Weather) {
    let (broker, proxy, section) = behind_proxy(kind).await;
    let database = Cluster::shared().database().await;
    let mut scene = Scene::to(Place::One(broker), database, Some(section), ONE_ATTEMPT).await;
    let session = scene.database.connect().await;
    proxy.turn(weather);
    let silent = Instant::now();
    scene.writing.write_more(500).await;
    scene.stop_writing().await;
    eventually("the daemon notices", Duration::from_secs(20), || async {
        paused(&scene.daemon).await.then_some(())
    })
    .await;
    let noticed = silent.elapsed();
    throughout(
        "no attempt is counted",
        Duration::from_secs(20).saturating_sub(noticed),
        || async { session.count(COUNTED).await == 0 },
    )
    .await;
    proxy.heal();
    let back = scene.relays_again(&session, Duration::from_secs(60)).await;
    println!("{weather:?} before {kind:?}: paused after {noticed:.1?}, relaying {back:.1?} after it ended");
    assert!(back < Duration::from_secs(15), "back only after {back:?}");
    scene.judge(&format!("{weather:?} before {kind:?}")).await;
}

#[tokio::test]
async fn a_silent_network_to_nats_burns_no_attempt() {
    let _guard = together().await;
    tokio::join!(
        silence(Kind::Nats, Weather::BlackHole),
        silence(Kind::Nats, Weather::DeafServer),
        silence(Kind::Nats, Weather::DeafClient)
    );
}

#[tokio::test]
async fn a_silent_network_to_kafka_burns_no_attempt() {
    let _guard = together().await;
    tokio::join!(
        silence(Kind::Kafka, Weather::BlackHole),
        silence(Kind::Kafka, Weather::DeafClient)
    );
}

/// Cuts, delays and refusals.
async fn a_bad_network(kind: Kind) {
    let (broker, proxy, section) = behind_proxy(kind).await;
    let database = Cluster::shared().database().await;
    let scene = Scene::to(Place::One(broker), database, Some(section), ONE_ATTEMPT).await;
    let session = scene.database.connect().await;
    for _ in 0..10 {
        scene.writing.write_more(100).await;
        proxy.cut();
    }
    proxy.turn(Weather::Delay(Duration::from_millis(20)));
    scene.writing.write_more(500).await;
    scene.relays_again(&session, Duration::from_secs(10)).await;
    proxy.turn(Weather::Refuse);
    proxy.cut();
    scene.writing.write_more(2_000).await;
    proxy.heal();
    let back = scene.relays_again(&session, Duration::from_secs(20)).await;
    println!("{kind:?}: relaying {back:.0?} after the address answered");
    scene
        .judge(&format!("ten cuts, delays and a refusal before {kind:?}"))
        .await;
}

#[tokio::test]
async fn a_bad_network_to_nats_burns_no_attempt() {
    let _guard = together().await;
    a_bad_network(Kind::Nats).await;
}

#[tokio::test]
async fn a_bad_network_to_kafka_burns_no_attempt() {
    let _guard = together().await;
    a_bad_network(Kind::Kafka).await;
}

/// A daemon, its broker, and nothing written yet.
struct Quiet {
    broker: Broker,
    site: Site,
    daemon: Daemon,
    session: Session,
}

impl Quiet {
    async fn start(broker: Broker) -> Self {
        let section = broker.section("main");
        Self::start_with(broker, &section).await
    }

    /// `section`: how the daemon reaches the broker.
    async fn start_with(broker: Broker, section: &str) -> Self {
        let database = Cluster::shared().database().await;
        let site = Site::new(&database, &[section, ONE_ATTEMPT].concat());
        // Readiness follows the age of the oldest due row: shown within seconds.
        let text = std::fs::read_to_string(site.config()).expect("just written");
        site.configure(&text.replace("[http]\n", "[http]\nready_max_age = \"2s\"\n"));
        site.migrate();
        let daemon = site.start().await;
        let session = database.connect().await;
        Self {
            broker,
            site,
            daemon,
            session,
        }
    }

    async fn insert(&self, rows: usize) {
        let insert = format!(
            "insert into outbox_messages (topic, key, payload)
             select '{TOPIC}', 'k' || n % 20, '{{\"pad\": \"0123456789\"}}' from generate_series(1, {rows}) n"
        );
        self.session.run(&insert).await;
    }

    /// Rows of 10 kB: nats-server 2.9 leaves its own 30 bytes a message out when it compares with `max_bytes`, and just below
    /// the limit discards old messages for new ones, whatever the policy. Large ones do not come to lie there.
    async fn insert_large(&self, rows: usize) {
        let insert = format!(
            "insert into outbox_messages (topic, key, payload)
             select '{TOPIC}', 'k' || n % 20, jsonb_build_object('pad', repeat('x', 10000)) from generate_series(1, {rows}) n"
        );
        self.session.run(&insert).await;
    }

    async fn wait(&self, rows: i64) {
        throughout("the rows wait untouched", Duration::from_secs(4), || async {
            self.session.count(WAITING).await == rows
        })
        .await;
    }

    async fn readiness(&self, wanted: u16) -> String {
        eventually(
            &format!("/readyz answers {wanted}"),
            Duration::from_secs(20),
            || async {
                let (status, body) = self.daemon.get("/readyz").await?;
                (status == wanted).then_some(body)
            },
        )
        .await
    }

    /// Every row after `seq` is relayed and in the broker.
    async fn judge(self, after: i64, what: &str) {
        self.session.drained(Duration::from_secs(30)).await;
        let mut rows = committed(&self.session).await.expect("the outbox can be read");
        rows.retain(|row| row.seq > after);
        let mut arrivals = self.broker.arrivals(&[TOPIC]).await;
        arrivals.retain(|arrival| rows.iter().any(|row| row.id == arrival.id));
        let verdict = compare(&rows, &arrivals);
        println!("{what}: {verdict}");
        verdict.assert_nothing_lost();
        verdict.assert_ordered();
        assert_eq!(
            (verdict.failed, verdict.attempts_counted),
            (0, 0),
            "{verdict}\n{}",
            self.site.log()
        );
        self.readiness(200).await;
        assert!(self.daemon.terminate(Duration::from_secs(30)).await.success());
    }
}

const LAST: &str = "select coalesce(max(seq), 0) from outbox_messages";

#[tokio::test]
async fn stream_missing_fails_readiness_not_messages() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&[TOPIC]).await;
    let quiet = Quiet::start(broker).await;
    quiet.insert(300).await;
    quiet.session.drained(Duration::from_secs(20)).await;
    let last = quiet.session.count(LAST).await;
    let client = async_nats::connect(quiet.broker.address())
        .await
        .expect("nats-server is up");
    async_nats::jetstream::new(client)
        .delete_stream(STREAM)
        .await
        .expect("the stream is there");
    quiet.insert(300).await;
    quiet.wait(300).await;
    let reasons = quiet.readiness(503).await;
    assert!(
        reasons.contains("destination") && reasons.contains("no jetstream stream captures"),
        "{reasons}"
    );
    quiet.broker.prepare(&[TOPIC]).await;
    let back = Instant::now();
    quiet.session.drained(Duration::from_secs(10)).await;
    println!("all relayed {:.1?} after the stream was made anew", back.elapsed());
    quiet.judge(last, "a stream deleted and made anew").await;
}

/// A user who may not ask about streams nor hear of elections still finds out that a stream is back.
#[tokio::test]
async fn a_nats_user_with_few_rights_recovers() {
    let _guard = together().await;
    let users =
        "authorization { users: [ { user: admin, password: admin }, { user: limited, password: limited, permissions: {
        publish: [ \"orders\", \"$JS.API.STREAM.NAMES\" ], subscribe: [ \"_INBOX.>\" ] } } ] }\nno_auth_user: admin";
    let broker = Broker::start_with(Kind::Nats, users);
    let password = tempfile::NamedTempFile::new().expect("a scratch file");
    std::fs::write(password.path(), "limited").expect("it is writable");
    let login = format!("user = \"limited\"\npassword_file = {:?}\n", password.path());
    let section = broker.section("main") + &login;
    let quiet = Quiet::start_with(broker, &section).await;
    quiet.insert(100).await;
    quiet.wait(100).await;
    quiet.broker.prepare(&[TOPIC]).await;
    quiet.session.drained(Duration::from_secs(15)).await;
    let log = quiet.site.log();
    assert!(log.contains("may not subscribe to $JS.EVENT.ADVISORY"), "{log}");
    assert!(log.contains("may not publish on $JS.API.STREAM.INFO"), "{log}");
    quiet.judge(0, "a user with few rights").await;
}

#[tokio::test]
async fn a_topic_deleted_and_made_anew_is_an_outage() {
    let _guard = together().await;
    let broker = Broker::start_with(Kind::Kafka, "auto.create.topics.enable=false");
    broker.prepare(&[TOPIC]).await;
    let quiet = Quiet::start(broker).await;
    quiet.insert(300).await;
    quiet.session.drained(Duration::from_secs(20)).await;
    let last = quiet.session.count(LAST).await;
    let admin: AdminClient<_> = ClientConfig::new()
        .set("bootstrap.servers", quiet.broker.address())
        .create()
        .expect("an admin client");
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
    for deleted in admin.delete_topics(&[TOPIC], &options).await.expect("Kafka is up") {
        deleted.expect("the topic was there");
    }
    quiet.insert(300).await;
    quiet.wait(300).await;
    let reasons = quiet.readiness(503).await;
    assert!(reasons.contains("destination") && reasons.contains(TOPIC), "{reasons}");
    let new = [NewTopic::new(TOPIC, 3, TopicReplication::Fixed(1))];
    eventually("the topic is made anew", Duration::from_secs(20), || async {
        let made = admin.create_topics(&new, &options).await.ok()?;
        made.into_iter().all(|one| one.is_ok()).then_some(())
    })
    .await;
    let back = Instant::now();
    quiet.session.drained(Duration::from_secs(30)).await;
    println!("all relayed {:.1?} after the topic was made anew", back.elapsed());
    quiet.judge(last, "a topic deleted and made anew").await;
}

/// A stream that takes no more (10077) until its limit is raised.
async fn a_full_stream(limited: Config, what: &str) {
    let broker = Broker::start(Kind::Nats);
    let client = async_nats::connect(broker.address()).await.expect("nats-server is up");
    let jetstream = async_nats::jetstream::new(client);
    let limited = Config {
        name: STREAM.to_owned(),
        subjects: vec![TOPIC.to_owned()],
        discard: DiscardPolicy::New,
        ..limited
    };
    jetstream.create_stream(limited.clone()).await.expect("a new stream");
    let quiet = Quiet::start(broker).await;
    quiet.insert_large(300).await;
    let reasons = quiet.readiness(503).await;
    assert!(reasons.contains("10077"), "{what}: {reasons}");
    let waiting = quiet.session.count(WAITING).await;
    assert!((1..300).contains(&waiting), "{what}: {waiting} of 300 wait");
    quiet.wait(waiting).await;
    let roomy = Config {
        max_messages: -1,
        max_bytes: -1,
        ..limited
    };
    jetstream.update_stream(roomy).await.expect("the limit is raised");
    quiet.session.drained(Duration::from_secs(10)).await;
    quiet.judge(0, what).await;
}

#[tokio::test]
async fn a_full_stream_is_an_outage() {
    let _guard = together().await;
    let messages = Config {
        max_messages: 200,
        ..Config::default()
    };
    let bytes = Config {
        max_bytes: 1024 * 1024,
        ..Config::default()
    };
    tokio::join!(
        a_full_stream(messages, "max_msgs reached"),
        a_full_stream(bytes, "max_bytes reached")
    );
}

/// JetStream may store no more (10047): a full disk, as the server sees it, until somebody makes room.
#[tokio::test]
async fn a_full_jetstream_store_is_an_outage() {
    let _guard = together().await;
    let store = tempfile::tempdir().expect("a scratch directory");
    let limit = format!(
        "jetstream {{ store_dir: {:?}, max_mem: 1MB, max_file: 1MB }}",
        store.path()
    );
    let broker = Broker::start_with(Kind::Nats, &limit);
    let client = async_nats::connect(broker.address()).await.expect("nats-server is up");
    let jetstream = async_nats::jetstream::new(client);
    for (name, subject) in [("ballast", "ballast"), (STREAM, TOPIC)] {
        let config = Config {
            name: name.to_owned(),
            subjects: vec![subject.to_owned()],
            ..Config::default()
        };
        jetstream.create_stream(config).await.expect("a new stream");
    }
    for _ in 0..9 {
        let sent = jetstream
            .publish("ballast", vec![0_u8; 100_000].into())
            .await
            .expect("it is sent");
        sent.await.expect("there is room for the ballast");
    }
    let quiet = Quiet::start(broker).await;
    quiet.insert(2_000).await;
    let reasons = quiet.readiness(503).await;
    assert!(reasons.contains("10047") || reasons.contains("10023"), "{reasons}");
    let waiting = quiet.session.count(WAITING).await;
    assert!((1..=2_000).contains(&waiting), "{waiting} of 2,000 wait");
    quiet.wait(waiting).await;
    jetstream.delete_stream("ballast").await.expect("the ballast is there");
    quiet.session.drained(Duration::from_secs(10)).await;
    quiet.judge(0, "a full store").await;
}

/// A minute without the broker; answers how long after its port answered the first message was acknowledged.
async fn a_minute_without(kind: Kind) -> Duration {
    let broker = Broker::start(kind);
    broker.prepare(&[TOPIC]).await;
    let quiet = Quiet::start(broker).await;
    quiet.insert(500).await;
    quiet.session.drained(Duration::from_secs(20)).await;
    quiet.broker.kill9().await;
    let killed = Instant::now();
    for round in 1..=6 {
        quiet.insert(500).await;
        throughout("the rows wait untouched", Duration::from_secs(10), || async {
            quiet.session.count(WAITING).await == 500 * round
        })
        .await;
    }
    println!("{kind:?} was away for {:.0?}", killed.elapsed());
    let mut starting = quiet.broker.begin_to_bring_back();
    let port = quiet.broker.port();
    eventually("the port answers", Duration::from_secs(60), || async {
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()
    })
    .await;
    let reachable = Instant::now();
    eventually("the first message is acknowledged", Duration::from_secs(60), || async {
        (quiet.session.count(WAITING).await < 3_000).then_some(())
    })
    .await;
    let took = reachable.elapsed();
    println!("{kind:?}: the first message was acknowledged {took:.2?} after the port answered");
    ended(&mut starting).await;
    quiet.judge(0, &format!("a minute without {kind:?}")).await;
    took
}

async fn ended(child: &mut Child) {
    let child = std::cell::RefCell::new(child);
    eventually("the script has ended", Duration::from_secs(60), || async {
        child.borrow_mut().try_wait().expect("it is ours")
    })
    .await;
}

#[tokio::test]
async fn outage_60s() {
    let _guard = together().await;
    let (nats, kafka) = tokio::join!(a_minute_without(Kind::Nats), a_minute_without(Kind::Kafka));
    assert!(nats < Duration::from_millis(1_500), "NATS: {nats:?}");
    assert!(kafka < Duration::from_secs(5), "Kafka: {kafka:?}");
}
