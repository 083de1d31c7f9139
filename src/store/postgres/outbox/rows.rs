//! From a row of the driver to a row of the port: no panic whatever the application stored.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_postgres::Row as PgRow;
use tokio_postgres::types::{FromSql, Type, WrongType};

use crate::message::{Headers, Message, MessageId, SHARED_TOPIC_MAX, Seq};
use crate::store::postgres::link::answer::unreadable;
use crate::store::{Lane, Row, StoreError};

/// Topics are few and repeat: past this many the cache starts over.
const TOPICS_CACHED: usize = 1_000;

/// Shares one allocation among the rows of a topic.
#[derive(Debug, Default)]
pub(super) struct Topics(HashMap<Box<str>, Arc<str>>);

impl Topics {
    pub(super) fn share(&mut self, topic: &str) -> Arc<str> {
        if topic.len() > SHARED_TOPIC_MAX {
            return topic.into();
        }
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
    Priority,
    InsertedAt,
    Now,
    /// Of the cursor's statements: what the row is to the cursor.
    State,
    AvailableAt,
    Late,
}

/// The value of a column that is never null.
fn get<'a, T: FromSql<'a>>(row: &'a PgRow, column: Column) -> Result<T, tokio_postgres::Error> {
    row.try_get(column as usize)
}

/// What keeps a row from being sent, the first of it.
#[derive(Default)]
struct Trouble(Option<Box<str>>);

impl Trouble {
    fn note(&mut self, reason: impl FnOnce() -> String) {
        if self.0.is_none() {
            self.0 = Some(reason().into());
        }
    }

    /// The value of a column, `None` where it is null. One that cannot be decoded is the row's trouble, unless it is the column's:
    /// no row can be decoded then.
    fn value<'a, T: FromSql<'a>>(
        &mut self,
        row: &'a PgRow,
        (column, name): (Column, &str),
    ) -> Result<Option<T>, tokio_postgres::Error> {
        row.try_get(column as usize)
            .or_else(|error| self.not_decoded(error, name).map(|()| None))
    }

    #[cold]
    fn not_decoded(&mut self, error: tokio_postgres::Error, name: &str) -> Result<(), tokio_postgres::Error> {
        if error.source().is_some_and(|cause| cause.is::<WrongType>()) {
            return Err(error);
        }
        let not_utf8 = error.source().is_some_and(|cause| cause.is::<std::str::Utf8Error>());
        let what = if not_utf8 { "is not UTF-8" } else { "cannot be decoded" };
        self.note(|| format!("{name} {what}"));
        Ok(())
    }

