//! What keeps the log short: a condition that lasts ([`Repeat`]) and lines that come in floods ([`Budget`]), each said at once
//! and then, every 30 seconds, as a number.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::lock::lock;

/// How often a lasting condition is repeated, and floods are counted.
pub const REPEAT_INTERVAL: Duration = Duration::from_secs(30);

/// Says something that keeps being true: at once the first time, then every 30 s with how often it came up meanwhile.
/// One that ends and comes back within that time is still the same: a condition that flaps fills no journal either.
/// Pure: the caller passes the time, and keeps one of these per condition.
#[derive(Clone, Copy, Debug, Default)]
pub struct Repeat {
    said: Option<Instant>,
    unsaid: u64,
    /// A reader of the log believes that it lasts.
    believed: bool,
}

impl Repeat {
    /// It came up again. `Some(n)`: say so now; it came up `n` times since it was last said (this time included).
    pub fn occurred(&mut self, now: Instant) -> Option<u64> {
        self.unsaid = self.unsaid.saturating_add(1);
        let due = self
            .said
            .is_none_or(|said| now.saturating_duration_since(said) >= REPEAT_INTERVAL);
        due.then(|| {
            self.said = Some(now);
            self.believed = true;
            std::mem::take(&mut self.unsaid)
        })
    }

    /// As [`Self::occurred`], answering how many were not said since it last was.
    fn pass(&mut self, now: Instant) -> Option<u64> {
        self.occurred(now).map(|count| count.saturating_sub(1))
    }

    /// It is over. True when it had been said, so that its end is worth a line too.
    pub fn ended(&mut self) -> bool {
        std::mem::take(&mut self.believed)
    }
}

/// One [`Repeat`] for several tasks, with the time of now.
#[derive(Debug, Default)]
pub struct SharedRepeat(Mutex<Repeat>);

impl SharedRepeat {
    /// `Some(held)` when a line may be written now; `held` lines were held back since the last one.
    pub fn pass(&self) -> Option<u64> {
        lock(&self.0).pass(Instant::now())
    }

    /// Forgets the past: the next line is a first one again.
    pub fn reset(&self) {
        *lock(&self.0) = Repeat::default();
    }
}

/// Lets so many lines of a kind through per 30 s, and counts the others. Pure, as [`Repeat`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Budget {
    from: Option<Instant>,
    said: u64,
    unsaid: u64,
}

/// Lines a [`Budget`] lets through per [`REPEAT_INTERVAL`].
pub const BUDGET: u64 = 100;

impl Budget {
    /// Whether a line may be written now.
    pub fn allows(&mut self, now: Instant) -> bool {
        self.from.get_or_insert(now);
        let allows = self.said < BUDGET;
        *(if allows { &mut self.said } else { &mut self.unsaid }) += 1;
        allows
    }

    /// To be asked now and then: how many lines were held back, once the interval is over. A new one begins with the next line.
    pub fn rest(&mut self, now: Instant) -> Option<u64> {
        let over = self
            .from
            .is_some_and(|from| now.saturating_duration_since(from) >= REPEAT_INTERVAL);
        let unsaid = over.then(|| std::mem::take(self).unsaid);
        unsaid.filter(|unsaid| *unsaid > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lasting_condition_is_said_at_once_and_then_counted() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut repeat = Repeat::default();
        assert_eq!(repeat.occurred(at(0)), Some(1));
        assert_eq!(repeat.occurred(at(1)), None);
        assert_eq!(repeat.occurred(at(29)), None);
        assert_eq!(repeat.occurred(at(30)), Some(3));
        assert_eq!(repeat.occurred(at(31)), None);
        assert!(repeat.ended());
        assert!(!repeat.ended());
        assert_eq!(repeat.occurred(at(60)), Some(2));
    }

    #[test]
    fn a_condition_that_flaps_is_one_condition() {
        let start = Instant::now();
        let mut repeat = Repeat::default();
        let mut said = (0, 0);
        for second in 0..60 {
            said.0 += u64::from(repeat.occurred(start + Duration::from_secs(second)).is_some());
            said.1 += u64::from(repeat.ended());
        }
        assert_eq!(said, (2, 2), "its beginning and its end, twice a minute");
    }

    #[test]
    fn a_flood_is_a_hundred_lines_and_a_number() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut budget = Budget::default();
        let said = (0..50_000).filter(|_| budget.allows(at(1))).count();
        assert_eq!(said as u64, BUDGET);
        assert_eq!(budget.rest(at(30)), None, "not yet");
        assert_eq!(budget.rest(at(31)), Some(49_900));
        assert!(budget.allows(at(32)));
        assert_eq!(budget.rest(at(62)), None, "nothing was held back");
    }

    #[test]
    fn what_is_forgotten_is_said_at_once_again() {
        let shared = SharedRepeat::default();
        assert_eq!((shared.pass(), shared.pass()), (Some(0), None));
        shared.reset();
        assert_eq!(shared.pass(), Some(0));
    }
}
