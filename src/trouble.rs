//! What keeps the database from doing what it is asked: of what kind it is, what is said of it, and what to do.
//!
//! The store makes these values, telemetry and people's commands show them. None of them quotes a row.

use std::fmt;

/// What an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum About {
    /// One row or a few of those the statement touched: a value, a constraint, a trigger's own error, damaged storage.
    Row,
    /// A lock that another transaction holds, or a deadlock.
    Lock,
    /// The statement took too long, or was cancelled.
    Duration,
    /// The connection: it is lost, refused, or a pooler's server knows nothing of it.
    Connection,
    /// The server as a whole: it is starting, stopping, full, out of memory or connections, or takes no writes.
    Server,
    /// What the role may do, and how it logs in.
    Role,
    /// Tables, columns, functions and types: not as they should be.
    Schema,
}

impl About {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Row,
        Self::Lock,
        Self::Duration,
        Self::Connection,
        Self::Server,
        Self::Role,
        Self::Schema,
    ];

    /// Its name: the label `reason` of `outboxd_database_unavailable`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Row => "row",
            Self::Lock => "lock",
            Self::Duration => "duration",
            Self::Connection => "connection",
            Self::Server => "server",
            Self::Role => "role",
            Self::Schema => "schema",
        }
    }

    /// What happens, in a few words.
    #[must_use]
    pub fn what(self) -> &'static str {
        match self {
            Self::Row => "a statement fails because of a row",
            Self::Lock => "a statement waits for a lock",
            Self::Duration => "the database cancels statements that take too long",
            Self::Connection | Self::Server => "the database does not answer",
            Self::Role => "the database refuses the role",
            Self::Schema => "a table, column or function of the outbox is missing or was changed",
        }
    }

    /// What to do, where the code says nothing more exact.
    #[must_use]
    pub fn todo(self) -> &'static str {
        match self {
            Self::Row => "outboxd status names stuck rows",
            Self::Lock => "wait until the lock is released, or end its holder",
            Self::Duration => "look for load on the server, and at statement_timeout of the role and the database",
            Self::Connection | Self::Server => "check the server and database.url",
            Self::Role => "outboxd check --connect names what the role lacks, outboxd roles --print grants it",
            Self::Schema => "run: outboxd check --connect",
        }
    }
}

/// An error of the database, as it is shown. It is the source of the store's errors.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Trouble {
    /// What it is about.
    pub about: About,
    /// What happened to which object, and the code; one line.
    pub text: String,
    /// What to do.
    pub todo: &'static str,
}

/// The trouble that `error` or one of its causes is. What names none is taken for a lost connection.
#[must_use]
pub fn of(error: &(dyn std::error::Error + 'static)) -> (About, &'static str) {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(trouble) = error.downcast_ref::<Trouble>() {
            return (trouble.about, trouble.todo);
        }
        cause = error.source();
    }
    (About::Connection, About::Connection.todo())
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

/// A lock that a statement of ours waits for, and who holds it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LockWait {
    /// What is locked: `table public.outbox_messages`, `a row of public.outboxd_lanes`.
    pub object: String,
    /// The server process that holds it, at the root of the queue; `None`: a prepared transaction, or nobody can say.
    pub pid: Option<i32>,
    /// Name of the prepared transaction that holds it.
    pub gid: Option<String>,
    /// The holder's `application_name` and user.
    pub who: Option<String>,
    /// `active`, `idle in transaction` ... Members of pg_read_all_stats see other roles' states.
    pub state: Option<String>,
    /// For how long the holder's transaction has been open, in seconds; as `state`.
    pub open_for: Option<f64>,
    /// Somebody who waits for the holder and whom we wait for.
    pub through: Option<i32>,
}

impl LockWait {
    /// What to do about it.
    #[must_use]
    pub fn todo(&self) -> String {
        match (self.pid, &self.gid) {
            (_, Some(gid)) => {
                let gid = gid.replace('\'', "''");
                format!("commit prepared '{gid}', or: rollback prepared '{gid}'")
            }
            (Some(pid), None) if self.is_vacuum() => {
                format!("wait until it is done; when pg_terminate_backend({pid}) ends it, it begins again")
            }
            (Some(pid), None) => format!("wait until it ends, or: select pg_terminate_backend({pid})"),
            (None, None) => "wait until it is released".to_owned(),
        }
    }

    fn is_vacuum(&self) -> bool {
        self.state.as_deref() == Some("autovacuum worker")
    }

    /// The holder: `pid 4711 (psql, user postgres, idle in transaction, open for 9m 3s)`.
    #[must_use]
    pub fn holder(&self) -> String {
        let lasts = self.open_for.filter(|seconds| *seconds >= 0.0).map(|seconds| {
            let span = std::time::Duration::try_from_secs_f64(seconds.floor()).unwrap_or_default();
            format!("open for {}", humantime::format_duration(span))
        });
        let known = [self.who.clone(), self.state.clone(), lasts];
        let known: Vec<String> = known.into_iter().flatten().collect();
        let name = match (self.pid, &self.gid) {
            (_, Some(gid)) => format!("prepared transaction '{gid}'"),
            (Some(pid), None) => format!("pid {pid}"),
            (None, None) => "another session".to_owned(),
        };
        if known.is_empty() {
            name
        } else {
            format!("{name} ({})", known.join(", "))
        }
    }

    /// What is locked by whom, without what to do.
    #[must_use]
    pub fn fact(&self) -> String {
        let through = match self.through {
            Some(pid) => format!("; pid {pid} waits in front"),
            None => String::new(),
        };
        let line = format!("{} is locked by {}{through}", self.object, self.holder());
        // Names are whatever sessions call themselves.
        line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}

impl fmt::Display for LockWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.fact(), self.todo())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_named_with_what_to_do() {
        let lock = LockWait {
            object: "table public.outbox_messages".to_owned(),
            pid: Some(4711),
            who: Some("psql, user postgres".to_owned()),
            state: Some("idle in transaction".to_owned()),
            open_for: Some(543.7),
            ..LockWait::default()
        };
        assert_eq!(
            lock.to_string(),
            "table public.outbox_messages is locked by pid 4711 (psql, user postgres, idle in transaction, open for 9m 3s): \
             wait until it ends, or: select pg_terminate_backend(4711)"
        );
        let unseen = LockWait {
            object: "table a.b".to_owned(),
            pid: Some(7),
            through: Some(8),
            ..LockWait::default()
        };
        assert_eq!(unseen.fact(), "table a.b is locked by pid 7; pid 8 waits in front");
        let prepared = LockWait {
            object: "table a.b".to_owned(),
            gid: Some("it's".to_owned()),
            ..LockWait::default()
        };
        assert_eq!(
            prepared.todo(),
            "commit prepared 'it''s', or: rollback prepared 'it''s'"
        );
    }

    #[test]
    fn names_of_sessions_write_no_lines_of_their_own() {
        let lock = LockWait {
            object: "table a".to_owned(),
            pid: Some(1),
            who: Some("x\n\u{1b}[31mERROR".to_owned()),
            ..LockWait::default()
        };
        assert!(!lock.to_string().contains(['\n', '\u{1b}']));
    }

    #[test]
    fn an_error_that_names_no_trouble_is_a_lost_connection() {
        let lost = std::io::Error::other("reset");
        assert_eq!(of(&lost).0, About::Connection);
        let trouble = Trouble {
            about: About::Role,
            text: "permission denied".to_owned(),
            todo: "grant it",
        };
        assert_eq!(of(&trouble), (About::Role, "grant it"));
    }
}
