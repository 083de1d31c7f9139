//! One librdkafka producer and the accounting of what it holds.
//!
//! Every message carries its batch and index; the delivery report (on librdkafka's polling thread) puts the answer into
//! the batch. A batch that stopped waiting (its deadline passed) hands what is still in librdkafka to its topics as
//! *stuck*; a stuck message leaves its topic's count when librdkafka is done with it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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
use super::topics::Topic;

/// What a delivery report said of one message: its index and its code (`NoError`: acknowledged).
pub(super) type Report = (u32, Code);

/// The reports of one batch.
#[derive(Debug, Default)]
pub(super) struct Reports {
    state: Mutex<State>,
    /// How many reports are worth waking the batch for.
    enough: AtomicUsize,
    pub(super) changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    done: Vec<Report>,
    /// Set when the batch stopped waiting: what is still out, by topic.
    stuck: Option<HashMap<u32, Arc<Topic>>>,
}

impl Reports {
    /// Wakes the batch once `count` reports are there.
    pub(super) fn wake_at(&self, count: usize) {
        self.enough.store(count, Ordering::Release);
    }

    /// Moves the reports into `into`.
    pub(super) fn take(&self, into: &mut Vec<Report>) {
        into.append(&mut self.lock().done);
    }

    /// Nobody waits any more: what is still out counts as stuck in its topic. Returns reports that came in time.
    pub(super) fn abandon(&self, out: HashMap<u32, Arc<Topic>>) -> Vec<Report> {
        let mut state = self.lock();
        let done = std::mem::take(&mut state.done);
        let mut out = out;
        for (index, _) in &done {
            out.remove(index);
        }
        for topic in out.values() {
            topic.add_stuck();
        }
        // Called again when the batch is dropped: what it handed over before stays.
        state.stuck.get_or_insert_default().extend(out);
        done
    }

    fn report(&self, index: u32, code: Code) {
        let mut state = self.lock();
        if let Some(stuck) = &mut state.stuck {
            if let Some(topic) = stuck.remove(&index) {
                topic.remove_stuck();
            }
            return;
        }
        state.done.push((index, code));
        if state.done.len() >= self.enough.load(Ordering::Acquire) {
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    type DeliveryOpaque = Box<(Arc<Reports>, u32)>;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: Self::DeliveryOpaque) {
        let (reports, index) = *opaque;
        let code = match result {
            Ok(_) => {
                self.health.success();
                Code::NoError
            }
            Err((error, _)) => error.rdkafka_error_code().unwrap_or(Code::Unknown),
        };
        reports.report(index, code);
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

    /// Waits until nothing is held, at most `patience`. Blocks.
    pub(super) fn flush(&self, patience: Duration) -> KafkaResult<()> {
        self.producer.flush(patience)
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
