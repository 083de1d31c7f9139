//! Several statements that see one snapshot, on one connection: a page of the cursor, and the gaps that belong before it.
//!
//! Dropped before its end, the connection goes with it, and the server rolls back.

use futures_util::TryStreamExt;
use tokio_postgres::Row;

use crate::store::StoreError;
use crate::store::postgres::link::checkout::Checkout;
use crate::store::postgres::link::database::{Database, GivenUp, Role};
use crate::store::postgres::link::sql::{Param, Statement};

const BEGIN: &str = include_str!("../../../../sql/snapshot_begin.sql");
const END: &str = include_str!("../../../../sql/snapshot_end.sql");

/// See the module. `None` inside once a statement has failed.
pub(super) struct Snapshot<'a> {
    database: &'a Database,
    role: Role,
    connection: Option<Checkout<'a>>,
}

impl Database {
    /// Begins a transaction that keeps its first statement's snapshot.
    pub(super) async fn snapshot(&self, role: Role) -> Result<Snapshot<'_>, StoreError> {
        let connection = Some(self.connection(role).await?);
        let mut snapshot = Snapshot {
            database: self,
            role,
            connection,
        };
        snapshot.tell(BEGIN).await?;
        Ok(snapshot)
    }
}

impl<'a> Snapshot<'a> {
    fn connection(&mut self) -> Result<Checkout<'a>, StoreError> {
        let ended = || StoreError::Unavailable("the snapshot has ended".into());
        self.connection.take().ok_or_else(ended)
    }

    /// Keeps the connection where the statement was answered. An error has aborted the transaction, and who asks next on this connection
    /// must not find it so.
    async fn book<T>(
        &mut self,
        connection: Checkout<'a>,
        outcome: Result<Result<T, tokio_postgres::Error>, GivenUp>,
    ) -> Result<T, StoreError> {
        if let Ok(Ok(value)) = outcome {
            self.connection = Some(connection);
            return Ok(value);
        }
        if matches!(outcome, Ok(Err(_))) {
            let work = connection.batch_execute(END);
            let back = self.database.in_time(self.role, connection.generation, work).await;
            if !matches!(back, Ok(Ok(()))) {
                self.database.finish(connection, back).await?;
                return Err(StoreError::Unavailable("the snapshot has ended".into()));
            }
        }
        self.database.finish(connection, outcome).await
    }

    async fn tell(&mut self, sql: &str) -> Result<(), StoreError> {
        let connection = self.connection()?;
        let work = connection.batch_execute(sql);
        let outcome = self.database.in_time(self.role, connection.generation, work).await;
        self.book(connection, outcome).await
    }

    /// As [`Database::query`].
    pub(super) async fn query(&mut self, statement: &Statement, params: &[Param<'_>]) -> Result<Vec<Row>, StoreError> {
        let connection = self.connection()?;
        let database = self.database;
        let rows = async {
            let stream = database.stream(&connection, statement, params).await?;
            stream.try_collect().await
        };
        let outcome = database.in_time(self.role, connection.generation, rows).await;
        self.book(connection, outcome).await
    }

    /// As [`Database::query_while`].
    pub(super) async fn query_while(
        &mut self,
        statement: &Statement,
        params: &[Param<'_>],
        take: impl FnMut(Row) -> Result<bool, StoreError> + Send,
    ) -> Result<(), StoreError> {
        let connection = self.connection()?;
        let database = self.database;
        let mut refused = None;
        let rows = database.take_while(&connection, (statement, params), take, &mut refused);
        let outcome = database.in_time(self.role, connection.generation, rows).await;
        self.book(connection, outcome).await?;
        refused.map_or(Ok(()), Err)
    }

    /// Ends the transaction; the connection goes back to its pool.
    pub(super) async fn end(mut self) -> Result<(), StoreError> {
        self.tell(END).await?;
        if let Some(mut connection) = self.connection.take() {
            connection.answered = true;
        }
        Ok(())
    }
}
