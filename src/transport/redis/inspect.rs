//! What may be wrong with a Redis server, for people who ask.

use std::collections::HashMap;

use tokio::time::{Instant, timeout_at};

use super::{Redis, timed_out};
use crate::delivery::Failure;
use crate::finding::Finding;
use crate::transport::{Transport, Use};

impl Redis {
    /// See [`Transport::inspect`].
    pub(super) async fn look(&self, uses: &[Use]) -> Result<Vec<Finding>, Failure> {
        let info = self.info().await?;
        let mut found = judge(&info, self.saves().await);
        for used in uses {
            if let Err(failure) = self.probe(&used.destination).await {
                found.push(Finding::fault(
                    "destination",
                    failure.error,
                    "its messages wait in the database until that is mended",
                    format!(
                        "see redis-cli type {}, or correct the route's destination",
                        used.destination
                    ),
                ));
            }
        }
        Ok(found)
    }

    /// `INFO`, its lines by name.
    async fn info(&self) -> Result<HashMap<String, String>, Failure> {
        let text: String = self.asked(redis::cmd("INFO")).await?;
        let line = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_owned(), value.trim_end().to_owned()))
        };
        Ok(text.lines().filter_map(line).collect())
    }

    /// Whether snapshots are written now and then; `None` where the user may not know.
    async fn saves(&self) -> Option<bool> {
        let mut command = redis::cmd("CONFIG");
        command.arg("GET").arg("save");
        let answer: Vec<String> = self.asked(command).await.ok()?;
        answer.get(1).map(|schedule| !schedule.is_empty())
    }

    async fn asked<T: redis::FromRedisValue>(&self, command: redis::Cmd) -> Result<T, Failure> {
        let ask = async {
            let mut connection = self.connection().await?;
            let answer = command.query_async(&mut connection).await;
            answer.map_err(|error| self.failure(&error, "redis"))
        };
        timeout_at(Instant::now() + self.ack_timeout, ask)
            .await
            .unwrap_or_else(|_| Err(timed_out(self.ack_timeout)))
    }
}

fn judge(info: &HashMap<String, String>, saves: Option<bool>) -> Vec<Finding> {
    let value = |name: &str| info.get(name).map_or("", String::as_str);
    let mut found = Vec::new();
    let policy = value("maxmemory_policy");
    if policy.starts_with("allkeys") && !matches!(value("maxmemory"), "" | "0") {
        found.push(Finding::fault(
            "redis_evicts",
            format!("redis evicts keys when its memory is full (maxmemory-policy {policy})"),
            "a stream is a key: all its messages vanish at once, read or not",
            "redis-cli config set maxmemory-policy noeviction: then messages wait in the database instead",
        ));
    }
    if value("aof_enabled") == "0" && saves == Some(false) {
        found.push(Finding::warning(
            "redis_not_persistent",
            "redis writes nothing to disk (appendonly no, save \"\")",
            "acknowledged messages are gone when the server restarts",
            "redis-cli config set appendonly yes",
        ));
    }
    found
}
