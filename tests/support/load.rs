//! A steady load that survives what is done to the servers: paced transactions under many keys, connected anew whenever
//! the database went away. What was committed is read from the database afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::postgres::Database;

/// What is to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Connections; each owns its keys, so that a key's `seq` is the order of its commits.
    pub(crate) connections: usize,
    /// Keys, divided among the connections; a key's rows all go to one topic.
    pub(crate) keys: usize,
    /// Topics.
    pub(crate) topics: &'static [&'static str],
    /// Rows a second, all connections together.
    pub(crate) per_second: usize,
    /// Ends by itself after about so many.
    pub(crate) rows: usize,
}

/// A load under way.
pub(crate) struct Loading {
    tasks: JoinSet<()>,
    committed: Arc<AtomicUsize>,
    stop: CancellationToken,
}

const INSERT: &str = "insert into outbox_messages (topic, key, payload)
    select topic, key, jsonb_build_object('n', n, 'pad', repeat('x', 200))
    from unnest($1::text[], $2::text[], $3::bigint[]) as input (topic, key, n)";

/// Rows of a transaction at most.
const ROWS_MAX: usize = 40;

impl Load {
    /// Starts it; `seed` decides which keys and how many rows each transaction has.
    pub(crate) fn start(self, database: &Database, seed: u64) -> Loading {
        let committed = Arc::new(AtomicUsize::default());
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for number in 0..self.connections {
            let writer = Writer {
                database: database.clone(),
                load: self,
                number,
                random: fastrand::Rng::with_seed(seed.wrapping_add(number as u64)),
                committed: Arc::clone(&committed),
            };
            let stop = stop.clone();
            tasks.spawn(async move { writer.write(stop).await });
        }
        Loading { tasks, committed, stop }
    }
}

impl Loading {
    /// Rows committed so far, about: a commit whose answer was lost is not counted.
    pub(crate) fn committed(&self) -> usize {
        self.committed.load(Ordering::Relaxed)
    }

    /// Waits until all rows are written.
    pub(crate) async fn join(mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("no writer fails");
        }
    }

    /// Ends it early.
    pub(crate) async fn end(self) {
        self.stop.cancel();
        self.join().await;
    }
}

struct Writer {
    database: Database,
    load: Load,
    number: usize,
    random: fastrand::Rng,
    committed: Arc<AtomicUsize>,
}

impl Writer {
    async fn write(mut self, stop: CancellationToken) {
        let share = self.load.rows.div_ceil(self.load.connections);
        let row = Duration::from_secs_f64(self.load.connections as f64 / self.load.per_second as f64);
        let mut written = 0;
        let mut session = self.database.connect_when_up().await;
        let mut next = Instant::now();
        while written < share && !stop.is_cancelled() {
            let rows = self.random.usize(1..=ROWS_MAX.min(share - written));
            match self.transaction(&session, rows).await {
                Ok(()) => {
                    written += rows;
                    self.committed.fetch_add(rows, Ordering::Relaxed);
                }
                Err(error) if error.is_closed() || error.code().is_some() => {
                    session = self.database.connect_when_up().await;
                }
                Err(error) => panic!("writer {}: {error}", self.number),
            }
            // Time lost in an outage is not made up for.
            next = (next + row * u32::try_from(rows).expect("few")).max(Instant::now() - Duration::from_millis(200));
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    async fn transaction(
        &mut self,
        session: &tokio_postgres::Client,
        rows: usize,
    ) -> Result<(), tokio_postgres::Error> {
        let share = (self.load.keys / self.load.connections).max(1);
        let keys: Vec<String> = (0..rows)
            .map(|_| format!("k{}", self.number * share + self.random.usize(..share)))
            .collect();
        let topics: Vec<&str> = keys.iter().map(|key| topic(self.load.topics, key)).collect();
        let numbers: Vec<i64> = keys.iter().map(|_| self.random.i64(..)).collect();
        session.batch_execute("begin").await?;
        session.execute(INSERT, &[&topics, &keys, &numbers]).await?;
        // Some commits come late, so that they are not in the order of their numbers.
        if self.random.u8(..100) < 10 {
            tokio::time::sleep(Duration::from_millis(self.random.u64(1..40))).await;
        }
        session.batch_execute("commit").await
    }
}

/// A key's topic: always the same one.
fn topic(topics: &'static [&'static str], key: &str) -> &'static str {
    let sum: usize = key.bytes().map(usize::from).sum();
    topics[sum % topics.len()]
}
