//! The port to brokers.
//!
//! A transport takes a batch of one lane and answers with one [`Outcome`] per message. What to do about an outcome is
//! not its business: it never retries, counts, sleeps or reorders.
//!
//! # Laws (the headings of `tests/conformance/transport.rs`)
//!
//! - **Durable.** `Acknowledged` is said only on the broker's own durable acknowledgement.
//! - **Prefix per key.** In one batch, no message may become visible after an earlier one of its (destination, key) was
//!   not acknowledged. A client that cannot pipeline safely sends a key's messages one at a time and answers `Withheld`
//!   for those behind a refused one. [`Order::Strict`] always goes one at a time; [`Order::None`] is exempt.
//! - **Independence.** One refused message fails alone; messages of other keys in its batch are not touched by it.
//! - **Concurrency.** `publish` is called in parallel for different lanes, never for one lane.
//! - **Cancellation.** A dropped `publish` future leaves its messages ambiguous: sent or not, nobody knows.
//! - **Identity.** The message id reaches the broker with every copy.
//! - **No policy.** No retry loops, no counting of attempts, no backoff.
//! - **Bounded.** A broker that answers nothing costs a bounded time: `publish` and `probe` answer within about the
//!   transport's own timeout, and what is not known by then is `TimedOut`, or `Unavailable` where silence cannot be the
//!   message's own. So does `inspect`, for each thing it asks. A broker that goes on answering, however slowly, is waited for:
//!   a message's time begins with its turn, when what was sent before it is answered.

#[cfg(any(feature = "kafka", feature = "nats", feature = "redis"))]
mod blame;
pub mod chain;
pub mod file;
#[cfg(any(feature = "kafka", feature = "nats", feature = "redis"))]
mod flow;
#[cfg(feature = "kafka")]
pub mod kafka;
mod lines;
#[cfg(feature = "nats")]
pub mod nats;
#[cfg(feature = "redis")]
pub mod redis;
pub mod settings;
pub mod stdout;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::delivery::{Failure, FailureClass, Order, Outcome};
use crate::finding::Finding;
use crate::message::Message;

/// A message with the address its route gave it.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// What is sent.
    pub message: Message,
    /// Kafka topic, NATS subject, Redis stream.
    pub destination: Arc<str>,
    /// The route's policy: how careful the transport must be within a key.
    pub order: Order,
}

impl Envelope {
    /// The body, for brokers that know no message without one.
    ///
    /// # Errors
    /// There is none.
    fn body(&self) -> Result<&Bytes, Failure> {
        if self.message.payload_is_null {
            let error = "payload is null";
            return Err(Failure::new(FailureClass::Rejected, "NULL_PAYLOAD", error));
        }
        Ok(&self.message.payload)
    }

    /// Bytes on the line, about: what a [`flow`] counts.
    #[cfg(any(feature = "kafka", feature = "nats", feature = "redis"))]
    fn size(&self) -> usize {
        self.message.size() + self.destination.len()
    }
}

/// A destination somebody means to send to, for [`Transport::inspect`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// Kafka topic, NATS subject, Redis stream.
    pub destination: Arc<str>,
    /// From a message's first attempt to its last, at most.
    pub retry_span: Duration,
    /// Bytes of the largest message known to wait for it; 0: none does.
    pub largest: u64,
}

/// What [`Transport::probe`] found of a destination that may take messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// It takes messages, as far as a question can tell.
    Ready,
    /// The broker is there, but will not answer the question, and why: a right that asking needs and publishing does not. Only
    /// a message can tell.
    Unknown(Failure),
}

/// What is wrong in a transport's section of the configuration. Never that a broker is away: that is waited for.
#[derive(Debug, thiserror::Error)]
#[error("transports.{transport}.{key}: {problem}")]
pub struct ConnectError {
    /// The transport's name in the configuration.
    pub transport: String,
    /// Kind and key below it, as in `nats.credentials_file`.
    pub key: String,
    /// What is wrong with the value and what to do, in one line.
    pub problem: String,
}

/// One configured broker connection. See the module for the laws.
#[async_trait]
pub trait Transport: Send + Sync {
    /// Publishes `batch` and answers one outcome per message, in the batch's order. Partial success is the normal case,
    /// so there is no `Result`. A missing answer (a shorter vector) counts as a timeout.
    async fn publish(&self, batch: &[Envelope]) -> Vec<Outcome>;

    /// Whether `destination` could take messages now: broker reachable, topic or stream there. Sends no message.
    ///
    /// # Errors
    /// The failure a message to it would meet.
    async fn probe(&self, destination: &str) -> Result<Probe, Failure>;

    /// Looks for what will go wrong with `uses`, or is wrong already: destinations that are missing, settings of the broker that
    /// do not fit. For people who ask; sends no message. Nothing to find where there is no broker.
    ///
    /// # Errors
    /// Why the broker cannot be asked at all.
    async fn inspect(&self, _uses: &[Use]) -> Result<Vec<Finding>, Failure> {
        Ok(Vec::new())
    }

    /// Drops whatever the client library still holds unsent: the lease is lost and someone else may be sending.
    fn abandon(&self) {}

    /// Closes connections. Called once, after every `publish` has answered.
    async fn close(&self);
}
