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

pub use super::metrics::Pending;

/// The engine reports something at least this often while it lives (upkeep every few seconds, or a failed connection).
pub const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Without progress for longer than this while rows are due, something must explain it.
pub const STALL_MAX: Duration = Duration::from_secs(30);
/// Paused destinations remembered at most. Those beyond take a place when one recovers: the engine reports a pause again
/// with every failed probe.
pub const PAUSED_MAX: usize = 1_000;

/// What is known of a paused destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paused {
    /// Since when.
    pub since: Instant,
    /// The failure's code.
    pub code: String,
    /// The latest failure, for an operator.
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
    /// Lanes held; `None` until the first lease.
    pub lanes: Option<usize>,
    /// Others hold all lanes, and this instance waits for its turn.
    pub standing_by: bool,
    /// Destinations that take no messages, by (transport, destination).
    pub paused: BTreeMap<(String, String), Paused>,
    /// There were more than [`PAUSED_MAX`] of them.
    pub more_paused: bool,
    /// When a message was last settled.
    pub progress: Option<Instant>,
    /// Messages in memory.
    pub in_flight: usize,
    /// Keys held by a retrying or failed message.
    pub held_keys: usize,
    /// The table, and when it was looked at.
    pub backlog: Option<(Instant, Backlog)>,
}

/// One reason for not being ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// `database`, `lanes`, `destination` or `stalled`.
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
            lanes: None,
            standing_by: false,
            paused: BTreeMap::new(),
            more_paused: false,
            progress: None,
            in_flight: 0,
            held_keys: 0,
            backlog: None,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Facts> {
        // A fact is one assignment: a panic elsewhere leaves none half written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, change: impl FnOnce(&mut Facts, Instant)) {
        let now = Instant::now();
        let mut facts = self.lock();
        facts.reported = now;
        change(&mut facts, now);
    }

    /// The database answered a statement.
    pub fn database_answered(&self) {
        self.report(|facts, now| {
            facts.answered = Some(now);
            facts.database_error = None;
        });
    }

    /// The database did not answer, or refused.
    pub fn database_failed(&self, error: impl Into<String>) {
        self.report(|facts, now| {
            let since = facts.database_error.take().map_or(now, |(since, _)| since);
            facts.database_error = Some((since, error.into()));
        });
    }

    /// The lease was renewed: lanes held now, and whether others hold all there are.
    pub fn lanes(&self, held: usize, standing_by: bool) {
        self.report(|facts, _| {
            facts.lanes = Some(held);
            facts.standing_by = standing_by;
        });
    }

    /// A destination takes no messages (again reported: its latest error).
    pub fn destination_paused(&self, transport: &str, destination: &str, code: &str, error: &str) {
        self.report(|facts, now| {
            let name = (transport.to_owned(), destination.to_owned());
            let since = facts.paused.get(&name).map(|paused| paused.since);
            if since.is_none() && facts.paused.len() >= PAUSED_MAX {
                facts.more_paused = true;
                return;
            }
            let paused = Paused { since: since.unwrap_or(now), code: code.to_owned(), error: error.to_owned() };
            facts.paused.insert(name, paused);
        });
    }

    /// A destination takes messages again.
    pub fn destination_recovered(&self, transport: &str, destination: &str) {
        self.report(|facts, _| {
            if facts.paused.remove(&(transport.to_owned(), destination.to_owned())).is_some() {
                facts.more_paused = false;
            }
        });
    }

    /// Messages were settled.
    pub fn progress(&self) {
        self.report(|facts, now| facts.progress = Some(now));
    }

    /// Messages in memory now.
    pub fn in_flight(&self, messages: usize) {
        self.report(|facts, _| facts.in_flight = messages);
    }

    /// Keys held now.
    pub fn held_keys(&self, keys: usize) {
        self.report(|facts, _| facts.held_keys = keys);
    }

    /// What the upkeep query found. Also counts as an answer of the database.
    pub fn backlog(&self, backlog: Backlog) {
        self.report(|facts, now| {
            facts.backlog = Some((now, backlog));
            facts.answered = Some(now);
            facts.database_error = None;
        });
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

    /// Whether systemd may be told that all is well.
    #[must_use]
    pub fn watchdog_ok(&self) -> bool {
        self.facts().watchdog_ok(Instant::now())
    }

    /// One line for `systemctl status`.
    #[must_use]
    pub fn status_line(&self) -> String {
        self.facts().status_line(Instant::now())
    }
}

