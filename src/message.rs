//! The domain's nouns: what a row of the outbox is once it is in memory.
//!
//! Owns no behaviour beyond parsing what a row may say wrongly (its headers). It knows neither PostgreSQL nor a broker,
//! and no clock.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

/// A row's place in the outbox: cursor, order within a key, and the key marks are written by. Assigned by the
/// database's sequence; not commit order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(pub i64);

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What consumers dedupe on. A uuid in our own table; a foreign table may key its messages by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageId {
    /// `outbox_messages.id`.
    Uuid(Uuid),
    /// A bigint primary key that serves as the message id.
    Number(i64),
    /// The row has none: it cannot be sent.
    Missing,
}

impl MessageId {
    /// As text; `None`: the row has none.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        (*self != Self::Missing).then(|| self.to_string())
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(id) => id.hyphenated().fmt(f),
            Self::Number(id) => id.fmt(f),
            Self::Missing => Ok(()),
        }
    }
}

/// One pending row, ready to be published.
#[derive(Clone, Debug)]
pub struct Message {
    /// Place in the outbox.
    pub seq: Seq,
    /// The message id.
    pub id: MessageId,
    /// What the application calls this kind of message; routes match on it.
    pub topic: Arc<str>,
    /// Ordering key: messages of one (topic, key) reach the broker in `seq` order. `None`: no order. An empty key is a key.
    pub key: Option<Box<str>>,
    /// The body, as stored (jsonb: its text).
    pub payload: Bytes,
    /// The row's headers, or why they cannot be sent.
    pub headers: Headers,
    /// The attempt that comes next; starts at 1.
    pub attempt: i32,
    /// The row's own limit of attempts; `None`: the route's.
    pub max_attempts: Option<i32>,
    /// Times replayed by an operator; above 0 it becomes part of the dedupe id.
    pub replay: i32,
    /// Time from insert to the moment the row was read, by the database's clock.
    pub age: std::time::Duration,
}

impl Message {
    /// The id brokers dedupe on: the message id, or `<id>.<replay>` for a message an operator replayed, so that it
    /// arrives although the broker still remembers its first copy.
    #[must_use]
    pub fn dedupe_id(&self) -> String {
        if self.replay > 0 {
            format!("{}.{}", self.id, self.replay)
        } else {
            self.id.to_string()
        }
    }

    /// Bytes this message holds in memory, about: what `relay.max_in_flight_bytes` counts.
    #[must_use]
    pub fn size(&self) -> usize {
        let headers = match &self.headers {
            Headers::Valid(list) => list.iter().map(|(name, value)| name.len() + value.len() + 32).sum(),
            Headers::Invalid(reason) => reason.len(),
        };
        self.payload.len() + self.key.as_deref().map_or(0, str::len) + self.long_topic() + headers + FIXED_SIZE
    }

    /// Topics are shared among messages; those too long to be remembered are not.
    fn long_topic(&self) -> usize {
        if self.topic.len() > SHARED_TOPIC_MAX {
            self.topic.len()
        } else {
            0
        }
    }
}

/// A longer topic, in bytes, is nobody's name for anything: it is not shared.
pub(crate) const SHARED_TOPIC_MAX: usize = 4_096;

/// The struct itself, its id and the bookkeeping of one row in the engine.
const FIXED_SIZE: usize = 200;

/// A row's headers: name and value pairs in the order stored, or the reason none can be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Headers {
    /// Each header; a JSON string goes as its text, anything else as JSON text.
    Valid(Vec<(Box<str>, Box<str>)>),
    /// Why the column's value is no set of headers. Such a row is rejected with this text.
    Invalid(Box<str>),
}

impl Headers {
    /// No headers.
    #[must_use]
    pub fn empty() -> Self {
        Self::Valid(Vec::new())
    }

    /// Reads the `headers` column's JSON text. SQL NULL and JSON null are no headers; anything but an object is invalid,
    /// and so is an empty name or a CR, LF or NUL in a name or value: no broker may be handed those.
    #[must_use]
    pub fn parse(json: &[u8]) -> Self {
        if json == b"{}" || json == b"null" {
            return Self::empty();
        }
        match serde_json::from_slice::<serde_json::Value>(json) {
            Ok(serde_json::Value::Object(map)) => {
                let mut list = Vec::with_capacity(map.len());
                for (name, value) in map {
                    let text = if let serde_json::Value::String(text) = value {
                        text
                    } else {
                        value.to_string()
                    };
                    if let Err(reason) = check_header(&name, &text) {
                        return Self::Invalid(reason.into());
                    }
                    list.push((name.into_boxed_str(), text.into_boxed_str()));
                }
                Self::Valid(list)
            }
            Ok(serde_json::Value::Null) => Self::empty(),
            Ok(other) => Self::Invalid(format!("headers must be a JSON object, found {}", kind(&other)).into()),
            Err(error) => Self::Invalid(format!("headers are not JSON: {error}").into()),
        }
    }

    /// The pairs; none when invalid.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let list: &[(Box<str>, Box<str>)] = match self {
            Self::Valid(list) => list,
            Self::Invalid(_) => &[],
        };
        list.iter().map(|(name, value)| (&**name, &**value))
    }
}

fn check_header(name: &str, value: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a header has an empty name".into());
    }
    let forbidden = |text: &str| text.contains(['\r', '\n', '\0']);
    if forbidden(name) {
        return Err(format!("header name {name:?} contains CR, LF or NUL"));
    }
    if forbidden(value) {
        return Err(format!("the value of header {name:?} contains CR, LF or NUL"));
    }
    Ok(())
}

fn kind(value: &serde_json::Value) -> &'static str {
    match value {
        serde_json::Value::Null => "null",
        serde_json::Value::Bool(_) => "a boolean",
        serde_json::Value::Number(_) => "a number",
        serde_json::Value::String(_) => "a string",
        serde_json::Value::Array(_) => "an array",
        serde_json::Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_values_become_text() {
        let headers = Headers::parse(br#"{"a":"x","n":5,"o":{"k":[1]},"t":true,"z":null}"#);
        let pairs: Vec<_> = headers.iter().collect();
        assert_eq!(
            pairs,
            [
                ("a", "x"),
                ("n", "5"),
                ("o", r#"{"k":[1]}"#),
                ("t", "true"),
                ("z", "null")
            ]
        );
    }

    #[test]
    fn what_is_no_object_is_invalid_and_says_so() {
        assert_eq!(
            Headers::parse(b"[1]"),
            Headers::Invalid("headers must be a JSON object, found an array".into())
        );
        assert!(matches!(Headers::parse(b"\"x\""), Headers::Invalid(_)));
        assert!(matches!(Headers::parse(b"{"), Headers::Invalid(_)));
        assert_eq!(Headers::parse(b"null"), Headers::empty());
    }

    #[test]
    fn a_header_never_injects_another() {
        for json in [
            r#"{"a":"x\r\nb: y"}"#,
            r#"{"a\n":"x"}"#,
            r#"{"a":"\u0000"}"#,
            r#"{"":"x"}"#,
        ] {
            assert!(matches!(Headers::parse(json.as_bytes()), Headers::Invalid(_)), "{json}");
        }
    }
}
