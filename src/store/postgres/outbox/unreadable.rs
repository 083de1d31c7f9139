//! Rows whose contents the server cannot read: damaged storage, bytes of no character, a value too large for a message.
//!
//! The server streams a statement's rows in order and ends it with an error at the first such row. What has arrived by then is a
//! page cut short; the next call begins with that row. Nothing has arrived: the row is looked for among those the statement would
//! bring, found by reading them one after the other, and each of its columns is tried. Then the statement runs again and brings
//! nothing that is long of that row, and the engine rejects it with the reason.
//!
//! A statement that brings contents ends with two parameters, `bigint[]` each (`u.contents` and `u.places` in it): the rows whose
//! contents are not brought, and those whose lane is that of their number because their topic or key, which the lane is made
//! of, cannot be read. Null means every row; and where the second is null, lanes, topics and keys are not asked about. Nothing is
//! remembered: a row that was mended is read as any other.

use std::collections::HashMap;

use tokio_postgres::Row as PgRow;
use tokio_postgres::types::Type;

use super::PostgresStore;
use super::rows::{Broken, is_wanted};
use crate::store::StoreError;
use crate::store::postgres::link::about::{database_error, is_about_a_row};
use crate::store::postgres::link::database::{Database, Role};
use crate::store::postgres::link::sql::{Names, Param, Statement};

const WHOLE: &str = include_str!("../../../../sql/read_whole.sql");
const COLUMN: &str = include_str!("../../../../sql/read_column.sql");

/// The columns that may be long.
const LONG: [&str; 4] = ["topic", "key", "payload", "headers"];

/// Looks for a row that find none before the error is taken for the database's: the row may have gone meanwhile.
const FRUITLESS_LOOKS: u32 = 2;

/// How far a statement came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// To its end, or to where no more was wanted.
    Whole,
    /// To a row that cannot be read, after one row at least: ask again for what follows.
    Cut,
}

/// Rows that cannot be read, as far as a call has met them.
#[derive(Debug, Default)]
pub(super) struct Known {
    contents: Vec<i64>,
    places: Vec<i64>,
    broken: HashMap<i64, Broken>,
}

impl Known {
    /// The last two parameters of a statement.
    pub(super) fn lists(&self) -> [Param<'_>; 2] {
        [&self.contents, &self.places]
    }

    /// What is known of a row that `statement` has brought.
    pub(super) fn broken(&self, seq: i64) -> Option<&Broken> {
        self.broken.get(&seq)
    }

    fn insert(&mut self, seq: i64, found: Found) {
        tracing::debug!(seq, reason = found.broken.reason, "a row cannot be read");
        self.contents.push(seq);
        if found.misplaced {
            self.places.push(seq);
        }
        self.broken.insert(seq, found.broken);
    }
}

/// What was found of one row.
#[derive(Debug)]
struct Found {
    broken: Broken,
    misplaced: bool,
}

