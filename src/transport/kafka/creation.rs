//! Topics that are not there, and whether brokers make one that somebody sends to. Where they do not, a message to it is refused
//! at once: librdkafka would wait for it, and the rest of its batch with it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::timeout_at;

use super::questions::Questions;
use super::topic::Topic;

/// The brokers are asked again whether they make topics.
const REFRESH: Duration = Duration::from_secs(60);
/// A list of all topics serves those who ask within so long: it may be large.
const LISTED_FOR: Duration = Duration::from_secs(1);

/// What the brokers say of it, as last asked; nothing: they may.
#[derive(Debug, Default)]
pub(super) struct Creation {
    never: AtomicBool,
    seen: tokio::sync::Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    listed: Option<List>,
    asked: Option<Instant>,
}

#[derive(Debug)]
struct List {
    at: Instant,
    topics: HashSet<Box<str>>,
    brokers: Vec<i32>,
}

impl Creation {
    /// Whether it is known that no broker makes a topic.
    pub(super) fn never(&self) -> bool {
        self.never.load(Ordering::Relaxed)
    }

    /// Finds those of `topics` that the brokers do not show. Whoever may write to a topic is shown it. Where brokers make topics,
    /// or do not say whether they do, nothing follows from it, and nobody asks for a list that may be long.
    pub(super) async fn learn_missing(
        &self,
        questions: &Questions,
        topics: &[(Arc<str>, Arc<Topic>)],
        until: tokio::time::Instant,
    ) {
        let mut seen = self.seen.lock().await;
        let asked_lately = seen.asked.is_some_and(|at| at.elapsed() < REFRESH);
        if asked_lately && !self.never() {
            return;
        }
        let patience = || until.saturating_duration_since(tokio::time::Instant::now());
        if seen.listed.as_ref().is_none_or(|list| list.at.elapsed() >= LISTED_FOR) {
            seen.listed = None;
            // Those who get no answer know nothing.
            let Ok(metadata) = questions.metadata(None, patience()).await else {
                return;
            };
            seen.listed = Some(List {
                at: Instant::now(),
                topics: metadata.topics().iter().map(|topic| topic.name().into()).collect(),
                brokers: metadata.brokers().iter().map(|broker| broker.id()).collect(),
            });
        }
        let Some(list) = &seen.listed else { return };
        for (name, topic) in topics {
            if list.topics.contains(&**name) {
                topic.exists();
            } else {
                topic.is_gone();
            }
        }
        if !asked_lately {
            let answers = list
                .brokers
                .iter()
                .map(|broker| questions.makes_topics(*broker, patience()));
            let answers = timeout_at(until, join_all(answers)).await.unwrap_or_default();
            let never = !answers.is_empty() && answers.into_iter().all(|makes| makes == Some(false));
            self.never.store(never, Ordering::Relaxed);
            seen.asked = Some(Instant::now());
        }
    }
}
