//! Messages as JSON Lines: what `failed export` prints and `enqueue --lines` takes.
//!
//! One object a line. `payload` is the JSON value where the column holds JSON, digit for digit, and the text where it holds
//! text or bytes; what does not survive that (bytes that are no UTF-8, JSON with line breaks or spaces around it) goes as
//! `payload_base64`. `seq`, `attempt` and the times are for whoever reads; a message that is inserted gets its own.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::parts;
use crate::message::Seq;
use crate::store::StoreError;
use crate::store::postgres::link::answer::{Legible, legible, unreadable};
use crate::store::postgres::link::database::Database;
use crate::store::postgres::link::sql::{Names, Statement};
use crate::store::postgres::schema::migrate::PayloadType;

const EXPORT: &str = include_str!("../../../../sql/failed_export.sql");

/// Bytes of payloads, as stored, that one statement brings; more only when a single one is larger.
const PAGE_BYTES: i64 = 4 << 20;

/// One line of an export.
#[derive(Debug, Serialize)]
pub struct ExportedMessage {
    /// Message id; `None`: it has none.
    pub id: Option<String>,
    /// Topic; `None`: it has none, or it cannot be read.
    pub topic: Option<String>,
    /// Ordering key.
    pub key: Option<String>,
    /// Headers, as stored; `None`: they cannot be read.
    pub headers: Option<Box<RawValue>>,
    /// The body, where JSON can say it. Neither this nor the bytes: it is null, or cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Box<RawValue>>,
    /// The body's bytes, where it cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_base64: Option<String>,
    /// Above 0 it overtakes.
    pub priority: i32,
    /// The row's own limit.
    pub max_attempts: Option<i32>,
    /// Times replayed: part of what brokers dedupe on.
    pub replay: i32,
    /// Place in the outbox.
    pub seq: i64,
    /// The attempt that would come next.
    pub attempt: i32,
    /// When it failed for good; ISO 8601.
    pub failed_at: String,
    /// Why.
    pub last_error: Option<String>,
    /// When it was inserted; ISO 8601.
    pub inserted_at: Option<String>,
}

/// Reads failed messages whole, a bounded page at a time.
#[derive(Debug)]
pub struct Exporter {
    statement: Statement,
    names: Names,
    payload: PayloadType,
}

impl Exporter {
    /// For a table whose payload column is of type `payload`.
    #[must_use]
    pub fn new(names: &Names, payload: PayloadType) -> Self {
        let bytes = match payload {
            PayloadType::Jsonb | PayloadType::Json | PayloadType::Text => {
                "convert_to(m.{c.payload}::text, case getdatabaseencoding() when 'SQL_ASCII' then 'SQL_ASCII' else 'UTF8' end)"
            }
            PayloadType::Bytea => "m.{c.payload}",
        };
        Self {
            statement: Statement {
                text: names.fill(&EXPORT.replace("{payload_bytes}", bytes)),
                types: &[Type::INT8_ARRAY, Type::INT8, Type::TEXT_ARRAY],
            },
            names: names.clone(),
            payload,
        }
    }

    /// The first of `seqs` that are failed, as many as fit one page: go on past the last one. None: no other is failed.
    ///
    /// # Errors
    /// See [`Database::query`].
    pub async fn page(&self, database: &Database, seqs: &[Seq]) -> Result<Vec<ExportedMessage>, StoreError> {
        let seqs: Vec<i64> = seqs.iter().map(|seq| seq.0).collect();
        let rows = parts::query((database, &self.names), &self.statement, &seqs, &[&PAGE_BYTES]).await?;
        let messages: Result<_, tokio_postgres::Error> = rows.iter().map(|row| self.message(row)).collect();
        messages.map_err(|error| unreadable(&error))
    }