impl Facts {
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
                format!("the database has not answered for {}: {error}; check the server and database.url", ago(now, *since)),
            ),
            (None, None) => say("database", "the database has not answered yet; starting".to_owned()),
            (None, Some(answered)) if now.saturating_duration_since(answered) > max_age => say(
                "database",
                format!("no statement was answered for {}; look for locks and load on the server", ago(now, answered)),
            ),
            (None, Some(_)) => {}
        }
        if !self.standing_by && self.lanes.unwrap_or(0) == 0 {
            say("lanes", "no lanes are held yet; another instance may hold them until lease.ttl has passed".to_owned());
        }
        let waited = self.oldest_due_age(now).filter(|age| *age > max_age && self.idle(now) > max_age);
        if let Some(waited) = waited {
            for ((transport, destination), paused) in self.paused.iter().take(10) {
                let (since, Paused { code, error, .. }) = (ago(now, paused.since), paused);
                let to = format!("destination {destination:?} of transport {transport:?} takes no messages for {since}");
                say("destination", format!("{to} ({code}): {error}; sending goes on by itself once it does"));
            }
            let explained = if !self.paused.is_empty() { "see the paused destinations" } else { "see the log for the reason" };
            let waited = seconds(waited);
            say("stalled", format!("a due row has waited for {waited} and nothing was relayed for {}; {explained}", seconds(self.idle(now))));
        }
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }

    fn watchdog_ok(&self, now: Instant) -> bool {
        if now.saturating_duration_since(self.reported) > SILENCE_MAX {
            return false;
        }
        let nothing_due = self.backlog.is_none_or(|(_, backlog)| backlog.pending.due == 0);
        let explained = !self.paused.is_empty() || self.database_error.is_some() || self.lanes.unwrap_or(0) == 0;
        let young = self.oldest_due_age(now).is_none_or(|age| age <= STALL_MAX);
        nothing_due || explained || young || self.idle(now) <= STALL_MAX
    }

    fn status_line(&self, now: Instant) -> String {
        if let Some((since, error)) = &self.database_error {
            return format!("waiting for the database for {}: {error}", ago(now, *since));
        }
        let lanes = match self.lanes {
            None => return "starting".to_owned(),
            Some(_) if self.standing_by => return "standing by: other instances hold all lanes".to_owned(),
            Some(lanes) => lanes,
        };
        let mut line = format!("relaying: {lanes} lanes, {} in flight", self.in_flight);
        if let Some((_, backlog)) = self.backlog {
            let Pending { due, delayed, retrying, held } = backlog.pending;
            line.push_str(&format!(", {due} due, {delayed} delayed, {retrying} retrying, {held} held, {} failed", backlog.failed));
        }
        if let Some(age) = self.oldest_due_age(now) {
            line.push_str(&format!(", oldest due {}", seconds(age)));
        }
        if let Some(((transport, destination), paused)) = self.paused.first_key_value() {
            let more = self.paused.len() - 1;
            line.push_str(&format!("; paused: {transport}/{destination} ({})", paused.code));
            if more > 0 {
                let plus = if self.more_paused { "+" } else { "" };
                line.push_str(&format!(" and {more}{plus} more"));
            }
        }
        line
    }
}

fn ago(now: Instant, since: Instant) -> String {
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
            pending: Pending { due: rows, ..Pending::default() },
            failed: 0,
            oldest_due_age: (rows > 0).then(|| Duration::from_secs(age)),
        }
    }

    fn running() -> Health {
        let health = Health::new();
        health.database_answered();
        health.lanes(64, false);
        health
    }

    fn kinds(health: &Health) -> Vec<&'static str> {
        health.readiness(MINUTE).err().unwrap_or_default().iter().map(|reason| reason.kind).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn ready_needs_the_database_and_lanes() {
        let health = Health::new();
        assert_eq!(kinds(&health), ["database", "lanes"]);
        assert_eq!(health.status_line(), "starting");
        health.database_answered();
        assert_eq!(kinds(&health), ["lanes"]);
        health.lanes(0, true);
        assert_eq!(kinds(&health), [""; 0]);
        health.lanes(64, false);
        assert_eq!(kinds(&health), [""; 0]);
        health.database_failed("connection refused");
        advance(Duration::from_secs(90)).await;
        health.database_failed("starting up");
        let reasons = health.readiness(MINUTE).unwrap_err();
        assert!(reasons[0].message.contains("for 1m 30s: starting up"), "{reasons:?}");
        assert!(health.status_line().starts_with("waiting for the database for 1m 30s"));
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
        health.destination_paused("main", "orders", "no_responders", "no stream takes orders");
        advance(MINUTE * 10).await;
        health.backlog(due(5, 600));
        assert_eq!(kinds(&health), ["destination", "stalled"]);
        let reasons = health.readiness(MINUTE).unwrap_err();
        assert!(reasons[0].message.contains("(no_responders): no stream takes orders; "), "{reasons:?}");
        assert!(health.watchdog_ok());
        assert!(health.status_line().ends_with("oldest due 10m; paused: main/orders (no_responders)"), "{}", health.status_line());
        health.destination_recovered("main", "orders");
        assert!(!health.watchdog_ok());
        health.progress();
        assert!(health.watchdog_ok());
        assert_eq!(kinds(&health), [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn rows_due_and_nothing_moving_without_a_reason_bites() {
        let health = running();
        advance(MINUTE).await;
        health.backlog(due(1, 5));
        assert!(health.watchdog_ok(), "due for 5 s only");
        advance(STALL_MAX).await;
        health.backlog(due(1, 35));
        assert!(!health.watchdog_ok());
        health.backlog(due(0, 0));
        assert!(health.watchdog_ok());
        health.backlog(due(1, 300));
        health.database_failed("gone");
        assert!(health.watchdog_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_engine_bites_whatever_it_said_last() {
        let health = running();
        health.backlog(due(0, 0));
        advance(SILENCE_MAX).await;
        assert!(health.watchdog_ok());
        advance(Duration::from_secs(1)).await;
        assert!(!health.watchdog_ok());
        health.in_flight(0);
        assert!(health.watchdog_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn paused_destinations_are_bounded() {
        let health = running();
        for n in 0..PAUSED_MAX + 5 {
            health.destination_paused("main", &format!("d{n}"), "x", "x");
        }
        assert_eq!((health.facts().paused.len(), health.facts().more_paused), (PAUSED_MAX, true));
        assert!(health.status_line().ends_with("and 999+ more"), "{}", health.status_line());
        health.destination_recovered("main", "d1");
        health.destination_paused("main", "d1001", "x", "x");
        assert_eq!((health.facts().paused.len(), health.facts().more_paused), (PAUSED_MAX, false));
    }
}
