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
//! Permissions the user needs: publish on the subjects, subscribe to `_INBOX.>`, and publish on `$JS.API.STREAM.NAMES`
//! for [`Transport::probe`]. In a cluster also publish on `$JS.API.STREAM.INFO.*` and subscribe to
//! `$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.*`; without them a change of leaders costs the messages under way an attempt.

pub mod config;

mod acks;
mod classify;
mod flight;
mod inspect;
mod link;
mod reply;
mod tried;
pub mod wire;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, Subscriber};
use async_trait::async_trait;
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub use classify::classify;

use self::acks::Inboxes;
use self::config::NatsConfig;
use self::flight::Flight;
use self::link::Link;
use super::settings::Section;
use super::{ConnectError, Envelope, Probe, Transport, Use};
use crate::delivery::{Failure, FailureClass, Outcome};
use crate::finding::Finding;

/// A JetStream transport. See the module.
#[derive(Debug)]
pub struct Nats {
    client: Client,
    link: Arc<Link>,
    inboxes: Arc<Inboxes>,
    /// Messages that may be in flight, over all batches.
    window: Semaphore,
    ack_timeout: Duration,
    allow_headers: Vec<String>,
    abandoned: AtomicU64,
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

    fn connected(&self) -> Result<(), Failure> {
        if self.client.connection_state() == State::Connected {
            Ok(())
        } else {
            Err(self.link.failure())
        }
    }

    /// Whether a stream captures `subject`, and has a leader that answers.
    async fn stream_of(&self, subject: &str) -> Result<(), Failure> {
        let stream = self.stream_named(subject).await?;
        if self.link.info_denied() {
            return Ok(());
        }
        let reply = self.ask(format!("$JS.API.STREAM.INFO.{stream}"), String::new()).await?;
        match serde_json::from_slice::<StreamInfo<'_>>(&reply.payload) {
            Ok(StreamInfo { error: Some(error), .. }) => Err(error.failure(subject)),
            Ok(StreamInfo {
                cluster: Some(cluster), ..
            }) => cluster.judge(&stream),
            Ok(_) => Ok(()),
            Err(error) => Err(unreadable("description of a stream", &error)),
        }
    }

    /// The name of the stream that captures `subject`.
    async fn stream_named(&self, subject: &str) -> Result<String, Failure> {
        let request = serde_json::json!({ "subject": subject }).to_string();
        let reply = self.ask("$JS.API.STREAM.NAMES".to_owned(), request).await?;
        match serde_json::from_slice::<StreamNames<'_>>(&reply.payload) {
            Ok(StreamNames { error: Some(error), .. }) => Err(error.failure(subject)),
            Ok(StreamNames { streams, .. }) => match streams.unwrap_or_default().first() {
                Some(stream) => Ok(stream.clone().into_owned()),
                None => Err(reply::no_responders(subject)),
            },
            Err(error) => Err(unreadable("list of streams", &error)),
        }
    }

    async fn ask(&self, api: String, request: String) -> Result<async_nats::Message, Failure> {
        let unavailable = |code: &'static str, error: String| Failure::new(FailureClass::Unavailable, code, error);
        self.client
            .request(api, request.into())
            .await
            .map_err(|error| match error.kind() {
                async_nats::RequestErrorKind::NoResponders => unavailable(
                    "NO_RESPONDERS",
                    "jetstream is not enabled on the nats server".to_owned(),
                ),
                async_nats::RequestErrorKind::TimedOut => {
                    Failure::new(FailureClass::TimedOut, "TIMED_OUT", "no answer from jetstream's API")
                }
                async_nats::RequestErrorKind::InvalidSubject
                | async_nats::RequestErrorKind::MaxPayloadExceeded
                | async_nats::RequestErrorKind::Other => {
                    unavailable("REQUEST", format!("cannot ask jetstream: {error}"))
                }
            })
    }
}

fn unreadable(what: &str, error: &serde_json::Error) -> Failure {
    let error = format!("cannot read jetstream's {what}: {error}");
    Failure::new(FailureClass::Failed, "BAD_ANSWER", error)
}

