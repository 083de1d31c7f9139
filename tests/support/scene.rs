//! One daemon, one broker, writers that endure: what the tests of reconnecting and failover have in common.

use std::collections::HashSet;
use std::time::Duration;

use uuid::Uuid;

use super::arrivals::Arrival;
use super::broker::{Broker, Kind};
use super::checker::{committed, compare};
use super::clusters::{KafkaCluster, NatsCluster};
use super::daemon::{Daemon, Site};
use super::enduring::{Enduring, assert_durable};
use super::eventually;
use super::postgres::{Database, Session};

/// The topic everything is about.
pub(crate) const TOPIC: &str = "orders";
/// How many rows are relayed.
pub(crate) const RELAYED: &str = "select count(*) from outbox_messages where relayed_at is not null";

/// Where messages go.
pub(crate) enum Place {
    /// One broker.
    One(Broker),
    /// JetStream on three nodes.
    Nats(NatsCluster),
    /// Kafka on three nodes.
    Kafka(KafkaCluster),
}

impl Place {
    /// Everything it holds.
    pub(crate) async fn arrivals(&self) -> Vec<Arrival> {
        match self {
            Self::One(broker) => broker.arrivals(&[TOPIC]).await,
            Self::Nats(cluster) => cluster.arrivals().await,
            Self::Kafka(cluster) => cluster.arrivals(TOPIC).await,
        }
    }

    fn section(&self) -> String {
        match self {
            Self::One(broker) => broker.section("main"),
            Self::Nats(cluster) => format!("[transports.main.nats]\nurl = \"{}\"\n", cluster.url()),
            Self::Kafka(cluster) => format!("[transports.main.kafka]\nbrokers = \"{}\"\n", cluster.brokers()),
        }
    }
}

/// A daemon that relays `database` to a broker of its own, and writers beside it.
pub(crate) struct Scene {
    /// Where messages go.
    pub(crate) place: Place,
    /// What is judged in the end.
    pub(crate) database: Database,
    /// The daemon's installation.
    pub(crate) site: Site,
    /// The daemon that must still be there in the end.
    pub(crate) daemon: Daemon,
    /// The writers.
    pub(crate) writing: Enduring,
    acknowledged: HashSet<Uuid>,
}

impl Scene {
    /// A daemon that reaches `database` as `section` says, with `rest` in its configuration, and writers over `writers`.
    pub(crate) async fn set(database: Database, section: &str, rest: &str, writers: &str) -> Self {
        let broker = Broker::start(Kind::Nats);
        broker.prepare(&[TOPIC]).await;
        let transport = broker.section("main");
        Self::at(Place::One(broker), database, &[section, &transport, rest], writers).await
    }

    /// A daemon whose configuration is made of `sections`: database, transport, the rest.
    async fn at(place: Place, database: Database, sections: &[&str; 3], writers: &str) -> Self {
        Site::new(&database, sections[1]).migrate();
        let site = Site::at(sections[0], &[sections[1], sections[2]].concat());
        let daemon = site.start().await;
        let writing = Enduring::start(writers, 3, TOPIC);
        let session = database.connect().await;
        eventually("the daemon relays what is written", Duration::from_secs(20), || async {
            (session.count(RELAYED).await > 100).then_some(())
        })
        .await;
        Self {
            place,
            database,
            site,
            daemon,
            writing,
            acknowledged: HashSet::new(),
        }
    }

    /// The same with a daemon and writers that know one address only.
    pub(crate) async fn direct(database: Database, rest: &str) -> Self {
        let url = database.url();
        Self::set(database, &format!("url = \"{url}\""), rest, &url).await
    }

    /// A daemon and writers that reach the database directly, and `place`, by `transport` where the way there is special.
    pub(crate) async fn to(place: Place, database: Database, transport: Option<String>, rest: &str) -> Self {
        let url = database.url();
        let transport = transport.unwrap_or_else(|| place.section());
        Self::at(place, database, &[&format!("url = \"{url}\""), &transport, rest], &url).await
    }

    /// The one broker.
    pub(crate) fn broker(&self) -> &Broker {
        match &self.place {
            Place::One(broker) => broker,
            Place::Nats(_) | Place::Kafka(_) => panic!("the scene has a cluster"),
        }
    }

    /// Waits until something is relayed that was not before; answers how long that took.
    pub(crate) async fn relays_again(&self, session: &Session, deadline: Duration) -> Duration {
        let started = std::time::Instant::now();
        let before = session.count(RELAYED).await;
        eventually("the daemon relays again", deadline, || async {
            (session.count(RELAYED).await > before).then_some(())
        })
        .await;
        started.elapsed()
    }

    /// Waits until a row is relayed that was written after the call; answers how long that took.
    pub(crate) async fn relays_new_rows(&self, session: &Session, deadline: Duration) -> Duration {
        let started = std::time::Instant::now();
        let last = session.count("select coalesce(max(seq), 0) from outbox_messages").await;
        let newer = format!("{RELAYED} and seq > {last}");
        eventually("the daemon relays new rows", deadline, || async {
            (session.count(&newer).await > 0).then_some(())
        })
        .await;
        started.elapsed()
    }

    /// Stops the writers.
    pub(crate) async fn stop_writing(&mut self) {
        let acknowledged = self.writing.stop().await;
        self.acknowledged.extend(acknowledged);
    }

    /// Stops the writers and waits until everything is relayed.
    pub(crate) async fn rest(&mut self) -> Session {
        self.stop_writing().await;
        let session = self.database.connect_when_up().await;
        session.drained(Duration::from_secs(60)).await;
        session
    }

    /// As [`Self::judge`], where nothing happened that may send a message twice.
    pub(crate) async fn judge_without_copies(mut self, what: &str) -> Site {
        let session = self.rest().await;
        let rows = committed(&session).await.expect("the outbox can be read");
        let verdict = compare(&rows, &self.place.arrivals().await);
        verdict.assert_duplicates_within(0);
        self.judge(what).await
    }

    /// Stops writing and compares both ends; the daemon must be the one that began, and well.
    pub(crate) async fn judge(mut self, what: &str) -> Site {
        let session = self.rest().await;
        let rows = committed(&session).await.expect("the outbox can be read");
        let verdict = compare(&rows, &self.place.arrivals().await);
        println!("{what}: {verdict}");
        assert_durable(&self.acknowledged, &rows);
        verdict.assert_nothing_lost();
        verdict.assert_ordered();
        assert_eq!((verdict.failed, verdict.attempts_counted), (0, 0), "{verdict}");
        self.daemon.ready(Duration::from_secs(20)).await;
        eventually(
            "the backlog in /metrics is what it is",
            Duration::from_secs(60),
            || async {
                let metrics = self.daemon.metrics().await;
                (metrics.get("outboxd_messages_pending{state=\"due\"}") == Some(&0.0)).then_some(())
            },
        )
        .await;
        assert!(self.daemon.terminate(Duration::from_secs(30)).await.success());
        self.site
    }
}
