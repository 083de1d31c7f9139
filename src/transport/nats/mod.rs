//! NATS JetStream.
//!
//! One connection, made in the background and kept up by the client for ever. `publish` sends a batch's messages as fast
//! as the window allows and waits for JetStream's PubAcks; within one (subject, key) the next message goes out only after
//! the PubAck of the one before, so *Prefix per key* holds by construction (`flight`). Acknowledgements come back
//! through one subscription for all batches (`acks`).
//!
//! - Not connected: `publish` and `probe` answer `Unavailable` at once and give nothing to the client's buffer.
//! - The connection breaks while messages are in flight: they answer `Unavailable` ("may have arrived"). What the client
//!   still held in its buffer at that moment it sends after reconnecting. It cannot be taken back
//!   ([`Transport::abandon`] only ends what batches under way would still send); such a copy carries the same `Nats-Msg-Id`, so the stream's duplicate window drops it or ours,
//!   and since one message per key is in flight it cannot overtake another of its key.
//! - No answer within `ack_timeout`: `TimedOut`.
//! - A stream of a cluster gets a new leader: what was sent before and is not acknowledged a moment later answers
//!   `Unavailable`. It went to the old leader, or to none, and no server says so. Meanwhile [`Transport::probe`], which asks
//!   the leader, fails.
//! - Shutdown: every batch has answered, the connection is drained.
//!
//! - The server lets a message fall that the user may not publish: `Unavailable` at once, with that reason (`rights`).
//!
//! Permissions the user needs: publish on the subjects, subscribe to `_INBOX.>`. For [`Transport::probe`] also publish on
//! `$JS.API.STREAM.NAMES`; without it only a message can tell ([`Probe::Unknown`]). In a cluster also publish on
//! `$JS.API.STREAM.INFO.*` and subscribe to `$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.*`; without them a change of leaders
//! costs the messages under way an attempt.

pub mod config;

mod acks;
mod asking;
mod classify;
mod flight;
mod inspect;
mod link;
mod reply;
mod rights;
mod tried;
pub mod wire;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, Subscriber};
use async_trait::async_trait;
use futures_util::StreamExt;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub use classify::classify;

use self::acks::Inboxes;
use self::config::NatsConfig;
use self::flight::Flight;
use self::link::Link;
use self::rights::ELECTIONS;
use super::flow::{Flow, Ticket, moment};
use super::settings::{Section, Settings};
use super::{ConnectError, Envelope, Probe, Transport, Use};
use crate::delivery::{Failure, Outcome};
use crate::finding::Finding;
use crate::lock::lock;

/// A JetStream transport. See the module.
#[derive(Debug)]
pub struct Nats {
    client: Client,
    link: Arc<Link>,
    inboxes: Arc<Inboxes>,
    /// Messages that may be in flight, over all batches.
    window: Semaphore,
    flow: Flow,
    ack_timeout: Duration,
    allow_headers: Vec<String>,
    abandoned: AtomicU64,
    tasks: Mutex<JoinSet<()>>,
}

#[async_trait]
impl Settings for NatsConfig {
    fn kind(&self) -> &'static str {
        "nats"
    }

    fn validate(&self, name: &str) -> Result<(), ConnectError> {
        self.options(name).map(drop)
    }

    fn ack_timeout(&self) -> Option<Duration> {
        Some(self.ack_timeout)
    }

    fn default_ack_timeout(&mut self) -> Option<&mut Duration> {
        Some(&mut self.ack_timeout).filter(|timeout| **timeout == config::default_ack_timeout())
    }

    fn reserved(&self) -> &'static [&'static str] {
        &["$", "_INBOX."]
    }

    async fn connect(&self, name: &str) -> Result<Arc<dyn Transport>, ConnectError> {
        Ok(Arc::new(Nats::connect(name, self).await?))
    }
}

