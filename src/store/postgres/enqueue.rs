//! One message by hand, as `outboxd enqueue` inserts it.

use tokio_postgres::types::Type;

use super::database::{Database, Role};
use super::migrate::{PayloadType, sql_state};
use super::moment::Moment;
use super::sql::{Names, Statement};
use crate::store::StoreError;

const ENQUEUE: &str = include_str!("../../../sql/enqueue.sql");

/// What to insert.
#[derive(Clone, Debug, Default)]
pub struct NewMessage {
    /// Topic.
    pub topic: String,
    /// Ordering key.
    pub key: Option<String>,
    /// Headers.
    pub headers: serde_json::Map<String, serde_json::Value>,
    /// Not before; a distance is from now.
    pub at: Option<Moment>,
    /// The body.
    pub payload: Vec<u8>,
}

/// Why a message was not inserted.
#[derive(Debug, thiserror::Error)]
pub enum EnqueueError {
    /// The database refuses the payload or a header: not JSON, not UTF-8, a NUL. In its words, on one line.
    #[error("{0}")]
    Refused(String),
    /// Anything else.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Inserts `message` into a table whose payload column is of type `payload`, and returns its message id.
///
/// # Errors
/// See [`EnqueueError`].
pub async fn enqueue(
    database: &Database,
    names: &Names,
    payload: PayloadType,
    message: &NewMessage,
) -> Result<String, EnqueueError> {
    let value = match payload {
        PayloadType::Jsonb => "convert_from($3::bytea, 'UTF8')::jsonb",
        PayloadType::Json => "convert_from($3::bytea, 'UTF8')::json",
        PayloadType::Text => "convert_from($3::bytea, 'UTF8')",
        PayloadType::Bytea => "$3::bytea",
    };
    let types = &[
        Type::TEXT,
        Type::TEXT,
        Type::BYTEA,
        Type::TEXT,
        Type::TIMESTAMPTZ,
        Type::FLOAT8,
    ];
    let statement = Statement {
        text: names.fill(&ENQUEUE.replace("{payload_value}", value)),
        types,
    };
    let headers = serde_json::to_string(&message.headers).expect("a map of strings is JSON");
    let (at, after_seconds) = Moment::params(message.at);
    let rows = database
        .query(
            Role::Side,
            &statement,
            &[
                &message.topic,
                &message.key,
                &message.payload,
                &headers,
                &at,
                &after_seconds,
            ],
        )
        .await
        .map_err(|error| refused(&error, payload).map_or(EnqueueError::Store(error), EnqueueError::Refused))?;
    Ok(rows.first().expect("an insert returns its row").get(0))
}

/// SQLSTATE class 22 (data exception) and 23 (a constraint of the application's) are about this message.
fn refused(error: &StoreError, payload: PayloadType) -> Option<String> {
    let state = sql_state(error)?.code();
    if !(state.starts_with("22") || state.starts_with("23")) {
        return None;
    }
    let StoreError::Unavailable(source) = error else {
        return None;
    };
    let database = source.downcast_ref::<tokio_postgres::Error>()?.as_db_error()?;
    let detail = database
        .detail()
        .map(|detail| format!(" ({detail})"))
        .unwrap_or_default();
    Some(format!(
        "the outbox (payload {}) refuses it: {}{detail}",
        payload.as_str(),
        database.message()
    ))
}
