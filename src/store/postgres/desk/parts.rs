//! What is done to many rows, where one of them is in the way.
//!
//! Failed messages some columns of which cannot be read: people see the others, and may retry and discard them as any. And rows
//! that refuse to be changed: a step is halved until each of them is alone and named; all others are changed.

use futures_util::future::BoxFuture;
use serde_json::value::{RawValue, to_raw_value};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::find;
use super::pace::Trouble;
use super::row_identity::{Identity, columns};
use crate::store::StoreError;
use crate::store::postgres::link::about::is_about_a_row;
use crate::store::postgres::link::answer::Legible;
use crate::store::postgres::link::database::{Database, Role};
use crate::store::postgres::link::sql::{COLUMNS, Names, Param, Statement};
use crate::store::postgres::outbox::unreadable::broken_columns;
use crate::stuck::StuckReason;

const SHOW: &str = include_str!("../../../../sql/failed_show_parts.sql");

const DISCARD: &str = include_str!("../../../../sql/failed_discard_parts.sql");
const DISCARD_THEIRS: &str = include_str!("../../../../sql/foreign_failed_discard_parts.sql");

/// Ours that are no columns of the messages table where the table of the outbox is not ours.
const ELSEWHERE: [&str; 2] = ["payload", "headers"];

/// What became of the rows a command was to change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Rows changed.
    pub changed: u64,
    /// Rows that refused to be.
    pub refused: u64,
    /// The first of them, each with the reason: the code and the object, never anything of the row.
    named: Vec<String>,
}

impl Done {
    fn refuse(&mut self, row: &Identity, why: &str) {
        self.refused += 1;
        if self.named.len() < NAMED_MAX {
            let id = row.id.text().map(|id| format!(" ({id})")).unwrap_or_default();
            self.named.push(format!("message {}{id}: {why}", row.seq));
        }
    }

    /// How many were changed, where none refused.
    pub(super) fn all(&self) -> Result<u64, StoreError> {
        if self.refused > 0 {
            return Err(StoreError::Misconfigured(self.refusals().join("; ")));
        }
        Ok(self.changed)
    }

    /// The rows that refused: some by name, and how many more.
    #[must_use]
    pub fn refusals(&self) -> Vec<String> {
        let mut lines = self.named.clone();
        let more = self.refused - self.named.len() as u64;
        lines.extend((more > 0).then(|| format!("and {more} more")));
        lines
    }
}

/// Types of a step: seqs, who, command, filter, message ids, replays.
pub(super) const STEP: &[Type] = &[
    Type::INT8_ARRAY,
    Type::TEXT,
    Type::UUID,
    Type::TEXT,
    Type::TEXT_ARRAY,
    Type::INT4_ARRAY,
];

/// Our columns that may be long.
const LONG: [&str; 5] = ["topic", "key", "payload", "headers", "last_error"];

/// Rows that refuse to be changed that are named.
const NAMED_MAX: usize = 10;

