//! What has no report though it is time.
//!
//! While librdkafka holds a message, a copy sent later would be a duplicate, and nothing is wrong with the message. So it is
//! waited for as long as there is a broker that may answer. A message's time begins with its turn, when nothing that was sent
//! before it is unanswered any more. Half of `ack_timeout` later the brokers are asked about its topic. Where they answer that
//! it takes messages they are slow, or throttle (a quota silences a connection for as long as it takes until its average is
//! right, and nothing else): its time begins anew. Where they say that it does not, or nothing at all, and `ack_timeout` has
//! passed since its turn, it is answered as unavailable, and is *stuck* in its topic until librdkafka is done with it.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::{Flight, Handed};
use crate::delivery::{Failure, Outcome};
use crate::transport::kafka::Kafka;
use crate::transport::kafka::topic::Topic;

/// What was said of topics that messages wait for.
pub(super) type Verdicts = Vec<(Arc<Topic>, Result<(), Failure>)>;

/// A question on its way.
pub(super) type Asking<'a> = Pin<Box<dyn Future<Output = Verdicts> + Send + 'a>>;

/// What is believed of topics whose messages have no report.
pub(super) struct Doubts {
    /// When to look at what is out.
    pub(super) look_at: Instant,
    topics: HashMap<usize, Doubt>,
}

#[derive(Clone, Copy, Default)]
struct Doubt {
    /// Its brokers were known to be there.
    alive: Option<Instant>,
    /// Not to be asked about before.
    ask_at: Option<Instant>,
}

impl Doubts {
    /// For a batch that begins now.
    pub(super) fn new(now: Instant, kafka: &Kafka) -> Self {
        Self {
            look_at: now + kafka.moment(),
            topics: HashMap::new(),
        }
    }

    fn of(&self, topic: &Arc<Topic>) -> Doubt {
        self.topics.get(&key(topic)).copied().unwrap_or_default()
    }
}

/// A topic by where it is in memory: the batch keeps it there.
fn key(topic: &Arc<Topic>) -> usize {
    Arc::as_ptr(topic) as usize
}

impl<'a> Flight<'a> {
    /// Looks at what is out: what to ask about it, if anything.
    pub(super) fn look(&mut self, now: Instant) -> Option<Asking<'a>> {
        let out = &self.out;
        self.handed.retain(|handed| out[handed.index as usize]);
        self.share_room(now);
        let (kafka, down) = (self.kafka, self.kafka.health.outage());
        let patience = if down.is_some() {
            kafka.ack_timeout
        } else {
            kafka.ack_timeout / 2
        };
        let (mut due, mut seen) = (Vec::new(), HashSet::new());
        self.doubts.look_at = now + kafka.moment();
        for handed in &self.handed {
            let topic = &self.topics[handed.index as usize];
            // Turns come in the order of handing over: the first of a topic is the first to be overdue.
            if !seen.insert(key(topic)) {
                continue;
            }
            let at = (self.since(handed) + patience).max(self.doubts.of(topic).ask_at.unwrap_or(now));
            if at <= now {
                due.push((
                    Arc::clone(&self.batch[handed.index as usize].destination),
                    Arc::clone(topic),
                ));
            } else {
                self.doubts.look_at = self.doubts.look_at.min(at);
            }
        }
        if let Some(failure) = down {
            due.iter().for_each(|(_, topic)| self.give_up(topic, &failure));
            return None;
        }
        let question = move |(name, topic): (Arc<str>, Arc<Topic>)| async move {
            let verdict = kafka.takes(&name, &topic).await;
            (topic, verdict)
        };
        (!due.is_empty()).then(|| Box::pin(join_all(due.into_iter().map(question))) as Asking<'a>)
    }

    /// Does what the answers ask for.
    pub(super) fn judge(&mut self, verdicts: Verdicts) {
        let now = Instant::now();
        self.doubts.look_at = now;
        for (topic, verdict) in verdicts {
            let Some(first) = self.handed.iter().find(|handed| self.waits_for(handed, &topic)) else {
                continue;
            };
            let (since, deadline) = (self.since(first), self.since(first) + self.kafka.ack_timeout);
            // By then librdkafka has said something of each message; this is for the case that it has not.
            let end = first.at + self.kafka.message_timeout + self.kafka.ack_timeout;
            let name = &self.batch[first.index as usize].destination;
            let doubt = match verdict {
                Ok(()) if now < end => {
                    self.kafka.say_slow(name, now - since);
                    Doubt {
                        alive: Some(now),
                        ask_at: None,
                    }
                }
                Ok(()) => {
                    let failure = self.kafka.silence("librdkafka says nothing of it");
                    self.give_up(&topic, &failure);
                    continue;
                }
                Err(failure) if now >= deadline => {
                    self.give_up(&topic, &self.kafka.silence(&failure.error));
                    continue;
                }
                Err(_) => Doubt {
                    ask_at: Some(deadline),
                    ..self.doubts.of(&topic)
                },
            };
            self.doubts.topics.insert(key(&topic), doubt);
        }
    }

    /// From when on its report can be expected.
    fn since(&self, handed: &Handed) -> Instant {
        let turn = handed.ticket.map_or(handed.at, |ticket| self.kafka.flow.turn(ticket));
        let alive = self.doubts.of(&self.topics[handed.index as usize]).alive;
        alive.map_or(turn, |alive| alive.max(turn))
    }

    fn waits_for(&self, handed: &Handed, topic: &Arc<Topic>) -> bool {
        self.out[handed.index as usize] && Arc::ptr_eq(&self.topics[handed.index as usize], topic)
    }

    /// What one broker of several keeps waiting is not to fill the room of the others.
    fn share_room(&self, now: Instant) {
        let (flow, late) = (&self.kafka.flow, 2 * self.kafka.moment());
        let Some(last) = flow.last_answer() else { return };
        let passed = self.handed.iter().filter_map(|handed| {
            let (ticket, turn) = handed.ticket.map(|ticket| (ticket, flow.turn(ticket)))?;
            (turn + late < now && last > turn).then_some((handed.index, ticket))
        });
        self.reports.give_back(passed);
    }

    /// What librdkafka still holds for `topic` is stuck, and nobody knows whether it arrived.
    fn give_up(&mut self, topic: &Arc<Topic>, failure: &Failure) {
        let waiting = self.handed.iter().filter(|handed| self.waits_for(handed, topic));
        let stuck = waiting.map(|handed| (handed.index, (Arc::clone(topic), handed.ticket)));
        for (index, code) in self.reports.abandon(stuck.collect()) {
            self.receive(index, code);
        }
        let left = self.handed.iter().filter(|handed| self.waits_for(handed, topic));
        let left: Vec<u32> = left.map(|handed| handed.index).collect();
        for index in left {
            self.out[index as usize] = false;
            self.out_count -= 1;
            self.ledger.answer_alone(index, Outcome::Refused(failure.clone()));
            self.withhold_behind(index);
        }
        // A record that was refused with others may stand behind one of these in its key.
        let topics = &self.topics;
        let theirs = self
            .suspects
            .extract_if(.., |index| Arc::ptr_eq(&topics[*index as usize], topic));
        for index in theirs {
            self.ledger.answer_alone(index, Outcome::Withheld);
        }
    }
}
