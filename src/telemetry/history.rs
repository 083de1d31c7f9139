//! The last quarter of an hour, in memory: what a page that was opened just now shows at once.
//!
//! A sample every [`INTERVAL`], [`KEPT`] of them: a few hundred bytes each, so memory is bounded whatever happens. Rates
//! are differences of the counters of `/metrics`; the backlog is what upkeep found last, and unknown while the database is
//! away. Nothing here asks the database.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::handles::RouteHandles;
use super::health::Facts;
use super::labels::CLASSES;
use super::labels::FailedLabels;
use super::latency::{self, Counts};
use super::metrics::Metrics;

use crate::lock::lock;

/// Between two samples.
pub const INTERVAL: Duration = Duration::from_secs(2);
/// Samples kept: 15 minutes.
pub const KEPT: usize = 450;
/// Samples the rates of routes are taken over: ten seconds.
const RATE_OVER: usize = 5;
/// A backlog older than this is no longer shown as today's. Upkeep looks every 30 s at the latest.
const BACKLOG_AGE_MAX: Duration = Duration::from_secs(75);

/// One moment. What was not known then is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// Its number, from 1; one more each time.
    pub number: u64,
    /// Seconds since the epoch, by this machine's clock.
    pub at: f64,
    /// Rows that may be sent.
    pub due: Option<u64>,
    /// Pending rows that are not due: delayed, retrying or held.
    pub waiting: Option<u64>,
    /// Rows in the failed state.
    pub failed: Option<u64>,
    /// Age of the oldest due row; 0: none is due.
    pub oldest_due_age_seconds: Option<f64>,
    /// Messages acknowledged a second, since the sample before.
    pub relayed_per_second: f64,
    /// Messages failed for good a second, since the sample before.
    pub failed_per_second: f64,
    /// Half of the messages acknowledged since the sample before took no longer from insert to acknowledgement.
    pub p50_seconds: Option<f64>,
    /// 99 of 100 took no longer.
    pub p99_seconds: Option<f64>,
    /// Messages in memory.
    pub in_flight: usize,
}

/// What a route did in the last ten seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RouteRate {
    /// The transport's name.
    pub transport: String,
    /// The route's glob.
    pub route: String,
    /// Messages acknowledged a second.
    pub relayed_per_second: f64,
    /// Messages failed for good a second.
    pub failed_per_second: f64,
    /// Messages acknowledged since the start.
    pub relayed_total: u64,
    /// Messages failed for good since the start.
    pub failed_total: u64,
    /// Half of them took no longer.
    pub p50_seconds: Option<f64>,
    /// 99 of 100 took no longer.
    pub p99_seconds: Option<f64>,
}

/// A route's counters at one moment.
#[derive(Clone, Debug)]
struct Totals {
    relayed: u64,
    failed: u64,
    latency: Counts,
}

impl Default for Totals {
    fn default() -> Self {
        Self {
            relayed: 0,
            failed: 0,
            latency: latency::NONE,
        }
    }
}

#[derive(Debug, Default)]
struct Kept {
    samples: VecDeque<Sample>,
    /// When, and the counters of every route there ever was, of the latest samples only.
    totals: VecDeque<(Instant, Vec<Totals>)>,
    rates: Vec<RouteRate>,
    taken: u64,
}

/// See the module. Shared by who takes samples and who shows them.
#[derive(Debug)]
pub struct History {
    started: f64,
    kept: Mutex<Kept>,
}

impl Default for History {
    fn default() -> Self {
        Self::new()
    }
}

