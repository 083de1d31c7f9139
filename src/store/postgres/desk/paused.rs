//! Topics that operators pause and resume. The instances follow within a third of `lease.ttl`, and at once where
//! notifications arrive.

use serde::Serialize;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::rules::{Rules, unless_unreadable};
use crate::backlog::PausedTopic;
use crate::store::StoreError;
use crate::store::postgres::link::answer::legible;
use crate::store::postgres::link::database::{Database, Role};
use crate::store::postgres::link::sql::{Names, Statement};

const PAUSE: &str = include_str!("../../../../sql/pause.sql");
const RESUME: &str = include_str!("../../../../sql/resume.sql");
const LIST: &str = include_str!("../../../../sql/status_paused.sql");
const TOPICS: &str = include_str!("../../../../sql/status_topics.sql");
const SHUT: &str = include_str!("../../../../sql/status_shut.sql");

/// Pending messages looked at for topics without a route.
const UNROUTED_SEARCH: i64 = 10_000;

/// A destination that takes no messages.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PausedDestination {
    /// The transport's name.
    pub transport: String,
    /// Kafka topic, NATS subject or Redis stream.
    pub destination: String,
    /// The failure that paused it.
    pub error: String,
    /// For how long, in seconds.
    pub since_seconds: f64,
}

/// Pauses `topics`; answers those that were not paused before.
///
/// # Errors
/// See [`Database::query`].
pub async fn pause(
    database: &Database,
    names: &Names,
    topics: &[String],
    who: &str,
) -> Result<Vec<String>, StoreError> {
    change(database, names, PAUSE, Some(topics), who).await
}

/// Resumes `topics`, or all; answers those that were paused.
///
/// # Errors
/// See [`Database::query`].
pub async fn resume(
    database: &Database,
    names: &Names,
    topics: Option<&[String]>,
    who: &str,
) -> Result<Vec<String>, StoreError> {
    change(database, names, RESUME, topics, who).await
}

async fn change(
    database: &Database,
    names: &Names,
    file: &str,
    topics: Option<&[String]>,
    who: &str,
) -> Result<Vec<String>, StoreError> {
    let statement = Statement {
        text: names.fill(file),
        types: &[Type::TEXT_ARRAY, Type::TEXT, Type::UUID],
    };
    let rows = database
        .query(Role::Side, &statement, &[&topics, &who, &Uuid::new_v4()])
        .await?;
    Ok(rows.first().map(|row| row.get(0)).unwrap_or_default())
}

async fn list(database: &Database, names: &Names) -> Result<Vec<PausedTopic>, StoreError> {
    let statement = Statement {
        text: names.fill(LIST),
        types: &[],
    };
    let rows = database.query(Role::Side, &statement, &[]).await?;
    let topic = |row: &tokio_postgres::Row| PausedTopic {
        topic: row.get(0),
        since: row.get(1),
        who: row.get(2),
    };
    Ok(rows.iter().map(topic).collect())
}

/// Every topic paused by command; and those on a paused route, as `by_route` tells, that are among the first `search`
/// pending messages.
///
/// # Errors
/// See [`Database::query`].
pub async fn topics(
    database: &Database,
    names: &Names,
    by_route: Option<&(dyn Fn(&str) -> bool + Sync)>,
    search: i64,
) -> Result<Vec<PausedTopic>, StoreError> {
    let mut topics = list(database, names).await?;
    let Some(by_route) = by_route else {
        return Ok(topics);
    };
    for topic in waiting(database, names, search).await? {
        if by_route(&topic) && topics.iter().all(|paused| paused.topic != topic) {
            let (since, who) = (None, None);
            topics.push(PausedTopic { topic, since, who });
        }
    }
    Ok(topics)
}

/// The topics of the first `search` pending messages.
async fn waiting(database: &Database, names: &Names, search: i64) -> Result<Vec<String>, StoreError> {
    let statement = Statement {
        text: names.fill(TOPICS),
        types: &[Type::INT8],
    };
    let found = database.query(Role::Side, &statement, &[&search]).await;
    let topics = unless_unreadable(found)?;
    Ok(topics.iter().filter_map(|row| legible(row, 0)).collect())
}

/// Topics that no route matches, as `rules` tell, among the first pending messages.
///
/// # Errors
/// See [`Database::query`].
pub async fn unrouted(database: &Database, names: &Names, rules: Rules<'_>) -> Result<Vec<String>, StoreError> {
    let mut topics = waiting(database, names, UNROUTED_SEARCH).await?;
    topics.retain(|topic| !(rules.of)(topic).routed);
    Ok(topics)
}

/// How many of the first `search` pending messages that do not wait for a time are of these topics.
///
/// # Errors
/// See [`Database::query`].
pub async fn count(database: &Database, names: &Names, topics: &[&str], search: i64) -> Result<u64, StoreError> {
    if topics.is_empty() {
        return Ok(0);
    }
    let statement = Statement {
        text: names.fill(SHUT),
        types: &[Type::TEXT_ARRAY, Type::INT8],
    };
    let counted = database.query(Role::Side, &statement, &[&topics, &search]).await;
    let rows = unless_unreadable(counted)?;
    Ok(rows.first().map_or(0, |row| row.get::<_, i64>(0).unsigned_abs()))
}
