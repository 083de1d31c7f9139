//! Lag: rows left in the database, to be read again from one place on.
//!
//! A destination that can take no more lags, and so do lanes just taken over. The cursor goes on without their rows; all
//! that is remembered is where they fell behind. They are read again from there, in `seq` order, until the cursor is met.

use crate::message::Seq;

/// Rows past `next` wait in the database.
#[derive(Debug)]
pub(crate) struct Lag {
    pub(crate) next: Seq,
    /// A reread is under way.
    reading: bool,
    /// A row behind what that reread covers turned up: go back to here when it is done.
    back_to: Option<Seq>,
}

impl Lag {
    /// Everything past `next`.
    pub(crate) fn past(next: Seq) -> Self {
        Self {
            next,
            reading: false,
            back_to: None,
        }
    }

    /// Whether rows before this one are left behind: those past `next`, and what a reread under way goes back to.
    pub(crate) fn is_past(&self, seq: Seq) -> bool {
        seq > self.back_to.map_or(self.next, |back| back.min(self.next))
    }

    /// The row `seq` waits too.
    pub(crate) fn include(&mut self, seq: Seq) {
        let before = Seq(seq.0.saturating_sub(1));
        if self.reading {
            self.back_to = Some(self.back_to.map_or(before, |old| old.min(before)));
        } else {
            self.next = self.next.min(before);
        }
    }

    /// A reread of what is past `next` begins.
    pub(crate) fn begin(&mut self) {
        self.reading = true;
    }

    /// Whether the reread under way is to bring this row.
    pub(crate) fn brings(&self, seq: Seq) -> bool {
        self.reading && seq > self.next && self.admits(seq)
    }

    /// Whether a row that the reread under way brings may come in: behind one that turned up meanwhile it comes again.
    pub(crate) fn admits(&self, seq: Seq) -> bool {
        self.back_to.is_none_or(|back| seq <= back)
    }

    /// It has looked at everything up to `position`; `met`: that is where the cursor stands. Answers whether nothing is
    /// left behind.
    pub(crate) fn read(&mut self, position: Seq, met: bool) -> bool {
        self.reading = false;
        // A read for several began at the one furthest behind, and may have ended before this one's place.
        self.next = self.next.max(position);
        match self.back_to.take() {
            Some(back) => {
                self.next = self.next.min(back);
                false
            }
            None => met,
        }
    }
}
