//! A line that carries a tenth of what is offered: slow is not dead. Nothing is counted, nothing sent twice, in order, at the
//! line's pace.

use std::time::{Duration, Instant};

use crate::support::arrivals::{Arrival, nats_arrivals};
use crate::support::checker::{committed, compare};
use crate::support::daemon::Site;
use crate::support::nats::{DEBIAN, NatsServer, programs};
use crate::support::postgres::Cluster;
use crate::support::proxy::{Proxy, Weather};
use crate::support::redis::RedisServer;
use crate::support::{alone, eventually};

const TOPIC: &str = "orders";
/// Bytes a second.
const RATE: usize = 300_000;
const ROWS: usize = 1_000;
const ROW: usize = 5_000;

enum End {
    Nats(NatsServer),
    Redis(RedisServer),
}

impl End {
    async fn nats(program: &str) -> Self {
        let server = NatsServer::of(program, "");
        server.create_stream(TOPIC, &[TOPIC]).await;
        Self::Nats(server)
    }

    fn port(&self) -> u16 {
        match self {
            Self::Nats(server) => server.port(),
            Self::Redis(server) => server.port(),
        }
    }

    fn section(&self, port: u16) -> String {
        match self {
            Self::Nats(_) => format!("[transports.main.nats]\nurl = \"nats://127.0.0.1:{port}\"\n"),
            Self::Redis(_) => format!("[transports.main.redis]\nurl = \"redis://127.0.0.1:{port}\"\n"),
        }
    }

    async fn arrivals(&self) -> Vec<Arrival> {
        match self {
            Self::Nats(server) => nats_arrivals(&server.url(), TOPIC).await.unwrap(),
            Self::Redis(server) => in_stream(server),
        }
    }
}

fn in_stream(server: &RedisServer) -> Vec<Arrival> {
    let mut client = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    let stream: redis::streams::StreamRangeReply = redis::cmd("XRANGE")
        .arg(TOPIC)
        .arg("-")
        .arg("+")
        .query(&mut client)
        .unwrap();
    let arrival = |entry: redis::streams::StreamId| Arrival {
        id: entry.get::<String>("id").unwrap().parse().unwrap(),
        topic: TOPIC.to_owned(),
        key: entry.get("key"),
        headers: Vec::new(),
        payload: entry.get("payload").unwrap(),
    };
    stream.ids.into_iter().map(arrival).collect()
}

async fn thin(end: End, lease: &str, what: &str) {
    let proxy = Proxy::to(end.port());
    let database = Cluster::shared().database().await;
    let site = Site::with_lease(&database, lease, &end.section(proxy.port()));
    site.migrate();
    let daemon = site.start().await;
    let session = database.connect().await;
    session
        .run("insert into outbox_messages (topic, key, payload) values ('orders', 'first', '{}')")
        .await;
    session.drained(Duration::from_secs(20)).await;
    proxy.turn(Weather::Thin(RATE));
    let begun = Instant::now();
    session
        .run(&format!(
            "insert into outbox_messages (topic, key, payload)
             select '{TOPIC}', 'k' || n % 100, jsonb_build_object('pad', repeat('x', {ROW}))
             from generate_series(1, {ROWS}) n"
        ))
        .await;
    session.drained(Duration::from_secs(180)).await;
    let took = begun.elapsed();
    let metrics = daemon.metrics().await;
    let hidden: f64 = metrics
        .iter()
        .filter(|(name, _)| name.starts_with("outboxd_duplicates_acknowledged_total"))
        .map(|(_, value)| value)
        .sum();
    let verdict = compare(&committed(&session).await.unwrap(), &end.arrivals().await);
    let line = Duration::from_secs_f64((ROWS * ROW) as f64 / RATE as f64);
    println!("{what}: {verdict}; {hidden} hidden copies; {took:.1?}, and the line alone takes {line:.1?}");
    verdict.assert_nothing_lost();
    verdict.assert_ordered();
    verdict.assert_duplicates_within(0);
    assert_eq!((verdict.failed, verdict.attempts_counted), (0, 0), "{verdict}");
    assert!(hidden.abs() < 0.5, "{hidden} copies that the stream hides");
    assert!(took < line * 3, "{took:?}");
    // Nothing of it stays: a wide line is filled again.
    proxy.heal();
    session
        .run("insert into outbox_messages (topic, key, payload) values ('orders', 'last', '{}')")
        .await;
    eventually("it is relayed", Duration::from_secs(20), || async {
        let pending = "select count(*) from outbox_messages where relayed_at is null";
        (session.count(pending).await == 0).then_some(())
    })
    .await;
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

#[tokio::test]
async fn a_thin_line_to_nats_counts_and_repeats_nothing() {
    let _guard = alone().await;
    let programs = programs();
    let last = programs.last().unwrap();
    tokio::join!(
        thin(End::nats(DEBIAN).await, "", "NATS"),
        thin(End::nats(last).await, "ttl = \"3s\"", "today's NATS, a short lease")
    );
}

#[tokio::test]
async fn a_thin_line_to_redis_counts_and_repeats_nothing() {
    let _guard = alone().await;
    tokio::join!(
        thin(End::Redis(RedisServer::start()), "", "Redis"),
        thin(End::Redis(RedisServer::start()), "ttl = \"3s\"", "Redis, a short lease")
    );
}
