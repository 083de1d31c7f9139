//! What the engine has reported, and what follows from it: plain values, and the words for `/readyz`, systemd and people.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::backlog::{Backlog, Pending};
use crate::repeat::Repeat;
use crate::stuck::{self, StuckReason, StuckRow};
use crate::trouble::{About, LockWait};

/// The engine reports something at least this often while it lives (upkeep every few seconds, or a failed connection).
pub const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Without progress for longer than this while rows are due, something must explain it.
pub const STALL_MAX: Duration = Duration::from_secs(30);

/// Paused destinations and stuck rows named in an answer.
const NAMED_MAX: usize = 10;
/// A lock that nobody waits for is believed for so long: whoever waited may have been cancelled and be about to wait again.
const LOCK_LINGERS: Duration = Duration::from_secs(2);

/// The database does not do what it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Away {
    /// Since when.
    pub since: Instant,
    /// What the latest error is about.
    pub about: About,
    /// The latest error.
    pub error: String,
    /// What to do; empty: the error says so itself.
    pub todo: &'static str,
}

impl Away {
    /// What is wrong, for how long, and what to do: the same words everywhere.
    #[must_use]
    pub fn sentence(&self, now: Instant) -> String {
        let (span, error) = (ago(now, self.since), &self.error);
        let what = match self.about {
            About::Connection | About::Server => "the database has not answered",
            other @ (About::Row | About::Lock | About::Duration | About::Role | About::Schema) => other.what(),
        };
        let todo = if self.todo.is_empty() { "" } else { "; " };
        format!("{what} for {span}: {error}{todo}{}", self.todo)
    }
}

/// A lock that statements wait for.
#[derive(Clone, Debug, PartialEq)]
pub struct Locked {
    /// Since when that is known.
    pub since: Instant,
    /// The lock and its holder.
    pub lock: LockWait,
    /// Nobody waits for it any more since then.
    pub(super) gone: Option<Instant>,
}

impl Locked {
    /// What is waited for, for how long, and what to do.
    #[must_use]
    pub fn sentence(&self, now: Instant) -> String {
        format!("waiting for a lock for {}: {}", ago(now, self.since), self.lock)
    }
}

/// What is known of a paused destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paused {
    /// Since when.
    pub since: Instant,
    /// The failure that paused it, for an operator.
    pub error: String,
}

/// Everything reported so far. A copy of it comes from [`Health::facts`](super::Health::facts).
#[derive(Clone, Debug)]
pub struct Facts {
    /// When the relay began.
    pub started: Instant,
    /// The last report of any kind.
    pub reported: Instant,
    /// When the database last answered.
    pub answered: Option<Instant>,
    /// Since when it does not do what it is asked, and its latest error.
    pub database_error: Option<Away>,
    pub(super) database_repeat: Repeat,
    pub(super) locked: Option<Locked>,
    pub(super) lock_repeat: Repeat,
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
    pub backlog: Option<(Instant, Arc<Backlog>)>,
    /// Rows that are stuck, as they were when that was reported.
    pub stuck: Vec<StuckRow>,
    pub(super) stuck_at: Instant,
    /// How many are stuck, for each reason: only the first are named.
    pub stuck_counts: BTreeMap<StuckReason, u64>,
}

/// One reason for not being ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// `database`, `lock`, `lanes`, `destination`, `commit_order`, `stuck` or `stalled`.
    pub kind: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

impl Facts {
    /// The time the database was away, when this ends it and the log had said so.
    pub(super) fn answered(&mut self, now: Instant) -> Option<Duration> {
        self.answered = Some(now);
        let since = self.database_error.take()?.since;
        let said = self.database_repeat.ended();
        said.then(|| now.saturating_duration_since(since))
    }

    /// The lock that statements wait for, if they do.
    #[must_use]
    pub fn locked(&self, now: Instant) -> Option<&Locked> {
        let lasts = |locked: &&Locked| {
            let gone = locked.gone.map(|gone| now.saturating_duration_since(gone));
            gone.is_none_or(|gone| gone < LOCK_LINGERS)
        };
        self.locked.as_ref().filter(lasts)
    }

