//! Messages by hand, as `outboxd enqueue` inserts them: one, or many lines of them.

use serde::de::IgnoredAny;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::lines::NewLine;
use super::moment::Moment;
use crate::store::StoreError;
use crate::store::postgres::link::about::{About, database_error};
use crate::store::postgres::link::database::{Database, Role};
use crate::store::postgres::link::sql::{Names, Statement};
use crate::store::postgres::schema::migrate::PayloadType;

const ENQUEUE: &str = include_str!("../../../../sql/enqueue.sql");
const ENQUEUE_LINES: &str = include_str!("../../../../sql/enqueue_lines.sql");

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
    /// Who does it, for the audit.
    pub who: String,
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

/// What becomes of the payload's bytes in a column of type `payload`.
fn payload_value(bytes: &str, payload: PayloadType) -> String {
    match payload {
        PayloadType::Jsonb => format!("convert_from({bytes}, 'UTF8')::jsonb"),
        PayloadType::Json => format!("convert_from({bytes}, 'UTF8')::json"),
        PayloadType::Text => format!("convert_from({bytes}, 'UTF8')"),
        PayloadType::Bytea => bytes.to_owned(),
    }
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
    let value = payload_value("$3::bytea", payload);
    let types = &[
        Type::TEXT,
        Type::TEXT,
        Type::BYTEA,
        Type::TEXT,
        Type::TIMESTAMPTZ,
        Type::FLOAT8,
        Type::TEXT,
    ];
    let statement = Statement {
        text: names.fill(&ENQUEUE.replace("{payload_value}", &value)),
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
                &message.who,
            ],
        )
        .await
        .map_err(|error| named(error, payload, Some(&message.payload)))?;
    Ok(rows.first().expect("an insert returns its row").get(0))
}

/// A command that inserts many lines, step by step: the audit sees one command.
#[derive(Debug)]
pub struct Lines {
    statement: Statement,
    payload: PayloadType,
    at: Option<Moment>,
    who: String,
    id: Uuid,
}

impl Lines {
    /// Into a table whose payload column is of type `payload`, none of them to be sent before `at`.
    #[must_use]
    pub fn new(names: &Names, payload: PayloadType, at: Option<Moment>, who: String) -> Self {
        let value = payload_value("i.payload", payload);
        let types = &[
            Type::TEXT_ARRAY,
            Type::TEXT_ARRAY,
            Type::BYTEA_ARRAY,
            Type::TEXT_ARRAY,
            Type::TEXT_ARRAY,
            Type::INT4_ARRAY,
            Type::INT4_ARRAY,
            Type::INT4_ARRAY,
            Type::TIMESTAMPTZ,
            Type::FLOAT8,
            Type::TEXT,
            Type::UUID,
        ];
        Self {
            statement: Statement {
                text: names.fill(&ENQUEUE_LINES.replace("{payload_value}", &value)),
                types,
            },
            payload,
            at,
            who,
            id: Uuid::new_v4(),
        }
    }

    /// Inserts `lines` in this order, in one transaction.
    ///
    /// # Errors
    /// See [`EnqueueError`]. Then none is inserted, unless the answer was lost.
    pub async fn insert(&self, database: &Database, lines: &[NewLine]) -> Result<(), EnqueueError> {
        let (at, after_seconds) = Moment::params(self.at);
        let topics: Vec<&str> = lines.iter().map(|line| line.topic.as_str()).collect();
        let keys: Vec<Option<&str>> = lines.iter().map(|line| line.key.as_deref()).collect();
        let payloads: Vec<&[u8]> = lines.iter().map(|line| line.payload.as_slice()).collect();
        let headers: Vec<&str> = lines.iter().map(|line| line.headers.as_str()).collect();
        let ids: Vec<Option<&str>> = lines.iter().map(|line| line.id.as_deref()).collect();
        let priorities: Vec<i32> = lines.iter().map(|line| line.priority).collect();
        let limits: Vec<Option<i32>> = lines.iter().map(|line| line.max_attempts).collect();
        let replays: Vec<i32> = lines.iter().map(|line| line.replay).collect();
        let inserted = database
            .query(
                Role::Side,
                &self.statement,
                &[
                    &topics,
                    &keys,
                    &payloads,
                    &headers,
                    &ids,
                    &priorities,
                    &limits,
                    &replays,
                    &at,
                    &after_seconds,
                    &self.who,
                    &self.id,
                ],
            )
            .await;
        inserted.map(drop).map_err(|error| named(error, self.payload, None))
    }
}

fn named(error: StoreError, payload: PayloadType, typed: Option<&[u8]>) -> EnqueueError {
    refused(&error, payload, typed).map_or(EnqueueError::Store(error), EnqueueError::Refused)
}

/// What is about rows is about this message: a value, a constraint, a trigger of the application. `typed`: the payload of a single
/// message, as it was read.
fn refused(error: &StoreError, payload: PayloadType, typed: Option<&[u8]>) -> Option<String> {
    let said = database_error(error).filter(|said| said.about() == About::Row)?;
    let state = said.code()?.code();
    let name = typed.map_or("the payload", |_| "the payload on standard input");
    let kind = payload.as_str();
    let is_json = matches!(payload, PayloadType::Jsonb | PayloadType::Json);
    let not_json = |bytes| serde_json::from_slice::<IgnoredAny>(bytes).err();
    Some(match (state, typed.and_then(not_json)) {
        ("22P02", Some(why)) if is_json => format!("{name} is not JSON: {why} (22P02)"),
        ("22P02", None) if is_json && typed.is_some() => format!("{name} is JSON that {kind} does not take (22P02)"),
        ("22021", _) => format!("{name} is not UTF-8, or holds a NUL, which only a payload of type bytea may (22021)"),
        ("22P05", _) => format!(
            "the outbox (payload {kind}) refuses it: {name} or a header holds \\u0000, which {kind} does not store (22P05)"
        ),
        _ => format!("the outbox (payload {kind}) refuses it: {said}"),
    })
}
