//! The line an operator reads on a good day: what was done since the last one, once a minute, and none when nothing was.

use std::time::Duration;

use tokio::time::Instant;

/// How often.
pub const INTERVAL: Duration = Duration::from_secs(60);

/// Remembers what has been told. Pure: the caller passes the time and the totals.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    interval: Duration,
    told_at: Instant,
    told: (u64, u64),
}

/// What was done since the last line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Done {
    /// Messages acknowledged.
    pub relayed: u64,
    /// Messages failed for good.
    pub failed: u64,
    /// Relayed a second.
    pub rate: f64,
    /// Over so long.
    pub within: Duration,
}

impl Summary {
    /// Nothing is told yet.
    #[must_use]
    pub fn new(interval: Duration, now: Instant) -> Self {
        Self {
            interval,
            told_at: now,
            told: (0, 0),
        }
    }

    /// What there is to tell, once the interval has passed. `totals`: relayed and failed since the start.
    pub fn due(&mut self, now: Instant, totals: (u64, u64)) -> Option<Done> {
        (now.saturating_duration_since(self.told_at) >= self.interval)
            .then(|| self.rest(now, totals))
            .flatten()
    }

    /// What there is to tell, whenever that is.
    pub fn rest(&mut self, now: Instant, totals: (u64, u64)) -> Option<Done> {
        let within = now.saturating_duration_since(self.told_at);
        let (relayed, failed) = (
            totals.0.saturating_sub(self.told.0),
            totals.1.saturating_sub(self.told.1),
        );
        (self.told_at, self.told) = (now, totals);
        #[expect(clippy::cast_precision_loss, reason = "messages of a minute fit a float")]
        let rate = relayed as f64 / within.as_secs_f64().max(0.001);
        (relayed + failed > 0).then_some(Done {
            relayed,
            failed,
            rate,
            within,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_minute_is_one_line_and_a_quiet_one_is_none() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut summary = Summary::new(Duration::from_secs(60), start);
        assert_eq!(summary.due(at(59), (600, 1)), None, "not yet");
        let done = summary.due(at(60), (600, 1)).unwrap();
        assert_eq!((done.relayed, done.failed, done.rate), (600, 1, 10.0));
        assert_eq!(summary.due(at(61), (660, 1)), None);
        let done = summary.due(at(121), (660, 1)).unwrap();
        assert_eq!((done.relayed, done.failed), (60, 0), "since the last line");
        assert_eq!(summary.due(at(181), (660, 1)), None, "nothing happened");
        assert_eq!(summary.due(at(200), (661, 1)), None, "a quiet minute begins anew");
        let rest = summary.rest(at(202), (661, 2)).unwrap();
        assert_eq!(
            (rest.relayed, rest.failed, rest.within),
            (1, 1, Duration::from_secs(21))
        );
        assert_eq!(summary.rest(at(203), (661, 2)), None);
    }
}
