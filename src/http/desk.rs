//! The database, as far as people may ask for it over HTTP.
//!
//! One question at a time, none longer than [`LIMIT`], on the connections the daemon has anyway: whoever opens the
//! dashboard in a hundred windows costs the application's database what one window costs. Answers that hold no contents are
//! kept for [`FRESH`] and given to everyone who asks the same. What changes something waits for its turn too, apart from
//! the questions, and throws the kept answers away.
//!
//! While the database is known to be away nobody asks it: the answer is what the daemon knows of the outage.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, timeout};

use super::answer::Refusal;
use crate::lock::lock;
use crate::store::StoreError;
use crate::store::postgres::desk::rules::Rule;
use crate::store::postgres::link::about::{DatabaseError, database_error};
use crate::store::postgres::link::classify::no_answer;
use crate::store::postgres::link::database::Database;
use crate::store::postgres::link::sql::Names;
use crate::telemetry::Telemetry;

/// A question takes no longer, waiting for its turn included: with the time it takes to cancel it, two seconds.
pub(super) const LIMIT: Duration = Duration::from_millis(1_600);
/// A change takes no longer. Requests end after ten seconds.
const CHANGE_LIMIT: Duration = Duration::from_secs(8);
/// For how long an answer is given again.
const FRESH: Duration = Duration::from_secs(2);
/// Questions to instances at a time.
const INQUIRIES: usize = 4;
/// Answers kept at most.
const KEPT: usize = 32;

/// What is needed to ask the database.
#[derive(Clone)]
pub struct Outbox {
    /// The daemon's connections.
    pub database: Database,
    /// Its tables.
    pub names: Names,
    /// The same, once the database has said what its table is.
    pub recognized: watch::Receiver<Names>,
    /// This instance's name.
    pub instance: String,
    /// What the route of a topic says.
    pub rule_of: Arc<dyn Fn(&str) -> Rule + Send + Sync>,
    /// Whether some route is paused.
    pub any_paused: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox")
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

type Answers = BTreeMap<String, (Instant, Arc<str>)>;

/// See the module.
#[derive(Debug)]
pub(super) struct Desk {
    outbox: Outbox,
    telemetry: Telemetry,
    questions: Semaphore,
    inquiries: Semaphore,
    changes: Semaphore,
    answers: Mutex<Answers>,
}

impl Desk {
    pub(super) fn new(outbox: Outbox, telemetry: Telemetry) -> Self {
        Self {
            outbox,
            telemetry,
            questions: Semaphore::new(1),
            inquiries: Semaphore::new(INQUIRIES),
            changes: Semaphore::new(1),
            answers: Mutex::default(),
        }
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        lock(&self.answers)
    }

    /// Asks `question` when it is its turn.
    pub(super) async fn ask<T, F>(&self, question: impl FnOnce(Outbox) -> F) -> Result<T, Refusal>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let started = Instant::now();
        self.database_is_there()?;
        let _turn = turn(&self.questions, LIMIT).await?;
        let outbox = self.within(LIMIT.saturating_sub(started.elapsed()));
        question(outbox).await.map_err(|error| self.refusal(&error))
    }

    /// As [`Self::ask`], for what an instance is asked about: a few at a time, and nobody else waits meanwhile. The question has
    /// all but `wait` of [`LIMIT`].
    pub(super) async fn inquire<T, F>(&self, wait: Duration, question: impl FnOnce(Outbox) -> F) -> Result<T, Refusal>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        self.database_is_there()?;
        let _turn = turn(&self.inquiries, wait).await?;
        let outbox = self.within(LIMIT.saturating_sub(wait));
        question(outbox).await.map_err(|error| self.refusal(&error))
    }

    /// As [`Self::ask`], with the answer to the question called `name`, as JSON, kept for a while.
    pub(super) async fn ask_once<F>(
        &self,
        name: &str,
        limit: Duration,
        question: impl FnOnce(Outbox) -> F,
    ) -> Result<Arc<str>, Refusal>
    where
        F: Future<Output = Result<String, StoreError>>,
    {
        if let Some(answer) = self.fresh(name) {
            return Ok(answer);
        }
        let started = Instant::now();
        self.database_is_there()?;
        let _turn = turn(&self.questions, limit).await?;
        // Whoever was before us may have asked the same.
        if let Some(answer) = self.fresh(name) {
            return Ok(answer);
        }
        let outbox = self.within(limit.saturating_sub(started.elapsed()));
        let answer: Arc<str> = question(outbox).await.map_err(|error| self.refusal(&error))?.into();
        let mut answers = self.answers();
        answers.insert(name.to_owned(), (Instant::now(), Arc::clone(&answer)));
        if answers.len() > KEPT {
            answers.retain(|_, (at, _)| at.elapsed() < FRESH);
        }
        if answers.len() > KEPT {
            answers.clear();
        }
        Ok(answer)
    }

    fn fresh(&self, name: &str) -> Option<Arc<str>> {
        let answers = self.answers();
        let (at, answer) = answers.get(name)?;
        (at.elapsed() < FRESH).then(|| Arc::clone(answer))
    }

    /// The last answer to `name`, however old.
    pub(super) fn last(&self, name: &str) -> Option<Arc<str>> {
        self.answers().get(name).map(|(_, answer)| Arc::clone(answer))
    }

    /// Does `change` when no other change is under way.
    pub(super) async fn change<T, F>(&self, change: impl FnOnce(Outbox) -> F) -> Result<T, Refusal>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        self.database_is_there()?;
        let _turn = turn(&self.changes, LIMIT).await?;
        let changed = change(self.within(CHANGE_LIMIT)).await;
        self.answers().clear();
        changed.map_err(|error| self.refusal(&error))
    }

    /// The outbox as it is in the database, as far as that is known.
    pub(super) fn names(&self) -> Names {
        self.outbox.recognized.borrow().clone()
    }

    fn within(&self, limit: Duration) -> Outbox {
        Outbox {
            database: self.outbox.database.within(limit),
            names: self.names(),
            ..self.outbox.clone()
        }
    }

    /// Refuses at once while the engine waits for the database.
    fn database_is_there(&self) -> Result<(), Refusal> {
        match self.telemetry.health.facts().database_error {
            Some(away) => Err(Refusal::unavailable(format!(
                "database unavailable: {}",
                away.sentence(Instant::now())
            ))),
            None => Ok(()),
        }
    }

    fn refusal(&self, error: &StoreError) -> Refusal {
        let (facts, now) = (self.telemetry.health.facts(), Instant::now());
        if let Some(lock) = database_error(error).and_then(DatabaseError::lock) {
            return Refusal::unavailable(lock.to_string());
        }
        if let Some(locked) = facts.locked(now).filter(|_| no_answer(error)) {
            return Refusal::unavailable(locked.sentence(now));
        }
        // The engine may have found out meanwhile, and knows since when.
        match self.database_is_there() {
            Err(refusal) => refusal,
            Ok(()) => Refusal::unavailable(crate::telemetry::health::chain(error)),
        }
    }
}

async fn turn(gate: &Semaphore, limit: Duration) -> Result<SemaphorePermit<'_>, Refusal> {
    match timeout(limit, gate.acquire()).await {
        Ok(permit) => Ok(permit.expect("the gate is never closed")),
        Err(_elapsed) => Err(Refusal::unavailable(
            "database busy: another request is still being answered; try again in a moment",
        )),
    }
}
