//! What the outside sees of a running relay: logs, metrics, health, and what systemd is told.
//!
//! The engine reports facts; everything here only keeps and shows them, never fails and never blocks on I/O of others.

pub mod health;
pub mod log;
pub mod metrics;
mod process;
pub mod systemd;
