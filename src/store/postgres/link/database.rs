//! Connections: one small pool per role, so that reading, settling and the lease never wait for each other.
//!
//! Owns connecting (`slots`: where there is no room for all), statements (`naming`: named, or unnamed where a pooler loses
//! them) and the time limit of every statement (`patience`). A statement that runs into its limit is cancelled and its
//! connection thrown away; so is the connection of a statement whose future was dropped, because its answer would be the next
//! one's. While it waits for a lock the time does not count (`blocked`): a daemon waits on and says so, a person's command
//! gives up.
//!
//! What one connection learns about the server is true for all: when one is lost, or told that the server takes no
//! writes (a demoted primary), every other is made anew before its next use. And the cursor must not go on over a connection
//! that was replaced behind its back (another server may have answered, whose sequence stands lower): the first read on it
//! answers [`StoreError::Unavailable`], and the caller starts over.

mod plain;
mod settling;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use futures_util::TryStreamExt;
use tokio::time::Instant;
use tokio_postgres::Row;

use super::about::{About, DatabaseError, about, lacks_right};
use super::blocked::Watch;
use super::checkout::{CANCEL_TIMEOUT, Checkout, HostByHost};
use super::classify::{STATEMENT_SILENT, Silent, classify, loses_prepared_statements};
use super::connect::parse_url;
use super::facts::{CursorOn, Facts};
pub use super::role::Role;
use super::sql::{Param, Statement};
use super::way::Way;
use crate::store::StoreError;
use crate::trouble::LockWait;
pub use plain::Answer;
pub use settling::Settling;

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// libpq URL.
    pub url: String,
    /// Connections at most (LISTEN takes one more of its own).
    pub pool_size: usize,
    /// Use named prepared statements, once it is known that no pooler loses them ([`Database::learn_naming`]).
    pub prepared_statements: bool,
    /// First part of `application_name`: `outboxd/<instance>`.
    pub application: String,
    /// Time limit of a statement of the hot path; side statements get six times as long.
    pub statement_timeout: Duration,
}

/// The database, as a few pools of connections.
#[derive(Clone)]
pub struct Database {
    pub(super) pools: Arc<Vec<Pool>>,
    pub(super) way: Way,
    pub(super) facts: Arc<Facts>,
    pub(super) cursor: Arc<CursorOn>,
    pub(super) statement_timeout: Duration,
    pub(super) patience: Duration,
    pub(super) within: Option<Within>,
    pub(super) watch: Arc<Watch>,
    /// See [`Database::hasty`].
    pub(super) hasty: bool,
}

/// Why a statement was given up.
pub(crate) enum GivenUp {
    /// No answer within that time.
    Silent(Duration),
    /// Somebody else holds a lock.
    Locked(LockWait),
}

/// What a statement that settles is granted.
#[derive(Clone, Copy, Debug)]
pub struct Granted {
    /// Longer says something about its rows.
    pub limit: Duration,
    /// It is given up sooner once the process is to end.
    pub hurries: bool,
}

/// See [`Database::within`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Within {
    pub(super) limit: Duration,
    pub(super) deadline: Instant,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database")
            .field("pools", &self.pools)
            .finish_non_exhaustive()
    }
}

impl Database {
    /// Prepares to connect; opens nothing yet.
    ///
    /// # Errors
    /// [`StoreError::Misconfigured`] when the URL cannot be read.
    pub fn new(options: &ConnectOptions) -> Result<Self, StoreError> {
        let connection =
            parse_url(&options.url).map_err(|problem| StoreError::Misconfigured(format!("database.url: {problem}")))?;
        Ok(Self::along(Way::from(connection), options))
    }

    /// As [`Self::new`], by a way that others go too; the URL is not looked at.
    #[must_use]
    pub fn along(way: Way, options: &ConnectOptions) -> Self {
        let patience = way.patience();
        let count = options.pool_size.clamp(1, Role::ALL.len());
        let mut pools = Vec::with_capacity(count);
        let mut applications = Vec::with_capacity(count);
        for index in 0..count {
            let roles: Vec<&str> = Role::ALL
                .iter()
                .filter(|role| **role as usize % count == index)
                .map(|r| r.name())
                .collect();
            applications.push(format!("{}/{}", options.application, roles.join("+")));
            let recycling = ManagerConfig {
                recycling_method: RecyclingMethod::Fast,
            };
            let manager = Manager::from_connect(
                way.current().config,
                HostByHost(way.named(&applications[index])),
                recycling,
            );
            let extra = if index == count - 1 {
                options.pool_size - count
            } else {
                0
            };
            let pool = Pool::builder(manager)
                .max_size(1 + extra)
                .runtime(Runtime::Tokio1)
                .wait_timeout(Some(options.statement_timeout))
                .create_timeout(Some(patience))
                .build()
                .expect("a pool with timeouts has a runtime");
            pools.push(pool);
        }
        Self {
            pools: Arc::new(pools),
            patience,
            watch: Arc::new(Watch::new(&way, &options.application, &applications)),
            cursor: Arc::default(),
            way,
            hasty: false,
            facts: Arc::new(Facts {
                naming_wanted: options.prepared_statements,
                ..Facts::default()
            }),
            statement_timeout: options.statement_timeout,
            within: None,
        }
    }

    /// The same connections for another outbox, whose cursor is another.
    #[must_use]
    pub fn shared(&self) -> Self {
        Self {
            cursor: Arc::default(),
            ..self.clone()
        }
    }

