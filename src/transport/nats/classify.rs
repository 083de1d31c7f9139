//! JetStream's answers as classes of failure.
//!
//! Codes are the server's `err_code` (its `errors.json`); 503 without a code is "no responders": no stream captures the
//! subject, or JetStream is off. A message can be wrong in itself in a few ways only: its size, and control headers of its own.
//! Everything else is about the stream, the server, the account or our own questions, and counts no attempt. `codes` in the
//! tests lists every code there is.

use async_nats::jetstream::ErrorCode;

use crate::delivery::FailureClass;

/// The class of a JetStream API error. `status` is its HTTP-like code, `code` its `err_code`.
#[must_use]
pub fn classify(status: u64, code: ErrorCode) -> FailureClass {
    known(code.0).unwrap_or_else(|| by_status(status))
}

/// The class of a code that is known.
fn known(code: u64) -> Option<FailureClass> {
    Some(match code {
        // The message's size.
        10054 | 10097
        // What its own control headers say makes no sense: a time to live, a counter, a batch, a schedule.
        | 10165 | 10169..=10171 | 10175 | 10177 | 10179 | 10189..=10193 | 10199 | 10200 | 10203 | 10206 | 10207 | 10212
        | 10223 | 10227 => FailureClass::Rejected,
        // What its own control headers want of the stream is not so now: a last sequence or id, a stream's name, a feature that
        // is switched off, a batch that is under way.
        10060 | 10063 | 10070 | 10071 | 10111 | 10164 | 10166 | 10168 | 10172 | 10174 | 10176 | 10180 | 10188 | 10201
        | 10205 | 10208 => FailureClass::Failed,
        // Streams, consumers, mirrors, servers, the account, questions of ours; copies that are under way (10158) and places
        // that are busy (10163, 10167, 10210, 10211).
        10002..=10227 => FailureClass::Unavailable,
        _unknown => return None,
    })
}

/// The class of an answer with a status only.
fn by_status(status: u64) -> FailureClass {
    match status {
        408 => FailureClass::TimedOut,
        // Login, rights, no such place, too much at once; the server's own trouble.
        401 | 403 | 404 | 429 | 500..=599 => FailureClass::Unavailable,
        _refused => FailureClass::Failed,
    }
}

mod codes;
