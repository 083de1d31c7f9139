//! Three instances, real servers, a load and the audit: the stage of every run with several instances, and what can be
//! done to it. Short runs are tests, long ones `dev/chaos`.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use uuid::Uuid;

use super::audit;
use super::broker::{Broker, Kind, STREAM};
use super::checker::{Verdict, committed, compare};
use super::daemon::BINARY;
use super::fleet::Fleet;
use super::postgres::{Cluster, Database, Session};

/// Topics of every run.
pub(crate) const TOPICS: &[&str] = &["orders", "payments", "shipments"];
/// `relay.max_in_flight` of each instance: the bound on duplicates per crash.
pub(crate) const MAX_IN_FLIGHT: usize = 1_000;

/// Servers, instances and the audit; no load yet.
pub(crate) struct Stage {
    /// NATS or Kafka.
    pub(crate) broker: Broker,
    /// A server of the stage's own, which can be stopped.
    pub(crate) cluster: Cluster,
    /// Its one database.
    pub(crate) database: Database,
    /// The instances; none runs yet.
    pub(crate) fleet: Fleet,
    /// Duplicates that what was done so far explains.
    pub(crate) bound: usize,
}

impl Stage {
    /// Starts the servers and makes the tables. `rest` is added to the configuration of each of `size` instances.
    pub(crate) async fn new(kind: Kind, size: usize, rest: &str) -> Self {
        let broker = Broker::start(kind);
        broker.prepare(TOPICS).await;
        let cluster = Cluster::own();
        let database = cluster.database().await;
        let relay = format!("{rest}\n[relay]\nmax_in_flight = {MAX_IN_FLIGHT}\nbatch_size = 200\n");
        let fleet = Fleet::new(&database, size, &(broker.section("main") + &relay));
        let session = database.connect().await;
        audit::install(&session).await.expect("the audit is installed");
        Self {
            broker,
            cluster,
            database,
            fleet,
            bound: 0,
        }
    }

    /// A connection, once the server accepts one.
    pub(crate) async fn session(&self) -> Session {
        self.database.connect_when_up().await
    }

    /// After the load: waits until nothing is pending, stops the instances cleanly, compares both ends here, and asserts
    /// what must be so whatever happened: nothing lost, order per key, nothing written without the lease.
    pub(crate) async fn verdict(&mut self) -> Verdict {
        let session = self.session().await;
        session.drained(Duration::from_secs(120)).await;
        self.fleet.leave_all().await;
        let fencing = audit::fencing(&session).await.expect("the audit can be read");
        let fencing = fencing.expect("the audit is installed");
        let rows = committed(&session).await.expect("the outbox can be read");
        let arrivals = self.broker.arrivals(TOPICS).await;
        let verdict = compare(&rows, &arrivals);
        println!("{verdict}; {fencing}; at most {} duplicates explained", self.bound);
        for (topic, key, before, seq) in verdict.disorder.iter().take(3) {
            let history = audit::history(&session, (topic, key), *seq, *before).await;
            println!(
                "{topic} {key}: {before} came before {seq}\n{}",
                history.expect("the audit can be read")
            );
            let by_id: HashMap<Uuid, i64> = rows.iter().map(|row| (row.id, row.seq)).collect();
            let own = arrivals
                .iter()
                .filter(|one| one.key.as_ref() == Some(key) && one.topic == *topic);
            let seqs: Vec<Option<&i64>> = own.map(|one| by_id.get(&one.id)).collect();
            println!("as they arrived: {seqs:?}");
        }
        fencing.assert_fenced();
        verdict.assert_nothing_lost();
        verdict.assert_ordered();
        verdict.assert_duplicates_within(self.bound);
        verdict
    }

    /// Runs the checker program on both ends; answers whether it found them in order.
    pub(crate) fn check(&self) -> bool {
        let program = Path::new(BINARY).with_file_name("examples").join("check");
        let mut command = Command::new(&program);
        command.args(["--max-duplicates", &self.bound.to_string(), &self.database.url()]);
        match self.broker.kind {
            Kind::Nats => command.args(["nats", &self.broker.address(), STREAM]),
            Kind::Kafka => command.args(["kafka", &self.broker.address()]).args(TOPICS),
        };
        let status = command.status().unwrap_or_else(|error| {
            panic!(
                "{}: {error}; build it: cargo build --features testing --example check",
                program.display()
            )
        });
        status.success()
    }
}

/// `OUTBOXD_SEED`, else a random one; printed, so that a run can be repeated.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("OUTBOXD_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    println!("OUTBOXD_SEED={seed}");
    seed
}
