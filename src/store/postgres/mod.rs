//! The outbox in PostgreSQL.

pub mod database;
pub mod sql;
