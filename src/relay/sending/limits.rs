//! What a route may send: messages a second, messages in flight. What it may not send yet waits in its queues, and the other
//! routes' messages pass it by.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

use crate::route::{Limits as RouteLimits, Routes};

/// A limited route sends again after so long at least: a few messages at a time, not one.
const PAUSE: Duration = Duration::from_millis(10);

/// Every route's.
pub(crate) struct Limits {
    routes: Vec<Option<Limit>>,
    /// When some queue may go on that had to wait.
    wake_at: Option<Instant>,
}

struct Limit {
    is: RouteLimits,
    in_flight: usize,
    /// It had to wait for an answer.
    full: bool,
    /// Messages that may be sent at once, and when that was true.
    tokens: f64,
    counted_at: Instant,
}

impl Limit {
    /// Messages that may be sent at once at `now`, at `rate` a second.
    fn tokens_at(&self, rate: NonZeroU32, now: Instant) -> f64 {
        let rate = f64::from(rate.get());
        let passed = now.saturating_duration_since(self.counted_at).as_secs_f64();
        // What was not used is not saved up: a burst is a pause's worth.
        let burst = (2.0 * rate * PAUSE.as_secs_f64()).max(1.0);
        (self.tokens + passed * rate).min(burst)
    }
}

impl Limits {
    pub(crate) fn new(routes: &Routes, now: Instant) -> Self {
        let limit = |is: RouteLimits| Limit {
            is,
            in_flight: 0,
            full: false,
            tokens: 1.0,
            counted_at: now,
        };
        let is_limited = |limits: &RouteLimits| limits.rate.is_some() || limits.max_in_flight.is_some();
        let routes = routes
            .iter()
            .map(|route| Some(route.limits).filter(is_limited).map(limit));
        Self {
            routes: routes.collect(),
            wake_at: None,
        }
    }

    /// Whether a message of `route` may be sent now; counts it then.
    pub(crate) fn take(&mut self, route: usize, now: Instant) -> bool {
        let Some(limit) = &mut self.routes[route] else {
            return true;
        };
        if limit.is.max_in_flight.is_some_and(|most| limit.in_flight >= most) {
            limit.full = true;
            return false;
        }
        if let Some(rate) = limit.is.rate {
            limit.tokens = limit.tokens_at(rate, now);
            limit.counted_at = now;
            let rate = f64::from(rate.get());
            if limit.tokens < 1.0 {
                let next = now + Duration::from_secs_f64((1.0 - limit.tokens) / rate).max(PAUSE);
                self.wake_at = Some(self.wake_at.map_or(next, |at| at.min(next)));
                return false;
            }
            limit.tokens -= 1.0;
        }
        limit.in_flight += 1;
        true
    }

    /// Whether a message of `route` would have to wait now.
    pub(crate) fn keeps(&self, route: usize, now: Instant) -> bool {
        let Some(limit) = &self.routes[route] else {
            return false;
        };
        let is_full = limit.is.max_in_flight.is_some_and(|most| limit.in_flight >= most);
        is_full || limit.is.rate.is_some_and(|rate| limit.tokens_at(rate, now) < 1.0)
    }

    /// A message of `route` was answered for.
    pub(crate) fn give_back(&mut self, route: usize, now: Instant) {
        let Some(limit) = &mut self.routes[route] else {
            return;
        };
        limit.in_flight -= 1;
        if std::mem::take(&mut limit.full) {
            self.wake_at = Some(now);
        }
    }

    /// When queues that had to wait are to be looked at again.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        self.wake_at
    }

    /// Whether that time has come; says so once.
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
        let due = self.wake_at.is_some_and(|at| at <= now);
        if due {
            self.wake_at = None;
        }
        due
    }
}
