//! All topics met so far, and how what is known of them is learnt.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::ConfigResource;
use rdkafka::error::KafkaError;
use rdkafka::metadata::Metadata;
use tokio::time::timeout_at;

use super::creation::Creation;
use super::questions::Questions;
use super::topic::{Named, REFRESH, REFRESH_PROBED, Topic};
use crate::lock::lock;

/// Topics remembered; destination templates can make any number.
const REMEMBERED: usize = 10_000;
/// Topics in one question about settings: the answer is some kilobytes for each.
const ASKED_AT_ONCE: usize = 200;

/// See the module.
pub(super) struct Topics {
    known: Mutex<HashMap<Arc<str>, Arc<Topic>>>,
    learning: tokio::sync::Mutex<()>,
    /// To be asked about with the next question.
    wanted: Mutex<HashMap<Arc<str>, Arc<Topic>>>,
    questions: Questions,
    creation: Creation,
}

impl std::fmt::Debug for Topics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Topics").finish_non_exhaustive()
    }
}

impl Topics {
    /// `config`: the producer's settings; `patience`: milliseconds within which a broker that lives answers.
    pub(super) fn new(config: &ClientConfig, patience: u128) -> Self {
        Self {
            known: Mutex::default(),
            learning: tokio::sync::Mutex::default(),
            wanted: Mutex::default(),
            questions: Questions::new(config, patience),
            creation: Creation::default(),
        }
    }

    /// What the brokers say of `topic`, or of all topics, within `patience`.
    pub(super) async fn metadata(&self, topic: Option<&str>, patience: Duration) -> Result<Metadata, KafkaError> {
        self.questions.metadata(topic, patience).await
    }

    /// Whether it is known that no broker makes a topic.
    pub(super) fn are_never_made(&self) -> bool {
        self.creation.never()
    }

    /// The topic called `name`.
    pub(super) fn get(&self, name: &Arc<str>) -> Arc<Topic> {
        let mut known = lock(&self.known);
        if let Some(topic) = known.get(name) {
            return Arc::clone(topic);
        }
        if known.len() >= REMEMBERED {
            known.retain(|_, topic| topic.has_stuck() || Arc::strong_count(topic) > 1);
        }
        Arc::clone(known.entry(Arc::clone(name)).or_default())
    }

    /// Reads the limits of `topics` unless they are known; after `patience` it goes on without.
    pub(super) async fn learn(&self, topics: &[Named<'_>], patience: Duration) {
        self.learn_within(topics, patience, REFRESH).await;
    }

    /// The same, for somebody who looks because something is wrong: an operator may have changed them just now.
    pub(super) async fn learn_anew(&self, topics: &[Named<'_>], patience: Duration) {
        self.learn_within(topics, patience, REFRESH_PROBED).await;
    }

    /// One question is asked at a time, about all that anybody wants to know by then: many batches may meet new topics at once.
    async fn learn_within(&self, topics: &[Named<'_>], patience: Duration, age_max: Duration) {
        let began = Instant::now();
        let is_stale = |topic: &Topic| !topic.is_fresh(age_max) && !topic.is_read_since(began);
        let stale = || topics.iter().filter(|(_, topic)| is_stale(topic));
        let want = || {
            let mut wanted = lock(&self.wanted);
            wanted.extend(stale().map(|(name, topic)| (Arc::clone(name), Arc::clone(topic))));
        };
        if stale().next().is_none() {
            return;
        }
        want();
        let until = tokio::time::Instant::now() + patience;
        while stale().next().is_some() {
            let Ok(_turn) = timeout_at(until, self.learning.lock()).await else {
                return;
            };
            if stale().next().is_none() {
                return;
            }
            // Again, should whoever asked about them have been dropped meanwhile.
            want();
            let asked = self.take_wanted();
            let names: Vec<&str> = asked.iter().map(|(name, _)| &**name).collect();
            let answers = timeout_at(until, self.questions.describe(&names, patience)).await;
            // In the order of the questions: librdkafka sees to that.
            let mut answers = answers.ok().flatten().unwrap_or_default().into_iter();
            for (_, topic) in &asked {
                topic.note(answers.next());
            }
            let (known, silent): (Vec<_>, Vec<_>) = asked.into_iter().partition(|(_, topic)| topic.has_settings());
            known.iter().for_each(|(_, topic)| topic.exists());
            if !silent.is_empty() {
                self.creation.learn_missing(&self.questions, &silent, until).await;
            }
        }
    }

    fn take_wanted(&self) -> Vec<(Arc<str>, Arc<Topic>)> {
        let mut wanted = lock(&self.wanted);
        let names: Vec<Arc<str>> = wanted.keys().take(ASKED_AT_ONCE).cloned().collect();
        names
            .into_iter()
            .filter_map(|name| wanted.remove_entry(&name))
            .collect()
    }

    /// All settings of the topic called `name`; `None` where they cannot be had.
    pub(super) async fn settings(&self, name: &str, patience: Duration) -> Option<ConfigResource> {
        self.questions
            .describe(&[name], patience)
            .await?
            .into_iter()
            .next()?
            .ok()
    }
}
