//! What the tests from outside stand on: scratch servers, the daemon as a process, writers, an independent consumer and
//! the checker that compares the two ends.
//!
//! Nothing here looks into the daemon. It is started from its binary, told what to do by a configuration file, and
//! judged by what the database and the broker hold afterwards. The only waiting is [`eventually`]: a condition polled
//! until a deadline.

pub(crate) mod arrivals;
pub(crate) mod audit;
pub(crate) mod broker;
pub(crate) mod browser;
pub(crate) mod chaos;
pub(crate) mod checker;
pub(crate) mod clusters;
pub(crate) mod collector;
pub(crate) mod command;
pub(crate) mod consumer;
pub(crate) mod daemon;
pub(crate) mod enduring;
pub(crate) mod faults;
pub(crate) mod fleet;
pub(crate) mod isolation;
pub(crate) mod kafka;
pub(crate) mod kills;
pub(crate) mod load;
pub(crate) mod logins;
pub(crate) mod nats;
pub(crate) mod pgbouncer;
pub(crate) mod ports;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod processes;
pub(crate) mod proxy;
pub(crate) mod redis;
pub(crate) mod scene;
pub(crate) mod stage;
pub(crate) mod web;
pub(crate) mod writers;

use std::future::Future;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Polls `condition` every 20 ms until it answers `Some`; panics with `what` once `deadline` has passed.
pub(crate) async fn eventually<T, F, Fut>(what: &str, deadline: Duration, mut condition: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let started = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(started.elapsed() < deadline, "still not so after {deadline:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Checks for the whole of `span` that `condition` stays true; panics with `what` when it does not.
pub(crate) async fn throughout<F, Fut>(what: &str, span: Duration, mut condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let started = Instant::now();
    while started.elapsed() < span {
        assert!(condition().await, "no longer so after {:?}: {what}", started.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

static MACHINE: LazyLock<RwLock<()>> = LazyLock::new(RwLock::default);

/// Held by a test that measures time or memory: no other test from outside runs meanwhile.
pub(crate) async fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().await
}

/// Held by a test that does not mind others.
pub(crate) async fn together() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().await
}
