//! Rows that are set aside because of trouble of their own: what everybody who sees them needs to know.
//!
//! A row is stuck while it cannot be written (a trigger raises, a constraint is violated, another transaction holds its lock)
//! or can be neither read nor written. Everything else goes on; the row is tried again by itself, with a pause that grows.

use serde::{Deserialize, Serialize};

/// Why a row is stuck; a label of `outboxd_rows_stuck`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StuckReason {
    /// The database refuses to write it: a trigger, a constraint, a value.
    Refused,
    /// Another transaction holds its lock.
    Locked,
    /// The write reports no error and has no effect: a trigger or a policy swallows it.
    Suppressed,
    /// Its content cannot be read, and it cannot be marked failed either.
    Unreadable,
    /// Writing it takes longer than a statement may.
    Slow,
}

impl StuckReason {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Refused,
        Self::Locked,
        Self::Suppressed,
        Self::Unreadable,
        Self::Slow,
    ];

    /// Its name, as in JSON and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Locked => "locked",
            Self::Suppressed => "suppressed",
            Self::Unreadable => "unreadable",
            Self::Slow => "slow",
        }
    }

    /// What is the matter with it, in a few words.
    #[must_use]
    pub fn what(self) -> &'static str {
        match self {
            Self::Refused => "the database refuses to write it",
            Self::Locked => "another transaction locks it",
            Self::Suppressed => "writing it has no effect",
            Self::Unreadable => "it can be neither read nor marked failed",
            Self::Slow => "writing it takes too long",
        }
    }

    /// What to do. It is tried again by itself.
    #[must_use]
    pub fn todo(self) -> &'static str {
        match self {
            Self::Refused => "correct the trigger, the constraint or the value",
            Self::Locked => "end the transaction that holds the lock: select pg_terminate_backend(PID)",
            Self::Suppressed => "look for a trigger, rule or policy that swallows updates of the table",
            Self::Unreadable => "correct its columns by SQL, or delete it",
            Self::Slow => "look for slow triggers, locks and load on the server",
        }
    }
}

/// One stuck row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StuckRow {
    /// Its number.
    pub seq: i64,
    /// Its message id; empty when it cannot be read.
    pub id: String,
    /// Why.
    pub reason: StuckReason,
    /// One line: the code, the object, the lock's holder (its process id and application). Never anything of the row.
    pub detail: String,
    /// Seconds since it was set aside, when this was written down.
    pub seconds: u64,
}

impl StuckRow {
    /// `42 (id 0197...): another transaction locks it: pid 4711 (psql)`.
    #[must_use]
    pub fn line(&self) -> String {
        let id = if self.id.is_empty() {
            String::new()
        } else {
            format!(" (id {})", self.id)
        };
        let what = self.reason.what();
        let detail = if self.detail.is_empty() {
            String::new()
        } else {
            format!(": {}", self.detail)
        };
        format!("{}{id}: {what}{detail}", self.seq)
    }
}

/// `2 messages stuck: 42 (id 0197...): ...; and 1 more`. Empty: none is.
#[must_use]
pub fn line(count: usize, first: Option<&StuckRow>) -> String {
    let Some(first) = first else {
        return String::new();
    };
    let more = match count {
        0 | 1 => return format!("1 message stuck: {}", first.line()),
        more => more - 1,
    };
    format!("{count} messages stuck: {}; and {more} more", first.line())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_the_first_and_counts_the_others() {
        let row = StuckRow {
            seq: 42,
            id: "0197".to_owned(),
            reason: StuckReason::Locked,
            detail: "pid 4711 (psql, idle in transaction)".to_owned(),
            seconds: 9,
        };
        assert_eq!(
            line(1, Some(&row)),
            "1 message stuck: 42 (id 0197): another transaction locks it: pid 4711 (psql, idle in transaction)"
        );
        assert!(line(3, Some(&row)).ends_with("; and 2 more"));
        assert_eq!(line(0, None), "");
    }
}
