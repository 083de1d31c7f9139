//! When to look for rows: at once after a hint, in a short burst behind it, else at an interval that grows while nothing comes.
//!
//! Polling is the truth, notifications are hints: a missed one costs at most `relay.poll_interval_max`.

use std::time::Duration;

use tokio::time::Instant;

/// After a hint, and while transactions that have taken a number are open, more rows tend to follow within moments: a
/// transaction that found the wake trigger's lock taken sends no notification of its own.
const BURST: Duration = Duration::from_millis(50);
const BURST_INTERVAL: Duration = Duration::from_millis(5);
/// How long open gaps keep the pace up, from the last change.
const GAPS_KEEP_PACE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Pace {
    min: Duration,
    max: Duration,
    interval: Duration,
    next: Instant,
    burst_until: Instant,
    gaps: usize,
    /// The last read was cut: there is more.
    more: bool,
    /// A hint came since the last read was asked for: that read may have looked before what the hint tells of.
    hinted: bool,
}

impl Pace {
    pub(crate) fn new(min: Duration, max: Duration, now: Instant) -> Self {
        Self {
            min,
            max,
            interval: min,
            next: now,
            burst_until: now,
            gaps: 0,
            more: false,
            hinted: false,
        }
    }

    /// Whether there is more to be read than the last read brought.
    pub(crate) fn has_more(&self) -> bool {
        self.more
    }

    /// When the next read is due.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// Rows may have been committed.
    pub(crate) fn hint(&mut self, now: Instant) {
        self.next = now;
        self.interval = self.min;
        self.burst_until = now + BURST;
        self.hinted = true;
    }

    /// A read is asked for: it sees what the hints so far tell of.
    pub(crate) fn asked(&mut self) {
        self.hinted = false;
    }

    /// A read found `rows` and `gaps` open ones; `more` can be read at once.
    pub(crate) fn read(&mut self, now: Instant, rows: usize, more: bool, gaps: usize) {
        self.more = more;
        if gaps != self.gaps {
            self.gaps = gaps;
            if gaps > 0 {
                self.burst_until = self.burst_until.max(now + GAPS_KEEP_PACE);
            }
        }
        if rows > 0 {
            self.interval = self.min;
        } else {
            self.interval = (self.interval * 3 / 2).min(self.max);
        }
        let wait = if more || self.hinted {
            Duration::ZERO
        } else if now < self.burst_until {
            BURST_INTERVAL.min(self.interval)
        } else {
            self.interval
        };
        self.next = now + wait;
    }

    /// Nothing read can be sent now: look again at the slow end.
    pub(crate) fn rest(&mut self, now: Instant) {
        self.next = now + self.max;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn slows_down_to_max_and_wakes_at_once() {
        let start = Instant::now();
        let mut pace = Pace::new(10 * MS, 250 * MS, start);
        let mut now = start;
        for _ in 0..20 {
            pace.read(now, 0, false, 0);
            now = pace.next();
        }
        assert_eq!(pace.next() + 250 * MS, {
            pace.read(now, 0, false, 0);
            pace.next()
        });
        pace.hint(now);
        assert_eq!(pace.next(), now);
        pace.asked();
        pace.read(now, 1, false, 0);
        assert_eq!(pace.next(), now + BURST_INTERVAL);
        now += BURST;
        pace.read(now, 1, false, 0);
        assert_eq!(pace.next(), now + 10 * MS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hint_during_a_read_makes_the_next_one_due_at_once() {
        let mut now = Instant::now();
        let mut pace = Pace::new(10 * MS, 250 * MS, now);
        pace.asked();
        pace.hint(now);
        now += MS;
        pace.read(now, 0, false, 0);
        assert_eq!(pace.next(), now);
        pace.asked();
        pace.read(now, 0, false, 0);
        assert_eq!(pace.next(), now + BURST_INTERVAL, "one hint makes one read");
    }

    #[tokio::test(start_paused = true)]
    async fn open_gaps_keep_the_pace_for_a_while_only() {
        let now = Instant::now();
        let mut pace = Pace::new(10 * MS, 250 * MS, now);
        pace.read(now, 0, false, 3);
        assert!(pace.next() <= now + BURST_INTERVAL);
        for _ in 0..20 {
            pace.read(now + 2 * GAPS_KEEP_PACE, 0, false, 3);
        }
        assert_eq!(pace.next(), now + 2 * GAPS_KEEP_PACE + 250 * MS);
    }
}
