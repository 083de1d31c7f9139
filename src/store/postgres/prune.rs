//! Retention: settled rows are deleted some time after they were settled, in steps, each a short transaction of its own.
//!
//! A step looks at a bounded stretch of the primary key (of the failed rows' index, for those) past a position that the caller
//! keeps, so that rows deleted before, whose index entries stay until the next vacuum, are not walked over again. Only one at a
//! time does a step, whoever asks: a daemon only while it owns lane 0, and everyone under an advisory lock that ends with
//! the statement, so that a pooler does not matter. The statement itself checks again that the row is settled and old enough.

use std::time::Duration;

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::database::{Database, Role};
use super::sql::{Names, Statement};
use crate::store::StoreError;

const PRUNE: &str = include_str!("../../../sql/prune.sql");
const COUNT: &str = include_str!("../../../sql/prune_count.sql");
const ATTEMPTS: &str = include_str!("../../../sql/prune_attempts.sql");

/// Which rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Those a broker has.
    Relayed,
    /// Those given up.
    Failed,
}

/// Who prunes.
#[derive(Clone, Debug)]
pub enum Pruner {
    /// This instance of the daemon, while it owns lane 0.
    Instance(String),
    /// A person, named in the audit.
    Person(String),
}

/// Rows settled longer ago than `age`, under deletion.
#[derive(Debug)]
pub struct Prune {
    prune: Statement,
    count: Statement,
    rows: i64,
    age_seconds: f64,
    instance: Option<String>,
    who: Option<String>,
    id: Uuid,
    told: String,
}

/// What a step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Nobody else was at it.
    pub mine: bool,
    /// There is more past [`Self::upto`].
    pub more: bool,
    /// Rows up to here were looked at.
    pub upto: Option<i64>,
    /// Settled rows among them that are not old enough.
    pub young: u64,
    /// Rows deleted (counted: that would be).
    pub deleted: u64,
}

impl Prune {
    /// Of rows settled longer than `age` ago, in steps of `rows`.
    #[must_use]
    pub fn new(names: &Names, settled: Settled, age: Duration, rows: usize, pruner: &Pruner) -> Self {
        let (settled_at, looked_at, word) = match settled {
            Settled::Relayed => ("m.{c.relayed_at}", "true", "relayed"),
            Settled::Failed => ("m.{c.failed_at}", "m.{c.failed_at} is not null", "failed"),
        };
        let fill = |file: &str| {
            let file = file
                .replace("{settled_at}", settled_at)
                .replace("{looked_at}", looked_at);
            names.fill(&file)
        };
        let types = &[
            Type::INT8,
            Type::INT8,
            Type::FLOAT8,
            Type::TEXT,
            Type::TEXT,
            Type::UUID,
            Type::TEXT,
        ];
        let (instance, who) = parts(pruner);
        let age_text = humantime::format_duration(age).to_string();
        Self {
            prune: Statement {
                text: fill(PRUNE),
                types,
            },
            count: Statement {
                text: fill(COUNT),
                types: &[Type::INT8, Type::INT8, Type::FLOAT8],
            },
            rows: i64::try_from(rows).unwrap_or(i64::MAX),
            age_seconds: age.as_secs_f64(),
            instance,
            who,
            id: Uuid::new_v4(),
            told: serde_json::json!({ word: age_text }).to_string(),
        }
    }

    /// Deletes those of the next rows past `after` that are old enough.
    ///
    /// # Errors
    /// See [`Database::query`].
    pub async fn step(&self, database: &Database, after: i64) -> Result<Step, StoreError> {
        let rows = database
            .query(
                Role::Side,
                &self.prune,
                &[
                    &after,
                    &self.rows,
                    &self.age_seconds,
                    &self.instance,
                    &self.who,
                    &self.id,
                    &self.told,
                ],
            )
            .await?;
        Ok(self.read(rows.first().expect("an aggregate has one row")))
    }

    /// As [`Self::step`], only counting.
    ///
    /// # Errors
    /// See [`Database::query`].
    pub async fn count(&self, database: &Database, after: i64) -> Result<Step, StoreError> {
        let rows = database
            .query(Role::Side, &self.count, &[&after, &self.rows, &self.age_seconds])
            .await?;
        Ok(self.read(rows.first().expect("an aggregate has one row")))
    }

    fn read(&self, row: &tokio_postgres::Row) -> Step {
        let count = |name: &str| row.get::<_, i64>(name).unsigned_abs();
        Step {
            mine: row.get("mine"),
            more: row.get::<_, i64>("rows") >= self.rows,
            upto: row.get("upto"),
            young: count("young"),
            deleted: count("deleted"),
        }
    }
}

fn parts(pruner: &Pruner) -> (Option<String>, Option<String>) {
    match pruner {
        Pruner::Instance(instance) => (Some(instance.clone()), None),
        Pruner::Person(who) => (None, Some(who.clone())),
    }
}

/// The history of failed attempts, older than an age and of rows that are gone, under deletion.
#[derive(Debug)]
pub struct PruneAttempts {
    statement: Statement,
    rows: i64,
    age_seconds: f64,
    instance: Option<String>,
    /// The last line seen: microseconds since 1970, seq.
    position: (i64, i64),
}

impl PruneAttempts {
    /// Of attempts made longer than `age` ago, in steps of `rows`.
    #[must_use]
    pub fn new(names: &Names, age: Duration, rows: usize, pruner: &Pruner) -> Self {
        Self {
            statement: Statement {
                text: names.fill(ATTEMPTS),
                types: &[Type::INT8, Type::INT8, Type::INT8, Type::FLOAT8, Type::TEXT],
            },
            rows: i64::try_from(rows).unwrap_or(i64::MAX),
            age_seconds: age.as_secs_f64(),
            instance: parts(pruner).0,
            position: (0, i64::MIN),
        }
    }

    /// Looks at the oldest lines again: their rows may be gone by now.
    pub fn start_over(&mut self) {
        self.position = (0, i64::MIN);
    }

    /// Deletes those of the next lines whose rows are gone.
    ///
    /// # Errors
    /// See [`Database::query`].
    pub async fn step(&mut self, database: &Database) -> Result<Step, StoreError> {
        let rows = database
            .query(
                Role::Side,
                &self.statement,
                &[
                    &self.position.0,
                    &self.position.1,
                    &self.rows,
                    &self.age_seconds,
                    &self.instance,
                ],
            )
            .await?;
        let row = rows.first().expect("an aggregate has one row");
        if let (Some(at), Some(seq)) = (row.get("upto_at"), row.get("upto_seq")) {
            self.position = (at, seq);
        }
        Ok(Step {
            mine: row.get("mine"),
            more: row.get::<_, i64>("rows") >= self.rows,
            deleted: row.get::<_, i64>("deleted").unsigned_abs(),
            ..Step::default()
        })
    }
}
