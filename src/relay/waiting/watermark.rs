//! Commit order: a destination whose route asks for it takes a row only once every earlier number is decided.
//!
//! Sequence numbers are not commit order. The store tells up to where all of them are decided (`Page::decided`); rows past
//! that lag, like those of a paused destination, and are read again as the watermark moves. While it stands still, the
//! transaction that keeps it back is named.

use std::time::Duration;

use tokio::time::Instant;

use crate::message::Seq;

/// A watermark that stands still for so long is worth a word, and then again after so long.
const AFTER: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub(crate) struct Watermark {
    /// `None` until known: what is still open since before the start may have any number.
    decided: Option<Seq>,
    since: Instant,
    /// When who keeps it back is asked for next.
    ask_at: Instant,
    /// Somebody was named, and it was not taken back.
    named: bool,
}

impl Watermark {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            decided: None,
            since: now,
            ask_at: now,
            named: false,
        }
    }

    /// Where it stands, as the store tells.
    pub(crate) fn stands_at(&mut self, decided: Option<Seq>, now: Instant) {
        if self.decided != decided {
            self.decided = decided;
            self.since = now;
        }
    }

    pub(crate) fn decided(&self) -> Option<Seq> {
        self.decided
    }

    /// Whether every number up to this one is decided.
    pub(crate) fn has_passed(&self, seq: Seq) -> bool {
        self.decided.is_some_and(|decided| seq <= decided)
    }

    /// Whether those who wait are to be told why, now: it has stood still for a while.
    pub(crate) fn asks_at(&self, now: Instant) -> bool {
        now >= self.ask_at.max(self.since + AFTER)
    }

    /// It is asked who keeps it back.
    pub(crate) fn asked(&mut self, now: Instant) {
        self.ask_at = now + AGAIN;
    }

    /// Who keeps it back was told.
    pub(crate) fn name(&mut self) {
        self.named = true;
    }

    /// Whether somebody was told, and it was not taken back.
    pub(crate) fn is_named(&self) -> bool {
        self.named
    }

    /// Nobody waits any more.
    pub(crate) fn take_back(&mut self) {
        self.named = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_passes_until_it_is_known() {
        let now = Instant::now();
        let mut mark = Watermark::new(now);
        assert!(!mark.has_passed(Seq(i64::MIN)) && !mark.has_passed(Seq(1)));
        mark.stands_at(Some(Seq(7)), now);
        assert!(mark.has_passed(Seq(7)) && !mark.has_passed(Seq(8)));
    }

    #[test]
    fn who_keeps_it_back_is_asked_for_when_it_stands_still() {
        let now = Instant::now();
        let mut mark = Watermark::new(now);
        mark.stands_at(Some(Seq(7)), now);
        assert!(!mark.asks_at(now));
        let later = now + AFTER;
        assert!(mark.asks_at(later));
        mark.asked(later);
        assert!(!mark.asks_at(later + AFTER) && mark.asks_at(later + AGAIN));
        mark.stands_at(Some(Seq(8)), later + AGAIN);
        assert!(!mark.asks_at(later + AGAIN), "it moves");
    }

    #[test]
    fn what_was_told_is_taken_back() {
        let mut mark = Watermark::new(Instant::now());
        assert!(!mark.is_named());
        mark.name();
        assert!(mark.is_named());
        mark.take_back();
        assert!(!mark.is_named());
    }
}
