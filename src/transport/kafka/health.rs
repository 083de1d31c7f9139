//! What librdkafka tells on the side: brokers down, a wrong password, a dead producer.
//!
//! A delivery report does not say why nothing gets through (a wrong password is a bare timeout there), the error callback
//! does. Trouble is believed for a few seconds after it was last reported (librdkafka repeats it with every reconnect) or
//! until something succeeds.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::types::RDKafkaErrorCode as Code;

use super::classify::code_name;
use crate::delivery::{Failure, FailureClass};
use crate::lock::lock;
use crate::repeat::SharedRepeat;
use crate::transport::blame::Blame;

const BELIEVED: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(super) struct Health {
    blame: Blame,
    troubled: AtomicBool,
    trouble: Mutex<Trouble>,
    log: SharedRepeat,
}

#[derive(Debug, Default)]
struct Trouble {
    down: Option<Instant>,
    /// The latest cause, and whether it is better than "connection refused".
    cause: Option<(Instant, Code, String)>,
}

impl Health {
    pub(super) fn new(blame: Blame) -> Self {
        Self {
            blame,
            troubled: AtomicBool::new(false),
            trouble: Mutex::default(),
            log: SharedRepeat::default(),
        }
    }

    /// The transport's name.
    pub(super) fn name(&self) -> &str {
        &self.blame.name
    }

    /// Something got through.
    pub(super) fn success(&self) {
        if self.troubled.load(Ordering::Relaxed) && self.troubled.swap(false, Ordering::AcqRel) {
            *self.lock() = Trouble::default();
            self.log.reset();
            tracing::info!(transport = self.blame.name, "kafka answers again");
        }
    }

    /// librdkafka reports `code`.
    pub(super) fn note(&self, code: Code, reason: &str) {
        let now = Instant::now();
        let reason = &reason.replace(['\r', '\n'], " ");
        let blamed = self.blame.line(reason);
        let reason = blamed.as_ref().unwrap_or(reason);
        {
            let mut trouble = self.lock();
            if code == Code::AllBrokersDown {
                trouble.down = Some(now);
            } else {
                let telling = |code| matches!(code, Code::Authentication | Code::SSL);
                let old = trouble.cause.as_ref();
                let keep = old.is_some_and(|(at, old, _)| telling(*old) && !telling(code) && at.elapsed() < BELIEVED);
                if !keep {
                    // A line that names a key is not to wait behind one that does not.
                    if blamed.is_some() && old.is_none_or(|(_, _, old)| old != reason) {
                        self.log.reset();
                    }
                    trouble.cause = Some((now, code, reason.to_owned()));
                }
                if telling(code) {
                    trouble.down = Some(now);
                }
            }
        }
        self.troubled.store(true, Ordering::Release);
        if let Some(held) = self.log.pass() {
            tracing::warn!(
                transport = self.blame.name,
                held,
                code = code_name(code),
                "kafka: {reason}"
            );
        }
    }

    /// Why nothing can be sent now, if that is known.
    pub(super) fn outage(&self) -> Option<Failure> {
        if !self.troubled.load(Ordering::Acquire) {
            return None;
        }
        let trouble = self.lock();
        trouble.down.filter(|at| at.elapsed() < BELIEVED)?;
        let (code, error) = match &trouble.cause {
            Some((_, code, reason)) => (*code, format!("no kafka broker can be used: {reason}")),
            None => (Code::AllBrokersDown, "no kafka broker can be reached".to_owned()),
        };
        Some(Failure::new(FailureClass::Unavailable, code_name(code), error))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Trouble> {
        lock(&self.trouble)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::kafka::config::KafkaConfig;

    #[test]
    fn a_wrong_password_is_said_though_connections_fail_after_it() {
        let config: KafkaConfig = serde_json::from_str(
            r#"{"brokers":"h:1","sasl_mechanism":"PLAIN","sasl_username":"u","sasl_password_file":"/nonexistent"}"#,
        )
        .unwrap();
        let health = Health::new(config.blame("main"));
        assert_eq!(health.outage(), None);
        health.note(Code::Authentication, "SASL authentication error: bad password");
        health.note(Code::BrokerTransportFailure, "connection refused");
        health.note(Code::AllBrokersDown, "1/1 brokers are down");
        let failure = health.outage().unwrap();
        assert_eq!(
            (failure.class, &*failure.code),
            (FailureClass::Unavailable, "AUTHENTICATION")
        );
        assert_eq!(
            failure.error,
            "no kafka broker can be used: transports.main.kafka.sasl_password_file: the server refuses this login \
             (SASL authentication error: bad password)"
        );
        health.success();
        assert_eq!(health.outage(), None);
    }
}
