//! What may be wrong with a Redis server, and with what the user may do, for people who ask.

use std::collections::HashMap;

use redis::Value;
use tokio::time::{Instant, timeout_at};

use super::{Redis, timed_out};
use crate::delivery::Failure;
use crate::finding::Finding;
use crate::transport::{Transport, Use};

impl Redis {
    /// See [`Transport::inspect`].
    pub(super) async fn look(&self, uses: &[Use]) -> Result<Vec<Finding>, Failure> {
        let mut found = self.server().await?;
        let may_role = match allowed(self.asked::<Value>(redis::cmd("ROLE")).await)? {
            Some(_) => true,
            None => {
                found.push(lacks(
                    "ROLE",
                    "+role",
                    "whether the server is a replica, which takes no messages, is not known before one is refused",
                ));
                false
            }
        };
        let mut may_type = true;
        for used in uses {
            let stream = &*used.destination;
            if !self.may_write(stream).await? {
                found.push(unwritable(stream));
                continue;
            }
            let mut command = redis::cmd("TYPE");
            command.arg(stream);
            let kind = allowed(self.asked::<String>(command).await)?;
            may_type &= kind.is_some();
            let wrong = match kind {
                None => None,
                Some(_) if may_role => self.probe(stream).await.err().map(|failure| failure.error),
                Some(kind) => (kind != "stream" && kind != "none")
                    .then(|| format!("redis key {stream:?} is a {kind}, not a stream")),
            };
            found.extend(wrong.map(|error| unusable(stream, error)));
        }
        if !may_type {
            found.push(lacks(
                "TYPE",
                "+type",
                "whether a key is something other than a stream is not known before a message is refused",
            ));
        }
        Ok(found)
    }

    /// What is wrong with the server itself.
    async fn server(&self) -> Result<Vec<Finding>, Failure> {
        let Some(info) = allowed(self.info().await)? else {
            let why = "whether the server throws streams away or keeps them in memory only is not found here";
            return Ok(vec![lacks("INFO", "+info", why)]);
        };
        let mut command = redis::cmd("CONFIG");
        command.arg("GET").arg("save");
        // Some providers have no CONFIG at all: nothing is known then, and nobody can change it.
        let save = self.asked::<Vec<String>>(command).await;
        let may_know = save.as_ref().err().is_none_or(|failure| failure.code != NOPERM);
        let saves = save
            .ok()
            .and_then(|answer| answer.get(1).map(|schedule| !schedule.is_empty()));
        let mut found = judge(&info, saves);
        if !may_know && info.get("aof_enabled").is_some_and(|enabled| enabled == "0") {
            let why = "redis keeps no append-only file, and whether it writes snapshots is not found here";
            found.push(lacks("CONFIG GET", "+config|get", why));
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

    /// Whether the user may add to `stream`. A field without a value is refused before anything is done, and after the rights
    /// were looked at.
    async fn may_write(&self, stream: &str) -> Result<bool, Failure> {
        let mut command = redis::cmd("XADD");
        command.arg(stream).arg("NOMKSTREAM").arg("*").arg("outboxd-check");
        match self.asked::<Value>(command).await {
            Err(failure) if failure.code == NOPERM => Ok(false),
            Err(failure) if failure.code == "TIMED_OUT" => Err(failure),
            Ok(_) | Err(_) => Ok(true),
        }
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

/// The code of what the user may not do.
const NOPERM: &str = "NOPERM";

/// `None` where the user may not ask.
fn allowed<T>(answer: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match answer {
        Err(failure) if failure.code == NOPERM => Ok(None),
        other => other.map(Some),
    }
}

fn lacks(command: &str, rule: &str, why: &'static str) -> Finding {
    Finding::warning(
        "broker_rights",
        format!("the redis user may not use {command}"),
        why,
        format!("redis-cli acl setuser NAME {rule}"),
    )
}

fn unwritable(stream: &str) -> Finding {
    Finding::fault(
        "destination",
        format!("the redis user may not add to stream {stream:?}"),
        "its messages wait in the database until it may",
        format!("redis-cli acl setuser NAME +xadd '~{stream}'"),
    )
}

fn unusable(stream: &str, error: String) -> Finding {
    Finding::fault(
        "destination",
        error,
        "its messages wait in the database until that is mended",
        format!("see redis-cli type {stream}, or correct the route's destination"),
    )
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
