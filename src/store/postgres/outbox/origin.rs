//! What tells messages of a table that is not ours from those of any other, for brokers that know a message by an id. Theirs are
//! unique within their table only: two of them that go to the same stream would take each other's messages for copies.

use std::sync::{Arc, Mutex};

use super::PostgresStore;
use crate::lock::lock;
use crate::store::postgres::link::answer::only;
use crate::store::postgres::link::database::Role;
use crate::store::postgres::link::sql::Statement;
use crate::store::{Row, StoreError};

const ORIGIN: &str = include_str!("../../../../sql/foreign_origin.sql");

/// `None`: the table is ours, and an id is nobody else's.
#[derive(Default)]
pub(super) struct Origin(Mutex<Option<Arc<str>>>);

impl Origin {
    /// Has the messages carry it.
    pub(super) fn put_on(&self, rows: &mut [Row]) {
        let known = lock(&self.0);
        if known.is_some() {
            for row in rows {
                row.message.origin.clone_from(&known);
            }
        }
    }
}

impl PostgresStore {
    /// It is another one in another database, and once outboxd's tables were made anew.
    pub(super) async fn ask_origin(&self) -> Result<(), StoreError> {
        if !self.names.is_foreign() {
            return Ok(());
        }
        let statement = Statement {
            text: self.names.fill(ORIGIN),
            types: &[],
        };
        let rows = self.database.query(Role::Read, &statement, &[]).await?;
        let origin: String = only(&rows, |row| row.try_get("origin"))?;
        *lock(&self.origin.0) = Some(origin.into());
        Ok(())
    }
}
