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
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::log::Repeat;
pub use super::metrics::Pending;
use crate::stuck::StuckRow;

/// The engine reports something at least this often while it lives (upkeep every few seconds, or a failed connection).
pub const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Without progress for longer than this while rows are due, something must explain it.
pub const STALL_MAX: Duration = Duration::from_secs(30);

/// Paused destinations named in an answer.
const NAMED_MAX: usize = 10;

/// What is known of a paused destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paused {
    /// Since when.
    pub since: Instant,
    /// The failure that paused it, for an operator.
    pub error: String,
}

/// What the upkeep query found in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Pending rows by state. A held row is not due.
    pub pending: Pending,
    /// Rows in the failed state.
    pub failed: u64,
    /// Age of the oldest due row (time since it fell due); `None`: nothing is due.
    pub oldest_due_age: Option<Duration>,
}

/// Everything reported so far. A copy of it comes from [`Health::facts`].
#[derive(Clone, Debug)]
pub struct Facts {
    /// When the relay began.
    pub started: Instant,
    /// The last report of any kind.
    pub reported: Instant,
    /// When the database last answered.
    pub answered: Option<Instant>,
    /// Since when it does not, and its latest error.
    pub database_error: Option<(Instant, String)>,
    database_repeat: Repeat,
    /// Lanes held, and how many there are; `None` until the first lease. None held: others have them, and this instance
    /// stands by.
    pub lanes: Option<(usize, usize)>,
    /// Destinations that take no messages, by (transport, destination). As many as the engine knows.
    pub paused: BTreeMap<(String, String), Paused>,
    /// The transaction that the routes in commit order wait for, and since when.
    pub commits: Option<(Instant, String)>,
    /// When a message was last settled.
    pub progress: Option<Instant>,
    /// The table, and when it was looked at.
    pub backlog: Option<(Instant, Backlog)>,
    /// Rows that are stuck.
    pub stuck: Vec<StuckRow>,
}

