//! Named statements, or unnamed ones where a pooler in transaction mode stands in between.
//!
//! Such a pooler hands each statement to whichever server connection is free. One that was prepared on another is not known there,
//! or, where several programs share the pooler, another's statement has its name and is run instead. So nothing is named
//! until it is known that every connection keeps its server process: a few questions at the start tell.

use std::sync::atomic::Ordering;
use std::time::Duration;

use deadpool_postgres::Object;
use tokio_postgres::RowStream;
use tokio_postgres::types::Type;

use super::classify::loses_prepared_statements;
use super::database::Database;
use super::role::Role;
use super::sql::{Param, Statement, code};
use crate::store::StoreError;

const BACKEND: &str = include_str!("../../../../sql/probe_backend.sql");
/// Who asks, in turn. Whatever order a pooler takes its connections in, one of these sees another than before, or the
/// other's.
const ORDER: [Role; 10] = [
    Role::Settle,
    Role::Lease,
    Role::Lease,
    Role::Settle,
    Role::Settle,
    Role::Lease,
    Role::Settle,
    Role::Lease,
    Role::Lease,
    Role::Settle,
];
/// Between two tries where the database does not answer, or the roles share a connection.
const AGAIN: Duration = Duration::from_secs(1);

impl Database {
    /// Finds out whether statements may be named, for as long as that takes.
    pub async fn learn_naming(&self) {
        while self.facts.naming_wanted && !self.facts.pooled.load(Ordering::Relaxed) {
            match self.keeps_servers().await {
                Ok(Some(true)) => {
                    self.facts.prepared.store(true, Ordering::Relaxed);
                    return;
                }
                Ok(Some(false)) => return self.stop_naming_statements(),
                Ok(None) | Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }

    /// Whether two connections keep their server processes; `None` where there are no two, or one was replaced meanwhile.
    async fn keeps_servers(&self) -> Result<Option<bool>, StoreError> {
        let statement = Statement {
            text: code(BACKEND),
            types: &[],
        };
        let mut known: [Option<(i32, std::time::Instant)>; 2] = [None; 2];
        for role in ORDER {
            let connection = self.connection(role).await?;
            let made = Object::metrics(&connection).created;
            drop(connection.unused());
            let rows = self.query(role, &statement, &[]).await?;
            let pid: i32 = rows.first().map_or(0, |row| row.get(0));
            let (mine, other) = if role == Role::Settle { (0, 1) } else { (1, 0) };
            match known[mine] {
                Some((_, before)) if before != made => return Ok(None),
                Some((before, _)) if before != pid => return Ok(Some(false)),
                Some(_) => {}
                None => known[mine] = Some((pid, made)),
            }
            if let Some((theirs, their_connection)) = known[other] {
                if their_connection == made {
                    return Ok(None);
                }
                if theirs == pid {
                    return Ok(Some(false));
                }
            }
        }
        Ok(Some(true))
    }

    /// Sends `statement`, named where that is known to be safe. A pooler that turns out to lose names is sent it unnamed at once: it
    /// was not run.
    pub(crate) async fn stream(
        &self,
        connection: &Object,
        statement: &Statement,
        params: &[Param<'_>],
    ) -> Result<RowStream, tokio_postgres::Error> {
        if self.facts.prepared.load(Ordering::Relaxed) {
            let named = async {
                let prepared = connection
                    .prepare_typed_cached(&statement.text, statement.types)
                    .await?;
                connection.query_raw(&prepared, params.iter().copied()).await
            };
            match named.await {
                Err(error) if loses_prepared_statements(&error) => self.stop_naming_statements(),
                other => return other,
            }
        }
        let typed: Vec<(Param<'_>, Type)> = params.iter().copied().zip(statement.types.iter().cloned()).collect();
        connection.query_typed_raw(&statement.text, typed).await
    }

    pub(super) fn stop_naming_statements(&self) {
        self.facts.prepared.store(false, Ordering::Relaxed);
        if !self.facts.pooled.swap(true, Ordering::Relaxed) {
            tracing::info!(
                "a pooler in transaction mode stands in between: as the pooler loses prepared statements, unnamed ones are used"
            );
        }
    }
}
