//! A look at what stands behind the outbox's name: the answer for the cursor, and the messages it is compared with.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Row as PgRow;

use super::PostgresStore;
use super::cursor::{Look, Place, Skimmed};
use super::rows::seconds;
use super::snapshot::Snapshot;
use crate::store::postgres::link::about::{DatabaseError, is_about_a_row};
use crate::store::postgres::link::answer::{Legible, only, unreadable};
use crate::store::postgres::link::database::Role;
use crate::store::postgres::link::sql::Param;
use crate::store::{Row, StoreError};

/// So many: a number that comes back may be rolled back, and nobody stands there then.
const KEPT: usize = 8;

/// The messages read last: numbers and ids. A sequence that was set back and has gone past the cursor again does not show it; but
/// then it has given the numbers just below the cursor once more, and other messages stand there.
#[derive(Debug, Default)]
pub(super) struct Anchors {
    /// As they were found by the look before.
    found: Vec<(i64, String)>,
    /// Read since.
    latest: Vec<(i64, String)>,
}

impl Anchors {
    /// A page has come.
    pub(super) fn add(&mut self, page: &[Row]) {
        let last = &page[page.len().saturating_sub(KEPT)..];
        let anchor = |row: &Row| Some((row.message.seq.0, row.message.id.text()?));
        self.latest.extend(last.iter().filter_map(anchor));
        keep(&mut self.latest);
    }
}

fn keep(anchors: &mut Vec<(i64, String)>) {
    anchors.drain(..anchors.len().saturating_sub(KEPT));
}

impl PostgresStore {
    /// Those at and below `last`.
    pub(super) async fn anchors(&self, last: i64) -> Result<Anchors, StoreError> {
        let most = i64::try_from(KEPT).unwrap_or(i64::MAX);
        let params: [Param<'_>; 2] = [&last, &most];
        let rows = match self.database.query(Role::Read, &self.sql.anchors, &params).await {
            Err(error) if is_about_a_row(&error) => Vec::new(),
            answer => answer?,
        };
        let read = |row: &PgRow| {
            let Legible(id) = row.try_get("id")?;
            Ok((row.try_get("seq")?, id))
        };
        let found: Result<Vec<_>, tokio_postgres::Error> = rows.iter().rev().map(read).collect();
        Ok(Anchors {
            found: found.map_err(|error| unreadable(&error))?,
            latest: Vec::new(),
        })
    }

    /// Whether a number read before is another message's now.
    pub(super) async fn renumbered(
        &self,
        anchors: &mut Anchors,
        snapshot: Option<&mut Snapshot<'_>>,
    ) -> Result<bool, StoreError> {
        let Anchors { found, latest } = &*anchors;
        let (seqs, ids): (Vec<i64>, Vec<String>) =
            found.iter().chain(latest).map(|(seq, id)| (*seq, id.clone())).unzip();
        if seqs.is_empty() {
            return Ok(false);
        }
        let (statement, params): (_, [Param<'_>; 2]) = (&self.sql.renumbered, [&seqs, &ids]);
        let rows = match snapshot {
            Some(snapshot) => snapshot.query(statement, &params).await,
            None => self.database.query(Role::Read, statement, &params).await,
        };
        let rows = rows.inspect_err(|error| {
            // A row that was damaged since: the next look does without.
            if is_about_a_row(error) {
                *anchors = Anchors::default();
            }
        })?;
        let Anchors { found, latest } = anchors;
        found.append(latest);
        keep(found);
        only(&rows, |row| row.try_get("renumbered"))
    }
}

/// The answer, and the name of the sequence where it may be read. What row-level security hides would be passed by: an error.
pub(super) fn look_of(rows: &[PgRow]) -> Result<(Look, Option<String>), StoreError> {
    if let Some(table) = only(rows, |row| row.try_get::<_, Option<String>>("hidden"))? {
        return Err(StoreError::Unavailable(Box::new(DatabaseError::hidden(&table))));
    }
    only(rows, |row| {
        let holders: Vec<&str> = row.try_get("holders")?;
        let holders: BTreeSet<Box<str>> = holders.into_iter().map(Into::into).collect();
        let look = Look {
            place: Place {
                relation: row.try_get("relation")?,
                files: row.try_get("files")?,
                sequence: row.try_get("sequence")?,
                sequence_file: row.try_get("sequence_file")?,
                server: row.try_get("server")?,
            },
            last: row.try_get("last")?,
            ahead: row.try_get("ahead")?,
            renumbered: false,
            holders: Arc::new(holders),
        };
        Ok((look, row.try_get("sequence_name")?))
    })
}

/// What was skimmed, and how long until the first of it that waits falls due.
pub(super) fn skimmed_of(rows: &[PgRow]) -> Result<(Skimmed, Option<Duration>), StoreError> {
    only(rows, |row| {
        let seen = Skimmed {
            rows: row.try_get("rows")?,
            first: row.try_get("first")?,
            last: row.try_get("last")?,
            first_wanted: row.try_get("first_wanted")?,
        };
        Ok((seen, seconds(row.try_get("due_in")?)))
    })
}
