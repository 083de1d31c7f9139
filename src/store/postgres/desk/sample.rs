//! Pending rows of a table that is not ours, as they would be sent, before anything is made for it.

use tokio_postgres::types::Type;

use crate::store::StoreError;
use crate::store::postgres::link::answer::unreadable;
use crate::store::postgres::link::database::{Database, Role};
use crate::store::postgres::link::sql::{Names, Statement};

const SAMPLE: &str = include_str!("../../../../sql/foreign_sample.sql");

/// A message that would be sent.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Message id.
    pub id: String,
    /// Topic; `None`: it has none, and cannot be sent.
    pub topic: Option<String>,
    /// Ordering key.
    pub key: Option<String>,
    /// Headers, as JSON text.
    pub headers: Option<String>,
    /// The body, bytes in hexadecimal digits; `None`: it is null.
    pub payload: Option<String>,
}

/// The first `limit` of them.
///
/// # Errors
/// See [`Database::query`].
pub async fn sample(database: &Database, names: &Names, limit: i64) -> Result<Vec<Sample>, StoreError> {
    let statement = Statement {
        text: names.fill(SAMPLE),
        types: const { &[Type::INT8] },
    };
    let rows = database.query(Role::Side, &statement, &[&limit]).await?;
    let read = |row: &tokio_postgres::Row| {
        Ok(Sample {
            id: row.try_get("id")?,
            topic: row.try_get("topic")?,
            key: row.try_get("key")?,
            headers: row.try_get("headers")?,
            payload: row.try_get("payload")?,
        })
    };
    let samples: Result<_, tokio_postgres::Error> = rows.iter().map(read).collect();
    samples.map_err(|error| unreadable(&error))
}
