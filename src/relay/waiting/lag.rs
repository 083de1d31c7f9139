//! Lag: rows left in the database, to be read again from one place on.
//!
//! A destination that can take no more lags, and so do topics an operator has paused and lanes just taken over (`found`). The
//! cursor goes on without their rows; all that is remembered is where they fell behind. They are read again from there, in
//! `seq` order, until the cursor is met.

use crate::message::Seq;

/// Before every number.
pub(crate) const BEGINNING: Seq = Seq(i64::MIN);

/// How a row that turns up stands to a lag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Read again for this lag.
    Own,
    /// The next of its key: it holds the key, or its holder has let it go.
    NextOfKey,
    /// Its time has come. Where it may not pass it is found by that again, and nothing need be remembered.
    Due,
    /// It overtakes.
    Urgent,
    /// Any other.
    Other,
}

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
    /// The row `from` and everything past it; `None`: everything.
    pub(crate) fn from(from: Option<Seq>) -> Self {
        Self {
            next: before(from),
            reading: false,
            back_to: None,
        }
    }

    /// Whether rows before this one are left behind: those past `next`, and what a reread under way goes back to.
    fn is_past(&self, seq: Seq) -> bool {
        seq > self.back_to.map_or(self.next, |back| back.min(self.next))
    }

    /// The row `from` waits too, and what is past it; `None`: everything does.
    pub(crate) fn include(&mut self, from: Option<Seq>) {
        let before = before(from);
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

    /// Whether a row may come in although this lags.
    pub(crate) fn lets_pass(&self, seq: Seq, way: Way) -> bool {
        match way {
            Way::Own => self.brings(seq),
            // Whatever else lags: behind the lag, later rows of the key would go first.
            // What overtakes has nothing to overtake among those of its own priority: they are all before it in the same read.
            Way::NextOfKey | Way::Urgent => true,
            // It must not overtake earlier rows of its key that have yet to be read.
            Way::Due | Way::Other => !self.is_past(seq),
        }
    }

    /// Whether the reread under way is to bring this row. Behind one that turned up meanwhile it comes again.
    fn brings(&self, seq: Seq) -> bool {
        self.reading && seq > self.next && self.back_to.is_none_or(|back| seq <= back)
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

fn before(from: Option<Seq>) -> Seq {
    from.map_or(BEGINNING, |seq| Seq(seq.0.saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// May rows 5, 8 and 10 pass?
    fn passes(lag: &Lag, way: Way) -> [bool; 3] {
        [5, 8, 10].map(|seq| lag.lets_pass(Seq(seq), way))
    }

    #[test]
    fn who_may_pass_a_lag() {
        let mut lag = Lag::from(Some(Seq(7)));
        assert_eq!(passes(&lag, Way::Own), [false; 3], "nothing is read for it");
        for way in [Way::NextOfKey, Way::Urgent] {
            assert_eq!(passes(&lag, way), [true; 3], "{way:?}");
        }
        for way in [Way::Due, Way::Other] {
            assert_eq!(passes(&lag, way), [true, false, false], "{way:?}");
        }
        lag.begin();
        assert_eq!(passes(&lag, Way::Own), [false, true, true]);
        lag.include(Some(Seq(9)));
        assert_eq!(passes(&lag, Way::Own), [false, true, false], "10 comes again, after 9");
    }

    #[test]
    fn what_turns_up_while_it_is_read_is_gone_back_to() {
        let mut lag = Lag::from(Some(Seq(7)));
        lag.begin();
        lag.include(Some(Seq(4)));
        assert!(!lag.read(Seq(20), true));
        assert_eq!(lag.next, Seq(3));
        assert!(lag.read(Seq(10), true), "the cursor is met");
    }
}