    fn message(&self, row: &Row) -> Result<ExportedMessage, tokio_postgres::Error> {
        let headers = legible(row, "headers").map(|text| parts::json(Legible(on_one_line(text))));
        let payload: Option<Vec<u8>> = row.try_get("payload")?;
        let (payload, payload_base64) = payload.map_or((None, None), |bytes| told(self.payload, bytes));
        Ok(ExportedMessage {
            id: legible(row, "id"),
            topic: legible(row, "topic"),
            key: legible(row, "key"),
            headers,
            payload,
            payload_base64,
            priority: row.try_get("priority")?,
            max_attempts: row.try_get("max_attempts")?,
            replay: row.try_get("replay")?,
            seq: row.try_get("seq")?,
            attempt: row.try_get("attempt")?,
            failed_at: row.try_get("failed_at")?,
            last_error: legible(row, "last_error"),
            inserted_at: row.try_get("inserted_at")?,
        })
    }
}

/// Line breaks in JSON stand between its parts only.
fn on_one_line(json: String) -> String {
    if json.contains(['\n', '\r']) {
        json.replace(['\n', '\r'], " ")
    } else {
        json
    }
}

/// A body as a line tells it: the JSON value, or else base64.
fn told(column: PayloadType, bytes: Vec<u8>) -> (Option<Box<RawValue>>, Option<String>) {
    let bytes = match String::from_utf8(bytes) {
        Ok(text) => match column {
            PayloadType::Text | PayloadType::Bytea => {
                return (Some(to_raw_value(&text).expect("a string is JSON")), None);
            }
            PayloadType::Jsonb | PayloadType::Json => match RawValue::from_string(text.clone()) {
                Ok(raw) if raw.get() == text && !text.contains(['\n', '\r']) => return (Some(raw), None),
                Ok(_) | Err(_) => text.into_bytes(),
            },
        },
        Err(error) => error.into_bytes(),
    };
    (None, Some(STANDARD.encode(bytes)))
}

/// A message as a line gives it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewLine {
    /// Topic.
    pub topic: String,
    /// Ordering key.
    pub key: Option<String>,
    /// The body.
    pub payload: Vec<u8>,
    /// Headers, as JSON.
    pub headers: String,
    /// Message id; `None`: a new one.
    pub id: Option<String>,
    /// Above 0 it overtakes.
    pub priority: i32,
    /// The row's own limit.
    pub max_attempts: Option<i32>,
    /// Times replayed.
    pub replay: i32,
}

impl NewLine {
    /// Reads one line for a table whose payload column is of type `column`.
    ///
    /// # Errors
    /// What is wrong with it, in a few words.
    pub fn parse(line: &[u8], column: PayloadType) -> Result<Self, String> {
        if !line.starts_with(b"{") {
            return Err("not a JSON object".to_owned());
        }
        let line: Line<'_> = serde_json::from_slice(line).map_err(|error| words(&error))?;
        let headers = line.headers.map_or("{}", RawValue::get);
        if !(headers.starts_with('{') || headers == "null") {
            return Err("headers must be an object".to_owned());
        }
        let payload = match (line.payload, line.payload_base64) {
            (Some(raw), None) => body(raw, column)?,
            (None, Some(base64)) => STANDARD
                .decode(base64)
                .map_err(|error| format!("payload_base64: {error}"))?,
            (None, None) => return Err("missing field `payload`".to_owned()),
            (Some(_), Some(_)) => return Err("payload and payload_base64: give one of them".to_owned()),
        };
        Ok(Self {
            topic: line.topic,
            key: line.key,
            payload,
            headers: if headers == "null" { "{}" } else { headers }.to_owned(),
            id: line.id.map(|id| id.hyphenated().to_string()),
            priority: line.priority.unwrap_or(0).into(),
            max_attempts: line.max_attempts,
            replay: line.replay.unwrap_or(0),
        })
    }

    /// Roughly what it weighs, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.payload.len() + self.headers.len() + self.topic.len() + self.key.as_ref().map_or(0, String::len)
    }
}

