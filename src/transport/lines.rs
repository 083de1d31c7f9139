//! Messages as JSON Lines: one object a line, for what writes to a stream of bytes.
//!
//! `{"id", "topic", "key", "headers", "payload", "attempt"}`. The payload is embedded when it is JSON, a string when it is
//! other text, and a base64 string when it is not UTF-8. `topic` is the destination. No line holds a line end but its own. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::value::RawValue;

use super::Envelope;
use super::chain::{Ledger, is_ordered};
use crate::delivery::{Failure, FailureClass, Outcome};
use crate::message::Headers;

/// One line.
#[derive(Serialize)]
struct Line<'a> {
    id: String,
    topic: &'a str,
    key: Option<&'a str>,
    headers: serde_json::Map<String, serde_json::Value>,
    payload: Payload<'a>,
    attempt: i32,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Payload<'a> {
    Json(&'a RawValue),
    Text(&'a str),
    Base64(String),
}

/// A batch that is written as a whole: its lines in the batch's order, and who has one.
pub(super) struct Lines {
    ledger: Ledger,
    written: Vec<u32>,
    /// What is to be written.
    pub(super) text: Vec<u8>,
}

impl Lines {
    /// Those of `batch`. A message without one is rejected here, and what waits behind it withheld.
    pub(super) fn of(batch: &[Envelope]) -> Self {
        let mut lines = Self {
            ledger: Ledger::new(batch, is_ordered),
            written: Vec::with_capacity(batch.len()),
            text: Vec::new(),
        };
        for (index, envelope) in (0u32..).zip(batch) {
            if lines.ledger.is_open(index) {
                match write_line(envelope, &mut lines.text) {
                    Ok(()) => lines.written.push(index),
                    Err(failure) => lines.ledger.refuse(index, failure),
                }
            }
        }
        lines
    }

    /// What became of the batch, where `result` became of its text.
    pub(super) fn answered(self, result: &Result<(), Failure>) -> Vec<Outcome> {
        let mut ledger = self.ledger;
        for index in self.written {
            match result {
                Ok(()) => ledger.answer_alone(index, Outcome::Acknowledged { duplicate: false }),
                Err(failure) => ledger.refuse(index, failure.clone()),
            }
        }
        ledger.finish()
    }
}

/// Appends the line of `envelope`, or says why there is none.
fn write_line(envelope: &Envelope, text: &mut Vec<u8>) -> Result<(), Failure> {
    let message = &envelope.message;
    if let Headers::Invalid(reason) = &message.headers {
        return Err(Failure::new(
            FailureClass::Rejected,
            "INVALID_HEADERS",
            reason.to_string(),
        ));
    }
    let line = Line {
        id: message.id.to_string(),
        topic: &envelope.destination,
        key: message.key.as_deref(),
        headers: message
            .headers
            .iter()
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect(),
        payload: payload(envelope.body()?),
        attempt: message.attempt,
    };
    serde_json::to_writer(&mut *text, &line).expect("a line has string keys and writes to memory");
    text.push(b'\n');
    Ok(())
}

fn payload(bytes: &[u8]) -> Payload<'_> {
    match std::str::from_utf8(bytes) {
        Err(_) => Payload::Base64(STANDARD.encode(bytes)),
        Ok(text) => match serde_json::from_str::<&RawValue>(text) {
            // Embedded as it stands: a line end in it would break the line.
            Ok(json) if !text.contains(['\n', '\r']) => Payload::Json(json),
            Ok(_) | Err(_) => Payload::Text(text),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_in_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(STANDARD.encode(bytes), text);
        }
    }

    #[test]
    fn payloads_keep_one_line() {
        let json = |bytes: &[u8]| serde_json::to_string(&payload(bytes)).unwrap();
        assert_eq!(
            json(br#"{"n": 12345678901234567890.10}"#),
            r#"{"n": 12345678901234567890.10}"#
        );
        assert_eq!(json(b"{\n}"), r#""{\n}""#);
        assert_eq!(json(b"plain"), r#""plain""#);
        assert_eq!(json(b"\xff\xfe"), r#""//4=""#);
    }
}
