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
    StoreError::Misconfigured(format!(
        "a column of the outbox table cannot be read: {cause}; run: outboxd check --connect"
    ))
}

/// Where the columns of `{message}` stand in every statement that brings messages; what else it brings comes after.
#[derive(Clone, Copy)]
#[repr(usize)]
enum Column {
    Seq,
    Lane,
    Id,
    Topic,
    Key,
    Payload,
    Headers,
    Attempt,
    MaxAttempts,
    Replay,
    InsertedAt,
    Now,
    /// Of the cursor's statements: what the row is to the cursor.
    State,
    AvailableAt,
    Late,
}

/// The value of a column.
fn get<'a, T: FromSql<'a>>(row: &'a PgRow, column: Column) -> Result<T, tokio_postgres::Error> {
    row.try_get(column as usize)
}

/// A timestamptz: microseconds since 2000, the first and last number for the infinities.
#[derive(Clone, Copy, Debug)]
struct Instant(i64);

impl Instant {
    /// The time from `earlier` to here; none when that is later.
    fn since(self, earlier: Self) -> Duration {
        let microseconds = self.0.saturating_sub(earlier.0);
        Duration::from_micros(u64::try_from(microseconds).unwrap_or(0))
    }
}

impl<'a> FromSql<'a> for Instant {
    fn from_sql(_ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(i64::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }
}

/// Reads the message of a row.
pub(super) fn message_row(row: &PgRow, topics: &mut Topics) -> Result<Row, StoreError> {
    read(row, topics).map_err(|error| unreadable(&error))
}

fn read(row: &PgRow, topics: &mut Topics) -> Result<Row, tokio_postgres::Error> {
    let headers = match get::<Option<Stored<'_>>>(row, Column::Headers)? {
        Some(Stored(json)) => Headers::parse(json),
        None => Headers::empty(),
    };
    let now: Instant = get(row, Column::Now)?;
    let message = Message {
        seq: Seq(get(row, Column::Seq)?),
        id: message_id(row)?,
        topic: topics.share(get(row, Column::Topic)?),
        key: get::<Option<&str>>(row, Column::Key)?.map(Into::into),
        payload: Bytes::copy_from_slice(get::<Stored<'_>>(row, Column::Payload)?.0),
        headers,
        attempt: get(row, Column::Attempt)?,
        max_attempts: get(row, Column::MaxAttempts)?,
        replay: get(row, Column::Replay)?,
        age: now.since(get(row, Column::InsertedAt)?),
    };
    Ok(Row {
        lane: lane_of(get(row, Column::Lane)?),
        message,
    })
}

fn message_id(row: &PgRow) -> Result<MessageId, tokio_postgres::Error> {
    match get::<Uuid>(row, Column::Id) {
        Ok(id) => Ok(MessageId::Uuid(id)),
        Err(_) => get(row, Column::Id).map(MessageId::Number),
    }
}

/// A row as the cursor sees it.
pub(super) enum CursorRow {
    ToSend(Row),
    /// It waits for a time.
    DueIn(Duration),
    /// Another instance's, or done with.
    Passed,
}

/// A row that waits longer is looked at again by then.
const LOOK_AGAIN: Duration = Duration::from_secs(3_600);

/// The number of a row the cursor's statements bring, and whether it was found in a gap.
pub(super) fn place(row: &PgRow) -> Result<(i64, bool), StoreError> {
    let read = || Ok((get(row, Column::Seq)?, get(row, Column::Late)?));
    read().map_err(|error| unreadable(&error))
}

/// Reads a row of the cursor's statements.
pub(super) fn cursor_row(row: &PgRow, topics: &mut Topics) -> Result<CursorRow, StoreError> {
    let mut read = || match get::<i32>(row, Column::State)? {
        1 => read(row, topics).map(CursorRow::ToSend),
        2 => {
            let available_at: Instant = get(row, Column::AvailableAt)?;
            Ok(CursorRow::DueIn(
                available_at.since(get(row, Column::Now)?).min(LOOK_AGAIN),
            ))
        }
        _neither => Ok(CursorRow::Passed),
    };
    read().map_err(|error| unreadable(&error))
}

/// The lane column of statements that bring no messages.
pub(super) fn lane(row: &PgRow) -> Result<Lane, tokio_postgres::Error> {
    row.try_get("lane").map(lane_of)
}

fn lane_of(lane: i32) -> Lane {
    Lane::try_from(lane).expect("the lane expression is taken modulo the lane count")
}

/// A duration in seconds, as `date_part` gives it.
pub(super) fn seconds(value: Option<f64>) -> Option<Duration> {
    value.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default())
}
