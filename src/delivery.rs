//! What happened to a message, and what is done about it. Two different questions: transports answer the first
//! ([`Outcome`]), [`decide`] the second ([`Disposition`]). Everything here is pure.

use std::borrow::Cow;
use std::time::Duration;

use crate::backoff::Backoff;

/// What happens to a key's later messages when one of them fails. A route's `order`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Order {
    /// They wait while it retries, and go on once it has failed for good.
    #[default]
    Key,
    /// They wait until an operator retries or discards it.
    Strict,
    /// Nobody waits.
    None,
}

/// What a transport says of one message. Silence (a dropped future) means: not delivered as far as anyone knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The broker's own durable acknowledgement. `duplicate`: the broker had it already, which is success too.
    Acknowledged {
        /// The broker recognised the dedupe id.
        duplicate: bool,
    },
    /// Not sent at all, because an earlier message of its key in the same batch was not acknowledged.
    Withheld,
    /// Not acknowledged, and why.
    Refused(Failure),
}

/// Why a message was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What kind of failure, which decides what is done.
    pub class: FailureClass,
    /// The broker's or client's code: stable, short, one per cause (`10054`, `MSG_SIZE_TOO_LARGE`). A metric label.
    pub code: Cow<'static, str>,
    /// One line for an operator: what happened and, where known, what to do. Kept in `last_error`.
    pub error: String,
}

impl Failure {
    /// A failure of `class` with its `code` and a line for the operator.
    pub fn new(class: FailureClass, code: impl Into<Cow<'static, str>>, error: impl Into<String>) -> Self {
        Self {
            class,
            code: code.into(),
            error: error.into(),
        }
    }
}

/// The classes of failure. Each transport maps its codes with one `classify`; a code it does not know is `Failed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureClass {
    /// The destination takes nothing now (broker, leader, authorisation, missing topic or stream, disk full): nobody's fault.
    Unavailable,
    /// This message will never be taken (too large, invalid subject, headers that cannot be carried, no route).
    Rejected,
    /// Something about this message that may pass.
    Failed,
    /// No answer in time: the message may have arrived. An outage when nothing else got through meanwhile, else a failure.
    TimedOut,
}

impl FailureClass {
    /// The name used in `outboxd_attempts.class` and metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
        }
    }
}

/// What the relay does with a message after its outcome.
#[derive(Clone, Debug, PartialEq)]
pub enum Disposition {
    /// Write `relayed_at`.
    Relay,
    /// Send again as soon as its turn comes; nothing is counted.
    Resend,
    /// The destination is out: the message waits in the database, nothing is counted, the destination pauses.
    Pause(Failure),
    /// A counted failure: `attempt + 1`, not before `delay` from now.
    Retry {
        /// How long the row waits, from the moment the failure is written.
        delay: Duration,
        /// What to record.
        failure: Failure,
    },
    /// A counted failure that was the last: `failed_at`.
    Fail(Failure),
}

/// What [`decide`] needs to know of the message and its route.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// The attempt just made (1 for the first).
    pub attempt: i32,
    /// Attempts allowed: the row's own limit or its route's.
    pub max_attempts: i32,
    /// The route's backoff.
    pub backoff: Backoff,
    /// `relay.count_outages`: a failed send counts whatever the reason.
    pub count_outages: bool,
    /// Something else of this destination was acknowledged, or a probe of it succeeded, since the message was sent.
    pub destination_alive: bool,
}

/// What to do about `outcome`. `jitter` is in `0.0..1.0`.
#[must_use]
pub fn decide(outcome: Outcome, policy: Policy, jitter: f64) -> Disposition {
    let failure = match outcome {
        Outcome::Acknowledged { duplicate: _ } => return Disposition::Relay,
        Outcome::Withheld => return Disposition::Resend,
        Outcome::Refused(failure) => failure,
    };
    let outage = match failure.class {
        FailureClass::Rejected => return Disposition::Fail(failure),
        FailureClass::Unavailable => !policy.count_outages,
        FailureClass::TimedOut => !policy.count_outages && !policy.destination_alive,
        FailureClass::Failed => false,
    };
    if outage {
        Disposition::Pause(failure)
    } else if policy.attempt >= policy.max_attempts {
        Disposition::Fail(failure)
    } else {
        Disposition::Retry {
            delay: policy.backoff.delay(policy.attempt, jitter),
            failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(attempt: i32) -> Policy {
        Policy {
            attempt,
            max_attempts: 5,
            backoff: Backoff {
                min: Duration::from_secs(1),
                max: Duration::from_secs(60),
                factor: 2,
            },
            count_outages: false,
            destination_alive: false,
        }
    }

    fn refused(class: FailureClass) -> Outcome {
        Outcome::Refused(Failure::new(class, "X", "x"))
    }

    #[test]
    fn an_outage_counts_nothing_at_any_attempt() {
        for attempt in [1, 5, 99] {
            let done = decide(refused(FailureClass::Unavailable), policy(attempt), 0.0);
            assert!(matches!(done, Disposition::Pause(_)), "{done:?}");
        }
    }

    #[test]
    fn count_outages_makes_every_refusal_count() {
        let counting = Policy {
            count_outages: true,
            ..policy(5)
        };
        assert!(matches!(
            decide(refused(FailureClass::Unavailable), counting, 0.0),
            Disposition::Fail(_)
        ));
        assert!(matches!(
            decide(refused(FailureClass::TimedOut), counting, 0.0),
            Disposition::Fail(_)
        ));
    }

    #[test]
    fn a_timeout_counts_only_while_the_destination_lives() {
        assert!(matches!(
            decide(refused(FailureClass::TimedOut), policy(1), 0.0),
            Disposition::Pause(_)
        ));
        let alive = Policy {
            destination_alive: true,
            ..policy(1)
        };
        assert!(matches!(
            decide(refused(FailureClass::TimedOut), alive, 0.0),
            Disposition::Retry { .. }
        ));
    }

    #[test]
    fn failures_retry_until_max_attempts_and_rejections_never() {
        assert!(matches!(
            decide(refused(FailureClass::Failed), policy(4), 0.0),
            Disposition::Retry { .. }
        ));
        assert!(matches!(
            decide(refused(FailureClass::Failed), policy(5), 0.0),
            Disposition::Fail(_)
        ));
        assert!(matches!(
            decide(refused(FailureClass::Rejected), policy(1), 0.0),
            Disposition::Fail(_)
        ));
    }
}
