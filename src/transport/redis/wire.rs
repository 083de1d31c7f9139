//! What a message looks like in a stream, and which ones Redis cannot carry.

use redis::Pipeline;

use crate::delivery::{Failure, FailureClass};
use crate::message::Headers;
use crate::transport::Envelope;

/// `proto-max-bulk-len`'s default, bytes.
const MAX_BULK: usize = 512 << 20;
/// Whether Redis can take it.
///
/// # Errors
/// Why not, as a rejection.
pub(super) fn check(envelope: &Envelope) -> Result<(), Failure> {
    let message = &envelope.message;
    let rejected = |code: &'static str, error: String| Err(Failure::new(FailureClass::Rejected, code, error));
    if let Headers::Invalid(reason) = &message.headers {
        return rejected("INVALID_HEADERS", reason.to_string());
    }
    let bytes = envelope.body()?.len();
    if bytes > MAX_BULK {
        let error = format!("payload of {bytes} bytes exceeds redis' limit of {MAX_BULK} for one value");
        return rejected("TOO_LARGE", error);
    }
    Ok(())
}

/// Adds its `XADD` to `pipeline`.
pub(super) fn add(pipeline: &mut Pipeline, envelope: &Envelope, maxlen: Option<u64>) {
    let message = &envelope.message;
    let headers: serde_json::Map<String, serde_json::Value> = message
        .headers
        .iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    let headers = serde_json::to_string(&headers).expect("a map of strings is JSON");
    let command = pipeline.cmd("XADD").arg(&*envelope.destination);
    if let Some(maxlen) = maxlen {
        command.arg("MAXLEN").arg("~").arg(maxlen);
    }
    command.arg("*").arg("id").arg(message.id.to_string());
    if let Some(key) = &message.key {
        command.arg("key").arg(&**key);
    }
    command
        .arg("headers")
        .arg(headers)
        .arg("payload")
        .arg(&message.payload[..]);
}