impl History {
    /// Nothing happened yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            started: now(),
            kept: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Each change leaves it whole: a panic elsewhere leaves nothing half written.
        lock(&self.kept)
    }

    /// When this process began, in seconds since the epoch: tells one run from the next.
    #[must_use]
    pub fn started(&self) -> f64 {
        self.started
    }

    /// Rates by route, in configuration order. Empty before the second sample.
    #[must_use]
    pub fn rates(&self) -> Vec<RouteRate> {
        self.lock().rates.clone()
    }

    /// The samples after number `after`, oldest first.
    #[must_use]
    pub fn samples(&self, after: u64) -> Vec<Sample> {
        let kept = self.lock();
        kept.samples
            .iter()
            .filter(|sample| sample.number > after)
            .copied()
            .collect()
    }

    pub(super) fn take(&self, metrics: &Metrics, facts: &Facts, routes: &[Arc<RouteHandles>]) {
        let totals = totals(metrics);
        let now = Instant::now();
        let mut kept = self.lock();
        kept.taken += 1;
        let number = kept.taken;
        let sample = sample(number, facts, metrics, kept.totals.back(), (now, &totals));
        kept.samples.push_back(sample);
        if kept.samples.len() > KEPT {
            kept.samples.pop_front();
        }
        kept.totals.push_back((now, totals));
        if kept.totals.len() > RATE_OVER + 1 {
            kept.totals.pop_front();
        }
        kept.rates = rates(&kept.totals, routes);
    }
}

fn now() -> f64 {
    jiff::Timestamp::now().as_duration().as_secs_f64()
}

fn totals(metrics: &Metrics) -> Vec<Totals> {
    let of_route = |handles: &Arc<RouteHandles>| {
        let failed = |class| {
            let labels = FailedLabels::new(&handles.transport, &handles.route, class);
            metrics.failed.get_or_create_owned(&labels).0.get()
        };
        Totals {
            relayed: handles.relayed.get(),
            failed: CLASSES.into_iter().map(failed).sum(),
            latency: handles.relay_latency.counts(),
        }
    };
    metrics.all_routes().iter().map(of_route).collect()
}

/// `count` in the time from `earlier` to `later`, a second.
fn per_second(count: u64, earlier: Instant, later: Instant) -> f64 {
    let span = later.saturating_duration_since(earlier).as_secs_f64();
    if span > 0.0 { count as f64 / span } else { 0.0 }
}

fn sample(
    number: u64,
    facts: &Facts,
    metrics: &Metrics,
    before: Option<&(Instant, Vec<Totals>)>,
    (at, totals): (Instant, &[Totals]),
) -> Sample {
    let backlog = facts
        .backlog
        .as_ref()
        .filter(|(looked, _)| facts.database_error.is_none() && at.saturating_duration_since(*looked) < BACKLOG_AGE_MAX)
        .map(|(_, backlog)| backlog);
    let (mut relayed, mut failed, mut latency) = (0, 0, latency::NONE);
    for (earlier, later) in before.iter().flat_map(|(_, before)| before).zip(totals) {
        relayed += later.relayed.saturating_sub(earlier.relayed);
        failed += later.failed.saturating_sub(earlier.failed);
        latency::add(&mut latency, &latency::between(&earlier.latency, &later.latency));
    }
    let since = before.map_or(at, |(since, _)| *since);
    Sample {
        number,
        at: now(),
        due: backlog.map(|backlog| backlog.pending.due),
        waiting: backlog.map(|backlog| {
            let pending = backlog.pending;
            pending.delayed + pending.retrying + pending.held
        }),
        failed: backlog.map(|backlog| backlog.failed),
        oldest_due_age_seconds: backlog.map(|backlog| backlog.oldest_due_age().unwrap_or_default().as_secs_f64()),
        relayed_per_second: per_second(relayed, since, at),
        failed_per_second: per_second(failed, since, at),
        p50_seconds: latency::percentile(&latency, 0.5),
        p99_seconds: latency::percentile(&latency, 0.99),
        in_flight: metrics.in_flight(),
    }
}

