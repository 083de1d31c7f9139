//! How long a failed message waits: pure arithmetic, no clock.

use std::time::Duration;

/// The limits of the exponential backoff of one route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Cap of the first delay.
    pub min: Duration,
    /// Cap of every delay.
    pub max: Duration,
    /// Each delay's cap is so many times that of the one before; 1: all are alike.
    pub factor: u32,
}

impl Backoff {
    /// The delay after the `failures`-th failed attempt (1 for the first): uniform between half and the whole of
    /// `min * factor^(failures - 1)`, capped at `max`. `jitter` is the random part, in `0.0..1.0`.
    #[must_use]
    pub fn delay(self, failures: i32, jitter: f64) -> Duration {
        let steps = u32::try_from(failures.saturating_sub(1)).unwrap_or(0);
        let whole = self.min.saturating_mul(self.factor.saturating_pow(steps)).min(self.max);
        whole.div_f64(2.0) + whole.div_f64(2.0).mul_f64(jitter.clamp(0.0, 1.0))
    }

    /// The longest time from the first of `attempts` to the last.
    #[must_use]
    pub fn span(self, attempts: i32) -> Duration {
        let delays = attempts.saturating_sub(1).max(0);
        // By then they have stopped growing: at `max`, at what a factor can do, or because the factor is 1.
        let growing = delays.min(32);
        let rest = u32::try_from(delays - growing).unwrap_or(0);
        let last = self.delay(delays, 1.0);
        (1..=growing)
            .map(|failures| self.delay(failures, 1.0))
            .fold(last.saturating_mul(rest), Duration::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff {
        min: Duration::from_secs(1),
        max: Duration::from_secs(300),
        factor: 2,
    };

    #[test]
    fn doubles_from_min_and_stops_at_max() {
        let whole: Vec<u64> = (1..=11).map(|n| BACKOFF.delay(n, 1.0).as_secs()).collect();
        assert_eq!(whole, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(BACKOFF.delay(i32::MAX, 1.0), BACKOFF.max);
    }

    #[test]
    fn a_factor_of_one_is_a_fixed_delay_and_others_grow_faster() {
        let whole = |factor: u32| (1..=5).map(move |n| Backoff { factor, ..BACKOFF }.delay(n, 1.0).as_secs());
        assert!(whole(1).eq([1; 5]));
        assert!(whole(3).eq([1, 3, 9, 27, 81]));
        assert!(whole(100).eq([1, 100, 300, 300, 300]));
        let fixed = Backoff { factor: 1, ..BACKOFF };
        assert_eq!(fixed.span(1_001), Duration::from_secs(1_000));
        assert_eq!(fixed.delay(i32::MAX, 1.0), Duration::from_secs(1));
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
