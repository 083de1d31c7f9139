//! What the brokers say when they are asked.

use rdkafka::error::KafkaError;
use rdkafka::metadata::Metadata;
use rdkafka::types::RDKafkaErrorCode as Code;
use tokio::time::Instant;

use super::Kafka;
use super::classify::{classify, code_name};
use super::topic::{Limits, Topic};
use crate::delivery::{Failure, FailureClass};
use crate::lock::lock;

impl Kafka {
    /// What the brokers say of `topic`; without one, of all they have.
    pub(super) async fn metadata(&self, topic: Option<&str>) -> Result<Metadata, Failure> {
        let client_failure = |error: KafkaError| {
            let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
            let subject = topic.map_or_else(String::new, |topic| format!(" about topic {topic:?}"));
            let failure = Failure::new(
                classify(code),
                code_name(code),
                format!("cannot ask kafka{subject}: {error}"),
            );
            self.health.outage().unwrap_or(failure)
        };
        self.topics
            .metadata(topic, self.ack_timeout)
            .await
            .map_err(client_failure)
    }

    /// Whether the brokers are there, and the topic takes messages as far as they say. Who asks at the same time gets the same
    /// answer.
    pub(super) async fn takes(&self, name: &str, topic: &Topic) -> Result<(), Failure> {
        let asking = async {
            let metadata = self.metadata(Some(name)).await?;
            let limits = topic.limits();
            // Where it is not known how many replicas are wanted, none may be missing.
            let in_sync = limits.in_sync.or(Some(usize::MAX));
            judge(name, &metadata, Limits { in_sync, ..limits })?;
            *lock(&self.heard) = Some(Instant::now());
            Ok(())
        };
        let verdict = topic.verdict(self.ack_timeout, asking).await;
        verdict.unwrap_or_else(|| Err(self.silence("it does not answer questions either")))
    }

    /// Nothing was acknowledged for `ack_timeout`, and no broker says that it will be.
    pub(super) fn silence(&self, reason: &str) -> Failure {
        let after = humantime::format_duration(self.ack_timeout);
        let error = format!("no acknowledgement from kafka within {after}: {reason}");
        Failure::new(FailureClass::Unavailable, "MSG_TIMED_OUT", error)
    }
}

/// Whether every partition of `topic` could take messages.
pub(super) fn judge(topic: &str, metadata: &Metadata, limits: Limits) -> Result<(), Failure> {
    let unavailable = |code: Code, what: String| {
        let error = format!("kafka topic {topic:?} {what}");
        Err(Failure::new(FailureClass::Unavailable, code_name(code), error))
    };
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
        return unavailable(Code::UnknownTopicOrPartition, "does not exist".to_owned());
    };
    if let Some(error) = found.error() {
        let code = Code::from(error);
        let error = format!("kafka topic {topic:?}: {}", KafkaError::MetadataFetch(code));
        return Err(Failure::new(classify(code), code_name(code), error));
    }
    if found.partitions().is_empty() {
        return unavailable(Code::UnknownTopicOrPartition, "has no partitions".to_owned());
    }
    for partition in found.partitions() {
        if partition.leader() < 0 {
            return unavailable(
                Code::LeaderNotAvailable,
                format!("partition {} has no leader", partition.id()),
            );
        }
        let in_sync = partition.isr().len();
        // Brokers since KIP-966 ask for no more replicas than a partition has.
        let possible = partition.replicas().len();
        if limits.in_sync.is_some_and(|needed| in_sync < needed.min(possible)) {
            let what = format!(
                "partition {} has {in_sync} replicas in sync, fewer than min.insync.replicas",
                partition.id()
            );
            return unavailable(Code::NotEnoughReplicas, what);
        }
    }
    Ok(())
}
