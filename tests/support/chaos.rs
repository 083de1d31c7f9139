//! The chaos run: 4 writers, 1,000 keys, the daemon killed five times and the broker twice, then the checker.
//!
//! One run per broker serves the tests of P1, P2 and P3 (`loss.rs`, `duplicates.rs`, `order.rs`), each of which judges
//! its own part of the verdict.

use std::time::{Duration, Instant};

use tokio::sync::OnceCell;

use super::broker::{Broker, Kind};
use super::checker::{Verdict, committed, compare};
use super::daemon::Site;
use super::postgres::{Cluster, Database, Session};
use super::writers::{Habits, Writers, Writing};
use super::{eventually, together};

/// `relay.max_in_flight` of the run.
pub(crate) const MAX_IN_FLIGHT: usize = 2_000;
/// How often something was killed.
pub(crate) const KILLS: usize = 7;

const TOPICS: &[&str] = &["orders", "payments", "shipments"];

/// Rows of a chaos run: `OUTBOXD_CHAOS_ROWS`, else 100,000.
pub(crate) fn rows() -> usize {
    std::env::var("OUTBOXD_CHAOS_ROWS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(100_000)
}

static NATS: OnceCell<Verdict> = OnceCell::const_new();
static KAFKA: OnceCell<Verdict> = OnceCell::const_new();

/// What the run against `kind` came to; made once per test binary.
pub(crate) async fn verdict(kind: Kind) -> &'static Verdict {
    let cell = match kind {
        Kind::Nats => &NATS,
        Kind::Kafka => &KAFKA,
    };
    cell.get_or_init(|| run(kind)).await
}

#[derive(Clone, Copy)]
enum Blow {
    Daemon,
    Broker,
}

/// The order of the blows: each is struck when another eighth of the rows is committed.
const BLOWS: [Blow; KILLS] = [
    Blow::Daemon,
    Blow::Broker,
    Blow::Daemon,
    Blow::Daemon,
    Blow::Broker,
    Blow::Daemon,
    Blow::Daemon,
];

async fn run(kind: Kind) -> Verdict {
    let _guard = together().await;
    let started = Instant::now();
    let broker = Broker::start(kind);
    broker.prepare(TOPICS).await;
    let database = Cluster::shared().database().await;
    let relay = format!("[relay]\nmax_in_flight = {MAX_IN_FLIGHT}\nbatch_size = 500\n");
    let site = Site::new(&database, &(broker.section("main") + &relay));
    site.migrate();
    let mut daemon = site.start().await;

    let writers = Writers {
        connections: 4,
        rows: rows(),
        keys: 1_000,
        topics: TOPICS,
        habits: Habits::Plain,
    };
    let mut writing = writers.start(&database).await;
    for (number, blow) in BLOWS.into_iter().enumerate() {
        reach(&mut writing, rows() * (number + 1) / (KILLS + 1)).await;
        match blow {
            Blow::Daemon => {
                daemon.kill9();
                daemon = site.start().await;
            }
            Blow::Broker => {
                broker.kill9().await;
                // Down while a few thousand rows gather, so that the next blow meets a daemon that catches up.
                reach(&mut writing, rows() * (2 * number + 3) / (2 * (KILLS + 1))).await;
                broker.bring_back();
            }
        }
    }
    writing.join().await;
    database.connect().await.drained(Duration::from_secs(120)).await;
    let verdict = judge(&database, &broker, TOPICS).await;
    print_attempts(&database.connect().await).await;
    let status = daemon.terminate(Duration::from_secs(30)).await;
    assert!(status.success(), "the daemon ended with {status}");
    println!("chaos on {kind:?}: {verdict}, {KILLS} kills, {:.0?}", started.elapsed());
    verdict
}

async fn reach(writing: &mut Writing, rows: usize) {
    let writing = tokio::sync::Mutex::new(writing);
    eventually("the writers get on", Duration::from_secs(180), || async {
        let mut writing = writing.lock().await;
        (writing.committed() >= rows || writing.done()).then_some(())
    })
    .await;
}

/// Reads both ends and compares them.
pub(crate) async fn judge(database: &Database, broker: &Broker, topics: &[&str]) -> Verdict {
    let session = database.connect().await;
    let rows = committed(&session).await.expect("the outbox can be read");
    compare(&rows, &broker.arrivals(topics).await)
}

/// Prints the failed attempts that were counted: where only servers were killed, there should be none.
pub(crate) async fn print_attempts(session: &Session) {
    let query =
        "select class, code, min(error), count(*), min(to_char(at, 'HH24:MI:SS.MS')), max(to_char(at, 'HH24:MI:SS.MS'))
        from outboxd_attempts group by class, code";
    for row in session.query(query, &[]).await.expect("the attempts can be read") {
        let (class, code, error): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let (count, first, last): (i64, String, String) = (row.get(3), row.get(4), row.get(5));
        println!("{count} attempts counted as {class}, {code}: {error}, from {first} to {last}");
    }
}
