//! What operators do with failed messages: choose, list, show, retry, discard.
//!
//! A command chooses its rows once, in one snapshot, and then works through them in steps of [`STEP`], each a transaction
//! that also writes the audit: killed half way, it has done some steps whole, and running it again does the rest. Rows that
//! fail while it runs are not its business. Only the database is written; no daemon needs to run.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use tokio_postgres::types::Type;
use uuid::Uuid;

pub use super::choice::{Chosen, Filter, MessageRef, choose, choose_after, meant, settle_numbers};
use super::parts;
pub use super::parts::Done;
use super::row_identity::Identity;
use crate::message::Seq;
use crate::store::StoreError;
use crate::store::postgres::link::about::is_about_a_row;
use crate::store::postgres::link::answer::{Legible, legible};
use crate::store::postgres::link::database::{Database, Role};
use crate::store::postgres::link::sql::{Names, Param, Statement};

const LIST: &str = include_str!("../../../../sql/failed_list.sql");
const SHOW: &str = include_str!("../../../../sql/failed_show.sql");
const RETRY: &str = include_str!("../../../../sql/failed_retry.sql");
const RETRY_THEIRS: &str = include_str!("../../../../sql/foreign_failed_retry.sql");
const DISCARD: &str = include_str!("../../../../sql/failed_discard.sql");
const DISCARD_THEIRS: &str = include_str!("../../../../sql/foreign_failed_discard.sql");

/// Rows a step of a bulk command changes at most, and rows [`list`] should be asked for at a time.
pub const STEP: usize = 1000;

/// A failed message, without payload and headers. Times are ISO 8601.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FailedMessage {
    /// Place in the outbox.
    pub seq: i64,
    /// Message id; empty: it has none.
    pub id: String,
    /// Topic; empty: it has none, or it cannot be read.
    pub topic: String,
    /// Ordering key.
    pub key: Option<String>,
    /// The attempt that would come next: attempts made + 1.
    pub attempt: i32,
    /// The row's own limit.
    pub max_attempts: Option<i32>,
    /// Above 0 it overtakes.
    pub priority: i32,
    /// Times replayed.
    pub replay: i32,
    /// When it failed for good.
    pub failed_at: String,
    /// Why.
    pub last_error: Option<String>,
    /// When it was inserted; `None`: the row does not say.
    pub inserted_at: Option<String>,
    /// When it was last written; `None`: the row does not say.
    pub updated_at: Option<String>,
    /// Seconds since it failed.
    #[serde(skip)]
    pub failed_age_seconds: f64,
}

/// A whole row: [`show`]. As JSON an object keyed by column, with `attempts` at the end.
#[derive(Debug)]
pub struct Shown {
    /// Every column, by its name in the database, in its order; values as JSON, numbers digit for digit.
    pub columns: Vec<(String, Box<RawValue>)>,
    /// Failed attempts, oldest first: an array of objects with attempt, at, instance, class, code, error, latency_ms.
    pub attempts: Box<RawValue>,
}

impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.columns.len() + 1))?;
        for (column, value) in &self.columns {
            map.serialize_entry(column, value)?;
        }
        map.serialize_entry("attempts", &self.attempts)?;
        map.end()
    }
}

/// What a bulk command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Pending again, due now, from the first attempt.
    Retry,
    /// Deleted, kept whole in the audit.
    Discard,
}

/// A bulk command as the audit remembers it.
#[derive(Clone, Copy, Debug)]
pub struct Command<'a> {
    /// What to do.
    pub action: Action,
    /// Who asked for it.
    pub who: &'a str,
    /// What they asked for.
    pub filter: &'a Filter,
}

/// Those of `seqs` that are failed, in order. Ask for [`STEP`] at a time: a million errors need not be in memory.
///
/// # Errors
/// See [`Database::query`].
pub async fn list(database: &Database, names: &Names, seqs: &[Seq]) -> Result<Vec<FailedMessage>, StoreError> {
    let statement = Statement {
        text: names.fill(LIST),
        types: &[Type::INT8_ARRAY, Type::TEXT_ARRAY],
    };
    let seqs: Vec<i64> = seqs.iter().map(|seq| seq.0).collect();
    let rows = parts::query((database, names), &statement, &seqs, &[]).await?;
    let message = |row: &tokio_postgres::Row| FailedMessage {
        seq: row.get(0),
        id: legible(row, 1).unwrap_or_default(),
        topic: legible(row, 2).unwrap_or_default(),
        key: legible(row, 3),
        attempt: row.get(4),
        max_attempts: row.get(5),
        priority: row.get(6),
        replay: row.get(7),
        failed_at: row.get(8),
        last_error: legible(row, 9),
        inserted_at: row.get(10),
        updated_at: row.get(11),
        failed_age_seconds: row.get(12),
    };
    Ok(rows.iter().map(message).collect())
}

