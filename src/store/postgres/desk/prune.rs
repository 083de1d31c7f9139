//! Retention: settled rows are deleted some time after they were settled, in steps, each a short transaction of its own.
//!
//! A step looks at a bounded stretch of the primary key (of the failed rows' index, for those) past a position that the caller
//! keeps, so that rows deleted before, whose index entries stay until the next vacuum, are not walked over again. Only one at a
//! time does a step, whoever asks: a daemon only while it owns lane 0, and everyone under an advisory lock that ends with
//! the statement, so that a pooler does not matter. The statement itself checks again that the row is settled and old enough,
//! and that the table is one to delete from: one that `migrate` made, or one for which somebody said how long rows stay.
//!
//! A row that cannot be deleted is found by halving the step (`pace`), named, and stepped over.

use tokio::time::{Instant, timeout};
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::pace::{Pace, STEP_LIMIT, Trouble};
use super::retention::{AGE_MAX, Rule, Settled};
use crate::store::StoreError;
use crate::store::postgres::link::blocked::PATIENCE;
use crate::store::postgres::link::classify::{STATEMENT_SILENT, Silent};
use crate::store::postgres::link::database::{Database, Role};
use crate::store::postgres::link::sql::{Names, Param, Statement};
use crate::store::postgres::schema::made::{is_made, made};
use crate::stuck::StuckReason;

const PRUNE: &str = include_str!("../../../../sql/prune.sql");
const OLD: &str = include_str!("../../../../sql/prune_old.sql");
const UNLOCKED: &str = include_str!("../../../../sql/prune_unlocked.sql");
const COUNT: &str = include_str!("../../../../sql/prune_count.sql");
const NEXT: &str = include_str!("../../../../sql/prune_next.sql");
const HOLDER: &str = include_str!("../../../../sql/locked_by.sql");

/// Who prunes.
#[derive(Clone, Debug)]
pub enum Pruner {
    /// This instance of the daemon, while it owns lane 0.
    Instance(String),
    /// A person, named in the audit.
    Person(String),
}

impl Pruner {
    pub(super) fn parts(&self) -> (Option<String>, Option<String>) {
        match self {
            Self::Instance(instance) => (Some(instance.clone()), None),
            Self::Person(who) => (None, Some(who.clone())),
        }
    }
}

/// Rows settled longer ago than an age, under deletion.
#[derive(Debug)]
pub struct Prune {
    waiting: Statement,
    past_locks: Statement,
    count: Statement,
    next: Statement,
    holder: Statement,
    made: Statement,
    pace: Pace,
    age_seconds: f64,
    said: bool,
    instance: Option<String>,
    who: Option<String>,
    id: Uuid,
    told: String,
}

/// What a step did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Nobody else was at it.
    pub mine: bool,
    /// The table is one to delete from.
    pub ours: bool,
    /// There is more past [`Self::upto`].
    pub more: bool,
    /// Rows up to here were looked at.
    pub upto: Option<i64>,
    /// Settled rows among them that are not old enough.
    pub young: u64,
    /// Rows deleted (counted: that would be).
    pub deleted: u64,
    /// Rows that are old enough and could not be deleted: some of them by number ...
    pub kept: Vec<Kept>,
    /// ... and how many they are.
    pub kept_count: u64,
}

/// A row that could not be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its number.
    pub seq: i64,
    /// Why.
    pub reason: StuckReason,
    /// The code and the object, or the lock's holder. Never anything of the row.
    pub detail: String,
}

/// What became of a row tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Again {
    /// Somebody else is at it.
    NotMine,
    /// It still cannot be deleted.
    Kept(Kept),
    /// It is gone, or no longer one to delete.
    Settled {
        /// Rows deleted.
        deleted: u64,
    },
}

/// Which of the old rows a step takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Take {
    /// All of them, and waits a moment for those somebody has locked.
    All,
    /// Those nobody has locked.
    Unlocked,
}

/// An answer to a step's statement.
#[derive(Default)]
struct Answer {
    step: Step,
    kept_first: Vec<i64>,
}

