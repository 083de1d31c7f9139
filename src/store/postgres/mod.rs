//! The outbox in PostgreSQL.

pub mod connect;
pub mod database;
pub mod sql;
mod tls;
