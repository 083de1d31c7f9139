//! What may be wrong with a database that answers: everything that stops a start, and what lets the outbox slow down, swell
//! or lose what was promised. Reads only; each look is one statement, and one that fails is a finding itself.
//!
//! `examine` in `schema` says what is fatal; the rest here are looks at one thing each: `server`, `table`.

mod retention;
mod server;
mod table;
mod waits;

use std::future::Future;
use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::retention::Rule;
use crate::finding::Finding;
use crate::store::StoreError;
use crate::store::postgres::link::about::database_error;
use crate::store::postgres::link::answer::legible;
use crate::store::postgres::link::connect::Connection;
use crate::store::postgres::link::database::{Database, Role};
use crate::store::postgres::link::sql::{Names, Param, Statement};
use crate::store::postgres::outbox::listen;
use crate::store::postgres::schema::rights::Duties;
use crate::store::postgres::schema::validate::{self, Schema};

/// How to look.
#[derive(Clone, Debug)]
pub struct Examination<'a> {
    /// The connections.
    pub database: &'a Database,
    /// The tables.
    pub names: &'a Names,
    /// What the daemon's role has to be able to do.
    pub duties: Duties,
    /// Connections the daemon makes.
    pub connections: u32,
    /// Where the daemon listens; `None`: it polls only.
    pub listen: Option<Connection>,
    /// What `[retention]` asks for.
    pub rules: &'a [Rule],
    /// What this machine's clock shows: since 1970.
    pub clock: fn() -> Duration,
}

/// What was found.
#[derive(Debug)]
pub struct Examined {
    /// The schema, where the daemon would start.
    pub schema: Option<Schema>,
    /// What retention is about to do, where that is nothing to worry about.
    pub retention: Vec<String>,
    /// Faults and warnings.
    pub findings: Vec<Finding>,
    /// Topics that wait.
    pub topics: Vec<WaitingTopic>,
}

/// A topic among the first pending messages.
#[derive(Clone, Debug)]
pub struct WaitingTopic {
    /// Its name.
    pub topic: String,
    /// A key of it.
    pub key: Option<String>,
    /// Bytes of the largest payload looked at.
    pub largest: u64,
}

/// Pending messages looked at for their topics and sizes.
const TOPICS_SEARCH: i64 = 1_000;

