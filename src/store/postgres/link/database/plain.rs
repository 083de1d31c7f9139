//! Text that is sent as it is: several statements as one message, and what a statement would answer.

use std::collections::BTreeMap;

use tokio_postgres::SimpleQueryMessage;

use super::{Database, Role};
use crate::store::StoreError;

const END: &str = include_str!("../../../../../sql/snapshot_end.sql");

/// The values of a row by column, as text; a null is not among them.
pub type Answer = BTreeMap<String, String>;

impl Database {
    /// Runs a transaction that is one message, without parameters, and answers the last row of it.
    ///
    /// # Errors
    /// See [`super::classify`].
    pub async fn transaction(&self, role: Role, sql: &str) -> Result<Answer, StoreError> {
        let connection = self.connection(role).await?;
        let outcome = self
            .in_time(role, connection.generation, connection.simple_query(sql))
            .await;
        if matches!(outcome, Ok(Err(_))) {
            // Who asks next on this connection must not find the transaction aborted.
            let ended = self
                .in_time(role, connection.generation, connection.batch_execute(END))
                .await;
            if !matches!(ended, Ok(Ok(()))) {
                self.finish(connection, ended).await?;
                return Err(StoreError::Unavailable("a transaction could not be ended".into()));
            }
        }
        let messages = self.finish(connection, outcome).await?;
        let mut last = None;
        for message in messages {
            if let SimpleQueryMessage::Row(row) = message {
                last = Some(row);
            }
        }
        let values = last.iter().flat_map(|row| {
            let named = |(at, column): (usize, &tokio_postgres::SimpleColumn)| {
                Some((column.name().to_owned(), row.get(at)?.to_owned()))
            };
            row.columns().iter().enumerate().filter_map(named)
        });
        Ok(values.collect())
    }

    /// Of which types the columns are that `sql` would answer, by PostgreSQL's own names; or, where it cannot be prepared, what the
    /// server says of it. Nothing is run.
    ///
    /// # Errors
    /// See [`super::classify`].
    pub async fn describe(&self, sql: &str) -> Result<Result<Vec<String>, String>, StoreError> {
        let connection = self.connection(Role::Side).await?;
        let mut refused = None;
        let work = async {
            match connection.prepare(sql).await {
                Ok(statement) => {
                    let columns = statement.columns().iter();
                    Ok(columns.map(|column| column.type_().name().to_owned()).collect())
                }
                Err(error) => {
                    let said = error.as_db_error().filter(|said| {
                        let state = said.code().code();
                        ["0A", "22", "42"].contains(&&state[..2]) && state != "42501"
                    });
                    match said {
                        Some(said) => {
                            refused = Some(format!("{} ({})", said.message(), said.code().code()));
                            Ok(Vec::new())
                        }
                        None => Err(error),
                    }
                }
            }
        };
        let outcome = self.in_time(Role::Side, connection.generation, work).await;
        let types = self.finish(connection, outcome).await?;
        Ok(refused.map_or(Ok(types), Err))
    }
}
