//! What a message looks like on NATS, and which ones NATS cannot carry.
//!
//! Headers: the row's own first, then `Nats-Msg-Id` (the dedupe id), `Outbox-Id` (the message id) and `Outbox-Key`. A
//! row's header with one of these names, in any case, gives way. Other headers that begin with `Nats-` tell the server what to
//! do with the stream (`Nats-Rollup: all` empties it): they are rejected unless the configuration lists them.

use std::str::FromStr;

use async_nats::{HeaderMap, HeaderName, HeaderValue};

use crate::delivery::{Failure, FailureClass};
use crate::message::Headers;
use crate::transport::Envelope;

const MSG_ID: &str = "Nats-Msg-Id";
const OUTBOX_ID: &str = "Outbox-Id";
const OUTBOX_KEY: &str = "Outbox-Key";

fn rejected(code: &'static str, error: String) -> Failure {
    Failure::new(FailureClass::Rejected, code, error)
}

/// Bytes of a subject at most: with the reply subject and two sizes it stands on one line, of which a server reads 4,096
/// (`max_control_line`); it cuts the connection where one is longer.
const SUBJECT_MAX: usize = 3_968;

/// Whether NATS can route a message to `subject`: tokens separated by dots, none empty, no wildcard, no whitespace or
/// control character (NATS documentation, "Subject-Based Messaging").
///
/// # Errors
/// Why not, as a rejection.
pub fn check_subject(subject: &str) -> Result<(), Failure> {
    let wrong = |what: &str| Err(rejected("INVALID_SUBJECT", format!("nats subject {subject:?} {what}")));
    if subject.is_empty() {
        return wrong("is empty");
    }
    if subject.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return wrong("contains a space or control character");
    }
    if subject.len() > SUBJECT_MAX {
        return Err(rejected(
            "INVALID_SUBJECT",
            format!("nats subject of {} bytes is longer than {SUBJECT_MAX}", subject.len()),
        ));
    }
    for token in subject.split('.') {
        match token {
            "" => return wrong("has an empty token: look for leading, trailing or doubled dots"),
            "*" | ">" => return wrong("contains a wildcard: a message needs a literal subject"),
            _literal => {}
        }
    }
    Ok(())
}

/// Whether a header of this name tells the server what to do.
#[must_use]
pub fn is_control(name: &str) -> bool {
    name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("Nats-"))
}

/// The headers of a message. `allowed`: control headers that rows may set.
///
/// # Errors
/// A name or value NATS cannot carry, or a control header, as a rejection.
pub fn headers(envelope: &Envelope, allowed: &[String]) -> Result<HeaderMap, Failure> {
    let message = &envelope.message;
    if let Headers::Invalid(reason) = &message.headers {
        return Err(rejected("INVALID_HEADERS", reason.to_string()));
    }
    let mut map = HeaderMap::new();
    for (name, text) in message.headers.iter() {
        if [MSG_ID, OUTBOX_ID, OUTBOX_KEY]
            .iter()
            .any(|ours| name.eq_ignore_ascii_case(ours))
        {
            continue;
        }
        if is_control(name) && !allowed.iter().any(|allowed| name.eq_ignore_ascii_case(allowed)) {
            let todo = "allow_headers of the transport lists those that rows may set";
            return Err(rejected(
                "CONTROL_HEADER",
                format!("header {name:?} tells the nats server what to do with the stream: {todo}"),
            ));
        }
        let name = HeaderName::from_str(name).map_err(|_| {
            rejected(
                "INVALID_HEADERS",
                format!("nats cannot carry a header named {name:?}: printable ASCII without ':'"),
            )
        })?;
        map.append(name, value("a header", text)?);
    }
    map.insert(
        HeaderName::from_static(MSG_ID),
        value("the dedupe id", &message.dedupe_id())?,
    );
    map.insert(
        HeaderName::from_static(OUTBOX_ID),
        value("the message id", &message.id.to_string())?,
    );
    if let Some(key) = &message.key {
        map.insert(HeaderName::from_static(OUTBOX_KEY), value("the key", key)?);
    }
    Ok(map)
}

fn value(what: &str, text: &str) -> Result<HeaderValue, Failure> {
    let failure = || {
        rejected(
            "INVALID_HEADERS",
            format!("nats cannot carry {what} with a CR, LF or NUL in it"),
        )
    };
    if text.contains('\0') {
        return Err(failure());
    }
    HeaderValue::from_str(text).map_err(|_| failure())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_literal_subjects_pass() {
        for good in ["a", "orders.created", "a.b-c_d.Ä", "a*b", "$x"] {
            assert!(check_subject(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            &"x".repeat(5_000),
            " ",
            "a b",
            "a..b",
            ".a",
            "a.",
            "a.*",
            ">",
            "a.>",
            "a\nb",
            "a\u{7f}",
            "a\u{a0}b",
        ] {
            let failure = check_subject(bad).unwrap_err();
            assert_eq!(
                (failure.class, &*failure.code),
                (FailureClass::Rejected, "INVALID_SUBJECT"),
                "{bad:?}"
            );
        }
    }
}
