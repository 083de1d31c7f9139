//! How long a failed message waits: pure arithmetic, no clock.

use std::time::Duration;

/// The limits of the exponential backoff of one route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Cap of the first delay.
    pub min: Duration,
    /// Cap of every delay.
    pub max: Duration,
}

impl Backoff {
    /// The delay after the `failures`-th failed attempt (1 for the first): uniform between half and the whole of
    /// `min * 2^(failures - 1)`, capped at `max`. `jitter` is the random part, in `0.0..1.0`.
    #[must_use]
    pub fn delay(self, failures: i32, jitter: f64) -> Duration {
        let doublings = u32::try_from(failures.saturating_sub(1)).unwrap_or(0).min(31);
        let whole = self.min.saturating_mul(1 << doublings).min(self.max);
        whole.div_f64(2.0) + whole.div_f64(2.0).mul_f64(jitter.clamp(0.0, 1.0))
    }

    /// The longest time from the first of `attempts` to the last.
    #[must_use]
    pub fn span(self, attempts: i32) -> Duration {
        let delays = attempts.saturating_sub(1).max(0);
        let doubling = delays.min(32);
        let rest = u32::try_from(delays - doubling).unwrap_or(0);
        (1..=doubling)
            .map(|failures| self.delay(failures, 1.0))
            .fold(self.max.saturating_mul(rest), Duration::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff {
        min: Duration::from_secs(1),
        max: Duration::from_secs(300),
    };

    #[test]
    fn doubles_from_min_and_stops_at_max() {
        let whole: Vec<u64> = (1..=11).map(|n| BACKOFF.delay(n, 1.0).as_secs()).collect();
        assert_eq!(whole, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(BACKOFF.delay(i32::MAX, 1.0), BACKOFF.max);
    }

    #[test]
    fn the_span_is_the_sum_of_the_longest_delays() {
        let spans: Vec<u64> = [0, 1, 2, 5, 11, 42, i32::MAX]
            .iter()
            .map(|attempts| BACKOFF.span(*attempts).as_secs())
            .collect();
        let every = 300 * (u64::from(i32::MAX.unsigned_abs()) - 1 - 9);
        assert_eq!(spans, [0, 0, 1, 15, 811, 811 + 31 * 300, 511 + every]);
    }

    #[test]
    fn jitter_spreads_over_the_upper_half() {
        assert_eq!(BACKOFF.delay(3, 0.0), Duration::from_secs(2));
        assert_eq!(BACKOFF.delay(3, 0.5), Duration::from_secs(3));
        assert_eq!(BACKOFF.delay(3, 1.0), Duration::from_secs(4));
    }
}