/// One whole row, whatever its state, with its failed attempts. A relayed row is found by its seq only: message ids have
/// no index. `None`: there is none.
///
/// # Errors
/// See [`Database::query`].
pub async fn show(database: &Database, names: &Names, id: &MessageRef) -> Result<Option<Shown>, StoreError> {
    let statement = Statement {
        text: names.fill(SHOW),
        types: &[Type::INT8, Type::TEXT],
    };
    let (seq, id) = match id {
        MessageRef::Seq(seq) => (Some(*seq), None),
        MessageRef::Id(_) | MessageRef::Text(_) => (None, id.text()),
    };
    let rows = match database.query(Role::Side, &statement, &[&seq, &id]).await {
        Err(error) if is_about_a_row(&error) => parts::show(database, names, seq, id).await?,
        answer => answer?,
    };
    Ok(rows.first().map(|row| {
        let (names, values): (Vec<String>, Vec<Legible>) = (row.get(0), row.get(1));
        Shown {
            columns: names.into_iter().zip(values.into_iter().map(parts::json)).collect(),
            attempts: parts::json(row.get(2)),
        }
    }))
}

/// A bulk command under way, for whoever does its steps one by one: the audit sees one command.
#[derive(Debug)]
pub struct Steps<'a> {
    names: &'a Names,
    action: Action,
    statement: Statement,
    who: &'a str,
    filter: String,
    id: Uuid,
}

impl<'a> Steps<'a> {
    /// The steps of `command`.
    #[must_use]
    pub fn new(names: &'a Names, command: &Command<'a>) -> Self {
        let file = match command.action {
            Action::Retry if names.is_foreign() => RETRY_THEIRS,
            Action::Retry => RETRY,
            Action::Discard if names.is_foreign() => DISCARD_THEIRS,
            Action::Discard => DISCARD,
        };
        Self {
            names,
            action: command.action,
            statement: Statement {
                text: names.fill(file),
                types: parts::STEP,
            },
            who: command.who,
            filter: serde_json::to_string(command.filter).expect("a filter is JSON"),
            id: Uuid::new_v4(),
        }
    }

    /// One transaction over `chosen`, [`STEP`] rows at most; where some of them refuse, several, over all others.
    ///
    /// # Errors
    /// See [`Database::query`]. What was done before is in `done`.
    pub async fn step(&self, database: &Database, chosen: &[Identity], done: &mut Done) -> Result<(), StoreError> {
        parts::each(chosen, done, |rows| Box::pin(self.part(database, rows))).await
    }

    async fn part(&self, database: &Database, rows: &[Identity]) -> Result<u64, StoreError> {
        let command: [Param<'_>; 3] = [&self.who, &self.id, &self.filter];
        match (parts::step(database, &self.statement, rows, command).await, rows) {
            // It may be that it cannot be read as a whole, and the audit would keep it.
            (Err(error), [row]) if self.action == Action::Discard && is_about_a_row(&error) => {
                parts::discard((database, self.names), row, command).await
            }
            (answer, _) => answer,
        }
    }
}

/// Does `command` to the rows chosen, in steps, and answers how many it changed: those no longer failed are left alone.
/// After each step, the last one too, `progress` hears how many of the chosen rows are done with.
///
/// # Errors
/// See [`Database::query`]. Rows that refuse are named by an error when all others are done.
pub async fn apply(
    database: &Database,
    names: &Names,
    command: &Command<'_>,
    chosen: &[Identity],
    progress: &mut (dyn FnMut(usize) + Send),
) -> Result<u64, StoreError> {
    let steps = Steps::new(names, command);
    let (mut done, mut behind) = (Done::default(), 0);
    for step in chosen.chunks(STEP) {
        let before = done.clone();
        let result = steps.step(database, step, &mut done).await;
        behind += match &result {
            Ok(()) => step.len() as u64 - (done.refused - before.refused),
            Err(_) => done.changed - before.changed,
        };
        progress(usize::try_from(behind).unwrap_or(usize::MAX));
        result?;
    }
    done.all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_named_by_uuid_or_seq() {
        assert_eq!("42".parse(), Ok(MessageRef::Seq(42)));
        let id = Uuid::from_u128(7);
        assert_eq!(id.to_string().to_uppercase().parse(), Ok(MessageRef::Id(id)));
        assert_eq!("4x2".parse(), Ok(MessageRef::Text("4x2".to_owned())));
        let names = Names::new("public", "outbox_messages", 64);
        assert!(meant(&names, vec![MessageRef::Text("4x2".to_owned())], Vec::new()).is_err());
    }

    #[test]
    fn an_empty_key_is_a_filter() {
        assert!(Filter::default().is_empty());
        assert!(
            !Filter {
                key: Some(String::new()),
                ..Filter::default()
            }
            .is_empty()
        );
    }
}
