//! What the tests from outside stand on: scratch servers, the daemon as a process, writers, an independent consumer and
//! the checker that compares the two ends.
//!
//! Nothing here looks into the daemon. It is started from its binary, told what to do by a configuration file, and
//! judged by what the database and the broker hold afterwards. The only waiting is [`eventually`]: a condition polled
//! until a deadline.

pub(crate) mod access;
pub(crate) mod arrivals;
pub(crate) mod audit;
pub(crate) mod broker;
pub(crate) mod browser;
pub(crate) mod certificates;
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
pub(crate) mod hostile;
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
pub(crate) mod rows;
pub(crate) mod scene;
pub(crate) mod stage;
pub(crate) mod web;
pub(crate) mod writers;

use std::future::Future;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// How much longer work takes now than on a machine with a core to spare, 1 or more: what a thread that wants to run for 50 ms
/// has to wait for a core, by the kernel's own account.
pub(crate) fn crowding() -> f64 {
    let accounts = || {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let mut fields = text.split_whitespace().map(|field| field.parse().unwrap_or(0.0));
        (fields.next().unwrap_or(0.0), fields.next().unwrap_or(0.0))
    };
    let (begun, (ran_before, waited_before)) = (Instant::now(), accounts());
    while begun.elapsed() < Duration::from_millis(50) {
        std::hint::spin_loop();
    }
    let (ran, waited): (f64, f64) = accounts();
    let (ran, waited) = (ran - ran_before, waited - waited_before);
    if ran > 0.0 { 1.0 + waited / ran } else { 1.0 }
}

/// Asserts that something took no longer than `limit`; on a machine whose cores are taken, as much longer as everything takes.
#[track_caller]
pub(crate) fn assert_within(what: &str, took: Duration, limit: Duration) {
    let crowded = || limit.mul_f64(crowding());
    assert!(
        took <= limit || took <= crowded(),
        "{what} took {took:?}, and {limit:?} at most"
    );
}

/// Polls `condition` every 20 ms until it answers `Some`; panics with `what` once `deadline` has passed (on a machine whose cores
/// are taken: later, as everything is).
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
        let late = started.elapsed() >= deadline && started.elapsed() >= deadline.mul_f64(crowding());
        assert!(!late, "still not so after {:?}: {what}", started.elapsed());
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
