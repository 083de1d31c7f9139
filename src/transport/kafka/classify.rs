//! Kafka's and librdkafka's codes as classes of failure. What is not listed is `Failed`; a test knows every code there is.
//!
//! What is about the place, the connection or us counts no attempt, and neither does time: in Kafka it is never the message's
//! own (see the transport's module).

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
        // This message will never be taken.
        Code::MessageSizeTooLarge
        | Code::MessageBatchTooLarge
        | Code::InvalidMessageSize
        | Code::InvalidRecord
        | Code::InvalidTopic
        | Code::InvalidTimestamp
        | Code::PolicyViolation
        | Code::KeySerialization
        | Code::ValueSerialization => FailureClass::Rejected,
        // May be about this message, and may pass: damaged on its way, or something the broker or librdkafka did not expect.
        Code::InvalidMessage
        | Code::BadMessage
        | Code::BadCompression
        | Code::InvalidArgument
        | Code::Fail
        | Code::Unknown => FailureClass::Failed,
        _other if is_of_brokers(code) || is_of_the_place(code) || is_ours(code) => FailureClass::Unavailable,
        _other => FailureClass::Failed,
    }
}

/// About brokers and the way to them.
fn is_of_brokers(code: Code) -> bool {
    matches!(
        code,
        // Broker, connection, time.
        Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::SSL
            | Code::BrokerDestroy
            | Code::DestroyBroker
            | Code::UnknownBroker
            | Code::NodeUpdate
            | Code::BrokerNotAvailable
            | Code::NetworkException
            | Code::StaleBrokerEpoch
            | Code::NotController
            | Code::StaleControllerEpoch
            | Code::ListenerNotFound
            | Code::ThrottlingQuotaExceeded
            | Code::MessageTimedOut
            | Code::OperationTimedOut
            | Code::TimedOutQueue
            | Code::RequestTimedOut
            | Code::RebootstrapRequired
    )
}

/// About topics, partitions, replicas, and what we may do there.
fn is_of_the_place(code: Code) -> bool {
    matches!(
        code,
        // Leader, replicas.
        Code::ISRInsufficient
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::ReplicaNotAvailable
            | Code::NotEnoughReplicas
            | Code::NotEnoughReplicasAfterAppend
            | Code::FencedLeaderEpoch
            | Code::UnknownLeaderEpoch
            | Code::EligibleLeadersNotAvailable
            | Code::PreferredLeaderNotAvailable
            | Code::ReassignmentInProgress
            | Code::OffsetNotAvailable
            // The topic is not there, or was not made.
            | Code::UnknownTopic
            | Code::UnknownPartition
            | Code::UnknownTopicOrPartition
            | Code::UnknownTopicId
            | Code::InvalidPartitions
            | Code::InvalidReplicationFactor
            | Code::InvalidReplicaAssignment
            | Code::InvalidConfig
            // The topic's or the broker's format has no place for headers, sequence numbers or the chosen compression.
            | Code::UnsupportedForMessageFormat
            | Code::UnsupportedCompressionType
            | Code::UnsupportedVersion
            | Code::UnsupportedFeature
            | Code::InvalidRequiredAcks
            // Who we are and what we may.
            | Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::UnsupportedSASLMechanism
            | Code::IllegalSASLState
            | Code::SecurityDisabled
            | Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::DelegationTokenAuthDisabled
            | Code::DelegationTokenNotFound
            | Code::DelegationTokenOwnerMismatch
            | Code::DelegationTokenRequestNotAllowed
            | Code::DelegationTokenAuthorizationFailed
            | Code::DelegationTokenExpired
            | Code::InvalidPrincipalType
            | Code::PrincipalDeserializationFailure
            | Code::UnacceptableCredential
            // The broker's disk.
            | Code::KafkaStorageError
            | Code::LogDirNotFound
    )
}

/// About the producer, its identity, its queue, its requests.
fn is_ours(code: Code) -> bool {
    matches!(
        code,
        // The identity is gone; the next producer has another.
        Code::Fatal
            | Code::Fenced
            | Code::GaplessGuarantee
            | Code::InvalidProducerEpoch
            | Code::UnknownProducerId
            | Code::OutOfOrderSequenceNumber
            | Code::ProducerFenced
            | Code::InvalidProducerIdMapping
            | Code::InvalidTransactionalState
            | Code::InvalidTransactionTimeout
            | Code::ConcurrentTransactions
            | Code::TransactionCoordinatorFenced
            // The record was not sent, or refused for another one's sake.
            | Code::QueueFull
            | Code::PurgeQueue
            | Code::PurgeInflight
            | Code::InvalidDifferentRecord
            // The client's state, or this machine.
            | Code::CriticalSystemResource
            | Code::FileSystem
            | Code::State
            | Code::Conflict
            | Code::InProgress
            | Code::PreviousInProgress
            | Code::WaitCache
            | Code::WaitingForCoordinator
            | Code::Interrupted
            | Code::Retry
            | Code::Outdated
            | Code::Noop
            | Code::Partial
            | Code::Underflow
            | Code::InvalidType
            | Code::Inconsistent
            | Code::ReadOnly
            | Code::NoEnt
            | Code::NotConfigured
            | Code::NotImplemented
            | Code::UnknownProtocol
            | Code::Application
            | Code::InvalidRequest
            | Code::OperationNotAttempted
    ) || is_no_answer_to_a_producer(code)
}

