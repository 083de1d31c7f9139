//! Sessions of outboxd that wait for a lock, for people.

use serde::Serialize;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::store::StoreError;
use crate::store::postgres::link::answer::unreadable;
use crate::store::postgres::link::blocked::{Wait, read};
use crate::store::postgres::link::database::{Database, Role};
use crate::store::postgres::link::sql::{Statement, code};

const BLOCKED: &str = include_str!("../../../../sql/blocked.sql");

/// A session of some outboxd that waits for a lock, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BlockedSession {
    /// Its `application_name`.
    pub session: String,
    /// What is locked by whom.
    pub what: String,
    /// What to do.
    pub todo: String,
}

/// Sessions of every outboxd of this database that wait for a lock. For people.
///
/// # Errors
/// See [`Database::query`].
pub async fn sessions(database: &Database) -> Result<Vec<BlockedSession>, StoreError> {
    let statement = Statement {
        text: code(BLOCKED),
        types: const { &[Type::TEXT, Type::BOOL] },
    };
    let rows = database.query(Role::Side, &statement, &[&"outboxd/", &true]).await?;
    let read = |row: &Row| {
        let (session, Wait { lock, .. }) = read(row).map_err(|error| unreadable(&error))?;
        Ok(BlockedSession {
            session,
            what: lock.fact(),
            todo: lock.todo(),
        })
    };
    rows.iter().map(read).collect()
}
