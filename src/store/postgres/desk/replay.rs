//! Already relayed messages again.
//!
//! A command looks at the rows there are when it begins, in `seq` order along the primary key, and only at what was relayed
//! before that: what it replays is relayed again with a later time, so no row is replayed twice by one command. Each step is a
//! transaction that also writes the audit.
//!
//! Order: the relay takes rows that waited for a time by `available_at`, then `seq`. A step's rows share one time and steps
//! follow each other, so the messages of a key are found in `seq` order. A replayed message starts over at its first attempt and
//! without `last_error`: with one it would count as one that retries, and hold back what goes before it.

use jiff::Timestamp;
use serde::Serialize;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::choice::MessageRef;
use super::moment::Moment;
use super::parts::{self, Done};
use super::row_identity::{Identity, columns};
use crate::store::StoreError;
use crate::store::postgres::link::database::{Database, Role};
use crate::store::postgres::link::sql::{Names, Statement};

const CHOOSE: &str = include_str!("../../../../sql/replay_choose.sql");
const REPLAY: &str = include_str!("../../../../sql/replay.sql");

/// Rows a step replays at most.
pub const STEP: usize = 1000;
/// Rows a step looks at.
const PAGE: i64 = 10_000;

/// Which relayed messages: every part given must hold. Kept in the audit as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Filter {
    /// This topic, exactly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// This key, exactly; an empty key is a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// One of these; none: any. For whoever calls [`Replay::choose`] to resolve.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<MessageRef>,
    /// Relayed since then; a distance is before now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Moment>,
    /// Relayed until then; a distance is before now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Moment>,
}

impl Filter {
    /// Whether it lets every relayed message through.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// An answer of [`Replay::choose`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Messages to replay, in order.
    pub rows: Vec<Identity>,
    /// Rows up to here were looked at.
    pub upto: i64,
}

/// A command under way.
#[derive(Debug)]
pub struct Replay {
    choose: Statement,
    replay: Statement,
    topic: Option<String>,
    key: Option<String>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    began: Timestamp,
    who: String,
    id: Uuid,
    filter: String,
}

impl Replay {
    /// A command of `who` that began at `began`, by the database's clock.
    #[must_use]
    pub fn new(names: &Names, filter: &Filter, began: Timestamp, who: String) -> Self {
        let choose = &[
            Type::INT8,
            Type::INT8,
            Type::INT8,
            Type::INT8,
            Type::TEXT,
            Type::TEXT,
            Type::TIMESTAMPTZ,
            Type::TIMESTAMPTZ,
            Type::TIMESTAMPTZ,
        ];
        Self {
            choose: Statement {
                text: names.fill(CHOOSE),
                types: choose,
            },
            replay: Statement {
                text: names.fill(REPLAY),
                types: &[
                    Type::INT8_ARRAY,
                    Type::TIMESTAMPTZ,
                    Type::TEXT,
                    Type::UUID,
                    Type::TEXT,
                    Type::TEXT_ARRAY,
                    Type::INT4_ARRAY,
                ],
            },
            topic: filter.topic.clone(),
            key: filter.key.clone(),
            since: filter.since.map(|moment| moment.before(began)),
            until: filter.until.map(|moment| moment.before(began)),
            began,
            who,
            id: Uuid::new_v4(),
            filter: serde_json::to_string(filter).expect("a filter is JSON"),
        }
    }

    /// The times that make a second run do what this one left: relayed since, and until.
    #[must_use]
    pub fn rest(&self) -> (Option<Timestamp>, Timestamp) {
        let until = self.until.map_or(self.began, |until| until.min(self.began));
        (self.since, until)
    }

    /// Looks at the rows past `after`, up to `last`, for some more of those meant: `most` of them at most.
    ///
    /// # Errors
    /// See [`Database::query`].
    pub async fn choose(&self, database: &Database, after: i64, last: i64, most: usize) -> Result<Chosen, StoreError> {
        let most = i64::try_from(most.min(STEP)).unwrap_or(i64::MAX);
        let rows = database
            .query(
                Role::Side,
                &self.choose,
                &[
                    &after,
                    &last,
                    &PAGE,
                    &most,
                    &self.topic,
                    &self.key,
                    &self.since,
                    &self.until,
                    &self.began,
                ],
            )
            .await?;
        let row = rows.first().expect("one row");
        Ok(Chosen {
            rows: Identity::all(row)?,
            upto: row.get("upto"),
        })
    }

    /// Replays those of `chosen` that are relayed still, in one transaction; where some of them refuse, in several, all others.
    ///
    /// # Errors
    /// See [`Database::query`]. What was done before is in `done`.
    pub async fn step(&self, database: &Database, chosen: &[Identity], done: &mut Done) -> Result<(), StoreError> {
        parts::each(chosen, done, |rows| Box::pin(self.part(database, rows))).await
    }

    async fn part(&self, database: &Database, rows: &[Identity]) -> Result<u64, StoreError> {
        let (seqs, ids, replays) = columns(rows);
        let rows = database
            .query(
                Role::Side,
                &self.replay,
                &[&seqs, &self.began, &self.who, &self.id, &self.filter, &ids, &replays],
            )
            .await?;
        Ok(rows.first().map_or(0, |row| row.get::<_, i64>(0).unsigned_abs()))
    }
}