/// Answers to consumers, administrators and brokers: whoever gives one to a producer does not mean the message.
fn is_no_answer_to_a_producer(code: Code) -> bool {
    matches!(
        code,
        Code::PartitionEOF
            | Code::UnknownGroup
            | Code::ExistingSubscription
            | Code::AssignPartitions
            | Code::RevokePartitions
            | Code::NoOffset
            | Code::KeyDeserialization
            | Code::ValueDeserialization
            | Code::PollExceeded
            | Code::AssignmentLost
            | Code::AutoOffsetReset
            | Code::LogTruncation
            | Code::OffsetOutOfRange
            | Code::OffsetMetadataTooLarge
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
            | Code::IllegalGeneration
            | Code::InconsistentGroupProtocol
            | Code::InvalidGroupId
            | Code::UnknownMemberId
            | Code::InvalidSessionTimeout
            | Code::RebalanceInProgress
            | Code::InvalidCommitOffsetSize
            | Code::TopicAlreadyExists
            | Code::NonEmptyGroup
            | Code::GroupIdNotFound
            | Code::FetchSessionIdNotFound
            | Code::InvalidFetchSessionEpoch
            | Code::TopicDeletionDisabled
            | Code::MemberIdRequired
            | Code::GroupMaxSizeReached
            | Code::FencedInstanceId
            | Code::ElectionNotNeeded
            | Code::NoReassignmentInProgress
            | Code::GroupSubscribedToTopic
            | Code::UnstableOffsetCommit
            | Code::ResourceNotFound
            | Code::DuplicateResource
            | Code::InconsistentVoterSet
            | Code::InvalidUpdateVersion
            | Code::FeatureUpdateFailed
            | Code::FencedMemberEpoch
            | Code::UnreleasedInstanceId
            | Code::UnsupportedAssignor
            | Code::StaleMemberEpoch
            | Code::UnknownSubscriptionId
            | Code::TelemetryTooLarge
    )
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
            | Code::InvalidDifferentRecord
            | Code::InvalidTimestamp
            | Code::PolicyViolation
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
    use std::collections::HashMap;

    use rdkafka::types::RDKafkaRespErr;

    use super::*;

    /// What a code is about.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum About {
        /// It is no failure.
        Nothing,
        /// Rejected.
        Message,
        /// Failed: may be about the message, and may pass.
        Passing,
        /// Unavailable: broker, connection, leader, topic, rights, disk.
        Place,
        /// Unavailable: our identity, queue, client, machine.
        Us,
        /// Unavailable: no answer in time, which is never a message's own in Kafka.
        Time,
        /// Unavailable: an answer to consumers, administrators or brokers. To a producer it says nothing of the message.
        Others,
    }

    const TABLE: &[(About, &str)] = &[
        (About::Nothing, "NoError DuplicateSequenceNumber Begin End EndAll"),
        (
            About::Message,
            "MessageSizeTooLarge MessageBatchTooLarge InvalidMessageSize InvalidRecord InvalidTopic InvalidTimestamp
             PolicyViolation KeySerialization ValueSerialization",
        ),
        (
            About::Passing,
            "InvalidMessage BadMessage BadCompression InvalidArgument Fail Unknown",
        ),
        (
            About::Place,
            "BrokerTransportFailure AllBrokersDown Resolve SSL BrokerDestroy DestroyBroker UnknownBroker NodeUpdate
             BrokerNotAvailable NetworkException StaleBrokerEpoch NotController StaleControllerEpoch ListenerNotFound
             ThrottlingQuotaExceeded RebootstrapRequired ISRInsufficient LeaderNotAvailable NotLeaderForPartition
             ReplicaNotAvailable NotEnoughReplicas NotEnoughReplicasAfterAppend FencedLeaderEpoch UnknownLeaderEpoch
             EligibleLeadersNotAvailable PreferredLeaderNotAvailable ReassignmentInProgress OffsetNotAvailable UnknownTopic
             UnknownPartition UnknownTopicOrPartition UnknownTopicId InvalidPartitions InvalidReplicationFactor
             InvalidReplicaAssignment InvalidConfig UnsupportedForMessageFormat UnsupportedCompressionType UnsupportedVersion
             UnsupportedFeature InvalidRequiredAcks Authentication SaslAuthenticationFailed UnsupportedSASLMechanism
             IllegalSASLState SecurityDisabled TopicAuthorizationFailed ClusterAuthorizationFailed
             TransactionalIdAuthorizationFailed GroupAuthorizationFailed DelegationTokenAuthDisabled DelegationTokenNotFound
             DelegationTokenOwnerMismatch DelegationTokenRequestNotAllowed DelegationTokenAuthorizationFailed
             DelegationTokenExpired InvalidPrincipalType PrincipalDeserializationFailure UnacceptableCredential
             KafkaStorageError LogDirNotFound",
        ),
        (
            About::Us,
            "Fatal Fenced GaplessGuarantee InvalidProducerEpoch UnknownProducerId OutOfOrderSequenceNumber ProducerFenced
             InvalidProducerIdMapping InvalidTransactionalState InvalidTransactionTimeout ConcurrentTransactions
             TransactionCoordinatorFenced QueueFull PurgeQueue PurgeInflight InvalidDifferentRecord CriticalSystemResource
             FileSystem State Conflict InProgress PreviousInProgress WaitCache WaitingForCoordinator Interrupted Retry Outdated
             Noop Partial Underflow InvalidType Inconsistent ReadOnly NoEnt NotConfigured NotImplemented UnknownProtocol
             Application InvalidRequest OperationNotAttempted",
        ),
        (
            About::Time,
            "MessageTimedOut OperationTimedOut TimedOutQueue RequestTimedOut",
        ),
        (
            About::Others,
            "PartitionEOF UnknownGroup ExistingSubscription AssignPartitions RevokePartitions NoOffset KeyDeserialization
             ValueDeserialization PollExceeded AssignmentLost AutoOffsetReset LogTruncation OffsetOutOfRange
             OffsetMetadataTooLarge CoordinatorLoadInProgress CoordinatorNotAvailable NotCoordinator IllegalGeneration
             InconsistentGroupProtocol InvalidGroupId UnknownMemberId InvalidSessionTimeout RebalanceInProgress
             InvalidCommitOffsetSize TopicAlreadyExists NonEmptyGroup GroupIdNotFound FetchSessionIdNotFound
             InvalidFetchSessionEpoch TopicDeletionDisabled MemberIdRequired GroupMaxSizeReached FencedInstanceId
             ElectionNotNeeded NoReassignmentInProgress GroupSubscribedToTopic UnstableOffsetCommit ResourceNotFound
             DuplicateResource InconsistentVoterSet InvalidUpdateVersion FeatureUpdateFailed FencedMemberEpoch
             UnreleasedInstanceId UnsupportedAssignor StaleMemberEpoch UnknownSubscriptionId TelemetryTooLarge",
        ),
    ];

    /// 0.2.0 knew about sixty codes; the rest counted attempts, whatever they were about.
    #[test]
    fn every_code_there_is_was_thought_about() {
        let mut table: HashMap<&str, About> = HashMap::new();
        for (about, names) in TABLE {
            for name in names.split_whitespace() {
                assert_eq!(table.insert(name, *about), None, "{name} stands there twice");
            }
        }
        let mut known = 0;
        for code in (-300..=300).filter_map(|number| RDKafkaRespErr::try_from(number).ok()) {
            let code = Code::from(code);
            let name = format!("{code:?}");
            let about = table.remove(&*name);
            let expected = match about.unwrap_or_else(|| panic!("{name} ({}) has no entry", code as i32)) {
                About::Nothing => continue,
                About::Message => FailureClass::Rejected,
                About::Passing => FailureClass::Failed,
                About::Place | About::Us | About::Time | About::Others => FailureClass::Unavailable,
            };
            assert_eq!(classify(code), expected, "{name}");
            known += 1;
        }
        assert!(known > 150, "{known}");
        assert!(table.is_empty(), "no code: {table:?}");
    }

    #[test]
    fn codes_are_named_as_operators_know_them() {
        assert_eq!(code_name(Code::MessageSizeTooLarge), "MSG_SIZE_TOO_LARGE");
        assert_eq!(code_name(Code::UnknownTopicOrPartition), "UNKNOWN_TOPIC_OR_PARTITION");
    }
}
