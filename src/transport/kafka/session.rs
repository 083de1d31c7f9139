//! One librdkafka producer and the accounting of what it holds.
//!
//! Every message carries its batch and index; the delivery report (on librdkafka's polling thread) puts the answer into
//! the batch, and gives the message's bytes back to the [`Flow`]. What a batch stopped waiting for is handed to its topic
//! as *stuck*; a stuck message leaves its topic's count when librdkafka is done with it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer, ProducerContext, PurgeConfig};
use rdkafka::types::RDKafkaErrorCode as Code;
use tokio::sync::Notify;

use super::health::Health;
use super::topic::Topic;
use crate::lock::lock;
use crate::transport::flow::{Flow, Ticket};

/// What a delivery report said of one message: its index and its code (`NoError`: acknowledged).
pub(super) type Report = (u32, Code);

/// The reports of one batch.
#[derive(Debug)]
pub(super) struct Reports {
    state: Mutex<State>,
    /// How many reports are worth waking the batch for.
    enough: AtomicUsize,
    pub(super) changed: Notify,
    flow: Arc<Flow>,
}

#[derive(Debug, Default)]
struct State {
    done: Vec<Report>,
    /// What the batch stopped waiting for, and its topic.
    stuck: HashMap<u32, Arc<Topic>>,
    /// What no answer is expected of any more: its bytes were given back.
    given_back: HashSet<u32>,
    /// The batch has gone.
    closed: bool,
}

impl Reports {
    /// For a batch whose messages take room in `flow`.
    pub(super) fn new(flow: &Arc<Flow>) -> Self {
        Self {
            state: Mutex::default(),
            enough: AtomicUsize::new(0),
            changed: Notify::new(),
            flow: Arc::clone(flow),
        }
    }

    /// Wakes the batch once `count` reports are there.
    pub(super) fn wake_at(&self, count: usize) {
        self.enough.store(count, Ordering::Release);
    }

    /// Moves the reports into `into`.
    pub(super) fn take(&self, into: &mut Vec<Report>) {
        into.append(&mut self.lock().done);
    }

    /// Others may have the room of what has no report yet.
    pub(super) fn give_back(&self, tickets: impl Iterator<Item = (u32, Ticket)>) {
        let mut state = self.lock();
        let done: HashSet<u32> = state.done.iter().map(|(index, _)| *index).collect();
        for (index, ticket) in tickets {
            if !done.contains(&index) && state.given_back.insert(index) {
                self.flow.forget(ticket);
            }
        }
    }

    /// These are not waited for any more and count as stuck in their topics, unless their reports are there already: all that
    /// are, are returned. Others may have their room.
    pub(super) fn abandon(&self, mut out: HashMap<u32, (Arc<Topic>, Option<Ticket>)>) -> Vec<Report> {
        let mut state = self.lock();
        let done = std::mem::take(&mut state.done);
        for (index, _) in &done {
            out.remove(index);
        }
        for (index, (topic, ticket)) in out {
            topic.add_stuck();
            state.stuck.insert(index, topic);
            if let Some(ticket) = ticket
                && state.given_back.insert(index)
            {
                self.flow.forget(ticket);
            }
        }
        done
    }

    /// Nobody is there to read reports.
    pub(super) fn close(&self) {
        self.lock().closed = true;
    }

