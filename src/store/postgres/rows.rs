//! From a row of the driver to a row of the port: no panic whatever the application stored.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_postgres::Row as PgRow;
use tokio_postgres::types::{FromSql, Type};
use uuid::Uuid;

use crate::message::{Headers, Message, MessageId, Seq};
use crate::store::{Lane, Row, StoreError};

/// Topics are few and repeat: past this many the cache starts over.
const TOPICS_CACHED: usize = 1_000;

/// Shares one allocation among the rows of a topic.
#[derive(Debug, Default)]
pub(super) struct Topics(HashMap<Box<str>, Arc<str>>);

impl Topics {
    pub(super) fn share(&mut self, topic: &str) -> Arc<str> {
        if let Some(shared) = self.0.get(topic) {
            return Arc::clone(shared);
        }
        if self.0.len() >= TOPICS_CACHED {
            self.0.clear();
        }
        let shared: Arc<str> = topic.into();
        self.0.insert(topic.into(), Arc::clone(&shared));
        shared
    }
}

/// The bytes of a jsonb, json, text or bytea value, as the application stored them (jsonb: its text).
struct Stored<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Stored<'a> {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        if *ty == Type::JSONB {
            // The binary form is a version number and the text.
            return match raw.split_first() {
                Some((1, text)) => Ok(Self(text)),
                Some(_) | None => Err("unknown jsonb version".into()),
            };
        }
        Ok(Self(raw))
    }

    fn accepts(ty: &Type) -> bool {
        [Type::JSONB, Type::JSON, Type::TEXT, Type::VARCHAR, Type::BYTEA].contains(ty)
    }
}

/// What a column that cannot be read means.
pub(super) fn unreadable(error: &tokio_postgres::Error) -> StoreError {
    let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    StoreError::Misconfigured(format!("a column of the outbox table cannot be read: {cause}; run: outboxd check --connect"))
}

/// Reads the columns every statement that brings messages names alike.
pub(super) fn message_row(row: &PgRow, topics: &mut Topics) -> Result<Row, StoreError> {
    read(row, topics).map_err(|error| unreadable(&error))
}

fn read(row: &PgRow, topics: &mut Topics) -> Result<Row, tokio_postgres::Error> {
    let headers = match row.try_get::<_, Option<Stored<'_>>>("headers")? {
        Some(Stored(json)) => Headers::parse(json),
        None => Headers::empty(),
    };
    let age: f64 = row.try_get("age")?;
    let message = Message {
        seq: Seq(row.try_get("seq")?),
        id: message_id(row)?,
        topic: topics.share(row.try_get("topic")?),
        key: row.try_get::<_, Option<&str>>("key")?.map(Into::into),
        payload: Bytes::copy_from_slice(row.try_get::<_, Stored<'_>>("payload")?.0),
        headers,
        attempt: row.try_get("attempt")?,
        max_attempts: row.try_get("max_attempts")?,
        replay: row.try_get("replay")?,
        age: Duration::try_from_secs_f64(age).unwrap_or_default(),
    };
    Ok(Row { lane: lane(row)?, message })
}

fn message_id(row: &PgRow) -> Result<MessageId, tokio_postgres::Error> {
    match row.try_get::<_, Uuid>("id") {
        Ok(id) => Ok(MessageId::Uuid(id)),
        Err(_) => row.try_get("id").map(MessageId::Number),
    }
}

/// The lane column.
pub(super) fn lane(row: &PgRow) -> Result<Lane, tokio_postgres::Error> {
    let lane: i32 = row.try_get("lane")?;
    Ok(Lane::try_from(lane).expect("the lane expression is taken modulo the lane count"))
}

/// A duration in seconds, as `date_part` gives it.
pub(super) fn seconds(value: Option<f64>) -> Option<Duration> {
    value.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default())
}
