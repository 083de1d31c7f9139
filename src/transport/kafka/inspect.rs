//! What may be wrong with Kafka topics, and with what the user may do, for people who ask.

use rdkafka::admin::ConfigResource;
use rdkafka::types::RDKafkaErrorCode as Code;

use super::Kafka;
use super::classify::code_name;
use crate::delivery::Failure;
use crate::finding::Finding;
use crate::transport::{Transport, Use};

impl Kafka {
    /// See [`Transport::inspect`].
    pub(super) async fn look(&self, uses: &[Use]) -> Result<Vec<Finding>, Failure> {
        self.metadata(None).await?;
        let mut found = Vec::new();
        for used in uses {
            let topic = &*used.destination;
            if let Err(failure) = self.probe(topic).await {
                found.push(unusable(topic, failure));
                continue;
            }
            let Some(settings) = self.topics.settings(topic, self.ack_timeout).await else {
                continue;
            };
            // Every topic has some; the client says no other way that the broker refused to name them.
            if settings.entries.is_empty() {
                found.push(unreadable(topic));
            } else if let Ok(metadata) = self.metadata(Some(topic)).await {
                let topics = metadata.topics().iter().find(|known| known.name() == topic);
                let partitions = topics.map(|known| known.partitions()).unwrap_or_default();
                let replicas = partitions.iter().map(|one| one.replicas().len()).min();
                found.extend(judge(used, &settings, replicas.unwrap_or_default()));
            }
        }
        Ok(found)
    }
}

fn unusable(topic: &str, failure: Failure) -> Finding {
    let fix = if failure.code == code_name(Code::TopicAuthorizationFailed) {
        format!("kafka-acls.sh --add --allow-principal User:NAME --producer --topic {topic}")
    } else {
        format!("kafka-topics.sh --create --topic {topic}, or correct the route's destination")
    };
    Finding::fault(
        "destination",
        failure.error,
        "its messages wait in the database until that is mended",
        fix,
    )
}

fn unreadable(topic: &str) -> Finding {
    Finding::warning(
        "broker_rights",
        format!("the kafka user may not read the settings of topic {topic}"),
        "a message larger than it takes is sent all the same, and too few replicas in sync are not seen before one is refused",
        format!("kafka-acls.sh --add --allow-principal User:NAME --operation DescribeConfigs --topic {topic}"),
    )
}

fn judge(used: &Use, settings: &ConfigResource, replicas: usize) -> Vec<Finding> {
    let topic = &used.destination;
    let value = |key: &str| settings.get(key).and_then(|entry| entry.value.as_deref());
    let alter = |setting: &str| format!("kafka-configs.sh --alter --topic {topic} --add-config {setting}");
    let mut found = Vec::new();
    let in_sync: usize = value("min.insync.replicas")
        .and_then(|value| value.parse().ok())
        .unwrap_or(1);
    if in_sync > replicas && replicas > 0 {
        found.push(Finding::warning(
            "min_insync_replicas",
            format!("kafka topic {topic} wants {in_sync} replicas in sync and has {replicas}"),
            "brokers before 4.0 refuse every message, and messages wait in the database",
            alter(&format!("min.insync.replicas={replicas}")),
        ));
    }
    if in_sync == 1 && replicas > 1 {
        found.push(Finding::warning(
            "min_insync_replicas",
            format!("kafka topic {topic} has {replicas} replicas and acknowledges with one in sync"),
            "an acknowledged message is lost with that broker's disk",
            alter("min.insync.replicas=2"),
        ));
    }
    if value("cleanup.policy").is_some_and(|policy| policy.split(',').any(|one| one.trim() == "compact")) {
        found.push(Finding::warning(
            "topic_compacted",
            format!("kafka topic {topic} is compacted"),
            "a message without a key is refused and set aside as failed, and of each key only the last one stays",
            alter("cleanup.policy=delete"),
        ));
    }
    let most: u64 = value("max.message.bytes")
        .and_then(|value| value.parse().ok())
        .unwrap_or(u64::MAX);
    if used.largest > most {
        found.push(Finding::warning(
            "message_size",
            format!(
                "kafka topic {topic} takes {most} bytes a message, and one of {} is waiting",
                used.largest
            ),
            "a message larger than that is refused and set aside as failed, unless it compresses well",
            alter(&format!("max.message.bytes={}", used.largest + used.largest / 8)),
        ));
    }
    found
}
