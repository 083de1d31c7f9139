//! Which message a person meant: between choosing a row and changing it, its number may have become another message's.

use tokio_postgres::Row as PgRow;
use uuid::Uuid;

use crate::message::MessageId;
use crate::store::StoreError;
use crate::store::postgres::link::answer::unreadable;

/// A message, not just its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its place in the outbox.
    pub seq: i64,
    /// Its message id.
    pub id: MessageId,
    /// How often it had been replayed.
    pub replay: i32,
}

impl Identity {
    /// One as the statements answer it: a number, the id as text, and how often it was replayed.
    pub(super) fn new(seq: i64, id: Option<&str>, replay: i32) -> Self {
        Self {
            seq,
            id: message_id(id),
            replay,
        }
    }

    /// Those of a row that brings three arrays.
    pub(super) fn all(row: &PgRow) -> Result<Vec<Self>, StoreError> {
        let read = || {
            let seqs: Vec<i64> = row.try_get("seqs")?;
            let ids: Vec<Option<String>> = row.try_get("ids")?;
            let replays: Vec<i32> = row.try_get("replays")?;
            let rows = seqs.into_iter().zip(ids).zip(replays);
            Ok(rows
                .map(|((seq, id), replay)| Self::new(seq, id.as_deref(), replay))
                .collect())
        };
        read().map_err(|error: tokio_postgres::Error| unreadable(&error))
    }
}

/// An id as the database prints it.
pub(super) fn message_id(text: Option<&str>) -> MessageId {
    let Some(text) = text else { return MessageId::Missing };
    let same = |printed: &dyn ToString| printed.to_string() == text;
    match (Uuid::parse_str(text), text.parse::<i64>()) {
        (Ok(id), _) if same(&id.hyphenated()) => MessageId::Uuid(id),
        (_, Ok(id)) if same(&id) => MessageId::Number(id),
        _ => MessageId::Text(text.into()),
    }
}

/// As the statements take them: seqs, ids, replays.
pub(super) fn columns(rows: &[Identity]) -> (Vec<i64>, Vec<Option<String>>, Vec<i32>) {
    (
        rows.iter().map(|row| row.seq).collect(),
        rows.iter().map(|row| row.id.text()).collect(),
        rows.iter().map(|row| row.replay).collect(),
    )
}