impl Prune {
    /// Of rows as `rule` says, in steps of `rows` at most.
    #[must_use]
    pub fn new(names: &Names, rule: Rule, rows: usize, pruner: &Pruner) -> Self {
        let (settled_at, looked_at) = match rule.settled {
            Settled::Relayed => ("m.{c.relayed_at}", "true"),
            Settled::Failed => ("m.{c.failed_at}", "m.{c.failed_at} is not null"),
        };
        let fill = |file: &str, doomed: &str| {
            let file = file.replace("{doomed}", doomed).replace("{looked_at}", looked_at);
            names.fill(&file.replace("{settled_at}", settled_at))
        };
        let prune = |doomed: &str| Statement {
            text: fill(PRUNE, doomed),
            types: const {
                &[
                    Type::INT8,
                    Type::INT8,
                    Type::FLOAT8,
                    Type::TEXT,
                    Type::TEXT,
                    Type::UUID,
                    Type::TEXT,
                    Type::BOOL,
                ]
            },
        };
        let other = |file, types| Statement {
            text: fill(file, ""),
            types,
        };
        let (instance, who) = pruner.parts();
        let age_text = humantime::format_duration(rule.age).to_string();
        Self {
            waiting: prune(OLD),
            past_locks: prune(UNLOCKED),
            count: other(COUNT, const { &[Type::INT8, Type::INT8, Type::FLOAT8] }),
            next: other(NEXT, const { &[Type::INT8] }),
            holder: other(HOLDER, const { &[Type::INT8_ARRAY] }),
            made: made(names),
            pace: Pace::new(rows),
            age_seconds: rule.age.min(AGE_MAX).as_secs_f64(),
            said: rule.said,
            instance,
            who,
            id: Uuid::new_v4(),
            told: serde_json::json!({ rule.settled.word(): age_text }).to_string(),
        }
    }

    /// Whether it may delete from the table at all; asked before it needs the right to.
    ///
    /// # Errors
    /// See [`Database::query`].
    pub async fn may(&self, database: &Database) -> Result<bool, StoreError> {
        Ok(self.said || is_made(database, &self.made).await?)
    }

    /// Deletes those of the next rows past `after` that are old enough. A row that cannot be deleted ends as one of
    /// [`Step::kept`], and the next step goes on past it.
    ///
    /// # Errors
    /// See [`Database::query`]: what no row is to blame for.
    pub async fn step(&mut self, database: &Database, after: i64) -> Result<Step, StoreError> {
        let (mut take, mut proven) = (Take::All, false);
        loop {
            let begun = Instant::now();
            let error = match self.delete(database, after, self.pace.rows(), take).await {
                Ok(answer) => {
                    self.pace.went_well(begun.elapsed());
                    return Ok(self.explained(database, answer, take).await);
                }
                Err(error) => error,
            };
            let Some(trouble) = Trouble::of_rows(&error) else {
                return Err(error);
            };
            // What fails without any row is no row's fault.
            if !proven && !self.goes_without_rows(database, &trouble).await {
                return Err(error);
            }
            proven = true;
            if trouble.reason == StuckReason::Locked && take == Take::All {
                take = Take::Unlocked;
            } else if !self.pace.halve() {
                return self.stepped_over(database, after, trouble).await;
            }
        }
    }

