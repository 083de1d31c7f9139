//! A gate for log lines that a broken connection would repeat for as long as it is broken.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::lock::lock;

const PERIOD: Duration = Duration::from_secs(30);

/// Lets the first line through, then one every 30 seconds with the number of those held back.
#[derive(Debug, Default)]
pub(super) struct Throttle(Mutex<Option<(Instant, u64)>>);

impl Throttle {
    /// `Some(held)` when a line may be written now; `held` lines were swallowed since the last one.
    pub(super) fn pass(&self) -> Option<u64> {
        let mut last = lock(&self.0);
        match &mut *last {
            Some((since, held)) if since.elapsed() < PERIOD => {
                *held += 1;
                None
            }
            Some((_, held)) => {
                let held = *held;
                *last = Some((Instant::now(), 0));
                Some(held)
            }
            None => {
                *last = Some((Instant::now(), 0));
                Some(0)
            }
        }
    }

    /// Forgets the past: the next line is a first one again.
    pub(super) fn reset(&self) {
        *lock(&self.0) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_passes_and_the_next_ones_are_counted() {
        let throttle = Throttle::default();
        assert_eq!(throttle.pass(), Some(0));
        assert_eq!(throttle.pass(), None);
        throttle.reset();
        assert_eq!(throttle.pass(), Some(0));
    }
}
