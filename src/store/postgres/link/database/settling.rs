//! Writes whose time limit says something about the rows, not about the server; and several of them in one round trip.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool_postgres::Object;
use futures_util::TryStreamExt;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

use super::{Database, Granted};
use crate::store::StoreError;
use crate::store::postgres::link::about::{About, DatabaseError, database_error, is_of_a_function};
use crate::store::postgres::link::checkout::{CANCEL_TIMEOUT, Checkout};
use crate::store::postgres::link::classify::{
    STATEMENT_SILENT, Silent, classify, is_another_server, loses_prepared_statements,
};
use crate::store::postgres::link::role::Role;
use crate::store::postgres::link::sql::{Param, Statement};

/// The connection marks and failures are written on, for a few statements: those that are polled together go to the server
/// together, each a transaction of its own.
pub struct Settling<'a> {
    database: &'a Database,
    connection: Checkout<'a>,
    /// Every statement was answered by a server in its right mind.
    well: AtomicBool,
}

impl Database {
    /// How long a statement may take.
    #[must_use]
    pub fn statement_timeout(&self) -> Duration {
        self.statement_timeout
    }

    /// No answer to a statement: the server was lost.
    pub(super) fn overdue(&self) {
        self.facts.overdue.fetch_add(1, Ordering::Relaxed);
        self.lose_all();
    }

    /// What a statement's end says of all connections, and to whoever asked for it.
    pub(super) fn outcome<T>(
        &self,
        connection: &Object,
        outcome: Result<T, tokio_postgres::Error>,
    ) -> Result<T, StoreError> {
        let error = match outcome {
            Ok(value) => {
                self.facts.overdue.store(0, Ordering::Relaxed);
                return Ok(value);
            }
            Err(error) => error,
        };
        // What a function of the application meets, on a connection of its own perhaps, says nothing about ours.
        let is_ours = !is_of_a_function(&error);
        if is_ours && loses_prepared_statements(&error) {
            self.stop_naming_statements();
        }
        if error.code() == Some(&SqlState::FEATURE_NOT_SUPPORTED) {
            connection.statement_cache.clear();
        }
        if is_ours && is_another_server(&error) {
            self.lose_all();
        }
        Err(if self.facts.settled_in.load(Ordering::Relaxed) {
            StoreError::Unavailable(Box::new(DatabaseError::of(&error)))
        } else {
            classify(error)
        })
    }

    /// The settling connection.
    ///
    /// # Errors
    /// See [`classify`].
    pub async fn settling(&self) -> Result<Settling<'_>, StoreError> {
        Ok(Settling {
            database: self,
            connection: self.connection(Role::Settle).await?,
            well: AtomicBool::new(true),
        })
    }

    /// As `query`, on the settling connection. One that a trigger has left with another role is thrown away: the next is asked.
    pub(crate) async fn query_settling(
        &self,
        statement: &Statement,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, StoreError> {
        match self.query(Role::Settle, statement, params).await {
            Err(error) if database_error(&error).is_some_and(DatabaseError::lacks_right) => {
                self.query(Role::Settle, statement, params).await
            }
            answer => answer,
        }
    }
}

impl Settling<'_> {
    /// Runs `statement` and returns how many rows it wrote (or, of a query, answered). One that takes longer than it
    /// is `granted` is cancelled: if the server answers that, it is alive and the statement was
    /// slow, and its error is about the duration, or about the lock it waited for.
    ///
    /// # Errors
    /// See [`classify`].
    pub async fn write(
        &self,
        statement: &Statement,
        params: &[Param<'_>],
        granted: Option<Granted>,
    ) -> Result<u64, StoreError> {
        let work = async {
            let stream = self.database.stream(&self.connection, statement, params).await?;
            futures_util::pin_mut!(stream);
            while stream.try_next().await?.is_some() {}
            Ok(stream.rows_affected().unwrap_or(0))
        };
        let mut work = std::pin::pin!(work);
        let mut lock = None;
        let answer = match granted {
            None => Ok(work.await),
            Some(granted) => match self.database.patiently(granted, &statement.text, work.as_mut()).await {
                Ok(done) => Ok(done),
                Err(found) => {
                    lock = found;
                    let ended = async {
                        self.cancel().await;
                        work.await
                    };
                    tokio::time::timeout(2 * CANCEL_TIMEOUT, ended)
                        .await
                        .map_err(|_| granted.limit)
                }
            },
        };
        let outcome = match answer {
            Ok(answer) => self.database.outcome(&self.connection, answer),
            Err(limit) => {
                self.database.overdue();
                Err(StoreError::Unavailable(Box::new(Silent(STATEMENT_SILENT, limit))))
            }
        };
        let well = match &outcome {
            Ok(_) => true,
            Err(error) => database_error(error).is_some_and(|error| match error.about() {
                About::Row | About::Lock | About::Duration | About::Schema => true,
                About::Role => !error.lacks_right(),
                About::Connection | About::Server => error.is_of_a_function(),
            }),
        };
        self.well.fetch_and(well, Ordering::Relaxed);
        let is_cancelled = |error| database_error(error).is_some_and(|error| error.about() == About::Duration);
        match (outcome, lock) {
            (Err(error), Some(lock)) if is_cancelled(&error) => {
                Err(StoreError::Unavailable(Box::new(DatabaseError::locked(&lock))))
            }
            (outcome, _) => outcome,
        }
    }

    async fn cancel(&self) {
        let cancel = self.connection.cancel_token();
        drop(cancel.cancel_query(self.database.way.tls()).await);
    }

    /// Gives the connection back; dropped without, it is thrown away.
    pub fn end(mut self) {
        self.connection.answered = self.well.load(Ordering::Relaxed);
        self.connection.ended = true;
    }

    /// What is under way is cancelled, and the connection thrown away.
    pub async fn abandon(self) {
        drop(tokio::time::timeout(CANCEL_TIMEOUT, self.cancel()).await);
    }
}
