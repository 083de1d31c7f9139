//! A transaction under way: numbers taken, rows nobody sees yet.

use std::sync::Arc;

use super::{MemoryTable, NewRow};
use crate::message::Seq;

/// An open transaction. Takes numbers at insert; its rows appear at commit. Dropped, it rolls back.
#[derive(Debug)]
pub struct Transaction {
    pub(super) table: Arc<MemoryTable>,
    pub(super) id: u64,
}

impl Transaction {
    /// Inserts; nobody sees the row yet.
    pub fn insert(&mut self, new: &NewRow) -> Seq {
        let mut state = self.table.state();
        let row = state.new_row(self.table.lanes, new, None);
        let seq = row.message.seq;
        let own = state.open.get_mut(&self.id);
        own.expect("a transaction is open until it is dropped").push(row);
        seq
    }

    /// Its rows appear.
    pub fn commit(self) {
        let mut state = self.table.state();
        let rows = state.open.remove(&self.id).unwrap_or_default();
        for row in rows {
            state.rows.insert(row.message.seq.0, row);
        }
        drop(state);
        self.table.woke();
    }

    /// Its numbers are gone for ever.
    pub fn rollback(self) {
        drop(self);
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        self.table.state().open.remove(&self.id);
    }
}