/// Asks `statement` about rows $1, with what more it needs, and last with the columns that are to be left out: none. Where one of
/// the rows cannot be read, about each of them alone, without the columns of it that cannot.
pub(super) async fn query(
    (database, names): (&Database, &Names),
    statement: &Statement,
    seqs: &[i64],
    more: &[Param<'_>],
) -> Result<Vec<Row>, StoreError> {
    let ask = async |seqs: &[i64], broken: &[&str]| {
        let (first, last): ([Param<'_>; 1], [Param<'_>; 1]) = ([&seqs], [&broken]);
        let params = [&first[..], more, &last[..]].concat();
        database.query(Role::Side, statement, &params).await
    };
    match ask(seqs, &[]).await {
        Err(error) if is_about_a_row(&error) => {}
        answer => return answer,
    }
    let mut rows = Vec::new();
    for seq in seqs {
        match ask(&[*seq], &[]).await {
            Ok(found) => rows.extend(found),
            Err(error) if is_about_a_row(&error) => {
                let broken = broken(database, names, *seq).await?;
                rows.extend(ask(&[*seq], &broken).await?);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(rows)
}

/// The columns of a row that cannot be read, by our names.
pub(super) async fn broken(database: &Database, names: &Names, seq: i64) -> Result<Vec<&'static str>, StoreError> {
    broken_columns(database, names, seq, &LONG).await
}

/// As `failed_show.sql` answers, of the row with this seq or message id.
pub(super) async fn show(
    database: &Database,
    names: &Names,
    seq: Option<i64>,
    id: Option<String>,
) -> Result<Vec<Row>, StoreError> {
    let seq = match (seq, id) {
        (Some(seq), _) => seq,
        (None, Some(id)) => match find::unsettled(database, names, std::slice::from_ref(&id))
            .await?
            .get(&id)
        {
            Some(seq) => *seq,
            None => return Ok(Vec::new()),
        },
        (None, None) => return Ok(Vec::new()),
    };
    let parts = object(names, &broken(database, names, seq).await?);
    let statement = Statement {
        text: names.fill(&SHOW.replace("{parts}", &parts)),
        types: &[Type::INT8],
    };
    database.query(Role::Side, &statement, &[&seq]).await
}

/// One transaction over `rows`, of a `command`: who, its id, its filter. Answers how many it changed.
pub(super) async fn step(
    database: &Database,
    statement: &Statement,
    rows: &[Identity],
    command: [Param<'_>; 3],
) -> Result<u64, StoreError> {
    let (seqs, ids, replays) = columns(rows);
    let (first, last): ([Param<'_>; 1], [Param<'_>; 2]) = ([&seqs], [&ids, &replays]);
    let params = [&first[..], &command[..], &last[..]].concat();
    let rows = database.query(Role::Side, statement, &params).await?;
    Ok(rows.first().map_or(0, |row| row.get::<_, i64>(0).unsigned_abs()))
}

/// Discards a row by parts: the audit keeps those that can be read.
pub(super) async fn discard(
    (database, names): (&Database, &Names),
    row: &Identity,
    command: [Param<'_>; 3],
) -> Result<u64, StoreError> {
    let mut broken = broken(database, names, row.seq).await?;
    let mut file = DISCARD;
    if names.is_foreign() {
        broken.extend(ELSEWHERE);
        file = DISCARD_THEIRS;
    }
    let parts = object(names, &broken);
    let statement = Statement {
        text: names.fill(&file.replace("{parts}", &parts)),
        types: STEP,
    };
    step(database, &statement, std::slice::from_ref(row), command).await
}

/// Does `step` to `rows`, in order; where rows refuse it, to all but those. An error is no row's fault; what was done before it
/// stands in `done`.
pub(super) async fn each<'a>(
    rows: &'a [Identity],
    done: &mut Done,
    step: impl Fn(&'a [Identity]) -> BoxFuture<'a, Result<u64, StoreError>> + Send,
) -> Result<(), StoreError> {
    let (mut parts, mut proven) = (vec![rows], false);
    while let Some(part) = parts.pop() {
        let error = match step(part).await {
            Ok(changed) => {
                done.changed += changed;
                continue;
            }
            Err(error) => error,
        };
        let trouble = Trouble::of_rows(&error).filter(|trouble| trouble.reason == StuckReason::Refused);
        let Some(trouble) = trouble else {
            return Err(error);
        };
        // What fails without any row is no row's fault.
        if !proven && step(&[]).await.is_err() {
            return Err(error);
        }
        proven = true;
        match part {
            [row] => done.refuse(row, &trouble.detail),
            _ => {
                let (first, last) = part.split_at(part.len() / 2);
                parts.extend([last, first]);
            }
        }
    }
    Ok(())
}

/// The SQL of a JSON object of our columns over `m`, without those that cannot be read.
pub(super) fn object(names: &Names, broken: &[&str]) -> String {
    let pair = |ours: &&str| {
        let value = if broken.contains(ours) {
            "null".to_owned()
        } else {
            format!("m.{{c.{ours}}}")
        };
        names.fill(&format!("{{text.{ours}}}, {value}"))
    };
    let pairs: Vec<String> = COLUMNS.iter().map(pair).collect();
    format!("json_build_object({})", pairs.join(", "))
}

/// JSON of the database. In SQL_ASCII it may hold any bytes.
pub(super) fn json(Legible(text): Legible) -> Box<RawValue> {
    RawValue::from_string(text).unwrap_or_else(|error| {
        let why = format!("no JSON: {error}");
        to_raw_value(&why).expect("a string is JSON")
    })
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::sync::Mutex;

    use futures_util::FutureExt;

    use super::*;
    use crate::message::MessageId;
    use crate::store::postgres::link::about::DatabaseError;
    use crate::trouble::LockWait;

    fn rows(count: i64) -> Vec<Identity> {
        let row = |seq| Identity {
            seq,
            id: MessageId::Number(seq),
            replay: 0,
        };
        (1..=count).map(row).collect()
    }

    /// Changes rows in order, refusing those that `refuse` says.
    async fn work(count: i64, refuse: fn(i64) -> bool) -> (Vec<i64>, Done) {
        let (rows, seen, mut done) = (rows(count), Mutex::new(Vec::new()), Done::default());
        let step = |part: &[Identity]| {
            let refused = part.iter().any(|row| refuse(row.seq));
            let answer = if refused {
                Err(StoreError::Misconfigured("no (42501)".to_owned()))
            } else {
                seen.lock().unwrap().extend(part.iter().map(|row| row.seq));
                Ok(part.len() as u64)
            };
            ready(answer).boxed()
        };
        each(&rows, &mut done, step).await.expect("no error but of rows");
        (seen.into_inner().unwrap(), done)
    }

    #[tokio::test]
    async fn rows_that_refuse_are_named_and_all_others_are_changed_in_order() {
        let (seen, done) = work(101, |seq| seq == 1 || seq == 50).await;
        let others: Vec<i64> = (2..=101).filter(|seq| *seq != 50).collect();
        assert_eq!(seen, others);
        assert_eq!((done.changed, done.refused), (99, 2));
        assert_eq!(
            done.refusals(),
            ["message 1 (1): no (42501)", "message 50 (50): no (42501)"]
        );
        let (_, done) = work(1_000, |seq| seq % 2 == 0).await;
        assert_eq!((done.changed, done.refused, done.refusals().len()), (500, 500, 11));
        assert_eq!(done.refusals()[10], "and 490 more");
    }

    #[tokio::test]
    async fn what_fails_without_a_row_or_waits_for_a_lock_is_no_rows_fault() {
        let (rows, mut done) = (rows(9), Done::default());
        let no_right = |_: &[Identity]| ready(Err(StoreError::Misconfigured("no right (42501)".to_owned()))).boxed();
        assert!(each(&rows, &mut done, no_right).await.is_err());
        let locked = |_: &[Identity]| {
            let locked = DatabaseError::locked(&LockWait::default());
            ready(Err(StoreError::Unavailable(Box::new(locked)))).boxed()
        };
        assert!(each(&rows, &mut done, locked).await.is_err());
        assert_eq!(done, Done::default());
    }
}
