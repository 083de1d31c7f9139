//! What a message looks like on Kafka, and which ones Kafka cannot carry.
//!
//! Key and payload are the row's bytes (no key: a null key; an empty key is a key). Headers: the id header, then the
//! row's own, of which one of the same name (in any case) gives way: the order in which Debezium's outbox router has them.

use rdkafka::message::{Header, OwnedHeaders};

use crate::delivery::{Failure, FailureClass};
use crate::message::Headers;
use crate::transport::Envelope;

fn rejected(code: &'static str, error: String) -> Failure {
    Failure::new(FailureClass::Rejected, code, error)
}

/// Whether `topic` is a name Kafka allows: 1 to 249 of `[a-zA-Z0-9._-]`, not `.` or `..` (Kafka's `Topic.validate`).
///
/// # Errors
/// Why not, as a rejection.
pub fn check_topic(topic: &str) -> Result<(), Failure> {
    let wrong = |what: &str| Err(rejected("INVALID_TOPIC", format!("kafka topic {topic:?} {what}")));
    if topic.is_empty() || topic == "." || topic == ".." {
        return wrong("is no topic name");
    }
    if topic.len() > 249 {
        return wrong("is longer than 249 characters");
    }
    if !topic
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    {
        return wrong("contains other characters than letters, digits, '.', '_' and '-'");
    }
    Ok(())
}

/// The headers of a message.
///
/// # Errors
/// Headers that are none, as a rejection.
pub fn headers(envelope: &Envelope, id_header: &str, id: &str) -> Result<OwnedHeaders, Failure> {
    let own = match &envelope.message.headers {
        Headers::Valid(own) => own,
        Headers::Invalid(reason) => return Err(rejected("INVALID_HEADERS", reason.to_string())),
    };
    let mut headers = OwnedHeaders::new_with_capacity(own.len() + 1).insert(Header {
        key: id_header,
        value: Some(id),
    });
    for (name, value) in own {
        if !name.eq_ignore_ascii_case(id_header) {
            headers = headers.insert(Header {
                key: name,
                value: Some(&**value),
            });
        }
    }
    Ok(headers)
}

/// Bytes of a record set that holds this message alone, uncompressed: what `max.message.bytes` is compared with
/// (Kafka protocol, "Record Batch": 61 bytes, then the records with zig-zag varint lengths).
#[must_use]
pub fn size(envelope: &Envelope, id_header: &str, id: &str) -> u64 {
    let message = &envelope.message;
    let field = |len: usize| varint(len) + len;
    let mut headers = 0;
    let mut count = 1;
    for (name, value) in message
        .headers
        .iter()
        .filter(|(name, _)| !name.eq_ignore_ascii_case(id_header))
    {
        headers += field(name.len()) + field(value.len());
        count += 1;
    }
    headers += field(id_header.len()) + field(id.len());
    let key = message.key.as_deref().map_or(1, |key| field(key.len()));
    let body = 3 + key + field(message.payload.len()) + varint(count) + headers;
    (61 + varint(body) + body) as u64
}

fn varint(value: usize) -> usize {
    let mut left = (value as u64) << 1;
    let mut bytes = 1;
    while left >= 0x80 {
        left >>= 7;
        bytes += 1;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_names_follow_kafka() {
        for good in ["a", "orders.created", "A_b-1"] {
            assert!(check_topic(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a b", "a/b", "ä", "a\0", &"x".repeat(250)] {
            assert_eq!(check_topic(bad).unwrap_err().class, FailureClass::Rejected, "{bad:?}");
        }
    }

    #[test]
    fn varints_are_zigzag() {
        assert_eq!([0, 63, 64, 8191, 8192].map(varint), [1, 1, 2, 2, 3]);
    }
}
