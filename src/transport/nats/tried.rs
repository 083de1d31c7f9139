//! What the user of the connection may ask and do, found out by trying what does no harm. For people who ask.
//!
//! A server refuses a message by a line on the connection that names its subject; the message itself is never answered. So
//! a subject is noted before something is sent to it, and the link tells which ones were refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use async_nats::{Message, StatusCode};
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Nats;
use super::asking::StreamNames;
use super::rights::{Denial, ELECTIONS};

use crate::lock::lock;

/// How long servers on the other side of a leaf connection are waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Which subjects were tried, and whether the server refused them.
#[derive(Debug)]
pub(super) struct Tried {
    tried: Mutex<BTreeMap<String, bool>>,
    /// Told when one is refused.
    changed: Notify,
}

impl Default for Tried {
    /// The transport subscribes to elections as soon as it is connected.
    fn default() -> Self {
        Self {
            tried: Mutex::new(BTreeMap::from([(ELECTIONS.to_owned(), false)])),
            changed: Notify::new(),
        }
    }
}

impl Tried {
    /// From now on `subject` is one that is tried only to know.
    fn tries(&self, subject: &str) {
        self.lock().insert(subject.to_owned(), false);
    }

    /// Notes what the server refuses; `true` where that was tried only to know.
    pub(super) fn note(&self, denial: &Denial) -> bool {
        let (Denial::Publish(subject) | Denial::Subscribe(subject)) = denial;
        let mut tried = self.lock();
        let Some(refused) = tried.get_mut(subject) else {
            return false;
        };
        *refused = true;
        self.changed.notify_one();
        true
    }

    /// Whether the server has refused `subject`.
    pub(super) fn is_refused(&self, subject: &str) -> bool {
        self.lock().get(subject).is_some_and(|refused| *refused)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, bool>> {
        lock(&self.tried)
    }
}

/// Something to ask, on a subject that the user may have no right to.
pub(super) struct Question {
    pub(super) subject: String,
    pub(super) body: String,
}

/// What came of a [`Question`].
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) refused: bool,
    /// Whoever answered; more than one where several servers do.
    pub(super) said: Vec<Message>,
}

impl Answer {
    /// Nobody is there who could answer.
    pub(super) fn is_nobody(&self) -> bool {
        let none = |message: &Message| message.status == Some(StatusCode::NO_RESPONDERS);
        !self.said.is_empty() && self.said.iter().all(none)
    }

    /// Somebody answered.
    pub(super) fn is_said(&self) -> bool {
        !self.said.is_empty() && !self.is_nobody()
    }
}

