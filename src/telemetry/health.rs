//! Health: the facts the engine reports, and what follows from them for `/readyz`, systemd's watchdog and its status
//! line.
//!
//! ```text
//!  engine --facts--> Health --readiness--> /readyz      should traffic or a person rely on this instance now?
//!                           --watchdog_ok-> WATCHDOG=1   would a restart help?
//!                           --status_line-> STATUS=      what is it doing?
//! ```
//!
//! An outage fails readiness and never the watchdog: restarting the relay mends no broker. The watchdog fails when rows
//! are due, nothing moves and nothing explains it, or when the engine has gone silent. Facts are cheap to report (one
//! short lock); time is tokio's monotonic clock, ages of rows are the database's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

pub(super) use super::facts::ago;
use super::facts::seconds;
pub use super::facts::{Away, Facts, Locked, Paused, Reason, SILENCE_MAX, STALL_MAX};
use crate::backlog::Backlog;
use crate::lock::lock;
use crate::repeat::Repeat;
use crate::stuck::{StuckReason, StuckRow};
pub(crate) use crate::trouble::chain;
use crate::trouble::{self, LockWait};

/// The facts, shared by everyone who reports or asks.
#[derive(Debug)]
pub struct Health(Mutex<Facts>);

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// Nothing is known yet: not ready.
    #[must_use]
    pub fn new() -> Self {
        let now = Instant::now();
        Self(Mutex::new(Facts {
            started: now,
            reported: now,
            answered: None,
            database_error: None,
            database_repeat: Repeat::default(),
            locked: None,
            lock_repeat: Repeat::default(),
            lanes: None,
            paused: BTreeMap::new(),
            commits: None,
            progress: None,
            backlog: None,
            stuck: Vec::new(),
            stuck_at: now,
            stuck_counts: BTreeMap::new(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Facts> {
        // A fact is one assignment: a panic elsewhere leaves none half written.
        lock(&self.0)
    }

    fn report<T>(&self, change: impl FnOnce(&mut Facts, Instant) -> T) -> T {
        let now = Instant::now();
        let mut facts = self.lock();
        facts.reported = now;
        change(&mut facts, now)
    }

    /// These rows are stuck now, and no others.
    pub fn stuck(&self, rows: Vec<StuckRow>) {
        self.report(|facts, now| {
            facts.stuck = rows;
            facts.stuck_at = now;
        });
    }

    /// A statement waits for this lock, which somebody else holds; `None`: none does any more. Said once and then repeated while it
    /// lasts.
    pub fn waits_for_lock(&self, lock: Option<&LockWait>) {
        let Some(lock) = lock else {
            return self.report(|facts, now| {
                if let Some(locked) = &mut facts.locked {
                    locked.gone = Some(now);
                }
            });
        };
        let (count, since) = self.report(|facts, now| {
            let since = facts.locked(now).map_or(now, |locked| locked.since);
            let lock = lock.clone();
            facts.locked = Some(Locked {
                since,
                lock,
                gone: None,
            });
            (facts.lock_repeat.occurred(now.into_std()), ago(now, since))
        });
        if let Some(count) = count {
            let todo = lock.todo();
            tracing::warn!(
                lock = lock.fact(),
                todo,
                since,
                count,
                "waiting for a lock that another session holds"
            );
        }
    }

    /// Says that a lock was released, once it has been for a while. To be called every few seconds.
    pub(super) fn remind_of_lock(&self) {
        let mut facts = self.lock();
        if facts.locked(Instant::now()).is_none()
            && let Some(locked) = facts.locked.take()
            && facts.lock_repeat.ended()
        {
            let waited = seconds(
                locked
                    .gone
                    .unwrap_or(locked.since)
                    .saturating_duration_since(locked.since),
            );
            tracing::info!(waited, "the lock is released: going on");
        }
    }

    /// So many rows are stuck, for each reason.
    pub fn stuck_counts(&self, counts: BTreeMap<StuckReason, u64>) {
        self.report(|facts, _| facts.stuck_counts = counts);
    }

    /// The database answered a statement.
    pub fn database_up(&self) {
        let back = self.report(|facts, now| facts.answered(now));
        if let Some(away) = back {
            tracing::info!(away = seconds(away), "the database is back");
        }
    }

    /// The database did not answer, or refused. Said once and then repeated while it lasts.
    pub fn database_down(&self, error: &(dyn std::error::Error + 'static), now: Instant) {
        let (about, todo) = trouble::of(error);
        let error = chain(error);
        let count = self.report(|facts, _| {
            let since = facts.database_error.take().map_or(now, |away| away.since);
            facts.database_error = Some(Away {
                since,
                about,
                error: error.clone(),
                todo,
            });
            facts.database_repeat.occurred(now.into_std())
        });
        if let Some(count) = count {
            tracing::warn!(error, todo, count, "{}: waiting for it", about.what());
        }
    }

    /// The lease was renewed: lanes held now, of how many. None held: this instance stands by.
    pub fn lanes(&self, held: usize, of: usize) {
        self.report(|facts, _| facts.lanes = Some((held, of)));
    }

    /// A destination takes no messages.
    pub fn destination_paused(&self, transport: &str, destination: &str, error: &str) {
        self.report(|facts, now| {
            let name = (transport.to_owned(), destination.to_owned());
            let since = facts.paused.get(&name).map_or(now, |paused| paused.since);
            facts.paused.insert(
                name,
                Paused {
                    since,
                    error: error.to_owned(),
                },
            );
        });
    }

    /// A destination takes messages again. True when it was paused.
    pub fn destination_recovered(&self, transport: &str, destination: &str) -> bool {
        self.report(|facts, _| {
            facts
                .paused
                .remove(&(transport.to_owned(), destination.to_owned()))
                .is_some()
        })
    }

    /// Routes in commit order wait for this transaction; `None`: they no longer do.
    pub fn waits_for_commit(&self, transaction: Option<String>) {
        self.report(|facts, now| {
            let since = facts.commits.take().map_or(now, |(since, _)| since);
            facts.commits = transaction.map(|transaction| (since, transaction));
        });
    }

    /// Messages were settled.
    pub fn progress(&self) {
        self.report(|facts, now| facts.progress = Some(now));
    }

    /// What the upkeep query found. Also counts as an answer of the database.
    pub fn backlog(&self, backlog: Backlog) {
        let backlog = Arc::new(backlog.shortened());
        self.report(|facts, now| facts.backlog = Some((now, backlog)));
        self.database_up();
    }

    /// A copy of everything known.
    #[must_use]
    pub fn facts(&self) -> Facts {
        self.lock().clone()
    }

    /// Ready when the database answers, lanes are held (or it stands by) and no due row older than `max_age` waits
    /// without progress.
    ///
    /// # Errors
    /// Every reason it is not.
    pub fn readiness(&self, max_age: Duration) -> Result<(), Vec<Reason>> {
        self.facts().readiness(Instant::now(), max_age)
    }

    /// Whether systemd may be told that all is well; `in_flight` messages are in memory.
    #[must_use]
    pub fn watchdog_ok(&self, in_flight: usize) -> bool {
        self.facts().watchdog_ok(Instant::now(), in_flight)
    }

    /// One line for `systemctl status`; `in_flight` messages are in memory.
    #[must_use]
    pub fn status_line(&self, in_flight: usize) -> String {
        self.facts().status_line(Instant::now(), in_flight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backlog::Pending;
    use tokio::time::advance;

    const MINUTE: Duration = Duration::from_secs(60);

    fn due(rows: u64, age: u64) -> Backlog {
        Backlog {
            pending: Pending {
                due: rows,
                ..Pending::default()
            },
            oldest_due_age_seconds: Duration::from_secs(age).as_secs_f64(),
            ..Backlog::default()
        }
    }

    fn running() -> Health {
        let health = Health::new();
        health.database_up();
        health.lanes(64, 64);
        health
    }

    fn kinds(health: &Health) -> Vec<&'static str> {
        health
            .readiness(MINUTE)
            .err()
            .unwrap_or_default()
            .iter()
            .map(|reason| reason.kind)
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn ready_needs_the_database_and_lanes() {
        let health = Health::new();
        assert_eq!(kinds(&health), ["database", "lanes"]);
        assert_eq!(health.status_line(3), "starting");
        health.database_up();
        assert_eq!(kinds(&health), ["lanes"]);
        health.lanes(0, 64);
        assert_eq!(kinds(&health), [""; 0]);
        health.lanes(64, 64);
        assert_eq!(kinds(&health), [""; 0]);
        health.database_down(&std::io::Error::other("connection refused"), Instant::now());
        advance(Duration::from_secs(90)).await;
        health.database_down(&std::io::Error::other("starting up"), Instant::now());
        let reasons = health.readiness(MINUTE).unwrap_err();
        assert!(reasons[0].message.contains("for 1m 30s: starting up"), "{reasons:?}");
        assert!(health.status_line(3).starts_with("waiting for the database for 1m 30s"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_due_row_is_fine_while_others_move() {
        let health = running();
        advance(MINUTE * 2).await;
        health.backlog(due(5, 500));
        health.progress();
        assert_eq!(kinds(&health), [""; 0]);
        advance(Duration::from_secs(59)).await;
        health.backlog(due(5, 559));
        assert_eq!(kinds(&health), [""; 0]);
        advance(Duration::from_secs(2)).await;
        assert_eq!(kinds(&health), ["stalled"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_fails_readiness_and_not_the_watchdog() {
        let health = running();
        health.destination_paused("main", "orders", "no stream takes orders");
        advance(MINUTE * 10).await;
        health.backlog(due(5, 600));
        assert_eq!(kinds(&health), ["destination", "stalled"]);
        let reasons = health.readiness(MINUTE).unwrap_err();
        assert!(
            reasons[0].message.contains("for 10m: no stream takes orders; "),
            "{reasons:?}"
        );
        assert!(health.watchdog_ok(0));
        assert!(
            health
                .status_line(3)
                .ends_with("oldest due 10m; paused: main/orders (no stream takes orders)"),
            "{}",
            health.status_line(3)
        );
        health.destination_recovered("main", "orders");
        assert!(!health.watchdog_ok(0));
        health.progress();
        assert!(health.watchdog_ok(0));
        assert_eq!(kinds(&health), [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn rows_due_and_nothing_moving_without_a_reason_call_for_a_restart() {
        let health = running();
        advance(MINUTE).await;
        health.backlog(due(1, 5));
        assert!(health.watchdog_ok(0), "due for 5 s only");
        advance(STALL_MAX).await;
        health.backlog(due(1, 35));
        assert!(!health.watchdog_ok(0));
        health.backlog(due(0, 0));
        assert!(health.watchdog_ok(0));
        health.backlog(due(1, 300));
        health.database_down(&std::io::Error::other("gone"), Instant::now());
        assert!(health.watchdog_ok(0));
    }

    fn lock() -> LockWait {
        LockWait {
            object: "table public.outbox_messages".to_owned(),
            pid: Some(4711),
            who: Some("psql".to_owned()),
            ..LockWait::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lock_is_named_everywhere_and_starts_no_alarm() {
        let health = running();
        health.backlog(due(5, 1));
        health.waits_for_lock(Some(&lock()));
        for _ in 0..120 {
            advance(Duration::from_secs(1)).await;
            health.waits_for_lock(Some(&lock()));
        }
        let reasons = health.readiness(MINUTE).unwrap_err();
        assert_eq!(reasons[0].kind, "lock");
        let said = "waiting for a lock for 2m: table public.outbox_messages is locked by pid 4711 (psql): wait until it ends, \
                    or: select pg_terminate_backend(4711)";
        assert_eq!(reasons[0].message, said);
        assert!(!reasons.iter().any(|reason| reason.kind == "database"), "{reasons:?}");
        assert_eq!(health.status_line(0), said);
        assert!(health.watchdog_ok(5));
        health.waits_for_lock(None);
        health.progress();
        health.backlog(due(0, 0));
        assert_eq!(kinds(&health), ["lock"], "whoever waits may be about to wait again");
        advance(Duration::from_secs(2)).await;
        assert_eq!(kinds(&health), [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn stuck_rows_are_a_reason_only_when_nothing_moves() {
        let health = running();
        let row = StuckRow {
            seq: 42,
            id: "0197".to_owned(),
            reason: crate::stuck::StuckReason::Refused,
            detail: "a trigger or function raised an error, function refuse (P0001)".to_owned(),
            seconds: 10,
        };
        health.stuck(vec![row]);
        health.backlog(due(1, 5));
        assert_eq!(kinds(&health), [""; 0]);
        assert!(health.status_line(0).ends_with("; 1 message stuck: 42 (id 0197): the database refuses to write it: a trigger or function raised an error, function refuse (P0001)"));
        advance(MINUTE * 2).await;
        health.backlog(due(1, 125));
        assert_eq!(kinds(&health), ["stuck", "stalled"]);
        let reasons = health.readiness(MINUTE).unwrap_err();
        assert!(
            reasons[0]
                .message
                .starts_with("message 42 (id 0197): the database refuses to write it"),
            "{reasons:?}"
        );
        assert!(
            reasons[0].message.contains("(P0001), for 2m 10s; correct the trigger"),
            "{reasons:?}"
        );
        assert!(health.watchdog_ok(1), "a restart would not help");
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_database_refuses_is_told_from_silence() {
        let health = running();
        let refused = crate::trouble::Trouble {
            about: crate::trouble::About::Role,
            text: "permission denied for table outboxd_lanes (42501)".to_owned(),
            todo: "outboxd roles --print grants it",
        };
        health.database_down(&refused, Instant::now());
        advance(Duration::from_secs(5)).await;
        let said = "the database refuses the role for 5s: permission denied for table outboxd_lanes (42501); outboxd roles --print grants it";
        assert_eq!(health.readiness(MINUTE).unwrap_err()[0].message, said);
        assert_eq!(health.status_line(0), said);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_engine_calls_for_a_restart_whatever_it_said_last() {
        let health = running();
        health.backlog(due(0, 0));
        advance(SILENCE_MAX).await;
        assert!(health.watchdog_ok(0));
        advance(Duration::from_secs(1)).await;
        assert!(!health.watchdog_ok(0));
        health.lanes(64, 64);
        assert!(health.watchdog_ok(0));
    }

    #[tokio::test(start_paused = true)]
    async fn standing_by_is_ready_and_starts_no_alarm() {
        let health = Health::new();
        health.database_up();
        health.lanes(0, 64);
        advance(STALL_MAX * 2).await;
        health.backlog(due(9, 90));
        assert!(health.watchdog_ok(0));
        assert_eq!(health.status_line(0), "standing by: other instances hold all 64 lanes");
    }

    #[tokio::test(start_paused = true)]
    async fn rows_of_other_instances_lanes_are_no_reason_for_a_restart() {
        let health = running();
        health.lanes(21, 64);
        advance(STALL_MAX * 2).await;
        health.backlog(due(9, 90));
        assert!(health.watchdog_ok(0));
        assert!(!health.watchdog_ok(9), "these are its own");
    }
}