    /// Everything was right with the schema and the rights: from now on what is missing is waited for, as an outage is.
    /// Somebody may be restoring the database, and its tables come after it.
    pub fn settled_in(&self) {
        self.facts.settled_in.store(true, Ordering::Relaxed);
    }

    /// How connections are made: renewed, it is for all that are made from then on.
    #[must_use]
    pub fn way(&self) -> &Way {
        &self.way
    }

    pub(super) fn pool_of(&self, role: Role) -> usize {
        role as usize % self.pools.len()
    }

    /// The server was lost, or is no longer the one that takes writes: no connection is used again.
    fn lose_all(&self) {
        self.facts.generation.fetch_add(1, Ordering::AcqRel);
        for pool in self.pools.iter() {
            pool.retain(|_, _| false);
        }
    }

    /// Runs `statement` and returns all its rows.
    ///
    /// # Errors
    /// See [`classify`].
    pub async fn query(&self, role: Role, statement: &Statement, params: &[Param<'_>]) -> Result<Vec<Row>, StoreError> {
        let connection = self.connection(role).await?;
        let rows = async { self.stream(&connection, statement, params).await?.try_collect().await };
        let outcome = self.in_time(role, connection.generation, rows).await;
        self.finish(connection, outcome).await
    }

    /// Runs `statement` and hands its rows to `take` one by one, until it answers `false`: the rest is thrown away
    /// unread. Bounds memory where a row's size is not known beforehand.
    ///
    /// # Errors
    /// See [`classify`].
    pub async fn query_while(
        &self,
        role: Role,
        statement: &Statement,
        params: &[Param<'_>],
        take: impl FnMut(Row) -> Result<bool, StoreError> + Send,
    ) -> Result<(), StoreError> {
        let connection = self.connection(role).await?;
        let mut refused = None;
        let rows = self.take_while(&connection, (statement, params), take, &mut refused);
        let outcome = self.in_time(role, connection.generation, rows).await;
        self.finish(connection, outcome).await?;
        refused.map_or(Ok(()), Err)
    }

    /// Hands rows to `take` until it answers `false`, or an error: that is `refused` then.
    pub(crate) async fn take_while(
        &self,
        connection: &Object,
        (statement, params): (&Statement, &[Param<'_>]),
        mut take: impl FnMut(Row) -> Result<bool, StoreError> + Send,
        refused: &mut Option<StoreError>,
    ) -> Result<(), tokio_postgres::Error> {
        let stream = self.stream(connection, statement, params).await?;
        futures_util::pin_mut!(stream);
        while let Some(row) = stream.try_next().await? {
            match take(row) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    *refused = Some(error);
                    break;
                }
            }
        }
        Ok(())
    }

    /// Runs `statement` and returns how many rows it wrote.
    ///
    /// # Errors
    /// See [`classify`].
    pub async fn execute(&self, role: Role, statement: &Statement, params: &[Param<'_>]) -> Result<u64, StoreError> {
        let connection = self.connection(role).await?;
        let work = async {
            let stream = self.stream(&connection, statement, params).await?;
            futures_util::pin_mut!(stream);
            while stream.try_next().await?.is_some() {}
            Ok(stream.rows_affected().unwrap_or(0))
        };
        let outcome = self.in_time(role, connection.generation, work).await;
        self.finish(connection, outcome).await
    }

    /// Runs several statements without parameters, outside any time limit: migrations.
    ///
    /// # Errors
    /// See [`classify`].
    pub async fn batch(&self, sql: &str) -> Result<(), StoreError> {
        let mut connection = self.connection(Role::Side).await?;
        let outcome = connection.batch_execute(sql).await;
        (connection.answered, connection.ended) = (true, true);
        outcome.map_err(classify)
    }

    /// Books how a statement ended, or that it did not.
    pub(crate) async fn finish<T>(
        &self,
        mut connection: Checkout<'_>,
        outcome: Result<Result<T, tokio_postgres::Error>, GivenUp>,
    ) -> Result<T, StoreError> {
        connection.ended = true;
        let given_up = match outcome {
            Ok(answer) => {
                // Where the connection or the server may be what is wrong, the connection goes too.
                connection.answered = answer.as_ref().err().is_none_or(|error| match about(error) {
                    About::Row | About::Lock | About::Duration => true,
                    // A trigger may have left it with another role.
                    About::Role => !error.as_db_error().is_some_and(lacks_right),
                    About::Schema => !loses_prepared_statements(error),
                    About::Connection | About::Server => false,
                });
                return self.outcome(&connection, answer);
            }
            Err(given_up) => given_up,
        };
        let cancel = connection.cancel_token();
        drop(connection);
        let (patience, error): (_, Box<dyn std::error::Error + Send + Sync>) = match given_up {
            GivenUp::Locked(lock) => (CANCEL_TIMEOUT, Box::new(DatabaseError::locked(&lock))),
            GivenUp::Silent(limit) => {
                let patience = if self.within.is_some() {
                    CANCEL_TIMEOUT / 5
                } else {
                    self.overdue();
                    CANCEL_TIMEOUT
                };
                (patience, Box::new(Silent(STATEMENT_SILENT, limit)))
            }
        };
        // Best effort: the server notices the closed connection by itself, later.
        let cancelled = tokio::time::timeout(patience, cancel.cancel_query(self.way.tls()));
        drop(cancelled.await);
        Err(StoreError::Unavailable(error))
    }
}