/// A server that serves our account, as it describes itself (`$SYS.REQ.ACCOUNT.PING.STATZ`).
#[derive(Debug, Default, Deserialize)]
struct Served {
    #[serde(default)]
    server: Server,
    #[serde(default)]
    data: Data,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Server {
    id: String,
    name: String,
    cluster: Option<String>,
    domain: Option<String>,
    jetstream: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Data {
    account_statz: Vec<Account>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Account {
    leafnodes: u64,
}

/// What else there is beside the JetStream that `$JS.API` means.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    /// Servers may not be asked for.
    pub(super) refused: bool,
    /// Other domains.
    pub(super) domains: BTreeSet<String>,
    /// Servers with a JetStream of their own that no domain names, so nobody can ask them from here.
    pub(super) nameless: BTreeSet<String>,
}

/// Servers that serve our account.
const SERVERS: &str = "$SYS.REQ.ACCOUNT.PING.STATZ";

impl Nats {
    /// Asks all at once, until each has `enough` answers or is refused, or `patience` is over.
    pub(super) async fn try_all(
        &self,
        questions: &[Question],
        patience: Duration,
        enough: impl Fn(&[Message]) -> bool,
    ) -> Vec<Answer> {
        let mut answers: Vec<Answer> = questions.iter().map(|_| Answer::default()).collect();
        let tried = self.link.tried();
        let inbox = self.client.new_inbox();
        let Ok(mut replies) = self.client.subscribe(format!("{inbox}.*")).await else {
            return answers;
        };
        for (index, question) in questions.iter().enumerate() {
            tried.tries(&question.subject);
            let (subject, body) = (question.subject.clone(), question.body.clone().into());
            let reply = format!("{inbox}.{index}");
            // What cannot be sent is not answered.
            let _sent = self.client.publish_with_reply(subject, reply, body).await;
        }
        let until = Instant::now() + patience;
        loop {
            for (answer, question) in answers.iter_mut().zip(questions) {
                answer.refused = tried.is_refused(&question.subject);
            }
            if answers.iter().all(|answer| answer.refused || enough(&answer.said)) {
                return answers;
            }
            tokio::select! {
                reply = replies.next() => {
                    let Some(reply) = reply else { return answers };
                    let index = reply.subject.rsplit('.').next().and_then(|index| index.parse::<usize>().ok());
                    if let Some(answer) = index.and_then(|index| answers.get_mut(index)) {
                        answer.said.push(reply);
                    }
                }
                () = tried.changed.notified() => {}
                () = tokio::time::sleep_until(until) => return answers,
            }
        }
    }

    /// The same, with one answer each.
    pub(super) async fn try_each(&self, questions: &[Question]) -> Vec<Answer> {
        self.try_all(questions, self.ack_timeout, |said| !said.is_empty()).await
    }

    /// Who else has a JetStream in our account. Behind a leaf connection there may be one of its own, in a domain of its own:
    /// messages cross the connection, questions about streams do not.
    pub(super) async fn elsewhere(&self) -> Elsewhere {
        let own = self.client.server_info();
        let question = Question {
            subject: SERVERS.to_owned(),
            // Else who has no client of our account says nothing.
            body: serde_json::json!({ "include_unused": true }).to_string(),
        };
        let read = |message: &Message| serde_json::from_slice::<Served>(&message.payload).unwrap_or_default();
        // Who is alone says so at once; how many others there are, nobody knows.
        let alone = |message: &Message| {
            let served = read(message);
            let leaves = served.data.account_statz.iter().any(|account| account.leafnodes > 0);
            served.server.id == own.server_id && own.cluster.is_none() && !leaves
        };
        let enough = |said: &[Message]| said.iter().any(|one| one.status.is_some() || alone(one));
        let answers = self.try_all(&[question], PATIENCE.min(self.ack_timeout), enough).await;
        let mut found = Elsewhere::default();
        for answer in answers {
            found.refused = answer.refused;
            for Served { server, .. } in answer.said.iter().map(read) {
                let ours = server.id == own.server_id || (own.cluster.is_some() && server.cluster == own.cluster);
                match server.domain {
                    Some(domain) if Some(&domain) != own.domain.as_ref() => {
                        found.domains.insert(domain);
                    }
                    None if own.domain.is_none() && server.jetstream && !ours => {
                        found.nameless.insert(server.name);
                    }
                    Some(_) | None => {}
                }
            }
        }
        found
    }

    /// Streams of other `domains` that take any of `subjects`: subject, stream, domain.
    pub(super) async fn taken_elsewhere(
        &self,
        domains: &BTreeSet<String>,
        subjects: &[&str],
    ) -> Vec<(String, String, String)> {
        let pairs: Vec<(&str, &String)> = subjects
            .iter()
            .flat_map(|subject| domains.iter().map(|domain| (*subject, domain)))
            .collect();
        let ask = |(subject, domain): &(&str, &String)| Question {
            subject: format!("$JS.{domain}.API.STREAM.NAMES"),
            body: serde_json::json!({ "subject": subject }).to_string(),
        };
        let questions: Vec<Question> = pairs.iter().map(ask).collect();
        let answers = self.try_each(&questions).await;
        let mut taken = Vec::new();
        for ((subject, domain), answer) in pairs.into_iter().zip(answers) {
            for message in &answer.said {
                let names = serde_json::from_slice::<StreamNames<'_>>(&message.payload);
                for stream in names.ok().and_then(|names| names.streams).unwrap_or_default() {
                    taken.push((subject.to_owned(), stream.into_owned(), domain.clone()));
                }
            }
        }
        taken
    }

    /// Which streams the user may administrate: the API's verbs that were not refused, in this JetStream and in `domains`.
    /// Asked of a stream that is not there, and without what a new one would need, so nothing happens.
    pub(super) async fn may_administrate(&self, domains: &BTreeSet<String>) -> Vec<String> {
        let nobody = format!("outboxd-check-{}", uuid::Uuid::new_v4().simple());
        let own = self.client.server_info().domain;
        let domains = domains.iter().cloned().chain(own);
        let prefixes = std::iter::once("$JS.API".to_owned()).chain(domains.map(|domain| format!("$JS.{domain}.API")));
        let verbs = ["DELETE", "PURGE", "MSG.DELETE", "UPDATE", "CREATE"];
        let apis: Vec<String> = prefixes
            .flat_map(|prefix| verbs.map(|verb| format!("{prefix}.STREAM.{verb}")))
            .collect();
        let questions: Vec<Question> = apis
            .iter()
            .map(|api| Question {
                subject: format!("{api}.{nobody}"),
                // Not JSON: refused before anybody looks what it asks for.
                body: "{".to_owned(),
            })
            .collect();
        let answers = self.try_each(&questions).await;
        let allowed = apis.into_iter().zip(answers).filter(|(_, answer)| answer.is_said());
        allowed.map(|(api, _)| api).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_what_was_tried_and_nothing_else_is_kept() {
        let tried = Tried::default();
        tried.tries("$JS.API.INFO");
        let note = |error: &str| Denial::read(error).is_some_and(|denial| tried.note(&denial));
        let refusal = |subject: &str| format!("nats: Permissions Violation for Publish to \"{subject}\"");
        assert!(note(&refusal("$JS.API.INFO")));
        assert!(tried.is_refused("$JS.API.INFO"));
        assert!(!note(&refusal("orders.created")), "somebody meant it");
        assert!(!tried.is_refused("orders.created"));
        assert!(!note("nats: authorization violation"));
        assert!(!tried.is_refused(ELECTIONS));
        assert!(note(&format!(
            "Permissions Violation for Subscription to \"{ELECTIONS}\""
        )));
        assert!(tried.is_refused(ELECTIONS));
    }
}