    /// As [`Self::value`], of a column without which nothing can be sent.
    fn needed<'a, T: FromSql<'a>>(
        &mut self,
        row: &'a PgRow,
        (column, name): (Column, &str),
    ) -> Result<Option<T>, tokio_postgres::Error> {
        let value = self.value(row, (column, name))?;
        if value.is_none() {
            self.note(|| format!("{name} is null"));
        }
        Ok(value)
    }
}

/// What is known of a row whose contents cannot be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Broken {
    /// Which columns, and what the database says.
    pub(super) reason: String,
    pub(super) topic: Option<String>,
    pub(super) key: Option<String>,
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

/// Reads the message of a row; `broken`: one whose contents were not brought.
pub(super) fn message_row(row: &PgRow, topics: &mut Topics, broken: Option<&Broken>) -> Result<Row, StoreError> {
    read(row, topics, broken).map_err(|error| unreadable(&error))
}

/// An older row says nothing about how long messages take: some programs write the year 1 where they mean nothing.
const AGE_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

fn read(row: &PgRow, topics: &mut Topics, broken: Option<&Broken>) -> Result<Row, tokio_postgres::Error> {
    let mut trouble = Trouble(broken.map(|broken| broken.reason.as_str().into()));
    let id = message_id(row, &mut trouble)?;
    let (mut topic, mut key) = (None, None);
    let (mut payload, mut headers) = (None, Headers::empty());
    if let Some(broken) = broken {
        (topic, key) = (broken.topic.as_deref(), broken.key.as_deref());
    } else {
        topic = trouble.needed(row, (Column::Topic, "topic"))?.or(topic);
        key = trouble.value(row, (Column::Key, "key"))?.or(key);
        let body = trouble.value(row, (Column::Payload, "payload"))?;
        payload = body.map(|Stored(body)| Bytes::copy_from_slice(body));
        if let Some(Stored(json)) = trouble.value(row, (Column::Headers, "headers"))? {
            headers = Headers::parse(json);
        }
    }
    let now: Instant = get(row, Column::Now)?;
    let inserted_at: Option<Instant> = trouble.value(row, (Column::InsertedAt, "inserted_at"))?;
    let age = inserted_at.map_or(Duration::ZERO, |inserted_at| now.since(inserted_at));
    let message = Message {
        seq: Seq(get(row, Column::Seq)?),
        id,
        topic: topics.share(topic.unwrap_or_default()),
        key: key.map(Into::into),
        payload_is_null: payload.is_none(),
        payload: payload.unwrap_or_default(),
        headers,
        attempt: trouble.value(row, (Column::Attempt, "attempt"))?.unwrap_or(1),
        max_attempts: trouble.value(row, (Column::MaxAttempts, "max_attempts"))?,
        replay: trouble.value(row, (Column::Replay, "replay"))?.unwrap_or(0),
        priority: get(row, Column::Priority)?,
        origin: None,
        age: if age > AGE_MAX { Duration::ZERO } else { age },
    };
    Ok(Row {
        lane: lane_of(get(row, Column::Lane)?),
        message,
        unreadable: trouble.0,
    })
}

fn message_id(row: &PgRow, trouble: &mut Trouble) -> Result<MessageId, tokio_postgres::Error> {
    let column = (Column::Id, "id");
    let id = match *row.columns()[Column::Id as usize].type_() {
        Type::INT8 => trouble.value(row, column)?.map(MessageId::Number),
        Type::INT4 => trouble
            .value::<i32>(row, column)?
            .map(|id| MessageId::Number(id.into())),
        Type::TEXT | Type::VARCHAR => trouble.value::<&str>(row, column)?.map(|id| MessageId::Text(id.into())),
        _ => trouble.value(row, column)?.map(MessageId::Uuid),
    };
    if id.is_none() {
        trouble.note(|| "id is null".to_owned());
    }
    Ok(id.unwrap_or(MessageId::Missing))
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

/// Whether the contents of a row are of use: not where a statement of the cursor passes it.
pub(super) fn is_wanted(row: &PgRow) -> bool {
    let state = Column::State as usize;
    let passes = row.columns().get(state).is_some_and(|column| column.name() == "state");
    !passes || row.try_get(state).ok() == Some(1_i32)
}

/// Reads a row of the cursor's statements.
pub(super) fn cursor_row(row: &PgRow, topics: &mut Topics, broken: Option<&Broken>) -> Result<CursorRow, StoreError> {
    let mut read = || match get::<i32>(row, Column::State)? {
        1 => read(row, topics, broken).map(CursorRow::ToSend),
        2 => {
            let (now, available_at) = (
                get(row, Column::Now)?,
                get::<Option<Instant>>(row, Column::AvailableAt)?,
            );
            Ok(CursorRow::DueIn(available_at.unwrap_or(now).since(now).min(LOOK_AGAIN)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_infinite_time_is_far_away_and_no_more() {
        let (ever, never, now) = (Instant(i64::MIN), Instant(i64::MAX), Instant(0));
        assert_eq!(now.since(never), Duration::ZERO);
        assert_eq!(ever.since(now), Duration::ZERO);
        assert!(now.since(ever) > AGE_MAX && never.since(ever) > AGE_MAX);
    }

    #[test]
    fn the_first_trouble_of_a_row_is_told() {
        let mut trouble = Trouble::default();
        trouble.note(|| "payload is null".to_owned());
        trouble.note(|| "id is null".to_owned());
        assert_eq!(trouble.0.as_deref(), Some("payload is null"));
    }

    #[test]
    fn a_topic_of_megabytes_is_not_remembered() {
        let mut topics = Topics::default();
        let long = "t".repeat(SHARED_TOPIC_MAX + 1);
        assert_eq!(&*topics.share(&long), long);
        assert!(topics.0.is_empty());
        let first = topics.share("orders");
        assert!(Arc::ptr_eq(&first, &topics.share("orders")));
    }
}