    /// How many rows are stuck.
    #[must_use]
    pub fn stuck_total(&self) -> usize {
        let counted = self.stuck_counts.values().sum::<u64>();
        self.stuck.len().max(usize::try_from(counted).unwrap_or(usize::MAX))
    }

    /// Rows that are stuck, with how long they are by now.
    #[must_use]
    pub fn stuck_rows(&self, now: Instant) -> Vec<StuckRow> {
        let more = now.saturating_duration_since(self.stuck_at).as_secs();
        let aged = |row: &StuckRow| StuckRow {
            seconds: row.seconds.saturating_add(more),
            ..row.clone()
        };
        self.stuck.iter().map(aged).collect()
    }

    /// Time since something moved: since the last settled message, or since the start.
    fn idle(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.progress.unwrap_or(self.started))
    }

    /// How long the oldest due row has waited by now.
    fn oldest_due_age(&self, now: Instant) -> Option<Duration> {
        let (at, backlog) = self.backlog.as_ref()?;
        let age = backlog.oldest_due_age()?;
        Some(age + now.saturating_duration_since(*at))
    }

    pub(super) fn readiness(&self, now: Instant, max_age: Duration) -> Result<(), Vec<Reason>> {
        let mut reasons = Vec::new();
        let mut say = |kind, message: String| reasons.push(Reason { kind, message });
        let locked = self.locked(now);
        if let Some(locked) = locked {
            say("lock", locked.sentence(now));
        }
        match (&self.database_error, self.answered) {
            (Some(away), _) => say("database", away.sentence(now)),
            (None, None) => say("database", "the database has not answered yet; starting".to_owned()),
            (None, Some(answered)) if locked.is_none() && now.saturating_duration_since(answered) > max_age => say(
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
            for row in self.stuck_rows(now).iter().take(NAMED_MAX) {
                let (line, since, todo) = (row.line(), row.seconds, row.reason.todo());
                let since = seconds(Duration::from_secs(since));
                say("stuck", format!("message {line}, for {since}; {todo}"));
            }
            let explained =
                if !self.paused.is_empty() || self.commits.is_some() || !self.stuck.is_empty() || locked.is_some() {
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

    pub(super) fn watchdog_ok(&self, now: Instant, in_flight: usize) -> bool {
        if now.saturating_duration_since(self.reported) > SILENCE_MAX {
            return false;
        }
        let nothing_due = self
            .backlog
            .as_ref()
            .is_none_or(|(_, backlog)| backlog.pending.due == 0);
        let explained = !self.paused.is_empty()
            || self.commits.is_some()
            || self.database_error.is_some()
            || self.locked(now).is_some()
            || !self.stuck.is_empty()
            || self.lanes.is_none_or(|(held, _)| held == 0);
        // The table is looked at as a whole: with nothing in memory, what is due may be for the others' lanes.
        let of_others = in_flight == 0 && self.lanes.is_some_and(|(held, of)| held < of);
        let young = self.oldest_due_age(now).is_none_or(|age| age <= STALL_MAX);
        nothing_due || explained || of_others || young || self.idle(now) <= STALL_MAX
    }

    pub(super) fn status_line(&self, now: Instant, in_flight: usize) -> String {
        if let Some(locked) = self.locked(now) {
            return locked.sentence(now);
        }
        match &self.database_error {
            Some(away) if matches!(away.about, About::Connection | About::Server) => {
                return format!("waiting for the database for {}: {}", ago(now, away.since), away.error);
            }
            Some(away) => return away.sentence(now),
            None => {}
        }
        let mut line = match self.lanes {
            None => return "starting".to_owned(),
            Some((0, of)) => return format!("standing by: other instances hold all {of} lanes"),
            Some((held, of)) => format!("relaying: {held} of {of} lanes, {in_flight} in flight"),
        };
        if let Some((_, backlog)) = &self.backlog {
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
        if !self.stuck.is_empty() {
            line.push_str(&format!("; {}", stuck::line(self.stuck_total(), self.stuck.first())));
        }
        line
    }
}

pub(super) fn ago(now: Instant, since: Instant) -> String {
    seconds(now.saturating_duration_since(since))
}

pub(super) fn seconds(span: Duration) -> String {
    humantime::format_duration(Duration::from_secs(span.as_secs())).to_string()
}
