//! The outbox in PostgreSQL.

pub mod database;
pub mod enqueue;
pub mod failed;
pub mod migrate;
pub mod moment;
pub mod schema;
pub mod sql;
pub mod status;
