//! NATS JetStream.
//!
//! One connection, made in the background and kept up by the client for ever. `publish` sends a batch's messages as fast
//! as the window allows and waits for JetStream's PubAcks; within one (subject, key) the next message goes out only after
//! the PubAck of the one before, so *Prefix per key* holds by construction (`flight`). Acknowledgements come back
//! through one subscription for all batches (`acks`).
//!
//! - Not connected: `publish` and `probe` answer `Unavailable` at once and give nothing to the client's buffer.
//! - The connection breaks while messages are in flight: they answer `Unavailable` ("may have arrived"). What the client
//!   still held in its buffer at that moment it sends after reconnecting. It cannot be taken back ([`Transport::abandon`]
//!   does nothing here); such a copy carries the same `Nats-Msg-Id`, so the stream's duplicate window drops it or ours,
//!   and since one message per key is in flight it cannot overtake another of its key.
//! - No answer within `ack_timeout`: `TimedOut`.
//! - Shutdown: every batch has answered, the connection is drained.
//!
//! Permissions the user needs: publish on the subjects, subscribe to `_INBOX.>`, and publish on `$JS.API.STREAM.NAMES`
//! for [`Transport::probe`].

pub mod config;

mod acks;
mod classify;
mod flight;
mod link;
mod reply;
mod wire;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use async_trait::async_trait;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub use classify::classify;

use self::acks::Inboxes;
use self::config::NatsConfig;
use self::flight::Flight;
use self::link::Link;
use super::settings::Section;
use super::{ConnectError, Envelope, Transport};
use crate::delivery::{Failure, FailureClass, Outcome};

/// A JetStream transport. See the module.
#[derive(Debug)]
pub struct Nats {
    client: Client,
    link: Arc<Link>,
    inboxes: Arc<Inboxes>,
    /// Messages that may be in flight, over all batches.
    window: Semaphore,
    ack_timeout: Duration,
    tasks: Mutex<JoinSet<()>>,
}

impl Nats {
    /// A transport for `config`, connecting in the background: a server that is away is waited for.
    ///
    /// # Errors
    /// Only what is wrong in the configuration of transport `name`.
    pub async fn connect(name: &str, config: &NatsConfig) -> Result<Self, ConnectError> {
        let section = Section { name, kind: "nats" };
        let (servers, options) = config.options(name)?;
        let link = Arc::new(Link::new(name));
        let prefix = format!("_INBOX.{}", uuid::Uuid::new_v4().simple());
        let inboxes = Arc::new(Inboxes::new(prefix));
        let callback = {
            let (link, inboxes) = (Arc::clone(&link), Arc::clone(&inboxes));
            move |event| {
                if link.note(&event) {
                    inboxes.wake_all();
                }
                std::future::ready(())
            }
        };
        let client = options
            .event_callback(callback)
            .connect(servers)
            .await
            .map_err(|error| section.wrong("url", format!("cannot connect: {error}")))?;
        let replies = client
            .subscribe(inboxes.subject())
            .await
            .map_err(|error| section.wrong("url", format!("cannot subscribe for acknowledgements: {error}")))?;
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&inboxes).route(replies));
        let window = usize::try_from(config.max_in_flight)
            .unwrap_or(usize::MAX)
            .min(Semaphore::MAX_PERMITS);
        Ok(Self {
            client,
            link,
            inboxes,
            window: Semaphore::new(window),
            ack_timeout: config.ack_timeout,
            tasks: Mutex::new(tasks),
        })
    }

    fn connected(&self) -> Result<(), Failure> {
        if self.client.connection_state() == State::Connected {
            Ok(())
        } else {
            Err(self.link.failure())
        }
    }

    async fn stream_of(&self, subject: &str) -> Result<(), Failure> {
        let request = serde_json::json!({ "subject": subject }).to_string();
        let reply = self
            .client
            .request("$JS.API.STREAM.NAMES", request.into())
            .await
            .map_err(|error| match error.kind() {
                async_nats::RequestErrorKind::NoResponders => Failure::new(
                    FailureClass::Unavailable,
                    "NO_RESPONDERS",
                    "jetstream is not enabled on the nats server",
                ),
                async_nats::RequestErrorKind::TimedOut => {
                    Failure::new(FailureClass::TimedOut, "TIMED_OUT", "no answer from jetstream's API")
                }
                async_nats::RequestErrorKind::InvalidSubject
                | async_nats::RequestErrorKind::MaxPayloadExceeded
                | async_nats::RequestErrorKind::Other => Failure::new(
                    FailureClass::Unavailable,
                    "REQUEST",
                    format!("cannot ask jetstream: {error}"),
                ),
            })?;
        match serde_json::from_slice::<StreamNames<'_>>(&reply.payload) {
            Ok(StreamNames { error: Some(error), .. }) => Err(error.failure(subject)),
            Ok(StreamNames {
                streams: Some(streams), ..
            }) if !streams.is_empty() => Ok(()),
            Ok(_) => Err(reply::no_responders(subject)),
            Err(error) => {
                let error = format!("cannot read jetstream's list of streams: {error}");
                Err(Failure::new(FailureClass::Failed, "BAD_ANSWER", error))
            }
        }
    }
}

/// The answer of `$JS.API.STREAM.NAMES`.
#[derive(Deserialize)]
struct StreamNames<'a> {
    #[serde(borrow, default)]
    streams: Option<Vec<std::borrow::Cow<'a, str>>>,
    #[serde(borrow, default)]
    error: Option<reply::ApiError<'a>>,
}

#[async_trait]
impl Transport for Nats {
    async fn publish(&self, batch: &[Envelope]) -> Vec<Outcome> {
        if let Err(failure) = self.connected() {
            return vec![Outcome::Refused(failure); batch.len()];
        }
        Flight::new(self, batch).run().await
    }

    async fn probe(&self, destination: &str) -> Result<(), Failure> {
        wire::check_subject(destination)?;
        self.connected()?;
        match tokio::time::timeout(self.ack_timeout, self.stream_of(destination)).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::new(
                FailureClass::TimedOut,
                "TIMED_OUT",
                "no answer from jetstream's API",
            )),
        }
    }

    async fn close(&self) {
        let drained = tokio::time::timeout(self.ack_timeout, async {
            if self.connected().is_ok() && self.client.flush().await.is_ok() {
                return self.client.drain().await.is_ok();
            }
            false
        });
        if !matches!(drained.await, Ok(true)) {
            tracing::debug!("nats connection closed without draining");
        }
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}