    /// Tries one row again that could not be deleted.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub async fn again(&mut self, database: &Database, seq: i64) -> Result<Again, StoreError> {
        let usual = self.pace.begin_with(1);
        let step = self.step(database, seq.saturating_sub(1)).await;
        self.pace.begin_with(usual);
        let step = step?;
        if step.ours && !step.mine {
            return Ok(Again::NotMine);
        }
        let kept = step.kept.into_iter().find(|kept| kept.seq == seq);
        Ok(kept.map_or(Again::Settled { deleted: step.deleted }, Again::Kept))
    }

    /// As [`Self::step`], only counting.
    ///
    /// # Errors
    /// See [`Database::query`].
    pub async fn count(&self, database: &Database, after: i64) -> Result<Step, StoreError> {
        let asked = self.pace.most();
        let rows = database
            .query(Role::Side, &self.count, &[&after, &asked, &self.age_seconds])
            .await?;
        Ok(read(rows.first().expect("an aggregate has one row"), asked).step)
    }

    async fn delete(&self, database: &Database, after: i64, rows: i64, take: Take) -> Result<Answer, StoreError> {
        let statement = match take {
            Take::All => &self.waiting,
            Take::Unlocked => &self.past_locks,
        };
        let params: [Param<'_>; 8] = [
            &after,
            &rows,
            &self.age_seconds,
            &self.instance,
            &self.who,
            &self.id,
            &self.told,
            &self.said,
        ];
        let found = if self.who.is_some() {
            // A limit of the database's own would wait for a lock on a table to its end.
            let silent = |_elapsed| StoreError::Unavailable(Box::new(Silent(STATEMENT_SILENT, STEP_LIMIT)));
            let found = timeout(STEP_LIMIT, database.query(Role::Side, statement, &params)).await;
            found.map_err(silent)??
        } else {
            database
                .within(STEP_LIMIT)
                .query(Role::Side, statement, &params)
                .await?
        };
        Ok(read(found.first().expect("an aggregate has one row"), rows))
    }

    /// Whether the statement works over no rows at all. A person who has waited for a lock does not do so for long again.
    async fn goes_without_rows(&self, database: &Database, trouble: &Trouble) -> bool {
        let impatient = self.who.is_some() && trouble.reason == StuckReason::Locked;
        let impatient = impatient.then(|| database.within(PATIENCE));
        let database = impatient.as_ref().unwrap_or(database);
        self.delete(database, i64::MAX, 0, Take::All).await.is_ok()
    }

    /// The step that passes the row after `after`, which alone makes the statement fail.
    async fn stepped_over(&self, database: &Database, after: i64, trouble: Trouble) -> Result<Step, StoreError> {
        let rows = database.query(Role::Side, &self.next, &[&after]).await?;
        let seq: Option<i64> = rows.first().expect("an aggregate has one row").get("upto");
        let kept = seq.map(|seq| Kept {
            seq,
            reason: trouble.reason,
            detail: trouble.detail,
        });
        Ok(Step {
            mine: true,
            ours: true,
            more: kept.is_some(),
            upto: seq,
            kept_count: u64::from(kept.is_some()),
            kept: kept.into_iter().collect(),
            ..Step::default()
        })
    }

    /// Says of the rows that are still there why: they are locked, or deleting them has no effect. One that has become
    /// younger meanwhile (replayed and relayed again) is none of them.
    async fn explained(&self, database: &Database, answer: Answer, take: Take) -> Step {
        let Answer { mut step, kept_first } = answer;
        let Some(first) = kept_first.first().copied() else {
            return step;
        };
        let (reason, detail) = match take {
            Take::Unlocked => (StuckReason::Locked, self.holder(database, first).await),
            Take::All => {
                let again = self.delete(database, first.saturating_sub(1), 1, Take::All).await;
                let again = again.unwrap_or_else(|_not_answered| Answer::default());
                if again.kept_first != [first] {
                    step.deleted += again.step.deleted;
                    step.kept_count = 0;
                    return step;
                }
                let detail = "deleting it has no effect: a trigger, a rule or a policy of the table keeps it";
                (StuckReason::Suppressed, detail.to_owned())
            }
        };
        let kept = |seq| Kept {
            seq,
            reason,
            detail: detail.clone(),
        };
        step.kept = kept_first.into_iter().map(kept).collect();
        step
    }

    async fn holder(&self, database: &Database, seq: i64) -> String {
        let rows = database.query(Role::Side, &self.holder, &[&vec![seq]]).await;
        let holder = rows.iter().flatten().find_map(|row| {
            let (pid, who): (Option<i32>, String) = (row.get("pid"), row.get("who"));
            Some(format!("pid {} ({who})", pid?))
        });
        let holder = holder.as_deref().unwrap_or("another transaction");
        format!("its lock is held by {holder}")
    }
}

fn read(row: &tokio_postgres::Row, asked: i64) -> Answer {
    let count = |name: &str| row.get::<_, i64>(name).unsigned_abs();
    Answer {
        step: Step {
            mine: row.get("mine"),
            ours: row.get("ours"),
            more: row.get::<_, i64>("rows") >= asked,
            upto: row.get("upto"),
            young: count("young"),
            deleted: count("deleted"),
            kept: Vec::new(),
            kept_count: count("kept"),
        },
        kept_first: row.get("kept_first"),
    }
}
