//! The domain's nouns: what a row of the outbox is once it is in memory.
//!
//! Owns no behaviour beyond reading what a row may say wrongly (its headers, its limit of attempts). It knows neither
//! PostgreSQL nor a broker, and no clock.

mod key_id;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;
use uuid::Uuid;

pub use key_id::KeyId;

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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MessageId {
    /// `outbox_messages.id`.
    Uuid(Uuid),
    /// A bigint primary key that serves as the message id.
    Number(i64),
    /// Any other text: of a foreign table.
    Text(Arc<str>),
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
            Self::Text(id) => id.fmt(f),
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
    /// Ordering key: messages of one (topic, key) and priority reach the broker in `seq` order. `None`: no order. An empty key is a key.
    pub key: Option<Box<str>>,
    /// The body, as stored (jsonb: its text).
    pub payload: Bytes,
    /// There is none: it is null. Not the same as an empty one, where a broker can tell them apart.
    pub payload_is_null: bool,
    /// The row's headers, or why they cannot be sent.
    pub headers: Headers,
    /// The attempt that comes next; starts at 1.
    pub attempt: i32,
    /// The row's own limit of attempts; see [`Message::attempts_at_most`].
    pub max_attempts: Option<i32>,
    /// Above 0 it goes before messages of a lower one that are not yet in a batch. Never below 0.
    pub priority: i16,
    /// Times replayed by an operator; above 0 it becomes part of the dedupe id.
    pub replay: i32,
    /// Of a table that is not ours, what tells it from any other: ids of two of them may be the same, and one of a row that was
    /// relayed may come again. `None`: the id is nobody else's.
    pub origin: Option<Arc<str>>,
    /// Time from insert to the moment the row was read, by the database's clock.
    pub age: std::time::Duration,
}

impl Message {
    /// The id brokers dedupe on: the message id, or `<id>.<replay>` for a message an operator replayed, so that it
    /// arrives although the broker still remembers its first copy. Of a table that is not ours, where ids are no uuids,
    /// `<id>.<seq>.<origin>`: a row keeps its place through every attempt, crash and hand-over, and has another one when somebody makes it
    /// pending again.
    #[must_use]
    pub fn dedupe_id(&self) -> String {
        let Self { id, seq, replay, .. } = self;
        match &self.origin {
            Some(origin) if !matches!(id, MessageId::Uuid(_)) => format!("{id}.{seq}.{origin}"),
            _ if *replay > 0 => format!("{id}.{replay}"),
            _ => id.to_string(),
        }
    }

    /// Attempts before it counts as failed: the row's own limit, or its route's where it has none. Zero and less limit nothing:
    /// programs write them where they mean that they have nothing to say.
    #[must_use]
    pub fn attempts_at_most(&self, route: i32) -> i32 {
        self.max_attempts.filter(|own| *own > 0).unwrap_or(route)
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

/// `text`, and of a long one its first `most` characters, for people.
#[must_use]
pub fn shortened(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}...", &text[..end]).into(),
        None => text.into(),
    }
}

/// A longer topic, in bytes, is nobody's name for anything: it is not shared.
pub(crate) const SHARED_TOPIC_MAX: usize = 4_096;

/// The struct itself, its id and the bookkeeping of one row in the engine.
const FIXED_SIZE: usize = 200;

