//! Connections where there are too few: a server, database, role or pooler that takes no more.
//!
//! Every role has a pool of its own. One that is refused a connection uses another's: with a single one everything still goes on,
//! in turns. Reading and settling have the first choice, and the connection that listens is given back; it is asked for only when
//! every role has its own.

use std::time::{Duration, Instant};

use deadpool_postgres::{Object, PoolError, TimeoutType};
use tokio::sync::futures::Notified;
use tokio::time::timeout_at;
use tokio_postgres::error::SqlState;

use super::checkout::Checkout;
use super::classify::{Silent, explained};
use super::database::{Database, Within};
use super::facts::Slots;
use super::role::Role;
use crate::lock::lock;
use crate::store::StoreError;

/// A pool that was refused asks again after this long.
const REFUSED_FOR: Duration = Duration::from_secs(5);

/// Where the limit is that `error` speaks of; `None`: it speaks of something else.
fn limit(error: &tokio_postgres::Error) -> Option<&'static str> {
    let refused = error.as_db_error()?;
    let message = refused.message();
    let full = [SqlState::TOO_MANY_CONNECTIONS, SqlState::CONFIGURATION_LIMIT_EXCEEDED].contains(refused.code());
    if full && message.contains("for role") {
        Some("the role's connection limit (alter role ... connection limit -1)")
    } else if full && message.contains("for database") {
        Some("the database's connection limit (alter database ... connection limit -1)")
    } else if full {
        Some("max_connections of the server, less those it reserves")
    } else if *refused.code() == SqlState::PROTOCOL_VIOLATION && message.contains("no more connections allowed") {
        Some("the pooler's (max_client_conn)")
    } else {
        None
    }
}

impl Database {
    pub(crate) async fn connection(&self, role: Role) -> Result<Checkout<'_>, StoreError> {
        let generation = self.facts.generation.load(std::sync::atomic::Ordering::Acquire);
        // Boxed: it is large where another role's connection is asked for, and every statement carries it.
        let object = Box::pin(self.checked_out(role)).await?.map_err(|error| {
            if role == Role::Read {
                self.cursor.forget();
            }
            match error {
                PoolError::Timeout(TimeoutType::Create) => {
                    StoreError::Unavailable(Box::new(Silent("no answer while connecting", self.patience)))
                }
                // What the pool would say of it beside is of no use to anybody.
                PoolError::Backend(error) => StoreError::Unavailable(explained(error)),
                other @ (PoolError::Timeout(_)
                | PoolError::Closed
                | PoolError::NoRuntimeSpecified
                | PoolError::PostCreateHook(_)) => StoreError::Unavailable(Box::new(other)),
            }
        })?;
        let made = Object::metrics(&object).created;
        if role == Role::Read && !self.cursor.goes_on(made) {
            return Err(StoreError::Unavailable(
                "the connection was lost between two reads: starting over".into(),
            ));
        }
        Ok(Checkout {
            object: Some(object),
            role,
            facts: &self.facts,
            cursor: &self.cursor,
            generation,
            way: &self.way,
            answered: false,
            ended: false,
        })
    }

    /// A connection of the role's own pool, or of another one where that one is refused its own.
    async fn checked_out(&self, role: Role) -> Result<Result<Object, PoolError>, StoreError> {
        let own = self.pool_of(role);
        let known = self.slots().is_refused(own, Instant::now()) && self.pools[own].status().size == 0;
        let mut refused = None;
        if !known {
            match self.one_of(own).await? {
                Err(PoolError::Backend(error)) if limit(&error).is_some() => {
                    self.book_refusal(own, limit(&error).unwrap_or_default());
                    refused = Some(PoolError::Backend(error));
                }
                other => {
                    self.book_room(own);
                    return Ok(other);
                }
            }
        }
        let mut others: Vec<usize> = (0..self.pools.len())
            .filter(|pool| self.pools[*pool].status().size > 0)
            .collect();
        // The cursor must not change its connection without need; anybody else takes one that is free.
        if role != Role::Read {
            others.sort_by_key(|pool| self.pools[*pool].status().available == 0);
        }
        for other in others {
            match self.one_of(other).await? {
                Err(PoolError::Backend(error)) if limit(&error).is_some() => refused = Some(PoolError::Backend(error)),
                answer => return Ok(answer),
            }
        }
        match refused {
            Some(error) => Ok(Err(error)),
            // Nobody has one any more.
            None => self.one_of(own).await,
        }
    }

    async fn one_of(&self, index: usize) -> Result<Result<Object, PoolError>, StoreError> {
        let pool = &self.pools[index];
        let Some(Within { limit, deadline }) = self.within else {
            loop {
                match pool.get().await {
                    // Whoever has it waits for a lock; nothing is wrong with the server.
                    Err(PoolError::Timeout(TimeoutType::Wait)) if self.watch.is_waiting(index) => {}
                    other => return Ok(other),
                }
            }
        };
        let got = timeout_at(deadline, pool.get()).await;
        got.map_err(|_| StoreError::Unavailable(Box::new(Silent("no free connection", limit))))
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, Slots> {
        lock(&self.facts.slots)
    }

    /// How many connections the pools have, and how many they want.
    fn had_and_wanted(&self) -> (usize, usize) {
        let sizes = self
            .pools
            .iter()
            .map(|pool| (pool.status().size, pool.status().max_size));
        sizes.fold((0, 0), |(had, wanted), (size, max)| (had + size, wanted + max))
    }

    fn book_refusal(&self, pool: usize, limit: &str) {
        let (had, wanted) = self.had_and_wanted();
        let mut slots = self.slots();
        slots.refused_until.resize(self.pools.len(), None);
        slots.refused_until[pool] = Some(Instant::now() + REFUSED_FOR);
        if !std::mem::replace(&mut slots.said, true) {
            tracing::warn!(
                had,
                wanted,
                "the database takes no more connections: reading and settling go on with those there are, and nobody listens; the limit is {limit}"
            );
        }
        drop(slots);
        self.facts.refused.notify_waiters();
    }

    fn book_room(&self, pool: usize) {
        let mut slots = self.slots();
        if let Some(until) = slots.refused_until.get_mut(pool) {
            *until = None;
        }
        if slots.said && slots.refused_until.iter().all(Option::is_none) {
            slots.said = false;
            tracing::info!("the database takes all connections again");
        }
    }

    /// Whether every role has a connection of its own, after it has asked for one: then there may be room for one that
    /// listens.
    ///
    /// # Errors
    /// The database is away.
    pub(crate) async fn has_room(&self) -> Result<bool, StoreError> {
        for role in [Role::Settle, Role::Lease, Role::Side, Role::Read] {
            let own = self.pool_of(role);
            if self.pools[own].status().size == 0 {
                if role == Role::Read && own == Role::Read as usize {
                    // The cursor's own is made by the cursor.
                    continue;
                }
                match self.connection(role).await {
                    Ok(connection) => drop(connection.unused()),
                    Err(_) if self.slots().said => return Ok(false),
                    Err(error) => return Err(error),
                }
            }
            if self.pools[own].status().size == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits until somebody is refused a connection.
    pub(crate) fn refused(&self) -> Notified<'_> {
        self.facts.refused.notified()
    }
}

/// Whether a connection was refused because there are enough.
pub(crate) fn is_full(error: &tokio_postgres::Error) -> bool {
    limit(error).is_some()
}