impl PostgresStore {
    /// As `query_while`, over a statement whose last two parameters are the lists above: a row that cannot be read is handed over
    /// with what is known of it.
    pub(super) async fn read_rows(
        &self,
        role: Role,
        statement: &Statement,
        params: &[Param<'_>],
        mut take: impl FnMut(&PgRow, Option<&Broken>) -> Result<bool, StoreError> + Send,
    ) -> Result<Reach, StoreError> {
        let mut known = Known::default();
        let mut fruitless = 0;
        loop {
            let mut any = false;
            let all = [params, &known.lists()[..]].concat();
            let take = |row: PgRow| {
                any = true;
                take(&row, known.broken(row.get(0)))
            };
            let read = self.database.query_while(role, statement, &all, take).await;
            let error = match read {
                Ok(()) => return Ok(Reach::Whole),
                Err(error) if !is_about_a_row(&error) => return Err(error),
                Err(_) if any => return Ok(Reach::Cut),
                Err(error) => error,
            };
            if !self.look_closer(role, statement, params, &mut known).await? {
                fruitless += 1;
                if fruitless == FRUITLESS_LOOKS {
                    return Err(error);
                }
            }
        }
    }

    /// As `read_rows`, over such a statement that brings all its rows, of which `take` keeps what it wants: those that cannot be
    /// read come without topic and key.
    pub(super) async fn read_all_rows<T: Send>(
        &self,
        role: Role,
        statement: &Statement,
        params: &[Param<'_>],
        mut take: impl FnMut(&PgRow) -> Result<Option<T>, StoreError> + Send,
    ) -> Result<Vec<T>, StoreError> {
        let mut known = Known::default();
        let mut fruitless = 0;
        loop {
            let mut taken = Vec::new();
            let all = [params, &known.lists()[..]].concat();
            let one = |row: PgRow| {
                taken.extend(take(&row)?);
                Ok(true)
            };
            let error = match self.database.query_while(role, statement, &all, one).await {
                Err(error) if is_about_a_row(&error) => error,
                answer => return answer.map(|()| taken),
            };
            if !self.look_closer(role, statement, params, &mut known).await? {
                fruitless += 1;
                if fruitless == FRUITLESS_LOOKS {
                    return Err(error);
                }
            }
        }
    }

    /// Finds one more row that keeps `statement` from going on.
    pub(super) async fn look_closer(
        &self,
        role: Role,
        statement: &Statement,
        params: &[Param<'_>],
        known: &mut Known,
    ) -> Result<bool, StoreError> {
        let nothing: Option<Vec<i64>> = None;
        let lists: [Param<'_>; 2] = [&nothing, &nothing];
        let all = [params, &lists[..]].concat();
        let mut candidates = Vec::new();
        let note = |row: PgRow| {
            let seq: i64 = row.get(0);
            if is_wanted(&row) && known.broken(seq).is_none() {
                candidates.push(seq);
            }
            Ok(true)
        };
        self.database.query_while(role, statement, &all, note).await?;
        candidates.sort_unstable();
        while let Some(seq) = self.first_unreadable(role, &candidates).await? {
            if let Some(found) = examine(&self.database, &self.names, role, seq).await? {
                known.insert(seq, found);
                return Ok(true);
            }
            candidates.retain(|candidate| *candidate > seq);
        }
        Ok(false)
    }

    /// The first of `seqs`, which are in order, that cannot be read.
    async fn first_unreadable(&self, role: Role, seqs: &[i64]) -> Result<Option<i64>, StoreError> {
        let statement = Statement {
            text: self.names.fill(WHOLE),
            types: &[Type::INT8_ARRAY],
        };
        let mut read = i64::MIN;
        let note = |row: PgRow| {
            read = row.get(0);
            Ok(true)
        };
        match self.database.query_while(role, &statement, &[&seqs], note).await {
            Ok(()) => Ok(None),
            Err(error) if is_about_a_row(&error) => {
                Ok(seqs.iter().copied().find(|seq| *seq > read || read == i64::MIN))
            }
            Err(error) => Err(error),
        }
    }
}

/// Which of these columns of a row cannot be read, ours by name.
///
/// # Errors
/// See [`Database::query`].
pub(crate) async fn broken_columns(
    database: &Database,
    names: &Names,
    seq: i64,
    columns: &[&'static str],
) -> Result<Vec<&'static str>, StoreError> {
    let mut broken = Vec::new();
    for ours in columns {
        let read = read_column(database, names, (Role::Side, seq), &format!("m.{{c.{ours}}}")).await?;
        if read.is_err() {
            broken.push(*ours);
        }
    }
    Ok(broken)
}

/// What of one row cannot be read; `None`: nothing of it, or it is gone.
async fn examine(database: &Database, names: &Names, role: Role, seq: i64) -> Result<Option<Found>, StoreError> {
    let mut broken = Broken::default();
    let (mut columns, mut why) = (Vec::new(), None);
    for ours in LONG {
        match read_column(database, names, (role, seq), &format!("m.{{c.{ours}}}")).await? {
            Ok(None) => return Ok(None),
            Ok(Some(row)) => match ours {
                "topic" => broken.topic = row.try_get(0).ok().flatten(),
                "key" => broken.key = row.try_get(0).ok().flatten(),
                _payload_or_headers => {}
            },
            Err(said) => {
                columns.push(ours);
                why.get_or_insert(said);
            }
        }
    }
    let no_lane = read_column(database, names, (role, seq), "{lane}").await?.err();
    let misplaced = no_lane.is_some();
    Ok(why.or(no_lane).map(|why| {
        let columns = if columns.is_empty() {
            vec!["topic", "key"]
        } else {
            columns
        };
        broken.reason = format!("{} cannot be read: {why}", columns.join(", "));
        Found { broken, misplaced }
    }))
}

/// A column of a row, if the row is there; or what the database says where it cannot be read.
async fn read_column(
    database: &Database,
    names: &Names,
    (role, seq): (Role, i64),
    column: &str,
) -> Result<Result<Option<PgRow>, String>, StoreError> {
    let statement = Statement {
        text: names.fill(&COLUMN.replace("{column}", column)),
        types: &[Type::INT8],
    };
    match database.query(role, &statement, &[&seq]).await {
        Ok(mut rows) => Ok(Ok(rows.pop())),
        Err(error) if is_about_a_row(&error) => Ok(Err(said(&error))),
        Err(error) => Err(error),
    }
}

/// The database's word for it, without anything of the row.
fn said(error: &StoreError) -> String {
    database_error(error).map_or_else(|| error.to_string(), ToString::to_string)
}
