//! A look at what stands behind the outbox's name: the answer for the cursor, and the messages it is compared with.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio_postgres::Row as PgRow;

use super::cursor::{Look, Place};
use super::rows::only;
use crate::message::MessageId;
use crate::store::{Row, StoreError};

/// So many: a number that comes back may be rolled back, and nobody stands there then.
const KEPT: usize = 8;

/// The messages read last: their numbers and ids, the latest at the end. A sequence that was set back and has gone past the cursor
/// again does not show it; but then it has given the numbers just below the cursor once more, and other messages stand there.
#[derive(Debug, Default)]
pub(super) struct Anchors {
    seqs: Vec<i64>,
    ids: Vec<String>,
}

impl Anchors {
    /// A page has come: its last messages too.
    pub(super) fn add(&mut self, page: &[Row]) {
        for Row { message, .. } in &page[page.len().saturating_sub(KEPT)..] {
            if message.id != MessageId::Missing {
                self.seqs.push(message.seq.0);
                self.ids.push(message.id.to_string());
            }
        }
        self.keep(2 * KEPT);
    }

    /// As the look takes them.
    pub(super) fn columns(&self) -> (&[i64], &[String]) {
        (&self.seqs, &self.ids)
    }

    /// A look has found all of them in their places.
    pub(super) fn found(&mut self) {
        self.keep(KEPT);
    }

    fn keep(&mut self, latest: usize) {
        let old = self.seqs.len().saturating_sub(latest);
        self.seqs.drain(..old);
        self.ids.drain(..old);
    }
}

/// The answer, and the name of the sequence where it may be read.
pub(super) fn look_of(rows: &[PgRow]) -> Result<(Look, Option<String>), StoreError> {
    only(rows, |row| {
        let holders: Vec<&str> = row.try_get("holders")?;
        let holders: BTreeSet<Box<str>> = holders.into_iter().map(Into::into).collect();
        let look = Look {
            place: Place {
                relation: row.try_get("relation")?,
                files: row.try_get("files")?,
                sequence: row.try_get("sequence")?,
                sequence_file: row.try_get("sequence_file")?,
            },
            last: row.try_get("last")?,
            ahead: row.try_get("ahead")?,
            renumbered: row.try_get("renumbered")?,
            holders: Arc::new(holders),
        };
        Ok((look, row.try_get("sequence_name")?))
    })
}