/// Announcements of new leaders of streams (NATS manual, "JetStream Advisories").
const ELECTIONS: &str = "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.*";

/// Has every batch look again whenever some stream got a new leader, until the subscription ends with its client.
async fn note_elections(mut elections: Subscriber, link: Arc<Link>, inboxes: Arc<Inboxes>) {
    while elections.next().await.is_some() {
        link.note_election();
        inboxes.wake_all();
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

/// The part of `$JS.API.STREAM.INFO`'s answer that matters. A server on its own says nothing of a cluster.
#[derive(Deserialize)]
struct StreamInfo<'a> {
    #[serde(borrow, default)]
    cluster: Option<StreamCluster<'a>>,
    #[serde(borrow, default)]
    error: Option<reply::ApiError<'a>>,
}

#[derive(Deserialize)]
struct StreamCluster<'a> {
    #[serde(borrow, default)]
    leader: Option<std::borrow::Cow<'a, str>>,
    #[serde(default)]
    replicas: Option<Vec<Replica>>,
}

/// A copy of the stream beside the leader's.
#[derive(Deserialize)]
struct Replica {
    #[serde(default)]
    offline: bool,
    /// Nanoseconds since the leader heard of it.
    #[serde(default)]
    active: u64,
}

/// Replicas answer their leader every second.
const REPLICA_SILENT: Duration = Duration::from_secs(2);

impl StreamCluster<'_> {
    /// Whether the stream can acknowledge: a leader that lost its majority goes on answering for another ten seconds.
    fn judge(&self, stream: &str) -> Result<(), Failure> {
        let unavailable = |code, error| Err(Failure::new(FailureClass::Unavailable, code, error));
        if self.leader.is_none() {
            return unavailable("NO_LEADER", format!("the jetstream stream {stream:?} has no leader"));
        }
        let others = self.replicas.as_deref().unwrap_or_default();
        let heard = |replica: &&Replica| !replica.offline && Duration::from_nanos(replica.active) < REPLICA_SILENT;
        let (alive, all) = (1 + others.iter().filter(heard).count(), 1 + others.len());
        if alive * 2 <= all {
            let error = format!("the jetstream stream {stream:?} has {alive} of {all} replicas: no majority");
            return unavailable("NO_MAJORITY", error);
        }
        Ok(())
    }
}

#[async_trait]
impl Transport for Nats {
    async fn publish(&self, batch: &[Envelope]) -> Vec<Outcome> {
        if let Err(failure) = self.connected() {
            return vec![Outcome::Refused(failure); batch.len()];
        }
        Flight::new(self, batch).run().await
    }

    async fn probe(&self, destination: &str) -> Result<Probe, Failure> {
        wire::check_subject(destination)?;
        self.connected()?;
        match tokio::time::timeout(self.ack_timeout, self.stream_of(destination)).await {
            Ok(answer) => answer.map(|()| Probe::Ready),
            Err(_) => Err(Failure::new(
                FailureClass::TimedOut,
                "TIMED_OUT",
                "no answer from jetstream's API",
            )),
        }
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
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_acknowledges_with_a_leader_and_a_majority() {
        for (cluster, code) in [
            (r#"{"leader":"a"}"#, None),
            (
                r#"{"leader":"a","replicas":[{"active":1},{"offline":true,"active":1}]}"#,
                None,
            ),
            (
                r#"{"leader":"a","replicas":[{"active":2500000000},{"offline":true}]}"#,
                Some("NO_MAJORITY"),
            ),
            (r#"{"replicas":[{"active":1},{"active":1}]}"#, Some("NO_LEADER")),
        ] {
            let cluster: StreamCluster<'_> = serde_json::from_str(cluster).unwrap();
            assert_eq!(
                cluster
                    .judge("s")
                    .err()
                    .map(|failure| failure.code.into_owned())
                    .as_deref(),
                code
            );
        }
    }
}