/// A row's headers: name and value pairs in the order of their names, or the reason none can be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Headers {
    /// Each header; a JSON string goes as its text, anything else as JSON text without white space, numbers digit by digit as
    /// the database printed them.
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
        let values: BTreeMap<String, &RawValue> = match serde_json::from_slice(json) {
            Ok(values) => values,
            Err(error) => return Self::without_names(json, &error),
        };
        let mut list = Vec::with_capacity(values.len());
        for (name, value) in values {
            let text = header_text(value).and_then(|text| check_header(&name, &text).map(|()| text));
            match text {
                Ok(text) => list.push((name.into_boxed_str(), text.into_boxed_str())),
                Err(reason) => return Self::Invalid(reason.into()),
            }
        }
        Self::Valid(list)
    }

    /// What JSON that was refused as a set of named values is instead.
    fn without_names(json: &[u8], error: &serde_json::Error) -> Self {
        match serde_json::from_slice::<&RawValue>(json).map(kind) {
            Ok(Kind::Null) => Self::empty(),
            Ok(Kind::Other(found)) => Self::Invalid(format!("headers must be a JSON object, found {found}").into()),
            Ok(Kind::Object) => Self::Invalid(not_json(error).into()),
            Err(error) => Self::Invalid(not_json(&error).into()),
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

/// What a header's value is sent as. Numbers have more digits and more spellings than any type of ours: they are not read.
fn header_text(value: &RawValue) -> Result<String, String> {
    match value.get().as_bytes() {
        [b'"', ..] => serde_json::from_str(value.get()).map_err(|error| not_json(&error)),
        [b'{' | b'[', ..] => compact(value.get()),
        _scalar => Ok(value.get().to_owned()),
    }
}

fn not_json(error: &serde_json::Error) -> String {
    format!("headers are not JSON: {error}")
}

/// Many readers of JSON go no deeper, serde's among them.
const DEPTH_MAX: usize = 126;

/// JSON without the white space between its tokens, each of which stays as it is written.
fn compact(json: &str) -> Result<String, String> {
    let mut text = String::with_capacity(json.len());
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for c in json.chars() {
        if in_string || !c.is_ascii_whitespace() {
            text.push(c);
        }
        match c {
            '"' if !escaped => in_string = !in_string,
            '[' | '{' if !in_string => depth += 1,
            ']' | '}' if !in_string => depth = depth.saturating_sub(1),
            _other => {}
        }
        if depth > DEPTH_MAX {
            return Err(format!("headers are nested more than {DEPTH_MAX} deep"));
        }
        escaped = in_string && c == '\\' && !escaped;
    }
    Ok(text)
}

enum Kind {
    Null,
    Object,
    Other(&'static str),
}

fn kind(value: &RawValue) -> Kind {
    match value.get().as_bytes() {
        [b'n', ..] => Kind::Null,
        [b'{', ..] => Kind::Object,
        [b'"', ..] => Kind::Other("a string"),
        [b'[', ..] => Kind::Other("an array"),
        [b't' | b'f', ..] => Kind::Other("a boolean"),
        _number => Kind::Other("a number"),
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
    fn a_number_is_sent_with_the_digits_it_was_stored_with() {
        for number in [
            "123456789012345678901234567890",
            "1.10",
            "1e400",
            "-0",
            "-0.0",
            "1E+5",
            "0.1000000000000000055511151231257827",
            "18446744073709551616",
        ] {
            for value in [
                number.to_owned(),
                format!("[{number}]"),
                format!(r#"{{"a":{{"b":[1,{{"c":{number}}}]}}}}"#),
            ] {
                let headers = Headers::parse(format!(r#"{{"n": {value}}}"#).as_bytes());
                assert_eq!(headers.iter().collect::<Vec<_>>(), [("n", value.as_str())]);
            }
        }
    }

    #[test]
    fn white_space_goes_where_it_means_nothing() {
        let json = br#" { "n" : { "a b" : [ 1.10 , "x  \\" , " \" { " , "\n" ] ,
            "e" : "" } , "s" : " as is " } "#;
        let pairs = Headers::parse(json);
        let value = r#"{"a b":[1.10,"x  \\"," \" { ","\n"],"e":""}"#;
        assert_eq!(pairs.iter().collect::<Vec<_>>(), [("n", value), ("s", " as is ")]);
    }

    #[test]
    fn headers_deeper_than_readers_go_are_refused() {
        let nested = |depth| format!(r#"{{"a":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
        let (deepest, too_deep) = (nested(DEPTH_MAX), nested(DEPTH_MAX + 1));
        assert!(matches!(Headers::parse(deepest.as_bytes()), Headers::Valid(_)));
        assert!(serde_json::from_str::<serde_json::Value>(&deepest).is_ok());
        assert_eq!(
            Headers::parse(too_deep.as_bytes()),
            Headers::Invalid("headers are nested more than 126 deep".into())
        );
    }

    #[test]
    fn a_name_given_twice_has_its_last_value() {
        let headers = Headers::parse(br#"{"b": 1, "a": 2, "b": 3.0}"#);
        assert_eq!(headers.iter().collect::<Vec<_>>(), [("a", "2"), ("b", "3.0")]);
    }

    #[test]
    fn a_limit_of_no_attempts_is_the_route_s() {
        let message = |max_attempts| Message {
            seq: Seq(1),
            id: MessageId::Number(1),
            topic: "t".into(),
            key: None,
            payload: Bytes::new(),
            payload_is_null: false,
            headers: Headers::empty(),
            attempt: 1,
            max_attempts,
            priority: 0,
            replay: 0,
            origin: None,
            age: std::time::Duration::ZERO,
        };
        let limits = [None, Some(0), Some(-1), Some(i32::MIN), Some(1), Some(9)];
        let allowed = limits.map(|own| message(own).attempts_at_most(5));
        assert_eq!(allowed, [5, 5, 5, 5, 1, 9]);
    }

    #[test]
    fn what_is_no_object_is_invalid_and_says_so() {
        assert_eq!(
            Headers::parse(b"[1]"),
            Headers::Invalid("headers must be a JSON object, found an array".into())
        );
        for (json, reason) in [
            (r#""x""#, "headers must be a JSON object, found a string"),
            ("-1e400", "headers must be a JSON object, found a number"),
            ("true", "headers must be a JSON object, found a boolean"),
            (
                "{",
                "headers are not JSON: EOF while parsing an object at line 1 column 1",
            ),
        ] {
            assert_eq!(Headers::parse(json.as_bytes()), Headers::Invalid(reason.into()));
        }
        for json in [
            r#"{"a":1"#,
            r#"{"a":01}"#,
            r#"{"a":"\ud800"}"#,
            r#"{"\ud800":1}"#,
            r#"{"a":1}{}"#,
            "nul",
        ] {
            let Headers::Invalid(reason) = Headers::parse(json.as_bytes()) else {
                panic!("{json} is taken");
            };
            assert!(reason.starts_with("headers are not JSON: "), "{reason}");
        }
        assert_eq!(Headers::parse(b"null"), Headers::empty());
        assert_eq!(Headers::parse(b" null "), Headers::empty());
        assert_eq!(Headers::parse(b"{ }"), Headers::empty());
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
