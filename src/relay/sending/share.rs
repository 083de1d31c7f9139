//! Fair shares of the window: who does not keep up may not fill it while others wait.
//!
//! ```text
//!            holds three quarters of the window          still does after a grace: it does not keep up
//!   at ease ────────────────────────────────────> pressing ────────────────────────────────────────────> crowding
//!      ^              reading waits meanwhile         │                                                     │
//!      │                                              │                its new rows lag, the others' flow   │
//!      └──────────────────────────────────────────────┴─────────────────────────────────────────────────────┘
//!                                        holds less than half of it
//! ```
//!
//! One whose route is limited is known to be slow: it lags as soon as it holds a quarter, and nobody waits to see.
//!
//! A destination that keeps up turns the window over in far less than the grace, so it is never made to lag: that would
//! mean reading its rows twice.

use std::time::Duration;

use tokio::time::Instant;

use crate::store::Room;

/// How long the window may be pressed before its holder is found slow.
const GRACE: Duration = Duration::from_millis(500);

/// What one destination, or one transport, holds of the window: rows not yet answered for.
#[derive(Debug, Default)]
pub(crate) struct Load {
    rows: usize,
    bytes: usize,
    pressing_since: Option<Instant>,
    crowding: bool,
    /// Its route's limit keeps it back: nobody has to wait to see that.
    kept_back: bool,
}

impl Load {
    /// Rows queued or in flight.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// It does not keep up: its new rows lag.
    pub(crate) fn is_crowding(&self) -> bool {
        self.crowding
    }

    pub(crate) fn take(&mut self, bytes: usize, limit: Room, now: Instant) {
        self.rows += 1;
        self.bytes += bytes;
        if !self.crowding && self.is_above(self.share().0, limit) {
            if self.kept_back {
                self.crowding = true;
            } else {
                self.pressing_since.get_or_insert(now);
            }
        }
    }

    pub(crate) fn give_back(&mut self, bytes: usize, limit: Room) {
        self.rows -= 1;
        self.bytes -= bytes;
        if !self.presses(limit) {
            self.pressing_since = None;
        }
        if !self.is_above(self.share().1, limit) {
            self.crowding = false;
        }
        self.kept_back &= self.rows > 0;
    }

    /// Its route's limit keeps a row back.
    pub(crate) fn keep_back(&mut self, limit: Room) {
        self.kept_back = true;
        if self.is_above(self.share().0, limit) {
            self.pressing_since = None;
            self.crowding = true;
        }
    }

    /// Eighths of the window it may hold, and below which it may have more.
    fn share(&self) -> (usize, usize) {
        if self.kept_back { (2, 1) } else { (6, 4) }
    }

    /// Whether it holds most of the window.
    pub(crate) fn presses(&self, limit: Room) -> bool {
        self.is_above(6, limit)
    }

    fn is_above(&self, eighths: usize, limit: Room) -> bool {
        self.rows * 8 >= limit.rows * eighths || self.bytes * 8 >= limit.bytes * eighths
    }

    /// What a reread may bring for it before it presses; nothing while it holds about that, so that reads are worth it.
    pub(crate) fn room(&self, limit: Room) -> Room {
        let (most, enough) = self.share();
        if self.is_above(enough, limit) {
            return Room { rows: 0, bytes: 0 };
        }
        Room {
            // A window of one row is a window.
            rows: (limit.rows * most / 8).max(1).saturating_sub(self.rows),
            bytes: (limit.bytes * most / 8).saturating_sub(self.bytes),
        }
    }

    /// Until when reading waits to see whether it keeps up; after that it is found slow.
    pub(crate) fn presses_until(&mut self, now: Instant) -> Option<Instant> {
        let until = self.pressing_since? + GRACE;
        if now < until {
            return Some(until);
        }
        self.pressing_since = None;
        self.crowding = true;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Room = Room {
        rows: 100,
        bytes: 1_000_000,
    };

    #[tokio::test(start_paused = true)]
    async fn who_turns_over_its_rows_is_never_found_slow() {
        let mut load = Load::default();
        for _ in 0..75 {
            load.take(1, LIMIT, Instant::now());
        }
        assert_eq!(load.presses_until(Instant::now()), Some(Instant::now() + GRACE));
        tokio::time::advance(GRACE - Duration::from_millis(1)).await;
        load.give_back(1, LIMIT);
        load.take(1, LIMIT, Instant::now());
        tokio::time::advance(Duration::from_millis(2)).await;
        assert!(load.presses_until(Instant::now()).is_some() && !load.is_crowding());
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_is_until_it_holds_less_than_half() {
        let mut load = Load::default();
        load.take(800_000, LIMIT, Instant::now());
        load.take(1, LIMIT, Instant::now());
        tokio::time::advance(GRACE).await;
        assert_eq!(load.presses_until(Instant::now()), None);
        assert!(load.is_crowding());
        load.give_back(1, LIMIT);
        assert!(load.is_crowding());
        load.give_back(800_000, LIMIT);
        assert!(!load.is_crowding());
        assert_eq!(
            load.room(LIMIT),
            Room {
                rows: 75,
                bytes: 750_000
            }
        );
    }
}
