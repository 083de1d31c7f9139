//! What may keep a write from its effect: the history beside it, triggers that take it back without a trace, who holds a lock.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::PostgresStore;
use super::batch::{Batch, Via};
use crate::lock::lock;
use crate::store::postgres::link::about::{About, database_error};
use crate::store::postgres::link::answer::unreadable;
use crate::store::postgres::link::blocked::HISTORY;
use crate::store::postgres::link::database::Role;
use crate::store::{FailedAttempt, StoreError};

/// How often it is looked for whatever may swallow a write without a trace.
const SUSPICION_INTERVAL: Duration = Duration::from_secs(5);
/// How often a lost history is said.
const SAY_INTERVAL: Duration = Duration::from_secs(30);

/// What is known of triggers that may take a write back without a trace, and what was said.
#[derive(Default)]
pub(super) struct Suspicion(Mutex<Noted>);

#[derive(Default)]
struct Noted {
    looked: Option<Instant>,
    /// A trigger runs when a row is written: it may put the old row in its place, before or afterwards, and nothing tells.
    has_triggers: bool,
    said: Option<Instant>,
    /// Tries of rows that were stuck.
    tries: u32,
    /// When each was met last.
    met: [Option<Instant>; 5],
    /// Statements of so many rows took too long lately.
    too_many: Option<usize>,
}

impl Suspicion {
    fn note<T>(&self, change: impl FnOnce(&mut Noted) -> T) -> T {
        change(&mut lock(&self.0))
    }
}

/// A row that took too long is given less time when it is tried again, except now and then.
const PATIENT_EVERY: u32 = 32;

/// Rows that come in numbers: where one was met, the next statements expect more.
#[derive(Clone, Copy, Debug)]
pub(super) enum Met {
    /// They refuse to be written.
    Refusals,
    /// Another transaction has locked them.
    Locks,
    /// Writing them needs a lock that another transaction has.
    LocksElsewhere,
    /// Writing them takes long.
    Slow,
    /// Somebody has locked their history.
    HistoryLocked,
}

impl Met {
    /// How long.
    fn expected_for(self) -> Duration {
        match self {
            Self::Refusals | Self::Locks | Self::LocksElsewhere => Duration::from_secs(2),
            Self::Slow | Self::HistoryLocked => Duration::from_secs(10),
        }
    }
}

impl PostgresStore {
    /// A statement of healthy rows held such.
    pub(super) fn met(&self, what: Met) {
        self.suspicion
            .note(|noted| noted.met[what as usize] = Some(Instant::now()));
    }

    /// Whether that was just now.
    pub(super) fn meets(&self, what: Met) -> bool {
        let met = self.suspicion.note(|noted| noted.met[what as usize]);
        met.is_some_and(|met| met.elapsed() < what.expected_for())
    }

    /// Slow rows were met, and statements of so many take too long.
    pub(super) fn met_slow(&self, too_many: usize) {
        self.met(Met::Slow);
        self.suspicion.note(|noted| noted.too_many = Some(too_many));
    }

    /// How many rows were too many for one statement, just now.
    pub(super) fn too_many(&self) -> usize {
        let known = self.suspicion.note(|noted| noted.too_many);
        known.filter(|_| self.meets(Met::Slow)).unwrap_or(usize::MAX)
    }

    /// Whether this try of stuck rows may take as long as any statement.
    pub(super) fn is_patient(&self) -> bool {
        self.suspicion.note(|noted| {
            noted.tries = noted.tries.wrapping_add(1);
            noted.tries % PATIENT_EVERY == 0
        })
    }

    /// Failures with their history; without it where that is what fails: the message matters more.
    pub(super) async fn write_failed(&self, via: &Via<'_>, failures: &[&FailedAttempt]) -> Result<usize, StoreError> {
        let (whole, bare) = (&self.sql.fail, &self.sql.fail_bare);
        if self.meets(Met::HistoryLocked) {
            return self.write_failures(via, failures, bare).await;
        }
        let error = match self.write_failures(via, failures, whole).await {
            Ok(written) => return Ok(written),
            Err(error) => error,
        };
        let Some(known) = database_error(&error) else {
            return Err(error);
        };
        let is_locked = known.lock().is_some_and(|lock| lock.object.ends_with(HISTORY));
        if is_locked {
            self.met(Met::HistoryLocked);
        }
        let may_be_the_history = match known.about() {
            About::Lock if is_locked => true,
            About::Row | About::Role | About::Schema => true,
            About::Lock | About::Duration => failures.len() == 1,
            About::Connection | About::Server => {
                known.is_of_a_function() || known.code().is_some_and(|code| !code.code().starts_with("57"))
            }
        };
        if !may_be_the_history {
            return Err(error);
        }
        let written = self.write_failures(via, failures, bare).await?;
        let says = self.suspicion.note(|noted| {
            let now = Instant::now();
            let due = noted.said.is_none_or(|said| now.duration_since(said) >= SAY_INTERVAL);
            noted.said = if due { Some(now) } else { noted.said };
            due
        });
        if says {
            tracing::warn!(
                error = %known,
                rows = written,
                "failed attempts are counted, but their history cannot be written to outboxd_attempts"
            );
        }
        Ok(written)
    }

    /// Whether a trigger may take a write back without a trace: then each is looked at again. A delete cannot be taken back so.
    pub(super) async fn is_watchful(&self, batch: &Batch<'_>) -> Result<bool, StoreError> {
        if matches!(batch, Batch::Marks(_)) && self.options.delete_relayed {
            return Ok(false);
        }
        let known = self.suspicion.note(|noted| {
            let looked = noted.looked.filter(|looked| looked.elapsed() < SUSPICION_INTERVAL);
            looked.map(|_lately| noted.has_triggers)
        });
        if let Some(known) = known {
            return Ok(known);
        }
        let has_triggers = self.swallowers(batch).await?.iter().any(|(_, is_trigger)| *is_trigger);
        self.suspicion.note(|noted| {
            noted.looked = Some(Instant::now());
            noted.has_triggers = has_triggers;
        });
        Ok(has_triggers)
    }

    /// What may swallow a write, and whether it is a trigger.
    pub(super) async fn swallowers(&self, batch: &Batch<'_>) -> Result<Vec<(String, bool)>, StoreError> {
        let deletes = matches!(batch, Batch::Marks(_)) && self.options.delete_relayed;
        let rows = self
            .database
            .query(Role::Settle, &self.sql.swallowers, &[&deletes])
            .await?;
        let read = |row: &tokio_postgres::Row| Ok((row.try_get("name")?, row.try_get("is_trigger")?));
        let names: Result<_, tokio_postgres::Error> = rows.iter().map(read).collect();
        names.map_err(|error| unreadable(&error))
    }
}
