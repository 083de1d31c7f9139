//! Kafka's and librdkafka's codes as classes of failure. What is not listed is `Failed`.

use rdkafka::types::RDKafkaErrorCode as Code;

use crate::delivery::FailureClass;

/// The class of a delivery, metadata or client error.
#[must_use]
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "librdkafka's enum, not ours: unknown codes are Failed by contract"
)]
pub fn classify(code: Code) -> FailureClass {
    match code {
        // Broker, connection, leader, replicas.
        Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::Resolve
        | Code::SSL
        | Code::BrokerDestroy
        | Code::DestroyBroker
        | Code::UnknownBroker
        | Code::QueueFull
        | Code::PurgeQueue
        | Code::PurgeInflight
        | Code::Fatal
        | Code::ISRInsufficient
        | Code::LeaderNotAvailable
        | Code::NotLeaderForPartition
        | Code::BrokerNotAvailable
        | Code::ReplicaNotAvailable
        | Code::NetworkException
        | Code::NotEnoughReplicas
        | Code::NotEnoughReplicasAfterAppend
        | Code::FencedLeaderEpoch
        | Code::UnknownLeaderEpoch
        | Code::EligibleLeadersNotAvailable
        | Code::ThrottlingQuotaExceeded
        // The topic is not there.
        | Code::UnknownTopic
        | Code::UnknownPartition
        | Code::UnknownTopicOrPartition
        | Code::UnknownTopicId
        // Who we are and what we may.
        | Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState
        | Code::SecurityDisabled
        | Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        // The broker's disk.
        | Code::KafkaStorageError
        | Code::LogDirNotFound
        // The producer's identity is gone; the next producer has another.
        | Code::InvalidProducerEpoch
        | Code::UnknownProducerId
        | Code::OutOfOrderSequenceNumber => FailureClass::Unavailable,
        Code::MessageSizeTooLarge
        | Code::MessageBatchTooLarge
        | Code::InvalidMessageSize
        | Code::InvalidRecord
        | Code::InvalidTopic
        | Code::InvalidTimestamp
        | Code::PolicyViolation => FailureClass::Rejected,
        Code::MessageTimedOut | Code::OperationTimedOut | Code::TimedOutQueue | Code::RequestTimedOut => {
            FailureClass::TimedOut
        }
        _other => FailureClass::Failed,
    }
}

/// Whether the broker refuses a whole record set with this code though one record of it may be the cause.
#[must_use]
pub(super) fn is_collateral(code: Code) -> bool {
    matches!(
        code,
        Code::MessageSizeTooLarge
            | Code::MessageBatchTooLarge
            | Code::InvalidMessageSize
            | Code::InvalidMessage
            | Code::InvalidRecord
            | Code::InvalidTimestamp
            | Code::PolicyViolation
            | Code::UnsupportedForMessageFormat
    )
}

/// The code as operators know it: `MESSAGE_SIZE_TOO_LARGE`.
#[must_use]
pub(super) fn code_name(code: Code) -> String {
    if code == Code::MessageSizeTooLarge {
        return "MSG_SIZE_TOO_LARGE".to_owned();
    }
    if code == Code::MessageTimedOut {
        return "MSG_TIMED_OUT".to_owned();
    }
    let debug = format!("{code:?}");
    let mut name = String::with_capacity(debug.len() + 6);
    let mut previous_lower = false;
    for letter in debug.chars() {
        if letter.is_ascii_uppercase() && previous_lower {
            name.push('_');
        }
        previous_lower = letter.is_ascii_lowercase();
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_the_contract_names_has_its_class() {
        for (class, codes) in [
            (
                FailureClass::Unavailable,
                &[
                    Code::BrokerTransportFailure,
                    Code::AllBrokersDown,
                    Code::LeaderNotAvailable,
                    Code::NotLeaderForPartition,
                    Code::NotEnoughReplicas,
                    Code::NotEnoughReplicasAfterAppend,
                    Code::UnknownTopic,
                    Code::UnknownTopicOrPartition,
                    Code::TopicAuthorizationFailed,
                    Code::ClusterAuthorizationFailed,
                    Code::SaslAuthenticationFailed,
                    Code::Authentication,
                    Code::KafkaStorageError,
                ][..],
            ),
            (
                FailureClass::Rejected,
                &[
                    Code::MessageSizeTooLarge,
                    Code::InvalidRecord,
                    Code::InvalidTopic,
                    Code::PolicyViolation,
                ][..],
            ),
            (
                FailureClass::TimedOut,
                &[Code::MessageTimedOut, Code::RequestTimedOut][..],
            ),
            (
                FailureClass::Failed,
                &[
                    Code::InvalidMessage,
                    Code::Unknown,
                    Code::UnsupportedVersion,
                    Code::Fail,
                ][..],
            ),
        ] {
            for code in codes {
                assert_eq!(classify(*code), class, "{code:?}");
            }
        }
        assert_eq!(code_name(Code::MessageSizeTooLarge), "MSG_SIZE_TOO_LARGE");
        assert_eq!(code_name(Code::UnknownTopicOrPartition), "UNKNOWN_TOPIC_OR_PARTITION");
    }
}
