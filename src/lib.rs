//! A transactional outbox relay: committed rows of a PostgreSQL table reach a broker, in order and never lost.
//!
//! ```text
//!            what people see                       what decides                    what it speaks to
//!  main -> cli -> config, http, telemetry     relay -> route, delivery      store     <- store::postgres -> sql/
//!                                                      backoff, message     transport <- transport::{nats, kafka, ...}
//! ```
//!
//! One way through it is the way of a row. [`store`] finds it: a cursor walks the primary key, and what it had to
//! leave is read beside it. [`relay`] admits it to its window, [`route`] says where it goes, and it waits in the
//! queue of its lane, a fixed share of the keys, until the lane's batch before it is answered. A [`transport`]
//! publishes the batch and says of each message what happened ([`delivery::Outcome`]); [`delivery::decide`] says what
//! is done about it; and the store writes that down: relayed, tried again later, failed. Nothing is written for a
//! lane whose lease somebody else holds by now.
//!
//! Three things to know before reading on:
//!
//! - **Two ports.** [`store::Store`] and [`transport::Transport`] begin with laws, one line each. Each law is a test
//!   that every implementation runs, those in memory (`testing`) included. The engine names no database and no
//!   broker.
//! - **What happened is not what is done.** Each adapter has one `classify`, which knows its codes and no policy.
//!   `decide` is pure, knows the policy and no codes.
//! - **Nothing waits for long in memory.** Whatever cannot go now (its key is held, its destination is out, its topic
//!   paused) is left in the database and read again when it can, so memory depends on the window and not on the
//!   backlog.
//!
//! Where to begin: `relay/mod.rs` for the engine, the two ports for what it stands on, `cli/run.rs` for how a process
//! is put together. `ARCHITECTURE.md` has the picture, the words and the invariants; `CONTRIBUTING.md` says how to
//! change things; `docs/guide.md` is for people who run it. This library is the program's own: its interface is no
//! promise to anybody else.

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
pub mod repeat;
pub mod route;
pub mod store;
pub mod stuck;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
pub mod transport;
pub mod trouble;
pub mod whereabouts;
