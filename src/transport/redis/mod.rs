//! Redis Streams: `XADD <destination> [MAXLEN ~ n] * id .. key .. headers .. payload ..`.
//!
//! A batch goes out in rounds, each one pipeline: the first message of every (stream, key), then the second of each, and
//! so on; a key whose message was not acknowledged is left out of later rounds. So *Prefix per key* holds by construction
//! while a batch of different keys takes one round trip. A key without rows of its own (`Order::None`, no key) goes in the
//! first round.
//!
//! The reply is Redis' acknowledgement; how durable that is, is the server's `appendfsync` and replication. Redis knows no
//! dedupe id: every copy is visible, consumers dedupe on the field `id`. A message without a key has no field `key`.
//!
//! The connection is made in the background and again after every error. One batch at a time is on it per round; rounds of
//! different batches are pipelined by the client. A connection that breaks answers `Unavailable`, no answer within
//! `ack_timeout` is `TimedOut`, and the connection is given up: what was sent over it cannot be mixed up with what follows.

pub mod config;

mod classify;
mod inspect;

use std::sync::Mutex as StdMutex;
use std::time::Duration;

use async_trait::async_trait;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Pipeline, RedisError, Value};
use tokio::time::{Instant, timeout_at};

pub use classify::classify;

use self::config::RedisConfig;
use super::blame::Blame;
use super::chain::{Ledger, is_ordered};
use super::throttle::Throttle;
use super::{ConnectError, Envelope, Probe, Transport, Use};
use crate::delivery::{Failure, FailureClass, Outcome};
use crate::finding::Finding;
use crate::message::Headers;

/// A Redis Streams transport. See the module.
#[derive(Debug)]
pub struct Redis {
    client: Client,
    link: tokio::sync::Mutex<Option<MultiplexedConnection>>,
    /// When connecting failed last and why: until a moment later nobody tries again.
    broken: StdMutex<Option<(Instant, Failure)>>,
    log: Throttle,
    blame: Blame,
    maxlen: Option<u64>,
    ack_timeout: Duration,
}

/// Pause between two attempts to connect.
const RECONNECT: Duration = Duration::from_millis(250);

impl Redis {
    /// A transport for `config`. Connects when first used: a server that is away is waited for.
    ///
    /// # Errors
    /// Only what is wrong in the configuration of transport `name`.
    pub async fn connect(name: &str, config: &RedisConfig) -> Result<Self, ConnectError> {
        Ok(Self {
            client: config.client(name)?,
            link: tokio::sync::Mutex::default(),
            broken: StdMutex::default(),
            log: Throttle::default(),
            blame: config.blame(name),
            maxlen: config.maxlen,
            ack_timeout: config.ack_timeout,
        })
    }

