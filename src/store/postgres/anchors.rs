//! The messages read last. A sequence that was set back and has gone past the cursor again does not show it; but then it has
//! given the numbers just below the cursor once more, and other messages stand there.

use crate::message::MessageId;
use crate::store::Row;

/// So many: a number that comes back may be rolled back, and nobody stands there then.
const KEPT: usize = 8;

/// Numbers and the ids of their messages, the latest last.
#[derive(Debug, Default)]
pub(super) struct Anchors {
    seqs: Vec<i64>,
    ids: Vec<String>,
}

impl Anchors {
    /// A page has come: its last messages too.
    pub(super) fn add(&mut self, page: &[Row]) {
        for Row { message, .. } in &page[page.len().saturating_sub(KEPT)..] {
            if message.id != MessageId::Missing {
                self.seqs.push(message.seq.0);
                self.ids.push(message.id.to_string());
            }
        }
        self.keep(2 * KEPT);
    }

    /// As the look takes them.
    pub(super) fn columns(&self) -> (&[i64], &[String]) {
        (&self.seqs, &self.ids)
    }

    /// A look has found all of them in their places.
    pub(super) fn found(&mut self) {
        self.keep(KEPT);
    }

    fn keep(&mut self, latest: usize) {
        let old = self.seqs.len().saturating_sub(latest);
        self.seqs.drain(..old);
        self.ids.drain(..old);
    }
}
