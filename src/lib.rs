//! A transactional outbox relay: committed rows of a PostgreSQL table reach a broker, in order and never lost.
//!
//! See `ARCHITECTURE.md` for the picture and the invariants.

pub mod backlog;
pub mod backoff;
pub mod cli;
pub mod config;
mod daemon;
pub mod delivery;
pub mod finding;
pub mod http;
mod lock;
pub mod message;
pub mod relay;
pub mod route;
pub mod store;
pub mod stuck;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
pub mod transport;
pub mod trouble;
