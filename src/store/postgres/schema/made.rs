//! Whether `migrate` made the outbox's table: then it may be taken for granted what its rows are.

use crate::store::StoreError;
use crate::store::postgres::link::database::{Database, Role};
use crate::store::postgres::link::sql::{Names, Statement};

const MADE: &str = include_str!("../../../../sql/validate_made.sql");

/// Whether `migrate` made the outbox's table. What it made has its check of the two times, over these two columns.
///
/// # Errors
/// See [`Database::query`].
pub async fn made_by_migrate(database: &Database, names: &Names) -> Result<bool, StoreError> {
    is_made(database, &made(names)).await
}

pub(crate) fn made(names: &Names) -> Statement {
    Statement {
        text: names.fill(MADE),
        types: &[],
    }
}

pub(crate) async fn is_made(database: &Database, statement: &Statement) -> Result<bool, StoreError> {
    let rows = database.query(Role::Side, statement, &[]).await?;
    Ok(rows.first().expect("a row").get("made"))
}
