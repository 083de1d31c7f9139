//! What may be wrong with JetStream streams, and with what the user may do, for people who ask.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;

use super::asking::NAMES;
use super::tried::{Answer, Elsewhere, Question};
use super::{ELECTIONS, Nats};
use crate::delivery::{Failure, FailureClass};
use crate::finding::Finding;
use crate::transport::{Transport, Use};

/// How often to see whether the connection stands.
const LOOK: Duration = Duration::from_millis(20);
/// Subjects written into one piece of advice.
const NAMED: usize = 5;

/// The part of a stream's settings that matters here (NATS manual, "Streams").
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Settings {
    /// Nanoseconds.
    duplicate_window: u64,
    sealed: bool,
    no_ack: bool,
    /// `async`: acknowledged before it is written (2.12 and later; others say nothing).
    persist_mode: String,
    retention: String,
    discard: String,
    storage: String,
    /// -1: the server's `max_payload`.
    max_msg_size: i64,
}

#[derive(Deserialize)]
struct Info {
    config: Settings,
}

impl Nats {
    /// See [`Transport::inspect`].
    pub(super) async fn look(&self, uses: &[Use]) -> Result<Vec<Finding>, Failure> {
        let connecting = async {
            while self.connected().is_err() {
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(self.ack_timeout, connecting).await.is_err() {
            return Err(self.link.failure());
        }
        let mut found = Vec::new();
        let may_ask = self.reach().await?;
        if !may_ask {
            found.push(lacks_names());
        }
        let mut streams: BTreeMap<String, Use> = BTreeMap::new();
        let mut taken: BTreeMap<&str, String> = BTreeMap::new();
        for used in uses.iter().filter(|_| may_ask) {
            if let Ok(stream) = self.stream_named(&used.destination).await {
                taken.insert(&used.destination, stream.clone());
                let all = streams.entry(stream).or_insert_with(|| used.clone());
                all.retry_span = all.retry_span.max(used.retry_span);
                all.largest = all.largest.max(used.largest);
            }
        }
        found.extend(self.streams(&streams).await);
        for used in uses.iter().filter(|_| may_ask) {
            if let Err(failure) = self.probe(&used.destination).await {
                found.push(missing(used, &failure));
            }
        }
        let elsewhere = self.elsewhere().await;
        let subjects: Vec<&str> = uses.iter().map(|used| &*used.destination).collect();
        found.extend(self.overlaps(&elsewhere, &subjects, &taken).await);
        if self.client.server_info().auth_required {
            let apis = self.may_administrate(&elsewhere.domains).await;
            found.extend((!apis.is_empty()).then(|| administrates(&apis, &subjects)));
        }
        Ok(found)
    }

    /// Whether the user may ask which stream takes a subject.
    ///
    /// # Errors
    /// Nobody answers.
    async fn reach(&self) -> Result<bool, Failure> {
        let names = serde_json::json!({ "subject": "outboxd-check" }).to_string();
        let questions = [("$JS.API.INFO", String::new()), (NAMES, names)].map(|(subject, body)| Question {
            subject: subject.to_owned(),
            body,
        });
        let answers = self.try_each(&questions).await;
        if answers.iter().any(Answer::is_nobody) {
            let error = "jetstream is not enabled on the nats server";
            return Err(Failure::new(FailureClass::Unavailable, "NO_RESPONDERS", error));
        }
        if !answers.iter().any(|answer| answer.refused || answer.is_said()) {
            let error = "no answer from jetstream's API";
            return Err(Failure::new(FailureClass::TimedOut, "TIMED_OUT", error));
        }
        Ok(!answers
            .iter()
            .zip(&questions)
            .any(|(answer, question)| question.subject == NAMES && answer.refused))
    }

    /// What is wrong with the streams that are used, as far as the user may ask.
    async fn streams(&self, streams: &BTreeMap<String, Use>) -> Vec<Finding> {
        let ask = |stream: &String| Question {
            subject: format!("$JS.API.STREAM.INFO.{stream}"),
            body: String::new(),
        };
        let questions: Vec<Question> = streams.keys().map(ask).collect();
        let answers = self.try_each(&questions).await;
        let mut found = Vec::new();
        if answers.iter().any(|answer| answer.refused) {
            found.push(Finding::warning(
                "broker_rights",
                "the nats user may not publish on $JS.API.STREAM.INFO.*",
                "a stream without a leader is not noticed as an outage, and what is wrong with a stream is not found here",
                "allow it to publish on $JS.API.STREAM.INFO.*: it only reads",
            ));
        }
        let clustered = self.client.server_info().cluster.is_some();
        if clustered && self.link.tried().is_refused(ELECTIONS) {
            found.push(Finding::warning(
                "broker_rights",
                format!("the nats user may not subscribe to {ELECTIONS}"),
                "when a stream's leader dies, the messages on their way to it time out, which counts as an attempt",
                format!("allow it to subscribe to {ELECTIONS}"),
            ));
        }
        let most = u64::try_from(self.client.server_info().max_payload).unwrap_or(u64::MAX);
        for ((stream, used), answer) in streams.iter().zip(&answers) {
            let said = answer.said.first();
            if let Some(Info { config }) = said.and_then(|said| serde_json::from_slice(&said.payload).ok()) {
                found.extend(judge(stream, &config, used, most));
            }
        }
        found
    }

    /// Subjects that streams of several domains take: each acknowledges, and the first acknowledgement counts.
    async fn overlaps(&self, elsewhere: &Elsewhere, subjects: &[&str], taken: &BTreeMap<&str, String>) -> Vec<Finding> {
        let mut found = unasked(elsewhere, self.client.server_info().domain.as_deref());
        if elsewhere.domains.is_empty() {
            return found;
        }
        let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (subject, stream) in taken {
            all.entry((*subject).to_owned()).or_default().insert(stream.clone());
        }
        for (subject, stream, domain) in self.taken_elsewhere(&elsewhere.domains, subjects).await {
            let stream = format!("{stream} of domain {domain}");
            all.entry(subject).or_default().insert(stream);
        }
        for (subject, streams) in all.into_iter().filter(|(_, streams)| streams.len() > 1) {
            let streams = streams.into_iter().collect::<Vec<_>>().join(" and ");
            found.push(Finding::fault(
                "streams_overlap",
                format!("jetstream streams {streams} all take subject {subject}"),
                "the first acknowledgement counts, whichever stream it is of: another one may have refused the message",
                format!(
                    "let one of them take it, or name {subject} in deny_imports or deny_exports of the leaf connection"
                ),
            ));
        }
        found
    }
}

fn lacks_names() -> Finding {
    Finding::warning(
        "broker_rights",
        format!("the nats user may not publish on {NAMES}"),
        "the relay cannot ask whether a stream takes a subject: only a message can tell, and nothing of it is found here",
        format!("allow it to publish on {NAMES}: it only reads"),
    )
}

/// Where streams may be that take the same subjects, and nobody can be asked.
fn unasked(elsewhere: &Elsewhere, domain: Option<&str>) -> Vec<Finding> {
    let why = "a second stream that takes the same subject acknowledges messages in the place of the first, unseen";
    let mut found = Vec::new();
    if let Some(domain) = domain.filter(|_| elsewhere.refused) {
        found.push(Finding::warning(
            "broker_rights",
            format!("jetstream is domain {domain}, and the nats user may not ask which others there are"),
            why,
            "allow it to publish on $SYS.REQ.ACCOUNT.PING.STATZ and $JS.*.API.STREAM.NAMES: they only read",
        ));
    }
    for server in &elsewhere.nameless {
        found.push(Finding::warning(
            "not_examined",
            format!("nats server {server} has a jetstream of its own, which cannot be asked: it has no domain"),
            why,
            "give the jetstream of each side of a leaf connection a domain: jetstream { domain: NAME }",
        ));
    }
    found
}

/// The user may change streams by `apis`, and needs no more than `subjects`.
fn administrates(apis: &[String], subjects: &[&str]) -> Finding {
    let mut publish: Vec<&str> = subjects.iter().copied().take(NAMED).collect();
    if subjects.len() > NAMED {
        publish.push("...");
    }
    publish.extend([NAMES, "$JS.API.STREAM.INFO.*"]);
    let publish = publish.iter().map(|subject| format!("{subject:?}")).collect::<Vec<_>>();
    let apis = apis.iter().map(|api| format!("{api}.>")).collect::<Vec<_>>();
    Finding::warning(
        "stream_admin",
        format!("the nats user may delete, empty or change streams: {}", apis.join(", ")),
        "no row reaches that unless a route names such a subject, but whoever has the relay's login does",
        format!(
            "permissions: {{ publish: [{}], subscribe: [\"_INBOX.>\", {ELECTIONS:?}] }}",
            publish.join(", ")
        ),
    )
}

fn missing(used: &Use, failure: &Failure) -> Finding {
    let subject = &used.destination;
    Finding::fault(
        "destination",
        failure.error.clone(),
        "its messages wait in the database until that is mended",
        format!("nats stream add NAME --subjects='{subject}' --defaults, or correct the route's destination"),
    )
}

fn judge(stream: &str, settings: &Settings, used: &Use, max_payload: u64) -> Vec<Finding> {
    let mut found = Vec::new();
    let says = |what: &str| format!("jetstream stream {stream} {what}");
    if settings.sealed {
        let fix = "stream messages into another one: a sealed stream stays sealed";
        let why = "it takes no messages: they wait in the database";
        found.push(Finding::fault("stream_sealed", says("is sealed"), why, fix));
    }
    if settings.no_ack {
        let fix = format!("nats stream edit {stream} --ack");
        let why = "nothing says that a message is stored, so nothing is ever marked as relayed";
        found.push(Finding::fault(
            "stream_no_ack",
            says("sends no acknowledgements"),
            why,
            fix,
        ));
    }
    if settings.persist_mode == "async" {
        let why = "when the server dies, acknowledged messages are gone, whatever its sync_interval says";
        let fix = "make another stream, without --persist-mode=async: this cannot be changed, and messages sent meanwhile wait";
        found.push(Finding::fault(
            "stream_async",
            says("acknowledges before it has written (persist_mode async)"),
            why,
            fix,
        ));
    }
    found.extend(judge_limits(stream, settings, used, max_payload));
    found
}

/// What may go wrong later.
fn judge_limits(stream: &str, settings: &Settings, used: &Use, max_payload: u64) -> Vec<Finding> {
    let mut found = Vec::new();
    let says = |what: &str| format!("jetstream stream {stream} {what}");
    let window = Duration::from_nanos(settings.duplicate_window);
    if window < used.retry_span {
        let (window, span) = (whole(window), whole(used.retry_span));
        found.push(Finding::warning(
            "duplicate_window",
            says(&format!(
                "forgets message ids after {window}, and retries take up to {span}"
            )),
            "a message that arrived though its acknowledgement was lost is stored twice by a later attempt",
            format!(
                "nats stream edit {stream} --dupe-window={span}, or fewer attempts and a lower backoff_max on the route"
            ),
        ));
    }
    if settings.storage == "memory" {
        let why = "acknowledged messages are gone when the server restarts";
        let fix = "make a stream with file storage: nats stream add NAME --storage=file";
        found.push(Finding::warning("stream_memory", says("is kept in memory"), why, fix));
    }
    if settings.discard == "old" && settings.retention != "limits" && !settings.retention.is_empty() {
        let why = "when it is full, messages nobody has read yet are thrown away";
        let fix = format!("nats stream edit {stream} --discard=new: then messages wait in the database instead");
        found.push(Finding::warning(
            "stream_discards",
            says("is a queue that discards old messages"),
            why,
            fix,
        ));
    }
    let most = u64::try_from(settings.max_msg_size).map_or(max_payload, |own| own.min(max_payload));
    if used.largest > most {
        found.push(Finding::warning(
            "message_size",
            says(&format!(
                "takes {most} bytes a message, and one of {} is waiting",
                used.largest
            )),
            "a message larger than that is refused and set aside as failed",
            format!("nats stream edit {stream} --max-msg-size=-1, and max_payload in the server's configuration"),
        ));
    }
    found
}

/// In whole seconds, as people write it.
fn whole(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(duration.as_secs_f64().ceil() as u64))
}
