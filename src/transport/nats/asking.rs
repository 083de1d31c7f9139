//! Asking JetStream about streams: whether the one of a subject could take a message.

use std::time::Duration;

use async_nats::RequestErrorKind;
use serde::Deserialize;

use super::rights::API_DENIED;
use super::{Nats, reply};
use crate::delivery::{Failure, FailureClass};
use crate::transport::Probe;

/// Which stream takes a subject.
pub(super) const NAMES: &str = "$JS.API.STREAM.NAMES";

/// The code of a failure to ask because nobody answers questions in this account.
const NO_API: &str = "NO_API";

impl Nats {
    /// See [`crate::transport::Transport::probe`]. Where the user may publish and not ask, only a message can tell; and where
    /// the last message was refused, what the streams are like says nothing.
    pub(super) async fn question(&self, subject: &str) -> Result<Probe, Failure> {
        let rights = &self.link.rights;
        if let Some(denied) = rights.denied(subject) {
            return Err(denied);
        }
        let unanswered = match self.stream_of(subject).await {
            Ok(()) => None,
            Err(failure) if [API_DENIED, NO_API].contains(&&*failure.code) => Some(failure),
            Err(failure) => return Err(failure),
        };
        Ok(rights
            .was_denied(subject)
            .or(unanswered)
            .map_or(Probe::Ready, Probe::Unknown))
    }

    /// Whether acknowledgements can come, as far as the server has said. Where they cannot, a new connection is made now and
    /// then: a subscription once refused stays so on the old one.
    pub(super) async fn hears_acks(&self) -> Result<(), Failure> {
        let Some(failure) = self.link.rights.acks_denied() else {
            return Ok(());
        };
        if self.link.rights.shall_be_tested() {
            self.client.force_reconnect().await.ok();
        }
        Err(failure)
    }

    /// Whether a stream captures `subject`, and has a leader that answers.
    async fn stream_of(&self, subject: &str) -> Result<(), Failure> {
        let stream = self.stream_named(subject).await?;
        let reply = match self.ask(format!("$JS.API.STREAM.INFO.{stream}"), String::new()).await {
            Err(failure) if failure.code == API_DENIED => return Ok(()),
            answer => answer?,
        };
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
    pub(super) async fn stream_named(&self, subject: &str) -> Result<String, Failure> {
        let request = serde_json::json!({ "subject": subject }).to_string();
        let reply = self.ask(NAMES.to_owned(), request).await?;
        match serde_json::from_slice::<StreamNames<'_>>(&reply.payload) {
            Ok(StreamNames { error: Some(error), .. }) => Err(error.failure(subject)),
            Ok(StreamNames { streams, .. }) => match streams.unwrap_or_default().first() {
                Some(stream) => Ok(stream.clone().into_owned()),
                None => Err(reply::no_responders(subject)),
            },
            Err(error) => Err(unreadable("list of streams", &error)),
        }
    }

    /// The answer to a question. One the user may not ask gets none, so the refusal is listened for.
    pub(super) async fn ask(&self, api: String, request: String) -> Result<async_nats::Message, Failure> {
        let rights = &self.link.rights;
        if let Some(denied) = rights.denied(&api) {
            return Err(denied);
        }
        let answer = tokio::select! {
            biased;
            failure = rights.refused(&api) => return Err(failure),
            answer = self.client.request(api.clone(), request.into()) => answer,
        };
        let unavailable = |code: &'static str, error: String| Failure::new(FailureClass::Unavailable, code, error);
        answer.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => unavailable(
                NO_API,
                format!("nobody answers {api}: jetstream is not enabled on the nats server, or not in this account"),
            ),
            RequestErrorKind::TimedOut => timed_out(),
            RequestErrorKind::InvalidSubject | RequestErrorKind::MaxPayloadExceeded | RequestErrorKind::Other => {
                unavailable("REQUEST", format!("cannot ask jetstream: {error}"))
            }
        })
    }
}

/// No answer to a question.
pub(super) fn timed_out() -> Failure {
    Failure::new(FailureClass::TimedOut, "TIMED_OUT", "no answer from jetstream's API")
}

/// An answer that is none.
pub(super) fn unreadable(what: &str, error: &serde_json::Error) -> Failure {
    let error = format!("cannot read jetstream's {what}: {error}");
    Failure::new(FailureClass::Unavailable, "BAD_ANSWER", error)
}

/// The answer of `$JS.API.STREAM.NAMES`.
#[derive(Deserialize)]
pub(super) struct StreamNames<'a> {
    #[serde(borrow, default)]
    pub(super) streams: Option<Vec<std::borrow::Cow<'a, str>>>,
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
