//! Where a producer is kept, and how it ends.

use std::sync::{Arc, Mutex};

use rdkafka::ClientConfig;
use tokio::sync::oneshot;

use super::health::Health;
use super::session::Session;
use crate::delivery::{Failure, FailureClass};
use crate::lock::lock;

/// A producer that is made when first needed and replaced when dead.
#[derive(Debug)]
pub(super) struct Slot {
    config: ClientConfig,
    health: Arc<Health>,
    session: Mutex<Option<Arc<Session>>>,
}

impl Slot {
    /// Empty: `config` is for the producer that comes in.
    pub(super) fn new(config: ClientConfig, health: &Arc<Health>) -> Self {
        Self {
            config,
            health: Arc::clone(health),
            session: Mutex::default(),
        }
    }

    /// The producer in use; a new one where there is none, or a dead one.
    pub(super) fn get(&self) -> Result<Arc<Session>, Failure> {
        let mut slot = lock(&self.session);
        if let Some(session) = &*slot
            && !session.is_dead()
        {
            return Ok(Arc::clone(session));
        }
        let session = Session::new(&self.config, Arc::clone(&self.health))
            .map(Arc::new)
            .map_err(|error| {
                Failure::new(
                    FailureClass::Unavailable,
                    "CLIENT",
                    format!("cannot make a kafka producer: {error}"),
                )
            })?;
        retire(slot.replace(Arc::clone(&session)).into_iter().collect());
        Ok(session)
    }

    /// Puts the first producer in.
    pub(super) fn put(&self, session: Session) {
        *lock(&self.session) = Some(Arc::new(session));
    }

    /// Whether it may be used without waiting; makes it where there is none.
    pub(super) fn is_warm(&self) -> bool {
        self.get().is_ok_and(|session| session.is_warm())
    }

    /// Takes the producer out: the next one to ask gets another.
    pub(super) fn take(&self) -> Option<Arc<Session>> {
        lock(&self.session).take()
    }
}

/// Purges producers and ends them on a thread of its own: librdkafka joins its threads, which must not hold anybody up. Whoever
/// wants to know when it is done waits for the answer.
pub(super) fn retire(sessions: Vec<Arc<Session>>) -> oneshot::Receiver<()> {
    let (done, ended) = oneshot::channel();
    for session in &sessions {
        session.purge();
    }
    let end = move || {
        // Their reports follow, to whom they concern; then the threads that bring them end, all at once.
        sessions.iter().for_each(|session| session.end());
        drop(sessions);
        drop(done);
    };
    if let Err(error) = std::thread::Builder::new().name("kafka-retire".to_owned()).spawn(end) {
        tracing::warn!(%error, "no thread to end kafka producers: they were ended in place");
    }
    ended
}