    async fn connection(&self) -> Result<MultiplexedConnection, Failure> {
        let mut link = self.link.lock().await;
        if let Some(connection) = &*link {
            return Ok(connection.clone());
        }
        if let Some((at, failure)) = &*self.lock_broken()
            && at.elapsed() < RECONNECT
        {
            return Err(failure.clone());
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.ack_timeout / 2))
            .set_response_timeout(Some(self.ack_timeout));
        match self.admitted(&config).await {
            Ok(connection) => {
                self.log.reset();
                tracing::info!(transport = self.blame.name, "connected to redis");
                *link = Some(connection.clone());
                Ok(connection)
            }
            Err(error) => {
                let failure = Failure {
                    class: FailureClass::Unavailable,
                    ..self.failure(&error, "cannot connect to redis")
                };
                if let Some(held) = self.log.pass() {
                    tracing::warn!(transport = self.blame.name, held, "{}", failure.error);
                }
                *self.lock_broken() = Some((Instant::now(), failure.clone()));
                Err(failure)
            }
        }
    }

    /// A connection the server takes commands on. One that wants a login closes the connection at the first long command and
    /// says why to nobody, so it is asked with a short one.
    async fn admitted(&self, config: &AsyncConnectionConfig) -> Result<MultiplexedConnection, RedisError> {
        let mut connection = self.client.get_multiplexed_async_connection_with_config(config).await?;
        match redis::cmd("PING").query_async::<Value>(&mut connection).await {
            Err(error) if error.code() == Some("NOAUTH") => Err(error),
            Ok(_) | Err(_) => Ok(connection),
        }
    }

    fn lock_broken(&self) -> std::sync::MutexGuard<'_, Option<(Instant, Failure)>> {
        self.broken.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The connection is of no use any more.
    async fn give_up(&self) {
        *self.link.lock().await = None;
    }

    fn add(&self, pipeline: &mut Pipeline, envelope: &Envelope) -> Result<(), Failure> {
        let message = &envelope.message;
        if let Headers::Invalid(reason) = &message.headers {
            return Err(Failure::new(
                FailureClass::Rejected,
                "INVALID_HEADERS",
                reason.to_string(),
            ));
        }
        if message.payload.len() > MAX_BULK {
            let error = format!(
                "payload of {} bytes exceeds redis' limit of {MAX_BULK} for one value",
                message.payload.len()
            );
            return Err(Failure::new(FailureClass::Rejected, "TOO_LARGE", error));
        }
        let headers: serde_json::Map<String, serde_json::Value> = message
            .headers
            .iter()
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
        let headers = serde_json::to_string(&headers).expect("a map of strings is JSON");
        let command = pipeline.cmd("XADD").arg(&*envelope.destination);
        if let Some(maxlen) = self.maxlen {
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
        Ok(())
    }

    fn outcome(&self, reply: redis::RedisResult<Value>, envelope: &Envelope) -> Outcome {
        match reply {
            Ok(Value::BulkString(_) | Value::SimpleString(_)) => Outcome::Acknowledged { duplicate: false },
            Ok(other) => {
                let error = format!(
                    "redis answers XADD to {:?} with {other:?} instead of an entry id",
                    &*envelope.destination
                );
                Outcome::Refused(Failure::new(FailureClass::Failed, "BAD_ANSWER", error))
            }
            Err(error) => Outcome::Refused(self.failure(&error, &format!("redis stream {:?}", &*envelope.destination))),
        }
    }

    fn failure(&self, error: &RedisError, what: &str) -> Failure {
        let words = error.to_string().replace(['\r', '\n'], " ");
        let line = self.blame.line(&words).unwrap_or_else(|| format!("{what}: {words}"));
        if error.is_timeout() {
            return Failure::new(FailureClass::TimedOut, "TIMED_OUT", line);
        }
        match error.code() {
            Some(code) => Failure::new(classify(code), code.to_owned(), line),
            None => Failure::new(FailureClass::Unavailable, "CONNECTION", line),
        }
    }

    /// One round trip: sends `round`, answers each of it and returns who may go next.
    async fn round(&self, batch: &[Envelope], round: Vec<u32>, ledger: &mut Ledger, give_up: Instant) -> Vec<u32> {
        let mut pipeline = redis::pipe();
        pipeline.ignore_errors();
        let mut sent = Vec::with_capacity(round.len());
        for index in round {
            match self.add(&mut pipeline, &batch[index as usize]) {
                Ok(()) => sent.push(index),
                Err(failure) => ledger.refuse(index, failure),
            }
        }
        if sent.is_empty() {
            return Vec::new();
        }
        let result = match timeout_at(give_up, self.connection()).await {
            Err(_) => Err(Failure::new(
                FailureClass::Unavailable,
                "CONNECT",
                "cannot connect to redis in time",
            )),
            Ok(Err(failure)) => Err(failure),
            Ok(Ok(mut connection)) => {
                match timeout_at(
                    give_up,
                    pipeline.query_async::<Vec<redis::RedisResult<Value>>>(&mut connection),
                )
                .await
                {
                    Ok(Ok(replies)) => Ok(replies),
                    Ok(Err(error)) => Err(self.failure(&error, "redis")),
                    Err(_) => Err(timed_out(self.ack_timeout)),
                }
            }
        };
        match result {
            Ok(replies) => {
                let answers = sent.into_iter().zip(replies);
                answers
                    .filter_map(|(index, reply)| ledger.answer(index, self.outcome(reply, &batch[index as usize])))
                    .collect()
            }
            Err(failure) => {
                self.give_up().await;
                for index in sent {
                    ledger.refuse(index, failure.clone());
                }
                Vec::new()
            }
        }
    }
}

/// `proto-max-bulk-len`'s default, bytes.
const MAX_BULK: usize = 512 << 20;

fn timed_out(after: Duration) -> Failure {
    let error = format!("no answer from redis within {}", humantime::format_duration(after));
    Failure::new(FailureClass::TimedOut, "TIMED_OUT", error)
}

#[async_trait]
impl Transport for Redis {
    async fn publish(&self, batch: &[Envelope]) -> Vec<Outcome> {
        let mut ledger = Ledger::new(batch, is_ordered);
        let give_up = Instant::now() + self.ack_timeout;
        let mut round = ledger.heads().to_vec();
        while !round.is_empty() {
            round = self.round(batch, round, &mut ledger, give_up).await;
            if Instant::now() >= give_up {
                break;
            }
        }
        // Time ran out between two rounds: these were not sent.
        ledger.withhold_all();
        ledger.finish()
    }

    async fn probe(&self, destination: &str) -> Result<Probe, Failure> {
        let give_up = Instant::now() + self.ack_timeout;
        let ask = async {
            let mut connection = self.connection().await?;
            let mut pipeline = redis::pipe();
            pipeline.cmd("ROLE").cmd("TYPE").arg(destination);
            pipeline
                .query_async::<(Vec<Value>, String)>(&mut connection)
                .await
                .map_err(|error| self.failure(&error, "redis"))
        };
        let answer = timeout_at(give_up, ask)
            .await
            .unwrap_or_else(|_| Err(timed_out(self.ack_timeout)));
        let unavailable = |code: &'static str, error: String| Err(Failure::new(FailureClass::Unavailable, code, error));
        match answer {
            Err(failure) => {
                self.give_up().await;
                Err(failure)
            }
            Ok((role, _)) if role.first() == Some(&Value::BulkString(b"slave".to_vec())) => unavailable(
                "READONLY",
                "redis is a replica: point the url at the primary".to_owned(),
            ),
            Ok((_, kind)) if kind != "stream" && kind != "none" => unavailable(
                "WRONGTYPE",
                format!("redis key {destination:?} is a {kind}, not a stream"),
            ),
            Ok(_) => Ok(Probe::Ready),
        }
    }

    async fn inspect(&self, uses: &[Use]) -> Result<Vec<Finding>, Failure> {
        self.look(uses).await
    }

    async fn close(&self) {
        self.give_up().await;
    }
}
