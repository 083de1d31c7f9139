//! Reading JetStream's answer to one message.

use async_nats::jetstream::ErrorCode;
use async_nats::{Message, StatusCode};
use serde::Deserialize;

use super::classify::classify;
use crate::delivery::{Failure, FailureClass, Outcome};

/// A PubAck, or an error in its place (NATS ADR-1, "JetStream JSON API Design").
#[derive(Deserialize)]
struct PubAck<'a> {
    #[serde(borrow, default)]
    stream: Option<std::borrow::Cow<'a, str>>,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    #[serde(borrow, default)]
    error: Option<ApiError<'a>>,
}

/// The `error` of any JetStream API answer.
#[derive(Deserialize)]
pub(super) struct ApiError<'a> {
    #[serde(default)]
    code: u64,
    #[serde(default)]
    err_code: u64,
    #[serde(borrow, default)]
    description: std::borrow::Cow<'a, str>,
}

impl ApiError<'_> {
    /// What it means for a message to `subject`.
    pub(super) fn failure(&self, subject: &str) -> Failure {
        let class = classify(self.code, ErrorCode(self.err_code));
        let code = if self.err_code > 0 { self.err_code } else { self.code };
        let error = format!("jetstream refuses subject {subject:?}: {} ({code})", self.description);
        Failure::new(class, code.to_string(), error)
    }
}

/// Nobody answered: what `subject` is missing.
pub(super) fn no_responders(subject: &str) -> Failure {
    let error = format!("no jetstream stream captures subject {subject:?}: create one that does");
    Failure::new(FailureClass::Unavailable, "NO_RESPONDERS", error)
}

/// What `reply` says of the message sent to `subject`. Only a PubAck that names stream and sequence acknowledges.
pub(super) fn read(reply: &Message, subject: &str) -> Outcome {
    if reply.status == Some(StatusCode::NO_RESPONDERS) {
        return Outcome::Refused(no_responders(subject));
    }
    if let (Some(status), true) = (reply.status, reply.payload.is_empty()) {
        let description = reply.description.as_deref().unwrap_or_default().into();
        let code = u64::from(status.as_u16());
        let error = ApiError {
            code,
            err_code: 0,
            description,
        };
        return Outcome::Refused(error.failure(subject));
    }
    match serde_json::from_slice::<PubAck<'_>>(&reply.payload) {
        Ok(PubAck { error: Some(error), .. }) => Outcome::Refused(error.failure(subject)),
        Ok(PubAck {
            stream: Some(_),
            seq: 1..,
            duplicate,
            error: None,
        }) => Outcome::Acknowledged { duplicate },
        Ok(_) | Err(_) => {
            let error = format!(
                "the answer on subject {subject:?} is no jetstream acknowledgement: is something else replying there?"
            );
            Outcome::Refused(Failure::new(FailureClass::Unavailable, "NO_PUBACK", error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(payload: &str) -> Message {
        Message {
            subject: "_INBOX.x".into(),
            reply: None,
            payload: payload.to_owned().into(),
            headers: None,
            status: None,
            description: None,
            length: payload.len(),
        }
    }

    #[test]
    fn only_a_puback_acknowledges() {
        let acknowledged = Outcome::Acknowledged { duplicate: false };
        assert_eq!(read(&reply(r#"{"stream":"S","seq":1}"#), "s"), acknowledged);
        for other in [
            "",
            "{}",
            "ok",
            "+OK",
            "null",
            r#"{"seq":1}"#,
            r#"{"stream":"S"}"#,
            r#"{"stream":"S","seq":0}"#,
        ] {
            let outcome = read(&reply(other), "s");
            assert!(
                matches!(&outcome, Outcome::Refused(failure) if failure.code == "NO_PUBACK"),
                "{other}: {outcome:?}"
            );
        }
        let both = read(
            &reply(r#"{"stream":"S","seq":1,"error":{"code":503,"err_code":10077}}"#),
            "s",
        );
        assert!(
            matches!(both, Outcome::Refused(_)),
            "an error is no acknowledgement: {both:?}"
        );
    }
}