fn rates(totals: &VecDeque<(Instant, Vec<Totals>)>, routes: &[Arc<RouteHandles>]) -> Vec<RouteRate> {
    let (Some((from, earlier)), Some((to, later))) = (totals.front(), totals.back()) else {
        return Vec::new();
    };
    let of_route = |route: &Arc<RouteHandles>| {
        let later = later.get(route.number)?;
        // One that has come since began at nothing.
        let none = Totals::default();
        let earlier = earlier.get(route.number).unwrap_or(&none);
        let latency = latency::between(&earlier.latency, &later.latency);
        Some(RouteRate {
            transport: route.transport.to_string(),
            route: route.route.to_string(),
            relayed_per_second: per_second(later.relayed.saturating_sub(earlier.relayed), *from, *to),
            failed_per_second: per_second(later.failed.saturating_sub(earlier.failed), *from, *to),
            relayed_total: later.relayed,
            failed_total: later.failed,
            p50_seconds: latency::percentile(&latency, 0.5),
            p99_seconds: latency::percentile(&latency, 0.99),
        })
    };
    routes.iter().filter_map(of_route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backlog::{Backlog, Pending};
    use crate::backoff::Backoff;
    use crate::delivery::{FailureClass, Order};
    use crate::route::{Route, RouteSpec, Routes};
    use crate::telemetry::Telemetry;
    use tokio::time::advance;

    fn telemetry() -> Telemetry {
        let (min, max) = (Duration::from_secs(1), Duration::from_secs(2));
        let spec = RouteSpec {
            topic: "orders.*",
            transport: 0,
            destination: "{topic}",
            order: Order::Key,
            max_attempts: 5,
            backoff: Backoff { min, max, factor: 2 },
            commit_order: false,
            limits: crate::route::Limits::default(),
            prefix: "",
            reserved: &[],
        };
        Telemetry::new(&["main".into()], &Routes::new(vec![Route::new(&spec).unwrap()]))
    }

    #[tokio::test(start_paused = true)]
    async fn rates_are_what_the_counters_gained() {
        let telemetry = telemetry();
        telemetry.relayed(0, Duration::from_secs(9), false);
        telemetry.sample();
        advance(INTERVAL).await;
        for _ in 0..10 {
            telemetry.relayed(0, Duration::from_millis(5), false);
        }
        telemetry.metrics.failed("main", "orders.*", FailureClass::Rejected);
        telemetry.sample();
        let samples = telemetry.history.samples(1);
        assert_eq!(samples.len(), 1);
        let last = samples[0];
        assert_eq!((last.relayed_per_second, last.failed_per_second), (5.0, 0.5));
        assert!(last.p99_seconds.unwrap() < 0.01, "{last:?}");
        assert_eq!(last.due, None);
        let rate = &telemetry.history.rates()[0];
        assert_eq!((rate.transport.as_str(), rate.route.as_str()), ("main", "orders.*"));
        assert_eq!(
            (rate.relayed_per_second, rate.relayed_total, rate.failed_total),
            (5.0, 11, 1)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_quarter_of_an_hour_is_kept_and_no_more() {
        let telemetry = telemetry();
        for _ in 0..KEPT + 50 {
            telemetry.sample();
            advance(INTERVAL).await;
        }
        let samples = telemetry.history.samples(0);
        assert_eq!((samples.len(), samples[0].number), (KEPT, 51));
        assert!(telemetry.history.samples(500).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_backlog_is_unknown_while_the_database_is_away() {
        let telemetry = telemetry();
        let pending = Pending {
            due: 3,
            held: 2,
            ..Pending::default()
        };
        telemetry.backlog(Backlog {
            pending,
            failed: 1,
            oldest_due_age_seconds: 7.0,
            ..Backlog::default()
        });
        telemetry.sample();
        telemetry
            .health
            .database_down(&std::io::Error::other("gone"), Instant::now());
        telemetry.sample();
        let known: Vec<_> = telemetry
            .history
            .samples(0)
            .iter()
            .map(|sample| (sample.due, sample.waiting, sample.failed))
            .collect();
        assert_eq!(known, [(Some(3), Some(2), Some(1)), (None, None, None)]);
        assert_eq!(telemetry.history.samples(0)[0].oldest_due_age_seconds, Some(7.0));
    }
}
