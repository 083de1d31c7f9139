//! Applications that go on writing while their database dies under them: they connect again and carry on, and remember the
//! ids of exactly those rows whose commit was acknowledged. All of them must be in the database at the end.
//!
//! Each connection owns its keys, and waits for the end of a lost transaction by what it sees next, so the order of `seq`
//! within a key is the order of its transactions.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use uuid::Uuid;

use super::checker::Committed;
use super::eventually;
use super::postgres::{Session, try_session};

/// Writers at work.
pub(crate) struct Enduring {
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicUsize>,
    tasks: JoinSet<Vec<Uuid>>,
}

/// Between two transactions of a connection: about two thousand rows a second in all.
const PAUSE: Duration = Duration::from_millis(15);

const INSERT: &str = "insert into outbox_messages (id, topic, key, payload)
    select id, $2, key, '{\"n\": 1}' from unnest($1::uuid[], $3::text[]) as input (id, key)";

impl Enduring {
    /// Starts `connections` writers of rows of `topic` over `url`, for ever.
    pub(crate) fn start(url: &str, connections: usize, topic: &'static str) -> Self {
        let (stop, committed) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut tasks = JoinSet::new();
        for number in 0..connections {
            let (url, stop, committed) = (url.to_owned(), Arc::clone(&stop), Arc::clone(&committed));
            tasks.spawn(async move {
                let mut acknowledged = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    if let Some(session) = connect(&url).await {
                        write(&session, number, topic, (&stop, &committed), &mut acknowledged).await;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                acknowledged
            });
        }
        Self { stop, committed, tasks }
    }

    /// Rows whose commit was acknowledged so far.
    pub(crate) fn committed(&self) -> usize {
        self.committed.load(Ordering::Relaxed)
    }

    /// Waits until so many more rows are acknowledged.
    pub(crate) async fn write_more(&self, rows: usize) {
        let goal = self.committed() + rows;
        eventually("the writers get on", Duration::from_secs(60), || async {
            (self.committed() >= goal).then_some(())
        })
        .await;
    }

    /// Stops them; answers the ids of every row whose commit was acknowledged. Nothing, the second time.
    pub(crate) async fn stop(&mut self) -> HashSet<Uuid> {
        self.stop.store(true, Ordering::Relaxed);
        let mut acknowledged = HashSet::new();
        while let Some(ended) = self.tasks.join_next().await {
            acknowledged.extend(ended.expect("no writer fails"));
        }
        acknowledged
    }
}

/// Every row whose commit was acknowledged is in the database.
pub(crate) fn assert_durable(acknowledged: &HashSet<Uuid>, rows: &[Committed]) {
    let there: HashSet<Uuid> = rows.iter().map(|row| row.id).collect();
    let missing = acknowledged.difference(&there).count();
    assert_eq!(
        missing,
        0,
        "the database lost {missing} of {} acknowledged rows",
        acknowledged.len()
    );
}

/// `None` when the server is away, or does not answer.
async fn connect(url: &str) -> Option<Session> {
    tokio::time::timeout(Duration::from_secs(2), try_session(url))
        .await
        .ok()?
        .ok()
}

/// Writes until told to stop, or until the connection breaks.
async fn write(
    session: &Session,
    number: usize,
    topic: &str,
    (stop, committed): (&AtomicBool, &AtomicUsize),
    acknowledged: &mut Vec<Uuid>,
) {
    while !stop.load(Ordering::Relaxed) {
        let ids: Vec<Uuid> = (0..fastrand::usize(1..20)).map(|_| Uuid::new_v4()).collect();
        let keys: Vec<String> = ids
            .iter()
            .map(|_| format!("w{number}-{}", fastrand::u8(..50)))
            .collect();
        let insert = async { session.execute(INSERT, &[&ids, &topic, &keys]).await };
        match tokio::time::timeout(Duration::from_secs(10), insert).await {
            Ok(Ok(_)) => {
                committed.fetch_add(ids.len(), Ordering::Relaxed);
                acknowledged.extend(ids);
            }
            Ok(Err(_)) | Err(_) => return,
        }
        tokio::time::sleep(PAUSE).await;
    }
}
