//! How the outbox stands, from the database alone: what `outboxd status` and `/api/v1/status` show.
//!
//! Each pending message is counted once: retrying, else delayed, else held (an earlier message of its key is in the way),
//! else due; messages of paused topics count as held. Every part is bounded: counts stop at [`EXACT`] (a daemon's own earlier) and become the planner's estimate, holders and the search for
//! what they hold are capped, and no statement looks at relayed rows beyond a window. Destinations paused by their breaker
//! are known to the daemon only.

use std::collections::HashMap;

use serde::Serialize;
use tokio_postgres::types::Type;

use super::held::{KeyHolder, arrays, held_keys, holders};
use super::lock_waits::{self, BlockedSession};
use super::paused::{self, PausedDestination};
use super::rules::HELD_SEARCH;
pub use super::rules::{Rule, Rules};
use crate::backlog::{Backlog, HeldKey, PausedTopic, Pending};
use crate::store::postgres::link::about::is_about_a_row;
use crate::store::postgres::link::database::{Database, Role};
use crate::store::postgres::link::sql::{Names, Param, Statement};
pub use crate::store::postgres::outbox::stuck::{Stuck, StuckMessage, read as stuck};
use crate::store::postgres::outbox::transactions;
use crate::store::{OpenTransaction, StoreError};

const COUNTS: &str = include_str!("../../../../sql/status_counts.sql");
const OLDEST: &str = include_str!("../../../../sql/status_oldest.sql");
const RATE: &str = include_str!("../../../../sql/status_rate.sql");
const INSTANCES: &str = include_str!("../../../../sql/status_instances.sql");
const LANES: &str = include_str!("../../../../sql/status_lanes.sql");

/// Up to here counts are exact.
pub const EXACT: i64 = 1_000_000;
/// Rows of each window the rate is taken from, and the seconds it looks back.
const RATE_WINDOW: i64 = 20_000;
const RATE_SECONDS: f64 = 10.0;

/// See the module.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// Pending messages.
    pub pending: Pending,
    /// Failed messages.
    pub failed: u64,
    /// For how long the oldest due message has been due; 0: none is.
    pub oldest_due_age_seconds: f64,
    /// Messages relayed a second, lately. 0 where relayed rows are deleted.
    pub rate_per_second: f64,
    /// Instances that registered.
    pub instances: Vec<Instance>,
    /// Lanes and their owners.
    pub lanes: Vec<LaneOwner>,
    /// Keys whose messages wait behind one of them, oldest first.
    pub held_keys: Vec<HeldKey>,
    /// Transactions that have taken numbers and have been open for a while, longest first. With `commit_order` messages
    /// wait for them; without, only their own do.
    pub open_transactions: Vec<OpenTransaction>,
    /// Topics whose messages are held back by an operator or their route.
    pub paused_topics: Vec<PausedTopic>,
    /// Always empty here: the daemon knows.
    pub paused_destinations: Vec<PausedDestination>,
    /// Topics among the first pending messages that no route matches.
    pub unrouted_topics: Vec<String>,
    /// Messages that are stuck: how many.
    pub stuck_count: u64,
    /// The first of them.
    pub stuck: Vec<StuckMessage>,
    /// Sessions of outboxd that wait for a lock somebody else holds.
    pub lock_waits: Vec<BlockedSession>,
}

/// An instance of the daemon.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Instance {
    /// Its name.
    pub instance: String,
    /// Its version.
    pub version: Option<String>,
    /// The machine it runs on.
    pub machine: String,
    /// Lanes it owns.
    pub lanes: i64,
    /// When it started; ISO 8601.
    pub started_at: String,
    /// Until its lease ends; negative: it has ended.
    pub lease_seconds: f64,
}

/// Who owns a lane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LaneOwner {
    /// The lane.
    pub lane: i32,
    /// Its owner.
    pub owner: Option<String>,
    /// Raised by each take-over.
    pub epoch: i64,
}

/// Looks at the backlog; up to `exact` counts are exact. `rules` are those of the routes.
///
/// # Errors
/// See [`Database::query`].
pub async fn backlog(database: &Database, names: &Names, rules: Rules<'_>, exact: i64) -> Result<Backlog, StoreError> {
    let is_paused = |topic: &str| (rules.of)(topic).paused;
    let by_route = rules.any_paused.then_some(&is_paused as _);
    let paused_topics = paused::topics(database, names, by_route, HELD_SEARCH).await?;
    let shut: Vec<&str> = paused_topics.iter().map(|paused| &*paused.topic).collect();
    let (mut pending, failed) = counts(database, names, exact).await?;
    if pending == Pending::default() && failed == 0 {
        return Ok(Backlog {
            paused_topics,
            ..Backlog::default()
        });
    }
    let holders = holders(database, names, rules).await?;
    // A key with a failed and a retrying holder is listed twice, and its messages wait once.
    let mut waiting: HashMap<(&str, i64), u64> = HashMap::new();
    for held in &holders {
        let count = waiting.entry((&held.topic, held.hash)).or_default();
        *count = held.waiting.max(*count);
    }
    waiting.retain(|(topic, _), _| !shut.contains(topic));
    pending.held = waiting.values().sum::<u64>() + paused::count(database, names, &shut, HELD_SEARCH).await?;
    pending.due = pending.due.saturating_sub(pending.held);
    let oldest_due_age_seconds = oldest(database, names, &holders, &shut).await?;
    let held_keys = held_keys(database, names, holders).await?;
    Ok(Backlog {
        pending,
        failed,
        oldest_due_age_seconds,
        held_keys,
        paused_topics,
    })
}