impl Nats {
    /// A transport for `config`, connecting in the background: a server that is away is waited for.
    ///
    /// # Errors
    /// Only what is wrong in the configuration of transport `name`.
    pub async fn connect(name: &str, config: &NatsConfig) -> Result<Self, ConnectError> {
        let section = Section { name, kind: "nats" };
        let (servers, options) = config.options(name)?;
        let link = Arc::new(Link::new(config.blame(name)));
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
        let attempts = {
            let link = Arc::clone(&link);
            move |servers: Vec<async_nats::Server>, _| {
                let failed = servers.iter().filter(|server| server.failed_attempts > 0);
                let latest = failed.max_by_key(|server| server.failed_attempts);
                link.note_attempt(latest.and_then(|server| server.last_error.as_deref()));
                // Which server is next is the client's choice.
                std::future::ready(None)
            }
        };
        let client = options
            .event_callback(callback)
            .reconnect_to_server_callback(attempts)
            .connect(servers)
            .await
            .map_err(|error| section.wrong("url", format!("cannot connect: {error}")))?;
        let replies = client
            .subscribe(inboxes.subject())
            .await
            .map_err(|error| section.wrong("url", format!("cannot subscribe for acknowledgements: {error}")))?;
        let elections = client
            .subscribe(ELECTIONS)
            .await
            .map_err(|error| section.wrong("url", format!("cannot subscribe to elections of leaders: {error}")))?;
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&inboxes).route(replies));
        tasks.spawn(note_elections(elections, Arc::clone(&link), Arc::clone(&inboxes)));
        let window = usize::try_from(config.max_in_flight)
            .unwrap_or(usize::MAX)
            .min(Semaphore::MAX_PERMITS);
        Ok(Self {
            client,
            link,
            inboxes,
            window: Semaphore::new(window),
            flow: Flow::new(moment(config.ack_timeout)),
            ack_timeout: config.ack_timeout,
            allow_headers: config.allow_headers.clone(),
            abandoned: AtomicU64::new(0),
            tasks: Mutex::new(tasks),
        })
    }

    /// How often the lease was lost: batches under way since before send nothing more.
    fn abandoned(&self) -> u64 {
        self.abandoned.load(Ordering::Acquire)
    }

    /// Room for a message of `size` bytes, if there is some.
    fn room_now(&self, size: usize) -> Option<Ticket> {
        let permit = self.window.try_acquire().ok()?;
        let ticket = self.flow.try_take(size)?;
        permit.forget();
        Some(ticket)
    }

    /// As [`Self::room_now`], waiting for answers. Dropping the future takes nothing.
    async fn room(&self, size: usize) -> Ticket {
        let permit = self.window.acquire().await.expect("the window is never closed");
        let ticket = self.flow.take(size).await;
        permit.forget();
        ticket
    }

    fn connected(&self) -> Result<(), Failure> {
        if self.client.connection_state() == State::Connected {
            Ok(())
        } else {
            Err(self.link.failure())
        }
    }
}

/// Has every batch look again whenever some stream got a new leader, until the subscription ends with its client.
async fn note_elections(mut elections: Subscriber, link: Arc<Link>, inboxes: Arc<Inboxes>) {
    while elections.next().await.is_some() {
        link.note_election();
        inboxes.wake_all();
    }
}

#[async_trait]
impl Transport for Nats {
    async fn publish(&self, batch: &[Envelope]) -> Vec<Outcome> {
        let acks_denied = || self.link.rights.acks_denied();
        if let Some(failure) = self.connected().err().or_else(acks_denied) {
            return vec![Outcome::Refused(failure); batch.len()];
        }
        Flight::new(self, batch).run().await
    }

    async fn probe(&self, destination: &str) -> Result<Probe, Failure> {
        wire::check_subject(destination)?;
        self.connected()?;
        self.hears_acks().await?;
        tokio::time::timeout(self.ack_timeout, self.question(destination))
            .await
            .unwrap_or_else(|_| Err(asking::timed_out()))
    }

    async fn inspect(&self, uses: &[Use]) -> Result<Vec<Finding>, Failure> {
        self.look(uses).await
    }

    /// What the client holds in its buffer cannot be taken back; of batches under way nothing more is sent.
    fn abandon(&self) {
        self.abandoned.fetch_add(1, Ordering::AcqRel);
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
        lock(&self.tasks).abort_all();
    }
}
