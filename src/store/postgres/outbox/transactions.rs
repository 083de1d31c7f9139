//! Transactions that are open: what gaps, commit order and vacuum wait for. For people.

use tokio_postgres::types::Type;

use crate::store::postgres::link::answer::unreadable;
use crate::store::postgres::link::database::{Database, Role};
use crate::store::postgres::link::sql::{Names, Statement};
use crate::store::{OpenTransaction, StoreError};

const OPEN_TRANSACTIONS: &str = include_str!("../../../../sql/open_transactions.sql");
const OLDEST_TRANSACTION: &str = include_str!("../../../../sql/oldest_transaction.sql");

/// Transactions open for less are nobody's concern.
const OPEN_SECONDS: f64 = 3.0;

/// Open transactions that have taken numbers, longest first.
///
/// # Errors
/// See [`Database::query`].
pub async fn open(database: &Database, names: &Names) -> Result<Vec<OpenTransaction>, StoreError> {
    let statement = Statement {
        text: names.fill(OPEN_TRANSACTIONS),
        types: &[Type::FLOAT8],
    };
    let rows = database.query(Role::Side, &statement, &[&OPEN_SECONDS]).await?;
    let read = |row: &tokio_postgres::Row| {
        Ok(OpenTransaction {
            pid: row.try_get("pid")?,
            who: row.try_get("who")?,
            state: row.try_get("state")?,
            open_for: row.try_get("open_for")?,
        })
    };
    let transactions: Result<_, tokio_postgres::Error> = rows.iter().map(read).collect();
    transactions.map_err(|error| unreadable(&error))
}

/// For how long the oldest open transaction of the database has been open, in seconds; 0: none is. Those of other roles are
/// seen by members of `pg_read_all_stats` only.
///
/// # Errors
/// See [`Database::query`].
pub async fn oldest(database: &Database, names: &Names) -> Result<f64, StoreError> {
    let statement = Statement {
        text: names.fill(OLDEST_TRANSACTION),
        types: &[],
    };
    let rows = database.query(Role::Side, &statement, &[]).await?;
    Ok(rows.first().map_or(0.0, |row| row.get(0)))
}

/// Who holds a lock, as people are told.
pub(crate) fn holder(row: &tokio_postgres::Row) -> Result<String, tokio_postgres::Error> {
    let open_for: Option<f64> = row.try_get("open_for")?;
    let (who, state): (String, String) = (row.try_get("who")?, row.try_get("state")?);
    let who = OpenTransaction {
        pid: row.try_get("pid")?,
        who: who.replace(|c: char| c.is_control(), " "),
        state,
        open_for: open_for.unwrap_or_default(),
    };
    Ok(who.to_string())
}
