//! One missing topic, one stopped transport, one poisoned key and one held key beside rows that have no trouble at all.

use std::fmt;
use std::time::{Duration, Instant};

use super::broker::{Broker, Kind, STREAM};
use super::checker::{Verdict, committed, compare};
use super::daemon::{Daemon, Site};
use super::eventually;
use super::postgres::{Cluster, Session};

const ROUTES: &str = r#"
[[routes]]
topic = "stopped"
transport = "stopped"
[[routes]]
topic = "poisoned"
transport = "main"
max_attempts = 1000
backoff_min = "100ms"
backoff_max = "1s"
[[routes]]
topic = "held"
transport = "main"
order = "strict"
max_attempts = 1
[[routes]]
topic = "*"
transport = "main"
[relay]
max_in_flight = 2000
batch_size = 500
"#;

/// A header that makes JetStream answer 10071, which may pass: the row is retried.
const REFUSED: &str = r#"{"Nats-Expected-Last-Sequence": "999999999"}"#;

/// Rows in trouble for each kind of it, made before the measurement; as many come beside the healthy ones.
const TROUBLED: usize = 1_000;

/// A daemon with a healthy destination and four kinds of trouble.
pub(crate) struct Ward {
    live: Broker,
    stopped: Broker,
    site: Site,
    session: Session,
    daemon: Daemon,
}

/// Rows per second of the healthy ones, in each round.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    alone: Vec<f64>,
    beside: Vec<f64>,
}

impl Rates {
    /// The rate beside trouble as a part of the rate alone, medians.
    pub(crate) fn ratio(&self) -> f64 {
        median(&self.beside) / median(&self.alone)
    }
}

fn median(rates: &[f64]) -> f64 {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "healthy rows alone {:.0}/s, beside a missing topic, a stopped transport, a poisoned key and a held key \
             {:.0}/s: {:.2}",
            median(&self.alone),
            median(&self.beside),
            self.ratio()
        )
    }
}

impl Ward {
    /// Starts servers and a daemon; nothing is wrong yet.
    pub(crate) async fn new() -> Self {
        let (live, stopped) = (Broker::start(Kind::Nats), Broker::start(Kind::Nats));
        live.prepare(&["orders", "poisoned", "held"]).await;
        stopped.prepare(&["stopped"]).await;
        let database = Cluster::shared().database().await;
        let site = Site::new(
            &database,
            &[&live.section("main"), &stopped.section("stopped"), ROUTES].concat(),
        );
        site.migrate();
        let daemon = site.start().await;
        Self {
            live,
            stopped,
            site,
            session: database.connect().await,
            daemon,
        }
    }

    /// Rates of healthy rows, `rounds` times `rows` of them: alone, beside trouble, and alone again after the cure. With
    /// what both brokers hold in the end, compared with the table.
    pub(crate) async fn rates(self, rounds: usize, rows: usize) -> (Rates, Verdict) {
        // The first one warms up: connections, plans, the first pages of the table.
        self.healthy(rows / 10, 0).await;
        let mut rates = Rates::default();
        for _ in 0..rounds {
            rates.alone.push(self.healthy(rows, 0).await);
        }
        self.make_trouble().await;
        for _ in 0..rounds {
            rates.beside.push(self.healthy(rows, TROUBLED / rounds).await);
            self.assert_trouble_waits().await;
        }
        self.cure().await;
        for _ in 0..rounds {
            rates.alone.push(self.healthy(rows, 0).await);
        }
        (rates, self.verdict().await)
    }

    /// Healthy rows and, for each kind of trouble, `troubled` more, mixed in one transaction. Rows per second of the
    /// healthy ones from commit to the last mark.
    async fn healthy(&self, rows: usize, troubled: usize) -> f64 {
        let insert = format!(
            "begin;
             insert into outbox_messages (topic, key, payload)
             select topic, key, '{{\"pad\": \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"}}'
             from (
                 select 'orders' as topic, 'k' || n % 1000 as key, n::float8 / {rows} as place
                 from generate_series(1, {rows}) as n
                 union all
                 select topic, topic, n::float8 / {troubled_or_one}
                 from generate_series(1, {troubled}) as n, unnest('{{missing,stopped,poisoned,held}}'::text[]) as topic
             ) as mixed order by place",
            troubled_or_one = troubled.max(1)
        );
        self.session.run(&insert).await;
        self.session.run("commit").await;
        let committed = Instant::now();
        let pending = "select count(*) from (select from outbox_messages
            where topic = 'orders' and relayed_at is null and failed_at is null limit 1) as one";
        eventually("the healthy rows are relayed", Duration::from_secs(120), || async {
            (self.session.count(pending).await == 0).then_some(())
        })
        .await;
        rows as f64 / committed.elapsed().as_secs_f64()
    }

    async fn make_trouble(&self) {
        self.stopped.kill9().await;
        let insert = format!(
            "insert into outbox_messages (topic, key, payload, headers) values
                 ('poisoned', 'poisoned', '0', '{REFUSED}'), ('held', 'held', '0', '{REFUSED}');
             insert into outbox_messages (topic, key, payload)
             select topic, topic, '{{}}' from generate_series(1, {TROUBLED}) as n,
                 unnest('{{missing,stopped,poisoned,held}}'::text[]) as topic"
        );
        self.session.run(&insert).await;
        let there = "select count(*) from outbox_messages
            where (topic = 'poisoned' and attempt > 2) or (topic = 'held' and failed_at is not null)";
        eventually("the refused rows retry and hold", Duration::from_secs(20), || async {
            (self.session.count(there).await == 2).then_some(())
        })
        .await;
    }

    async fn assert_trouble_waits(&self) {
        let gone = "select count(*) from outbox_messages where topic <> 'orders' and relayed_at is not null";
        assert_eq!(self.session.count(gone).await, 0, "no row in trouble was relayed");
        let counted = "select count(*) from outbox_messages where topic in ('missing', 'stopped') and attempt > 1";
        assert_eq!(self.session.count(counted).await, 0, "an outage counts nothing");
    }

    /// Ends all trouble.
    async fn cure(&self) {
        self.stopped.bring_back();
        let client = async_nats::connect(self.live.address())
            .await
            .expect("nats-server is up");
        let context = async_nats::jetstream::new(client);
        let mut stream = context.get_stream(STREAM).await.expect("the stream is there");
        let mut config = stream.info().await.expect("the stream answers").config.clone();
        config.subjects.push("missing".to_owned());
        context.update_stream(config).await.expect("one more subject");
        self.session
            .run("update outbox_messages set headers = '{}' where headers <> '{}'")
            .await;
        self.site.succeed(&["failed", "retry", "--topic", "held"]);
        self.session.drained(Duration::from_secs(60)).await;
    }

    async fn verdict(self) -> Verdict {
        let mut arrivals = self.live.arrivals(&[]).await;
        arrivals.extend(self.stopped.arrivals(&[]).await);
        let rows = committed(&self.session).await.expect("the outbox can be read");
        assert!(self.daemon.terminate(Duration::from_secs(30)).await.success());
        compare(&rows, &arrivals)
    }
}