impl Examination<'_> {
    /// Looks at everything.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database does not answer the first question.
    pub async fn run(&self) -> Result<Examined, StoreError> {
        let mut findings = Vec::new();
        let schema = match validate::examine(self.database, self.names, Some(self.duties)).await {
            Ok(mut schema) => {
                findings.append(&mut schema.warnings);
                Some(schema)
            }
            Err(wrong) => match wrong.error {
                StoreError::Misconfigured(line) => {
                    findings.push(fatal(wrong.code, &line));
                    None
                }
                error @ StoreError::Unavailable(_) => match locked(&error) {
                    Some(finding) => {
                        findings.push(finding);
                        None
                    }
                    None => return Err(error),
                },
            },
        };
        let mut retention = Vec::new();
        let looks = self.looks(schema.is_some(), (&mut findings, &mut retention)).await;
        let topics = looks.unwrap_or_else(|finding| {
            findings.push(finding);
            Vec::new()
        });
        Ok(Examined {
            schema,
            retention,
            findings,
            topics,
        })
    }

    /// The looks at one thing each, and the topics that wait. A lock that somebody holds ends them: each would wait for it again.
    async fn looks(
        &self,
        is_whole: bool,
        (found, retention): (&mut Vec<Finding>, &mut Vec<String>),
    ) -> Result<Vec<WaitingTopic>, Finding> {
        if found.iter().any(|finding| finding.code == "locked") {
            return Ok(Vec::new());
        }
        found.extend(note("server", server::look(self)).await?);
        found.extend(note("sessions", server::sessions(self)).await?);
        found.extend(note("locks", waits::locks(self)).await?);
        found.extend(note("slots", server::slots(self)).await?);
        if !is_whole {
            return Ok(Vec::new());
        }
        found.extend(note("table", table::look(self)).await?);
        if !self.names.is_foreign() {
            found.extend(note("columns", table::columns(self)).await?);
            found.extend(note("triggers", table::triggers(self)).await?);
        }
        found.extend(note("failed messages", table::unreadable(self)).await?);
        found.extend(note("sequence", table::sequence(self)).await?);
        found.extend(note("indexes", table::indexes(self)).await?);
        found.extend(note("twins", table::twins(self)).await?);
        found.extend(note("stuck messages", waits::stuck(self)).await?);
        found.extend(note("retention", retention::look(self, retention)).await?);
        found.extend(self.listens().await);
        match self.topics().await {
            Ok(topics) => Ok(topics),
            Err(error) => Err(locked(&error).unwrap_or_else(|| unknown("topics", &error))),
        }
    }

    async fn query(&self, file: &str, types: &'static [Type], params: &[Param<'_>]) -> Result<Vec<Row>, StoreError> {
        let text = self.names.fill(file);
        self.database
            .query(Role::Side, &Statement { text, types }, params)
            .await
    }

    async fn topics(&self) -> Result<Vec<WaitingTopic>, StoreError> {
        let file = include_str!("../../../../../sql/doctor_topics.sql");
        let rows = self.query(file, const { &[Type::INT8] }, &[&TOPICS_SEARCH]).await?;
        let topic = |row: &Row| WaitingTopic {
            topic: legible(row, "topic").unwrap_or_default(),
            key: legible(row, "key"),
            largest: u64::try_from(row.get::<_, i64>("largest")).unwrap_or_default(),
        };
        Ok(rows.iter().map(topic).collect())
    }

    /// Whether a notification arrives where the daemon listens.
    async fn listens(&self) -> Option<Finding> {
        const WHY: &str =
            "new messages wait for the next poll (relay.poll_interval_max), and lanes for the next renewal of a lease";
        let connection = self.listen.clone()?;
        let sql = self.names.fill(include_str!("../../../../../sql/listen.sql"));
        let probe = Statement {
            text: self.names.fill(include_str!("../../../../../sql/probe_listen.sql")),
            types: const { &[Type::TEXT] },
        };
        let deaf = match listen::hears(connection.into(), sql, self.database.clone(), probe).await {
            Ok(true) => return None,
            Ok(false) => "a notification does not arrive: a pooler in transaction mode is in between".to_owned(),
            Err(error) => format!("it is impossible to listen: {error}"),
        };
        let fix =
            "set database.listen_url to the server's own address, or relay.notify = false to say that polling is meant";
        Some(Finding::warning("listen", deaf, WHY, fix))
    }
}

/// What stops a start, as a finding.
fn fatal(code: &'static str, line: &str) -> Finding {
    let (what, fix) = line
        .split_once(": run: ")
        .or_else(|| line.rsplit_once(": "))
        .unwrap_or((line, ""));
    Finding::fault(code, what, "outboxd run does not start", fix)
}

/// What a look found, or that it could not be had.
///
/// # Errors
/// It waits for a lock.
async fn note(
    subject: &str,
    look: impl Future<Output = Result<Vec<Finding>, StoreError>>,
) -> Result<Vec<Finding>, Finding> {
    match look.await {
        Ok(found) => Ok(found),
        Err(error) => locked(&error).map_or_else(|| Ok(vec![unknown(subject, &error)]), Err),
    }
}

/// The lock that a look waited for, as a finding.
fn locked(error: &StoreError) -> Option<Finding> {
    let lock = database_error(error)?.lock()?;
    let why = "the daemon waits for it too: nothing that needs it is read or marked meanwhile";
    Some(Finding::fault("locked", lock.fact(), why, lock.todo()))
}

fn unknown(subject: &str, error: &StoreError) -> Finding {
    let said = match error {
        StoreError::Unavailable(error) => error.to_string(),
        StoreError::Misconfigured(line) => line.clone(),
    };
    let what = format!("the {subject} could not be looked at: {said}");
    let why = "what is wrong there stays unknown";
    Finding::warning("not_examined", what, why, "see the error, and try again")
}
