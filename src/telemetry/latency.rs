//! Latencies as counts that can be subtracted: what passed between two looks, and its percentiles.
//!
//! Buckets are a quarter of a doubling wide, from 64 µs to about half an hour, so a percentile is right to about a tenth.
//! The histograms of `/metrics` are coarser and do not give their counts away.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;

/// The first bucket ends at 2^6 µs; each doubling has four.
const FIRST: u32 = 6;
const BUCKETS: usize = 101;

/// Counts by bucket, at one moment or between two.
pub(super) type Counts = [u64; BUCKETS];
/// No latency at all.
pub(super) const NONE: Counts = [0; BUCKETS];

/// The relay latency of one route: for `/metrics`, and for [`super::history`].
#[derive(Debug)]
pub(super) struct RelayLatency {
    histogram: Histogram,
    counts: Box<[AtomicU64; BUCKETS]>,
}

impl RelayLatency {
    pub(super) fn new(histogram: Histogram) -> Self {
        Self {
            histogram,
            counts: Box::new([const { AtomicU64::new(0) }; BUCKETS]),
        }
    }

    pub(super) fn observe(&self, latency: Duration) {
        self.histogram.observe(latency.as_secs_f64());
        self.counts[bucket(latency)].fetch_add(1, Ordering::Relaxed);
    }

    /// Everything counted since the start.
    pub(super) fn counts(&self) -> Counts {
        std::array::from_fn(|index| self.counts[index].load(Ordering::Relaxed))
    }
}

fn bucket(latency: Duration) -> usize {
    let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1);
    let doublings = micros.ilog2();
    if doublings < FIRST {
        return 0;
    }
    let quarter = (micros >> (doublings - 2)) & 3;
    let index = 1 + u64::from(doublings - FIRST) * 4 + quarter;
    usize::try_from(index).unwrap_or(BUCKETS).min(BUCKETS - 1)
}

/// Where bucket `index` begins and ends, in seconds.
fn bounds(index: usize) -> (f64, f64) {
    let edge = |index: usize| {
        let (doublings, quarter) = ((index - 1) / 4, (index - 1) % 4);
        let doubled = 1_u64 << (doublings + FIRST as usize - 2);
        (doubled * (4 + quarter as u64)) as f64 / 1e6
    };
    if index == 0 {
        (0.0, edge(1))
    } else {
        (edge(index), edge(index + 1))
    }
}

/// Counts `later` has and `earlier` has not yet.
pub(super) fn between(earlier: &Counts, later: &Counts) -> Counts {
    std::array::from_fn(|index| later[index].saturating_sub(earlier[index]))
}

/// Adds `more` to `counts`.
pub(super) fn add(counts: &mut Counts, more: &Counts) {
    for (count, more) in counts.iter_mut().zip(more) {
        *count += more;
    }
}

/// The latency that `share` of them do not exceed, in seconds, and within its bucket as if they were spread evenly;
/// `None`: there are none.
pub(super) fn percentile(counts: &Counts, share: f64) -> Option<f64> {
    let total: u64 = counts.iter().sum();
    let wanted = share * total as f64;
    let mut before = 0.0;
    for (index, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let count = *count as f64;
        if before + count >= wanted {
            let (low, high) = bounds(index);
            return Some(low + (high - low) * ((wanted - before) / count).clamp(0.0, 1.0));
        }
        before += count;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_lies_within_its_bucket() {
        for micros in [0, 1, 63, 64, 79, 80, 100, 1_000, 12_345, 999_999, 60_000_000] {
            let (low, high) = bounds(bucket(Duration::from_micros(micros)));
            let seconds = micros as f64 / 1e6;
            assert!(low <= seconds && seconds < high, "{micros} µs is not in {low}..{high}");
            assert!(low < 64e-6 || high / low <= 1.2501, "{low}..{high} is wide");
        }
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_of_what_passed_between_two_looks() {
        let latency = RelayLatency::new(Histogram::new([1.0]));
        latency.observe(Duration::from_secs(30));
        let before = latency.counts();
        for millis in 1..=100 {
            latency.observe(Duration::from_millis(millis));
        }
        let passed = between(&before, &latency.counts());
        let near = |share: f64, millis: f64| {
            let found = percentile(&passed, share).unwrap() * 1e3;
            assert!((found / millis - 1.0).abs() < 0.15, "{share}: {found} ms, not {millis}");
        };
        near(0.5, 50.0);
        near(0.99, 99.0);
        assert_eq!(percentile(&NONE, 0.5), None);
    }
}
