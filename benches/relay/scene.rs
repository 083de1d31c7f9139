//! Servers, a running daemon and an empty outbox; what everybody's CPU comes to.

use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::peer::Debezium;
use crate::support::broker::{Broker, Kind, STREAM};
use crate::support::chaos::judge;
use crate::support::daemon::{Daemon, Site};
use crate::support::eventually;
use crate::support::postgres::{Cluster, Database, Session, psql};
use crate::support::processes::{children, cpu_seconds};

/// A server with memory for its tables: a twelfth of the machine's, and no checkpoint in the middle of a drain.
const SERVER: &[&str] = &["shared_buffers=2GB", "max_wal_size=8GB"];
const REPLICA: &str = "wal_level=replica";
const LOGICAL: &str = "wal_level=logical";

/// What the scene is for.
#[derive(Clone, Copy)]
pub(crate) struct Set<'a> {
    pub(crate) broker: &'a Broker,
    /// Lines of the daemon's configuration.
    pub(crate) config: &'a str,
    /// Daemons at work.
    pub(crate) instances: usize,
    /// The cluster's `wal_level` is `logical`, for a peer to tail; else PostgreSQL's default.
    pub(crate) logical: bool,
}

impl<'a> Set<'a> {
    pub(crate) fn one(broker: &'a Broker, config: &'a str) -> Self {
        Self {
            broker,
            config,
            instances: 1,
            logical: false,
        }
    }
}

pub(crate) struct Scene<'a> {
    pub(crate) cluster: Cluster,
    pub(crate) broker: &'a Broker,
    pub(crate) database: Database,
    pub(crate) session: Session,
    /// The server process of `session`, whose work is not the relay's.
    ours: u32,
    pub(crate) daemons: Vec<Daemon>,
    pub(crate) peer: Option<Debezium>,
    sites: Vec<Site>,
}

impl<'a> Scene<'a> {
    pub(crate) async fn new(set: Set<'a>) -> Self {
        let mut scene = Self::without_daemon(set).await;
        scene.start().await;
        if set.instances > 1 {
            let even = format!(
                "select count(*) from (select owner from outboxd_lanes group by owner having count(*) <= 64 / {} + 1) as owners",
                set.instances
            );
            eventually("the lanes are shared", Duration::from_secs(60), || async {
                (scene.session.count(&even).await == set.instances as i64).then_some(())
            })
            .await;
        }
        scene
    }

    pub(crate) async fn start(&mut self) {
        for site in &self.sites {
            self.daemons.push(site.start().await);
        }
    }

    /// One row, so that connections, plans and what is to be known of the topic are there: the daemon has been at work.
    pub(crate) async fn warm_up(&self) {
        self.insert_one().await;
        self.until_relayed().await;
    }

    /// A row that is not counted; its id, which is in its payload too.
    pub(crate) async fn insert_one(&self) -> Uuid {
        let id = Uuid::new_v4();
        let row = format!(
            "insert into outbox_messages (id, topic, key, payload)
             values ('{id}', 'orders', 'warm', jsonb_build_object('id', '{id}'))"
        );
        self.session.run(&row).await;
        id
    }

    /// Tables and servers; nobody relays.
    pub(crate) async fn without_daemon(set: Set<'a>) -> Self {
        let level = if set.logical { LOGICAL } else { REPLICA };
        let cluster = Cluster::own_with(&[SERVER, &[level]].concat());
        let broker = set.broker;
        empty(broker).await;
        let database = cluster.database().await;
        let sites: Vec<Site> = (0..set.instances.max(1))
            .map(|_| Site::new(&database, &(broker.section("main") + set.config)))
            .collect();
        sites[0].migrate();
        Self::of(cluster, broker, database, sites).await
    }

    /// Several outboxes (`config` says which): `sql` makes schemas and tables of other programs, `named` are those there are. One
    /// daemon, begun and not waited for.
    pub(crate) async fn several(broker: &'a Broker, topics: &[&str], config: &str, sql: &str, named: &[&str]) -> Self {
        let cluster = Cluster::own_with(&[SERVER, &[REPLICA]].concat());
        empty_of(broker, topics).await;
        let database = cluster.database().await;
        let site = Site::new(&database, &(broker.section("main") + config));
        database.connect().await.run(sql).await;
        for name in named {
            site.succeed(&["migrate", "--outbox", name]);
            let script = site.succeed(&["roles", "--print", "--outbox", name]);
            assert!(psql(&database.url(), &script).status.success(), "the roles of {name}");
        }
        Self::of(cluster, broker, database, vec![site]).await
    }

    /// As [`Self::start`], where something is never ready.
    pub(crate) fn launch(&mut self) {
        self.daemons.extend(self.sites.iter().map(Site::launch));
    }

    async fn of(cluster: Cluster, broker: &'a Broker, database: Database, sites: Vec<Site>) -> Self {
        let session = database.connect().await;
        let ours = session.count("select pg_backend_pid()::bigint").await;
        Self {
            ours: u32::try_from(ours).expect("a process id"),
            cluster,
            broker,
            database,
            session,
            daemons: Vec::new(),
            peer: None,
            sites,
        }
    }

