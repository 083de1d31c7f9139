//! P1 over many rounds of what brings numbers back: emptied tables, sequences set back, exchanged tables and servers that lag,
//! mixed, half of them while the broker stalls. `OUTBOXD_ROUNDS` says how many; `OUTBOXD_SEED` repeats them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::numbers::{Stage, WAYS, insert, lagging, promote};
use crate::support::broker::{Broker, Kind};
use crate::support::daemon::{Site, on_relayed};
use crate::support::postgres::{Cluster, Database};
use crate::support::proxy::Proxy;
use crate::support::stage::seed;
use crate::support::{eventually, together};

const ROUNDS: usize = 20;
/// One round in so many is a failover.
const FAILOVERS: usize = 10;

/// When each message was first seen by a subscriber.
#[derive(Default)]
struct Heard {
    times: Arc<Mutex<HashMap<Uuid, Instant>>>,
    listening: JoinSet<()>,
}

impl Heard {
    async fn at(broker: &Broker) -> Self {
        let mut heard = Self::default();
        let client = async_nats::connect(broker.address()).await.unwrap();
        let mut messages = client.subscribe("orders").await.unwrap();
        client.flush().await.unwrap();
        let times = Arc::clone(&heard.times);
        heard.listening.spawn(async move {
            while let Some(message) = messages.next().await {
                let headers = message.headers.expect("every message has its id");
                let id = headers.get("Outbox-Id").and_then(|id| id.as_str().parse().ok());
                all(&times).entry(id.unwrap()).or_insert_with(Instant::now);
            }
        });
        heard
    }

    /// When the last of them was there.
    async fn last(&self, ids: &[Uuid], what: &str) -> Instant {
        eventually(what, Duration::from_secs(20), || async {
            let all = all(&self.times);
            let times: Option<Vec<Instant>> = ids.iter().map(|id| all.get(id).copied()).collect();
            times.and_then(|times| times.into_iter().max())
        })
        .await
    }
}

fn all(times: &Mutex<HashMap<Uuid, Instant>>) -> MutexGuard<'_, HashMap<Uuid, Instant>> {
    times.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A server, and the address under which its successors stand.
struct Home {
    primary: Cluster,
    proxy: Proxy,
    name: String,
}

impl Home {
    fn here(&self) -> Database {
        self.primary.database_called(&self.name)
    }

    /// Rows are committed that the next server never hears of, and are on their way when it takes over.
    async fn fails_over(&mut self, stage: &mut Stage, rows: i64) {
        let standby = self.primary.standby();
        let there = lagging(&standby, &stage.session).await;
        insert(&stage.session, rows).await;
        self.primary.stop_immediately();
        promote(&there).await;
        self.primary = standby;
        self.proxy.switch(self.primary.port());
        stage.session = self.here().connect().await;
    }
}

/// Numbers come back again and again: whatever is new arrives, and soon.
async fn mixed(deletes: bool) {
    let _guard = together().await;
    let rounds = std::env::var("OUTBOXD_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().expect("a number"));
    let mut random = fastrand::Rng::with_seed(seed());
    let primary = Cluster::own();
    let database = primary.database().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders"]).await;
    let rest = broker.section("main") + on_relayed(deletes);
    Site::new(&database, &rest).migrate();
    let proxy = Proxy::to(primary.port());
    let through = Database {
        name: database.name.clone(),
        port: proxy.port(),
    };
    let heard = Heard::at(&broker).await;
    let mut stage = Stage {
        session: database.connect().await,
        site: Site::at(&format!("url = \"{}\"", through.url()), &rest),
        broker,
    };
    let daemon = stage.site.start().await;
    let mut home = Home {
        primary,
        proxy,
        name: database.name,
    };
    let (mut times, mut failovers) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let (rows, new, stalls) = (random.i64(1..=50), random.i64(1..=50), random.bool());
        let way = WAYS[random.usize(..WAYS.len())];
        let fails_over = random.usize(..FAILOVERS) == 0;
        stage.session.run("drop table if exists former").await;
        if stalls {
            stage.broker.freeze();
        }
        if fails_over {
            home.fails_over(&mut stage, rows).await;
        } else {
            insert(&stage.session, rows).await;
            if stalls {
                stage.in_flight(rows, stage.site.port()).await;
            } else {
                tokio::time::sleep(Duration::from_millis(random.u64(..40))).await;
            }
            stage.session.run(way).await;
        }
        let ids = insert(&stage.session, new).await;
        stage.broker.thaw();
        let began = Instant::now();
        let what =
            format!("round {round} (stalls: {stalls}, fails over: {fails_over}, else {way}): the new rows arrive");
        let took = heard.last(&ids, &what).await.saturating_duration_since(began);
        if fails_over { &mut failovers } else { &mut times }.push(took);
        stage.session.drained(Duration::from_secs(20)).await;
    }
    let late = times.iter().filter(|time| **time > Duration::from_secs(1)).count();
    println!(
        "deletes {deletes}: {} rounds, the slowest {:.2?}, {late} later than a second; {} failovers, the slowest {:.2?}",
        times.len(),
        times.iter().max().copied().unwrap_or_default(),
        failovers.len(),
        failovers.iter().max().copied().unwrap_or_default(),
    );
    assert!(daemon.terminate(Duration::from_secs(20)).await.success());
}

#[tokio::test]
async fn numbers_come_back_round_after_round_and_nothing_is_lost() {
    mixed(false).await;
}

#[tokio::test]
async fn numbers_come_back_round_after_round_and_nothing_is_deleted_unsent() {
    mixed(true).await;
}