/// One reason for not being ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// `database`, `lanes`, `destination`, `commit_order` or `stalled`.
    pub kind: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

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
            lanes: None,
            paused: BTreeMap::new(),
            commits: None,
            progress: None,
            backlog: None,
            stuck: Vec::new(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Facts> {
        // A fact is one assignment: a panic elsewhere leaves none half written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report<T>(&self, change: impl FnOnce(&mut Facts, Instant) -> T) -> T {
        let now = Instant::now();
        let mut facts = self.lock();
        facts.reported = now;
        change(&mut facts, now)
    }

    /// These rows are stuck now, and no others.
    pub fn stuck(&self, rows: Vec<StuckRow>) {
        self.report(|facts, _| facts.stuck = rows);
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
        let error = chain(error);
        let count = self.report(|facts, _| {
            let since = facts.database_error.take().map_or(now, |(since, _)| since);
            facts.database_error = Some((since, error.clone()));
            facts.database_repeat.occurred(now.into_std())
        });
        if let Some(count) = count {
            tracing::warn!(error, count, "the database does not answer: waiting for it");
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

impl Facts {
    /// The time the database was away, when this ends it and the log had said so.
    fn answered(&mut self, now: Instant) -> Option<Duration> {
        self.answered = Some(now);
        let (since, _) = self.database_error.take()?;
        let said = self.database_repeat.ended();
        said.then(|| now.saturating_duration_since(since))
    }

    /// Time since something moved: since the last settled message, or since the start.
    fn idle(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.progress.unwrap_or(self.started))
    }

    /// How long the oldest due row has waited by now.
    fn oldest_due_age(&self, now: Instant) -> Option<Duration> {
        let (at, backlog) = self.backlog?;
        let age = backlog.oldest_due_age?;
        Some(age + now.saturating_duration_since(at))
    }

    fn readiness(&self, now: Instant, max_age: Duration) -> Result<(), Vec<Reason>> {
        let mut reasons = Vec::new();
        let mut say = |kind, message: String| reasons.push(Reason { kind, message });
        match (&self.database_error, self.answered) {
            (Some((since, error)), _) => say(
                "database",
                format!(
                    "the database has not answered for {}: {error}; check the server and database.url",
                    ago(now, *since)
                ),
            ),
            (None, None) => say("database", "the database has not answered yet; starting".to_owned()),
            (None, Some(answered)) if now.saturating_duration_since(answered) > max_age => say(
                "database",
                format!(
                    "no statement was answered for {}; look for locks and load on the server",
                    ago(now, answered)
                ),
            ),
            (None, Some(_)) => {}
        }
        if self.lanes.is_none() {
            say(
                "lanes",
                "no lease yet; a predecessor may hold the lanes until lease.ttl has passed".to_owned(),
            );
        }
        let waited = self
            .oldest_due_age(now)
            .filter(|age| *age > max_age && self.idle(now) > max_age);
        if let Some(waited) = waited {
            for ((transport, destination), paused) in self.paused.iter().take(NAMED_MAX) {
                let (since, error) = (ago(now, paused.since), &paused.error);
                let to = format!("{transport} has taken nothing for {destination:?} for {since}");
                say(
                    "destination",
                    format!("{to}: {error}; sending goes on by itself once it does"),
                );
            }
            if let Some((since, transaction)) = &self.commits {
                say(
                    "commit_order",
                    format!(
                        "commit order has waited for {} for {transaction}; end it, or pg_terminate_backend(pid)",
                        ago(now, *since)
                    ),
                );
            }
            let explained = if !self.paused.is_empty() || self.commits.is_some() {
                "see the other reasons"
            } else {
                "see the log for the reason"
            };
            let waited = seconds(waited);
            say(
                "stalled",
                format!(
                    "a due row has waited for {waited} and nothing was relayed for {}; {explained}",
                    seconds(self.idle(now))
                ),
            );
        }
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }

    fn watchdog_ok(&self, now: Instant, in_flight: usize) -> bool {
        if now.saturating_duration_since(self.reported) > SILENCE_MAX {
            return false;
        }
        let nothing_due = self.backlog.is_none_or(|(_, backlog)| backlog.pending.due == 0);
        let explained = !self.paused.is_empty()
            || self.commits.is_some()
            || self.database_error.is_some()
            || self.lanes.is_none_or(|(held, _)| held == 0);
        // The table is looked at as a whole: with nothing in memory, what is due may be for the others' lanes.
        let of_others = in_flight == 0 && self.lanes.is_some_and(|(held, of)| held < of);
        let young = self.oldest_due_age(now).is_none_or(|age| age <= STALL_MAX);
        nothing_due || explained || of_others || young || self.idle(now) <= STALL_MAX
    }

    fn status_line(&self, now: Instant, in_flight: usize) -> String {
        if let Some((since, error)) = &self.database_error {
            return format!("waiting for the database for {}: {error}", ago(now, *since));
        }
        let mut line = match self.lanes {
            None => return "starting".to_owned(),
            Some((0, of)) => return format!("standing by: other instances hold all {of} lanes"),
            Some((held, of)) => format!("relaying: {held} of {of} lanes, {in_flight} in flight"),
        };
        if let Some((_, backlog)) = self.backlog {
            let Pending {
                due,
                delayed,
                retrying,
                held,
            } = backlog.pending;
            let failed = backlog.failed;
            line.push_str(&format!(
                ", {due} due, {delayed} delayed, {retrying} retrying, {held} held, {failed} failed"
            ));
        }
        if let Some(age) = self.oldest_due_age(now) {
            line.push_str(&format!(", oldest due {}", seconds(age)));
        }
        if let Some(((transport, destination), paused)) = self.paused.first_key_value() {
            line.push_str(&format!("; paused: {transport}/{destination} ({})", paused.error));
            if self.paused.len() > 1 {
                line.push_str(&format!(" and {} more", self.paused.len() - 1));
            }
        }
        line
    }
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line.push_str(&format!(": {text}"));
        }
        cause = error.source();
    }
    line.replace(['\n', '\r'], " ")
}

pub(super) fn ago(now: Instant, since: Instant) -> String {
    seconds(now.saturating_duration_since(since))
}

fn seconds(span: Duration) -> String {
    humantime::format_duration(Duration::from_secs(span.as_secs())).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const MINUTE: Duration = Duration::from_secs(60);

    fn due(rows: u64, age: u64) -> Backlog {
        Backlog {
            pending: Pending {
                due: rows,
                ..Pending::default()
            },
            failed: 0,
            oldest_due_age: (rows > 0).then(|| Duration::from_secs(age)),
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
    async fn rows_due_and_nothing_moving_without_a_reason_bites() {
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

    #[tokio::test(start_paused = true)]
    async fn a_silent_engine_bites_whatever_it_said_last() {
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