/// Looks at everything. `rules` are those of the routes.
///
/// # Errors
/// See [`Database::query`].
pub async fn status(database: &Database, names: &Names, rules: Rules<'_>) -> Result<Status, StoreError> {
    let Backlog {
        pending,
        failed,
        oldest_due_age_seconds,
        held_keys,
        paused_topics,
    } = backlog(database, names, rules, EXACT).await?;
    let instances = instances(database, names).await?;
    let Stuck { count, named } = stuck(database, names).await?;
    let lanes = database.query(Role::Side, &plain(names, LANES), &[]).await?;
    Ok(Status {
        pending,
        failed,
        oldest_due_age_seconds,
        rate_per_second: rate(database, names).await?,
        instances,
        lanes: lanes
            .iter()
            .map(|r| LaneOwner {
                lane: r.get(0),
                owner: r.get(1),
                epoch: r.get(2),
            })
            .collect(),
        held_keys,
        open_transactions: transactions::open(database, names).await?,
        paused_topics,
        paused_destinations: Vec::new(),
        unrouted_topics: paused::unrouted(database, names, rules).await?,
        stuck_count: count,
        stuck: named,
        lock_waits: lock_waits::sessions(database).await?,
    })
}

/// Instances that registered, with the lanes they own.
///
/// # Errors
/// See [`Database::query`].
pub async fn instances(database: &Database, names: &Names) -> Result<Vec<Instance>, StoreError> {
    let rows = database.query(Role::Side, &plain(names, INSTANCES), &[]).await?;
    Ok(rows.iter().map(instance).collect())
}

fn plain(names: &Names, file: &str) -> Statement {
    Statement {
        text: names.fill(file),
        types: &[],
    }
}

fn instance(row: &tokio_postgres::Row) -> Instance {
    Instance {
        instance: row.get(0),
        version: row.get(1),
        machine: row.get(2),
        lanes: row.get(3),
        started_at: row.get(4),
        lease_seconds: row.get(5),
    }
}

/// Pending messages, the held ones still among the due, and failed ones.
async fn counts(database: &Database, names: &Names, exact: i64) -> Result<(Pending, u64), StoreError> {
    let statement = Statement {
        text: names.fill(COUNTS),
        types: &[Type::INT8],
    };
    let rows = database.query(Role::Side, &statement, &[&exact]).await?;
    let row = rows.first().expect("one row of counts");
    let count = |at: usize| row.get::<_, i64>(at).unsigned_abs();
    let (counted, delayed, retrying, failed) = (count(0), count(1), count(2), count(3));
    let estimate = row
        .get::<_, Option<i64>>(4)
        .and_then(|estimate| u64::try_from(estimate).ok());
    let all = if counted < exact.unsigned_abs() {
        counted
    } else {
        counted.max(estimate.unwrap_or(0))
    };
    Ok((
        Pending {
            due: all.saturating_sub(delayed + retrying),
            delayed,
            retrying,
            held: 0,
        },
        failed,
    ))
}

async fn oldest(database: &Database, names: &Names, held: &[KeyHolder], shut: &[&str]) -> Result<f64, StoreError> {
    let types = &[Type::TEXT_ARRAY, Type::INT8_ARRAY, Type::INT8_ARRAY, Type::TEXT_ARRAY];
    let statement = Statement {
        text: names.fill(OLDEST),
        types,
    };
    let (topics, hashes, seqs) = arrays(held);
    let params: [Param<'_>; 4] = [&topics, &hashes, &seqs, &shut];
    let rows = match database.query(Role::Side, &statement, &params).await {
        // Without topics and keys to compare, none is read.
        Err(error) if is_about_a_row(&error) => {
            let (nobody, none): (Vec<&str>, Vec<i64>) = (Vec::new(), Vec::new());
            let params: [Param<'_>; 4] = [&nobody, &none, &none, &nobody];
            database.query(Role::Side, &statement, &params).await?
        }
        answer => answer?,
    };
    Ok(rows.first().and_then(|row| row.get::<_, Option<f64>>(0)).unwrap_or(0.0))
}

async fn rate(database: &Database, names: &Names) -> Result<f64, StoreError> {
    let statement = Statement {
        text: names.fill(RATE),
        types: &[Type::INT8, Type::FLOAT8],
    };
    let rows = database
        .query(Role::Side, &statement, &[&RATE_WINDOW, &RATE_SECONDS])
        .await?;
    Ok(rows.first().map_or(0.0, |row| row.get(0)))
}
