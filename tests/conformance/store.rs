//! The laws of `src/store/mod.rs`, one test body per law, run for every store.

mod laws;
mod memory;
mod postgres;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outboxd::message::Seq;
use outboxd::store::{Leases, Store};

/// What an application inserts.
#[derive(Clone, Debug)]
pub struct Fresh {
    /// Its topic.
    pub topic: &'static str,
    /// Its key.
    pub key: Option<String>,
    /// Characters of its payload, about.
    pub size: usize,
    /// Not before this long from the insert.
    pub delay: Duration,
    /// Above 0 it overtakes.
    pub priority: i16,
}

/// A row with a key, due at once.
pub fn keyed(key: impl Into<String>) -> Fresh {
    Fresh {
        topic: "t",
        key: Some(key.into()),
        size: 2,
        delay: Duration::ZERO,
        priority: 0,
    }
}

/// A row without a key, due at once.
pub fn keyless() -> Fresh {
    Fresh {
        topic: "t",
        key: None,
        size: 2,
        delay: Duration::ZERO,
        priority: 0,
    }
}

/// A row as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The attempt that comes next.
    pub attempt: i32,
    /// `relayed_at` is set.
    pub relayed: bool,
    /// `failed_at` is set.
    pub failed: bool,
    /// The latest failure.
    pub last_error: Option<String>,
}

/// An open transaction of an application.
#[async_trait]
pub trait Open: Send {
    /// Takes a number; nobody sees the row yet.
    async fn insert(&mut self, row: Fresh) -> Seq;
    /// Its rows appear.
    async fn commit(self: Box<Self>);
    /// Its numbers are gone.
    async fn rollback(self: Box<Self>);
}

/// One implementation and the world around it.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// The store under test.
    type Store: Store + Leases;

    /// A handle for an instance of this name, on this outbox; the second of a name is that instance restarted.
    async fn instance(&self, name: &str) -> Arc<Self::Store>;
    /// Inserts and commits.
    async fn insert(&self, rows: &[Fresh]) -> Vec<Seq>;
    /// Inserts `count` rows that are relayed already.
    async fn insert_relayed(&self, count: usize);
    /// Inserts a row with a number written by hand.
    async fn insert_at(&self, seq: i64, row: Fresh);
    /// Opens a transaction.
    async fn begin(&self) -> Box<dyn Open>;
    /// What has become of a row.
    async fn row(&self, seq: Seq) -> Facts;
    /// Another message takes the row's place under the same number, as after a failover that lost commits.
    async fn replace(&self, seq: Seq);

    /// An operator replays it, whatever its state.
    async fn replay(&self, seq: Seq);

    /// These rows cannot be written from now on, and no others.
    async fn refuse(&self, seqs: &[Seq]);
    /// Lets time pass.
    async fn pass(&self, time: Duration);
    /// Panics when the store has left a transaction open.
    async fn at_rest(&self);
}
