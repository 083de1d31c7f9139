//! Redis Streams: `XADD <destination> [MAXLEN ~ n] * id .. key .. headers .. payload ..`.
//!
//! A batch goes out in rounds: the first message of every (stream, key), then the second of each, and
//! so on; a key whose message was not acknowledged is left out of later rounds. So *Prefix per key* holds by construction
//! while a batch of different keys takes one round trip. A key without rows of its own (`Order::None`, no key) goes in the
//! first round.
//!
//! The reply is Redis' acknowledgement; how durable that is, is the server's `appendfsync` and replication. Redis knows no
//! dedupe id: every copy is visible, consumers dedupe on the field `id`. A message without a key has no field `key`.
//!
//! The connection is made in the background and again after every error of its own, and where the server says that it is the
//! wrong one (a replica, a Sentinel, a login that is not known): the address may lead to another one by now. Rounds of different
//! batches are pipelined by the client, as much as the server answers for within a moment. A connection that breaks answers
//! `Unavailable`; no answer within `ack_timeout` from a message's turn on is `TimedOut`, and the connection is given up: what
//! was sent over it cannot be mixed up with what follows.
//!
//! The user needs `XADD` on the streams. [`Transport::probe`] asks with `ROLE` and `TYPE`; where it may not, only a message can
//! tell ([`Probe::Unknown`]).

pub mod config;

mod asking;
mod classify;
mod flight;
mod inspect;
mod link;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use redis::{Client, RedisError, RedisResult, Value};

pub use classify::classify;

use self::classify::leads_elsewhere;
use self::config::RedisConfig;
use self::flight::Flight;
use self::link::{Line, Link};
use super::blame::Blame;
use super::flow::{Flow, moment};
use super::settings::Settings;
use super::{ConnectError, Envelope, Probe, Transport, Use};
use crate::delivery::{Failure, FailureClass, Outcome};
use crate::finding::Finding;

/// A Redis Streams transport. See the module.
#[derive(Debug)]
pub struct Redis {
    client: Client,
    link: Link,
    flow: Flow,
    blame: Blame,
    maxlen: Option<u64>,
    ack_timeout: Duration,
    abandoned: AtomicU64,
}

#[async_trait]
impl Settings for RedisConfig {
    fn kind(&self) -> &'static str {
        "redis"
    }

    fn validate(&self, name: &str) -> Result<(), ConnectError> {
        self.client(name).map(drop)
    }

    fn ack_timeout(&self) -> Option<Duration> {
        Some(self.ack_timeout)
    }

    fn default_ack_timeout(&mut self) -> Option<&mut Duration> {
        Some(&mut self.ack_timeout).filter(|timeout| **timeout == config::default_ack_timeout())
    }

    fn prefix(&self) -> &str {
        &self.prefix
    }

    async fn connect(&self, name: &str) -> Result<Arc<dyn Transport>, ConnectError> {
        Ok(Arc::new(Redis::connect(name, self).await?))
    }
}

impl Redis {
    /// A transport for `config`. Connects when first used: a server that is away is waited for.
    ///
    /// # Errors
    /// Only what is wrong in the configuration of transport `name`.
    pub async fn connect(name: &str, config: &RedisConfig) -> Result<Self, ConnectError> {
        Ok(Self {
            client: config.client(name)?,
            link: Link::default(),
            flow: Flow::new(moment(config.ack_timeout)),
            blame: config.blame(name),
            maxlen: config.maxlen,
            ack_timeout: config.ack_timeout,
            abandoned: AtomicU64::new(0),
        })
    }

    /// How often the lease was lost: batches under way since before send nothing more.
    fn abandoned(&self) -> u64 {
        self.abandoned.load(Ordering::Acquire)
    }

    fn outcome(&self, reply: RedisResult<Value>, destination: &str) -> Outcome {
        match reply {
            Ok(Value::BulkString(_) | Value::SimpleString(_)) => Outcome::Acknowledged { duplicate: false },
            Ok(other) => {
                let error = format!("redis answers XADD to {destination:?} with {other:?} instead of an entry id");
                Outcome::Refused(Failure::new(FailureClass::Unavailable, "BAD_ANSWER", error))
            }
            Err(error) => Outcome::Refused(self.failure(&error, &format!("redis stream {destination:?}"))),
        }
    }

    /// Looks whether `replies` say that it is the wrong server.
    fn heed(&self, replies: &[RedisResult<Value>], line: &Line) {
        let wrong = |error: &&RedisError| leads_elsewhere(error.code().unwrap_or_default(), &error.to_string());
        let mut errors = replies.iter().filter_map(|reply| reply.as_ref().err());
        match errors.find(wrong) {
            Some(error) => self.leave(line, &self.failure(error, "redis")),
            None if replies.iter().any(Result::is_ok) => self.link.trust(),
            None => {}
        }
    }

    fn failure(&self, error: &RedisError, what: &str) -> Failure {
        let words = error.to_string().replace(['\r', '\n'], " ");
        let line = self.blame.line(&words).unwrap_or_else(|| format!("{what}: {words}"));
        if error.is_timeout() {
            return Failure::new(FailureClass::TimedOut, "TIMED_OUT", line);
        }
        match error.code() {
            Some(code) => Failure::new(classify(code, &words), code.to_owned(), line),
            // The client's own: the connection, a login that failed, an answer it cannot read.
            None => Failure::new(FailureClass::Unavailable, "CONNECTION", line),
        }
    }
}

fn timed_out(after: Duration) -> Failure {
    let error = format!("no answer from redis within {}", humantime::format_duration(after));
    Failure::new(FailureClass::TimedOut, "TIMED_OUT", error)
}

#[async_trait]
impl Transport for Redis {
    async fn publish(&self, batch: &[Envelope]) -> Vec<Outcome> {
        Flight::new(self, batch).run().await
    }

    async fn probe(&self, destination: &str) -> Result<Probe, Failure> {
        self.question(destination).await
    }

    async fn inspect(&self, uses: &[Use]) -> Result<Vec<Finding>, Failure> {
        self.look(uses).await
    }

    /// What was handed to the client cannot be taken back; of batches under way nothing more is sent.
    fn abandon(&self) {
        self.abandoned.fetch_add(1, Ordering::AcqRel);
    }

    async fn close(&self) {
        self.link.close();
    }
}
