//! What a test does to the table behind the relay's back: rows that cannot be written, numbers that come again.

use super::{MemoryTable, State};
use crate::message::Seq;
use crate::store::Stuck;
use crate::stuck::StuckReason;

impl State {
    /// Whether the row can be written.
    pub(super) fn stuck(&self, seq: Seq) -> Result<(), Stuck> {
        let stuck = self.stuck.get(&seq.0);
        stuck.map_or(Ok(()), |reason| {
            Err(Stuck {
                seq,
                reason: *reason,
                detail: "the test says so".to_owned(),
            })
        })
    }
}

impl MemoryTable {
    /// From now on the row cannot be written, for this reason; `None`: it can.
    pub fn set_stuck(&self, seq: Seq, reason: Option<StuckReason>) {
        let mut state = self.state();
        match reason {
            Some(reason) => state.stuck.insert(seq.0, reason),
            None => state.stuck.remove(&seq.0),
        };
    }

    /// Every row can be written.
    pub fn free_all(&self) {
        self.state().stuck.clear();
    }

    /// `truncate ... restart identity`: every row is gone, and its number comes again.
    pub fn truncate(&self) {
        let mut state = self.state();
        state.rows.clear();
        state.stuck.clear();
        state.last_seq = 0;
    }

    /// Settles by number alone from now on, which loses messages: for a test that must notice.
    pub fn ignore_identities(&self) {
        self.state().identities_ignored = true;
    }
}
