//! The outbox in PostgreSQL.

pub mod database;
pub mod migrate;
pub mod sql;