    fn report(&self, index: u32, code: Code, ticket: Option<Ticket>) {
        let mut state = self.lock();
        let ticket = ticket.filter(|_| !state.given_back.contains(&index));
        let stuck = if state.stuck.is_empty() {
            None
        } else {
            state.stuck.remove(&index)
        };
        if let Some(topic) = stuck {
            topic.remove_stuck();
        } else if !state.closed {
            state.done.push((index, code));
            if state.done.len() >= self.enough.load(Ordering::Acquire) {
                self.changed.notify_one();
            }
        }
        drop(state);
        // Negative codes are librdkafka's own: no broker has answered.
        match ticket {
            Some(ticket) if code as i32 >= 0 => self.flow.answered(ticket),
            Some(ticket) => self.flow.forget(ticket),
            None => {}
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// What librdkafka carries beside a message: whose it is.
pub(super) struct Carried {
    pub(super) reports: Arc<Reports>,
    pub(super) index: u32,
    /// Its room; `None`: it takes none.
    pub(super) ticket: Option<Ticket>,
}

/// What librdkafka calls back.
pub(super) struct Callbacks {
    health: Arc<Health>,
    dead: AtomicBool,
}

impl ClientContext for Callbacks {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        // What matters arrives in error() as well; the rest is for whoever debugs librdkafka.
        tracing::debug!(transport = self.health.name(), "librdkafka {facility}: {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
        if code == Code::Fatal {
            self.dead.store(true, Ordering::Release);
        }
        self.health.note(code, reason);
    }
}

impl ProducerContext for Callbacks {
    type DeliveryOpaque = Box<Carried>;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: Self::DeliveryOpaque) {
        let Carried { reports, index, ticket } = *opaque;
        let code = match result {
            Ok(_) => {
                self.health.success();
                Code::NoError
            }
            Err((error, _)) => error.rdkafka_error_code().unwrap_or(Code::Unknown),
        };
        reports.report(index, code, ticket);
    }
}

/// How long one poll waits. librdkafka waits whole milliseconds, and rust-rdkafka asks again without waiting while a part of
/// one is left: so it is a little more than whole ones, and nothing is left when librdkafka returns (its own `ThreadedProducer`
/// spends a hundredth of a core on that, idle).
const POLL: Duration = Duration::from_micros(250_050);

/// A new producer takes half a second to get its id from the broker.
const WARM_UP: Duration = Duration::from_secs(1);

/// A producer in use, and the thread that brings its delivery reports.
pub(super) struct Session {
    pub(super) producer: Arc<BaseProducer<Callbacks>>,
    made: Instant,
    ended: Arc<AtomicBool>,
    polling: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("dead", &self.is_dead())
            .finish_non_exhaustive()
    }
}

impl Session {
    pub(super) fn new(config: &ClientConfig, health: Arc<Health>) -> KafkaResult<Self> {
        let callbacks = Callbacks {
            health,
            dead: AtomicBool::new(false),
        };
        let producer = Arc::new(BaseProducer::from_config_and_context(config, callbacks)?);
        let ended = Arc::new(AtomicBool::new(false));
        let polling = {
            let (producer, ended) = (Arc::clone(&producer), Arc::clone(&ended));
            let poll = move || {
                while !ended.load(Ordering::Acquire) {
                    producer.poll(POLL);
                }
            };
            let thread = std::thread::Builder::new().name("kafka-reports".to_owned());
            thread
                .spawn(poll)
                .map_err(|error| KafkaError::ClientCreation(format!("no thread for delivery reports: {error}")))?
        };
        Ok(Self {
            producer,
            made: Instant::now(),
            ended,
            polling: Some(polling),
        })
    }

    /// A fatal error: it will never send again.
    pub(super) fn is_dead(&self) -> bool {
        self.producer.context().dead.load(Ordering::Acquire)
    }

    /// It has its id from the broker, if one is there.
    pub(super) fn is_warm(&self) -> bool {
        self.made.elapsed() >= WARM_UP
    }

    /// The polling thread ends with its next poll. What is under way then is not reported.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Drops what it holds, sent or not; reports follow.
    pub(super) fn purge(&self) {
        self.producer.purge(PurgeConfig::default().queue().inflight());
    }
}

impl Drop for Session {
    /// Waits for the thread, [`POLL`] at most.
    fn drop(&mut self) {
        self.end();
        if let Some(polling) = self.polling.take()
            && polling.join().is_err()
        {
            tracing::error!("the thread of kafka's delivery reports panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Room that is given back twice would make the flow forget what is on its way.
    #[tokio::test(start_paused = true)]
    async fn room_is_given_back_once_whoever_comes_first() {
        let flow = Arc::new(Flow::new(Duration::from_secs(1)));
        let reports = Reports::new(&flow);
        let topic = Arc::new(Topic::default());
        let tickets: Vec<Ticket> = (0..4).map(|_| flow.try_take(1_000).unwrap()).collect();
        let all = |range: std::ops::Range<u32>| range.map(|index| (index, tickets[index as usize]));
        reports.report(0, Code::NoError, Some(tickets[0]));
        reports.give_back(all(0..2));
        reports.report(1, Code::NoError, Some(tickets[1]));
        let out = all(2..4).map(|(index, ticket)| (index, (Arc::clone(&topic), Some(ticket))));
        assert_eq!(
            reports.abandon(out.collect()),
            [(0, Code::NoError), (1, Code::NoError)],
            "what came in time"
        );
        assert!(topic.stuck().is_some());
        reports.close();
        for index in 2..4 {
            reports.give_back(all(index..index + 1));
            reports.report(index, Code::MessageTimedOut, Some(tickets[index as usize]));
        }
        assert_eq!(topic.stuck(), None, "librdkafka is done with both");
        assert!(flow.try_take(usize::MAX / 2).is_some(), "nothing is on its way");
    }
}
