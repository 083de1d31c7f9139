//! Standard output: one JSON object a line, for trying things out and for pipes.
//!
//! `{"id", "topic", "key", "headers", "payload", "attempt"}`. The payload is embedded when it is JSON, a string when it is
//! other text, and a base64 string when it is not UTF-8. `topic` is the destination. Lines are written and flushed a batch
//! at a time, in the batch's order; a line is acknowledged once the flush succeeded. A closed or broken pipe is
//! `Unavailable`: a batch that failed may have been written in part. A reader that stops reading blocks the pipe; after
//! five seconds the batch is `TimedOut`, and `Unavailable` is what later ones get until the pipe moves again.

pub mod config;

mod classify;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::Mutex;

pub use classify::classify;

use self::config::StdoutConfig;
use super::chain::{Ledger, is_ordered};
use super::{ConnectError, Envelope, Probe, Transport};
use crate::delivery::{Failure, FailureClass, Outcome};
use crate::message::Headers;

/// How long a blocked reader is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

type Sink = Box<dyn Write + Send>;

/// The standard output transport. See the module.
pub struct Stdout {
    sink: Arc<Mutex<Sink>>,
}

impl std::fmt::Debug for Stdout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stdout").finish_non_exhaustive()
    }
}

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

impl Stdout {
    /// A transport to the process's standard output.
    ///
    /// # Errors
    /// None now; the signature is every transport's.
    pub async fn connect(name: &str, config: &StdoutConfig) -> Result<Self, ConnectError> {
        config.validate(name)?;
        Ok(Self::to(Box::new(std::io::stdout())))
    }

    /// A transport to anything that can be written to.
    #[must_use]
    pub fn to(sink: Sink) -> Self {
        Self {
            sink: Arc::new(Mutex::new(sink)),
        }
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
        payload: payload(&message.payload),
        attempt: message.attempt,
    };
    serde_json::to_writer(&mut *text, &line).expect("a line has string keys and writes to memory");
    text.push(b'\n');
    Ok(())
}

fn payload(bytes: &[u8]) -> Payload<'_> {
    match std::str::from_utf8(bytes) {
        Err(_) => Payload::Base64(base64(bytes)),
        Ok(text) => match serde_json::from_str::<&RawValue>(text) {
            // Embedded as it stands: a line end in it would break the line.
            Ok(json) if !text.contains(['\n', '\r']) => Payload::Json(json),
            Ok(_) | Err(_) => Payload::Text(text),
        },
    }
}

/// RFC 4648 section 4, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let letter = ALPHABET[(group >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= chunk.len() { letter.into() } else { '=' });
        }
    }
    text
}

#[async_trait]
impl Transport for Stdout {
    async fn publish(&self, batch: &[Envelope]) -> Vec<Outcome> {
        let mut ledger = Ledger::new(batch, is_ordered);
        let mut text = Vec::new();
        let mut lines = Vec::with_capacity(batch.len());
        for (index, envelope) in (0u32..).zip(batch) {
            if ledger.is_open(index) {
                match write_line(envelope, &mut text) {
                    Ok(()) => lines.push(index),
                    Err(failure) => ledger.refuse(index, failure),
                }
            }
        }
        let blocked = |class| Failure::new(class, "BLOCKED", "nobody reads standard output");
        let result = match tokio::time::timeout(PATIENCE, Arc::clone(&self.sink).lock_owned()).await {
            Err(_) => Err(blocked(FailureClass::Unavailable)),
            Ok(mut sink) => {
                let write = tokio::task::spawn_blocking(move || sink.write_all(&text).and_then(|()| sink.flush()));
                match tokio::time::timeout(PATIENCE, write).await {
                    Err(_) => Err(blocked(FailureClass::TimedOut)),
                    Ok(written) => written.expect("writing does not panic").map_err(|error| {
                        Failure::new(
                            classify(error.kind()),
                            format!("{:?}", error.kind()),
                            format!("cannot write to standard output: {error}"),
                        )
                    }),
                }
            }
        };
        for index in lines {
            match &result {
                Ok(()) => ledger.answer_alone(index, Outcome::Acknowledged { duplicate: false }),
                Err(failure) => ledger.refuse(index, failure.clone()),
            }
        }
        ledger.finish()
    }

    async fn probe(&self, _destination: &str) -> Result<Probe, Failure> {
        match self.sink.try_lock() {
            Ok(mut sink) => sink.flush().map(|()| Probe::Ready).map_err(|error| {
                Failure::new(
                    classify(error.kind()),
                    format!("{:?}", error.kind()),
                    format!("cannot write to standard output: {error}"),
                )
            }),
            Err(_) => Err(Failure::new(
                FailureClass::Unavailable,
                "BLOCKED",
                "nobody reads standard output",
            )),
        }
    }

    async fn close(&self) {}
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
            assert_eq!(base64(bytes.as_bytes()), text);
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