    pub(crate) fn cpu(&self) -> Cpu {
        let postmaster = self.cluster.pid();
        let servers = children(postmaster).into_iter().filter(|pid| *pid != self.ours);
        Cpu {
            relay: self.daemons.iter().map(|daemon| cpu_seconds(daemon.pid())).sum::<f64>()
                + self.peer.as_ref().map_or(0.0, Debezium::cpu),
            postgres: cpu_seconds(postmaster) + servers.map(cpu_seconds).sum::<f64>(),
            broker: self.broker.pid().map_or(0.0, cpu_seconds),
        }
    }

    /// MB, the largest relay's.
    pub(crate) fn peak_rss(&self) -> u64 {
        let peaks = self.daemons.iter().map(Daemon::peak_rss);
        let peaks = peaks.chain(self.peer.iter().map(Debezium::peak_rss));
        peaks.max().unwrap_or(0) / (1024 * 1024)
    }

    pub(crate) async fn until_relayed(&self) {
        // The last row first: looking for any pending one passes over the index entries of all that were relayed.
        let last = "select count(*) from (select relayed_at from outbox_messages order by seq desc limit 1) as last
            where relayed_at is null";
        let pending = "select count(*) from (select from outbox_messages
            where relayed_at is null and failed_at is null limit 1) as one";
        eventually("all rows are relayed", Duration::from_secs(3_600), || async {
            (self.session.count(last).await == 0 && self.session.count(pending).await == 0).then_some(())
        })
        .await;
    }

    /// The independent consumer found every row, in order per key, once.
    pub(crate) async fn judge(&self) {
        let verdict = judge(&self.database, self.broker, &["orders"]).await;
        verdict.assert_nothing_lost();
        verdict.assert_ordered();
        verdict.assert_duplicates_within(0);
    }

    pub(crate) async fn end(self) {
        for daemon in self.daemons {
            assert!(
                daemon.terminate(Duration::from_secs(30)).await.success(),
                "the daemon ends with 0"
            );
        }
    }
}

/// The topic, or the stream over it, without a message.
async fn empty(broker: &Broker) {
    empty_of(broker, &["orders"]).await;
}

/// Those of `topics`.
async fn empty_of(broker: &Broker, topics: &[&str]) {
    match broker.kind {
        Kind::Nats => {
            let client = async_nats::connect(broker.address()).await.expect("nats-server is up");
            // There is none the first time.
            async_nats::jetstream::new(client).delete_stream(STREAM).await.ok();
        }
        Kind::Kafka => {
            let admin: AdminClient<_> = ClientConfig::new()
                .set("bootstrap.servers", broker.address())
                .create()
                .expect("an admin client");
            let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
            let deleted = admin.delete_topics(topics, &options).await.expect("Kafka is up");
            if deleted.iter().all(Result::is_ok) {
                // Its name is free a moment later.
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        }
    }
    broker.prepare(topics).await;
}

/// CPU seconds used so far.
#[derive(Clone, Copy)]
pub(crate) struct Cpu {
    pub(crate) relay: f64,
    pub(crate) postgres: f64,
    pub(crate) broker: f64,
}

impl Cpu {
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            relay: self.relay - before.relay,
            postgres: self.postgres - before.postgres,
            broker: self.broker - before.broker,
        }
    }
}

/// What moving `rows` rows took.
pub(crate) struct Haul {
    rows: usize,
    begun: Instant,
    before: Cpu,
}

impl Haul {
    pub(crate) fn begin(rows: usize, before: Cpu) -> Self {
        Self {
            rows,
            begun: Instant::now(),
            before,
        }
    }

    pub(crate) fn end(self, after: Cpu, peak_rss_mb: u64) -> Value {
        let (seconds, used) = (self.begun.elapsed().as_secs_f64(), after.since(self.before));
        let millions = self.rows as f64 / 1e6;
        json!({
            "rows_per_second": self.rows as f64 / seconds,
            "seconds": seconds,
            "peak_rss_mb": peak_rss_mb,
            "relay_cpu_s_per_million": used.relay / millions,
            "postgres_cpu_s_per_million": used.postgres / millions,
            "broker_cpu_s_per_million": used.broker / millions,
        })
    }
}

pub(crate) fn number(figures: &Value, name: &str) -> f64 {
    figures[name].as_f64().expect("a figure is a number")
}

/// Heads of the table that [`line`] fills.
pub(crate) fn heads() {
    println!(
        "{:<22} {:>9} {:>8} {:>6}   {:>7} {:>10} {:>7}",
        "", "rows/s", "seconds", "RSS MB", "relay", "PostgreSQL", "broker"
    );
    println!(
        "{:<22} {:>9} {:>8} {:>6}   {:^26}",
        "", "", "", "peak", "CPU s per million rows"
    );
}

pub(crate) fn line(what: &str, figures: &Value) {
    println!(
        "{what:<22} {:>9.0} {:>8.2} {:>6}   {:>7.1} {:>10.1} {:>7.1}",
        number(figures, "rows_per_second"),
        number(figures, "seconds"),
        figures["peak_rss_mb"],
        number(figures, "relay_cpu_s_per_million"),
        number(figures, "postgres_cpu_s_per_million"),
        number(figures, "broker_cpu_s_per_million"),
    );
}

/// The middle one of some runs.
pub(crate) fn median(runs: &[Value], name: &str) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(|figures| number(figures, name)).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