/// A body from its JSON: in a column of text or bytes a string stands for its text.
fn body(raw: &RawValue, column: PayloadType) -> Result<Vec<u8>, String> {
    let json = raw.get();
    let is_text = matches!(column, PayloadType::Text | PayloadType::Bytea);
    if is_text && json.starts_with('"') {
        let text: String = serde_json::from_str(json).map_err(|error| format!("payload: {}", words(&error)))?;
        return Ok(text.into_bytes());
    }
    Ok(json.as_bytes().to_vec())
}

/// Without the place: each line is parsed alone, and it would always be line 1.
fn words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((what, _)) => format!("column {}: {what}", error.column()),
        None => text,
    }
}

/// One line. What an export tells beside the message is accepted, and ignored.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    topic: String,
    #[serde(default)]
    key: Option<String>,
    #[serde(default, borrow)]
    headers: Option<&'a RawValue>,
    #[serde(default, borrow, deserialize_with = "given")]
    payload: Option<&'a RawValue>,
    #[serde(default)]
    payload_base64: Option<String>,
    #[serde(default)]
    id: Option<Uuid>,
    #[serde(default)]
    priority: Option<i16>,
    #[serde(default)]
    max_attempts: Option<i32>,
    #[serde(default)]
    replay: Option<i32>,
    #[serde(default, rename = "seq")]
    _seq: Option<IgnoredAny>,
    #[serde(default, rename = "attempt")]
    _attempt: Option<IgnoredAny>,
    #[serde(default, rename = "failed_at")]
    _failed_at: Option<IgnoredAny>,
    #[serde(default, rename = "last_error")]
    _last_error: Option<IgnoredAny>,
    #[serde(default, rename = "inserted_at")]
    _inserted_at: Option<IgnoredAny>,
}

/// A payload of `null` is one: JSON's null.
fn given<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str, column: PayloadType) -> Result<NewLine, String> {
        NewLine::parse(text.as_bytes(), column)
    }

    #[test]
    fn a_payload_is_taken_as_the_column_holds_it() {
        let payload = |json: &str, column| {
            let text = format!("{{\"topic\": \"t\", \"payload\": {json}}}");
            String::from_utf8(line(&text, column).unwrap().payload).unwrap()
        };
        for column in PayloadType::ALL {
            assert_eq!(payload("{\"n\": 1.10e400}", column), "{\"n\": 1.10e400}");
            assert_eq!(payload("null", column), "null");
        }
        assert_eq!(payload("\"a\\n\\u00e4\"", PayloadType::Json), "\"a\\n\\u00e4\"");
        assert_eq!(payload("\"a\\n\\u00e4\"", PayloadType::Text), "a\nä");
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said() {
        for (text, part) in [
            (
                "{\"topic\": \"t\", \"payload\": 1, \"colour\": 2}",
                "unknown field `colour`",
            ),
            ("{\"payload\": 1}", "missing field `topic`"),
            ("{\"topic\": \"t\"}", "missing field `payload`"),
            ("{\"topic\": \"t\", \"payload\": 1", ": EOF"),
            (
                "{\"topic\": \"t\", \"payload\": 1, \"headers\": [1]}",
                "headers must be an object",
            ),
            ("{\"topic\": \"t\", \"payload\": 1, \"id\": \"7\"}", "UUID"),
            ("{\"topic\": \"t\", \"payload_base64\": \"?\"}", "payload_base64: "),
            ("[]", "not a JSON object"),
        ] {
            let error = line(text, PayloadType::Jsonb).unwrap_err();
            assert!(error.contains(part) && !error.contains("at line"), "{text}: {error}");
        }
    }

    #[test]
    fn what_json_cannot_say_goes_as_base64() {
        let text = |bytes: &[u8], column| {
            let (payload, base64) = told(column, bytes.to_vec());
            payload.map(|raw| raw.get().to_owned()).or(base64).unwrap()
        };
        assert_eq!(text(b"1.10", PayloadType::Jsonb), "1.10");
        assert_eq!(text(b"a\nb", PayloadType::Text), "\"a\\nb\"");
        assert_eq!(text(b"\xff\x00", PayloadType::Bytea), "/wA=");
        assert_eq!(text(b" {\n}", PayloadType::Json), "IHsKfQ==");
    }
}
