//! The fake passes the suite of the real one, in paused time.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outboxd::message::{MessageId, Seq};
use outboxd::stuck::StuckReason;
use outboxd::testing::memory_store::{MemoryStore, MemoryTable, NewRow, StoredRow, Transaction};
use uuid::Uuid;

use super::laws::uphold;
use super::{Facts, Fixture, Fresh, Open};

struct Fake(Arc<MemoryTable>);

impl Fake {
    async fn new() -> Self {
        tokio::time::pause();
        Self(MemoryTable::new(8))
    }
}

fn new_row(row: &Fresh) -> NewRow {
    let new = NewRow::new(row.topic)
        .payload("x".repeat(row.size))
        .delayed(row.delay)
        .priority(row.priority);
    match &row.key {
        Some(key) => new.key(key),
        None => new,
    }
}

#[async_trait]
impl Open for Transaction {
    async fn insert(&mut self, row: Fresh) -> Seq {
        Self::insert(self, &new_row(&row))
    }

    async fn commit(self: Box<Self>) {
        Self::commit(*self);
    }

    async fn rollback(self: Box<Self>) {
        Self::rollback(*self);
    }
}

#[async_trait]
impl Fixture for Fake {
    type Store = MemoryStore;

    async fn instance(&self, name: &str) -> Arc<MemoryStore> {
        Arc::new(MemoryStore::new(&self.0, name))
    }

    async fn insert(&self, rows: &[Fresh]) -> Vec<Seq> {
        rows.iter().map(|row| self.0.insert(&new_row(row))).collect()
    }

    async fn insert_relayed(&self, count: usize) {
        for _ in 0..count {
            let seq = self.0.insert(&NewRow::new("old"));
            self.0.update(seq, |row| row.relayed_at = Some(row.inserted_at));
        }
    }

    async fn insert_at(&self, seq: i64, row: Fresh) {
        self.0.insert_at(seq, &new_row(&row));
    }

    async fn begin(&self) -> Box<dyn Open> {
        Box::new(self.0.begin())
    }

    async fn row(&self, seq: Seq) -> Facts {
        let row = self.0.row(seq).unwrap();
        Facts {
            attempt: row.message.attempt,
            relayed: row.relayed_at.is_some(),
            failed: row.failed_at.is_some(),
            last_error: row.last_error,
        }
    }

    async fn replace(&self, seq: Seq) {
        assert!(
            self.0
                .update(seq, |row| row.message.id = MessageId::Uuid(Uuid::new_v4()))
        );
    }

    async fn replay(&self, seq: Seq) {
        let replay = |row: &mut StoredRow| {
            row.relayed_at = None;
            row.message.replay += 1;
            row.message.attempt = 1;
            row.available_at = tokio::time::Instant::now();
        };
        assert!(self.0.update(seq, replay));
    }

    async fn refuse(&self, seqs: &[Seq]) {
        self.0.free_all();
        for seq in seqs {
            self.0.set_stuck(*seq, Some(StuckReason::Refused));
        }
    }

    async fn pass(&self, time: Duration) {
        tokio::time::advance(time).await;
    }

    async fn at_rest(&self) {}
}

uphold!([flavor = "current_thread"] Fake::new());
