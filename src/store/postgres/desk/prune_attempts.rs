//! Retention of the history of failed attempts: as [`prune`](super::prune), over a table that is ours alone.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::types::Type;

use super::pace::{Pace, STEP_LIMIT, Trouble};
use super::prune::{Kept, Pruner, Step};
use crate::store::StoreError;
use crate::store::postgres::link::database::{Database, Role};
use crate::store::postgres::link::sql::{Names, Statement};

const ATTEMPTS: &str = include_str!("../../../../sql/prune_attempts.sql");
const LOCKED: &str = include_str!("../../../../sql/history_locked.sql");

/// The history of failed attempts, older than an age and of rows that are gone, under deletion.
#[derive(Debug)]
pub struct PruneAttempts {
    statement: Statement,
    locked: Statement,
    pace: Pace,
    age_seconds: f64,
    instance: Option<String>,
    /// The last line seen: microseconds since 1970, seq.
    position: (i64, i64),
}

impl PruneAttempts {
    /// Of attempts made longer than `age` ago, in steps of `rows` at most.
    #[must_use]
    pub fn new(names: &Names, age: Duration, rows: usize, pruner: &Pruner) -> Self {
        Self {
            statement: Statement {
                text: names.fill(ATTEMPTS),
                types: const { &[Type::INT8, Type::INT8, Type::INT8, Type::FLOAT8, Type::TEXT, Type::BOOL] },
            },
            locked: Statement {
                text: names.fill(LOCKED),
                types: &[],
            },
            pace: Pace::new(rows),
            age_seconds: age.min(super::retention::AGE_MAX).as_secs_f64(),
            instance: pruner.parts().0,
            position: (0, i64::MIN),
        }
    }

    /// Looks at the oldest lines again: their rows may be gone by now.
    pub fn start_over(&mut self) {
        self.position = (0, i64::MIN);
    }

    /// Whether somebody has locked the history. Waiting for that would keep the connection from retries and sweeps.
    ///
    /// # Errors
    /// See [`Database::query`].
    pub async fn is_locked(&self, database: &Database) -> Result<bool, StoreError> {
        let rows = database.within(STEP_LIMIT).query(Role::Side, &self.locked, &[]).await?;
        Ok(rows.first().is_some_and(|row| row.get("locked")))
    }

    /// Deletes those of the next lines whose rows are gone. A line that cannot be deleted ends as [`Step::kept`], by the number
    /// of its message.
    ///
    /// # Errors
    /// See [`Database::query`]: what no line is to blame for.
    pub async fn step(&mut self, database: &Database) -> Result<Step, StoreError> {
        let mut proven = false;
        loop {
            let begun = Instant::now();
            let error = match self.ask(database, self.pace.rows(), false).await {
                Ok(step) => {
                    self.pace.went_well(begun.elapsed());
                    return Ok(step);
                }
                Err(error) => error,
            };
            let Some(trouble) = Trouble::of_rows(&error) else {
                return Err(error);
            };
            if !proven && self.ask(database, 0, false).await.is_err() {
                return Err(error);
            }
            proven = true;
            if self.pace.halve() {
                continue;
            }
            let step = self.ask(database, 1, true).await?;
            let kept = Kept {
                seq: self.position.1,
                reason: trouble.reason,
                detail: trouble.detail,
            };
            return Ok(Step {
                kept: vec![kept],
                kept_count: 1,
                ..step
            });
        }
    }

    /// `passing`: deletes nothing.
    async fn ask(&mut self, database: &Database, asked: i64, passing: bool) -> Result<Step, StoreError> {
        let rows = database
            .within(STEP_LIMIT)
            .query(
                Role::Side,
                &self.statement,
                &[
                    &self.position.0,
                    &self.position.1,
                    &asked,
                    &self.age_seconds,
                    &self.instance,
                    &passing,
                ],
            )
            .await?;
        let row = rows.first().expect("an aggregate has one row");
        if let (Some(at), Some(seq)) = (row.get("upto_at"), row.get("upto_seq")) {
            self.position = (at, seq);
        }
        Ok(Step {
            mine: row.get("mine"),
            ours: true,
            more: row.get::<_, i64>("rows") >= asked,
            deleted: row.get::<_, i64>("deleted").unsigned_abs(),
            ..Step::default()
        })
    }
}
