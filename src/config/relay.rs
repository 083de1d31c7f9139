//! `[relay]`, and keys of which one may not be above the other.
//!
//! A default gives way to what was asked for: of two such keys only one may be written, and the other's default then follows it.
//! Both written and at odds is a mistake.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::bounds::{MAX_ATTEMPTS, at_least, choice, ordered, within, wrong};
use super::raw;
use super::units::Span;
use super::{ConfigError, Relay, RouteDefaults, Transport, Unrouted};
use crate::backoff::Backoff;

/// Most rows of one fetch: beyond, a typing mistake is likelier than a wish.
const BATCH_SIZE_MAX: u64 = 100_000;

/// No pause is shorter.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// What the wait between attempts is multiplied with.
const FACTORS: RangeInclusive<u64> = 1..=100;

/// The lower and the higher of two values, as far as they are written; `default` where they are not.
pub(super) fn give_way<T: Copy + Ord>(written: (Option<T>, Option<T>), default: (T, T)) -> (T, T) {
    match written {
        (Some(low), Some(high)) => (low, high),
        (Some(low), None) => (low, default.1.max(low)),
        (None, Some(high)) => (default.0.min(high), high),
        (None, None) => default,
    }
}

pub(super) fn relay(raw: &raw::Relay) -> Result<Relay, ConfigError> {
    let number = |key, number: Option<_>, max| number.map(|number| within(key, number, 1..=max)).transpose();
    let written = (
        number("relay.batch_size", raw.batch_size, BATCH_SIZE_MAX)?,
        number("relay.max_in_flight", raw.max_in_flight, 10_000_000)?,
    );
    let (batch_size, max_in_flight) = give_way(written, raw::ROWS);
    if max_in_flight < batch_size {
        let problem =
            format!("{max_in_flight} is below relay.batch_size ({batch_size}): raise it or lower relay.batch_size");
        return Err(wrong("relay.max_in_flight", problem));
    }
    let bytes = raw.max_in_flight_bytes.0;
    let max_in_flight_bytes = usize::try_from(bytes)
        .ok()
        .filter(|bytes| *bytes >= 64 << 10)
        .ok_or_else(|| {
            wrong(
                "relay.max_in_flight_bytes",
                format!("{bytes} bytes is too small: at least \"64KiB\""),
            )
        })?;
    let (min_key, max_key) = ("relay.poll_interval_min", "relay.poll_interval_max");
    let written = (
        pause(min_key, raw.poll_interval_min)?,
        pause(max_key, raw.poll_interval_max)?,
    );
    let (poll_interval_min, poll_interval_max) = give_way(written, raw::POLL_INTERVAL);
    ordered((min_key, poll_interval_min), (max_key, poll_interval_max))?;
    let unrouted = [("wait", Unrouted::Wait), ("fail", Unrouted::Fail)];
    Ok(Relay {
        batch_size,
        max_in_flight,
        max_in_flight_bytes,
        poll_interval_min,
        poll_interval_max,
        notify: raw.notify,
        durable_marks: raw.durable_marks,
        count_outages: raw.count_outages,
        unrouted: choice("relay.unrouted", &raw.unrouted, &unrouted)?,
        shutdown_timeout: at_least("relay.shutdown_timeout", raw.shutdown_timeout, PAUSE_MIN)?,
    })
}

fn pause(key: &str, written: Option<Span>) -> Result<Option<Duration>, ConfigError> {
    written.map(|span| at_least(key, span, PAUSE_MIN)).transpose()
}

pub(super) fn route_defaults(raw: &raw::Relay) -> Result<RouteDefaults, ConfigError> {
    let (min_key, max_key) = ("relay.backoff_min", "relay.backoff_max");
    let written = (pause(min_key, raw.backoff_min)?, pause(max_key, raw.backoff_max)?);
    let (min, max) = give_way(written, raw::BACKOFF);
    ordered((min_key, min), (max_key, max))?;
    Ok(RouteDefaults {
        max_attempts: within("relay.max_attempts", raw.max_attempts, 1..=MAX_ATTEMPTS)?,
        backoff: written,
        backoff_factor: within("relay.backoff_factor", raw.backoff_factor, FACTORS)?,
    })
}

/// The pauses of a route under `key`: its own, `[relay]`'s, or those nobody has asked for.
pub(super) fn backoff(key: &str, raw: &raw::Route, defaults: RouteDefaults) -> Result<Backoff, ConfigError> {
    let (min_key, max_key) = (format!("{key}.backoff_min"), format!("{key}.backoff_max"));
    let own = (pause(&min_key, raw.backoff_min)?, pause(&max_key, raw.backoff_max)?);
    let written = (own.0.or(defaults.backoff.0), own.1.or(defaults.backoff.1));
    let (min, max) = give_way(written, raw::BACKOFF);
    // A mistake is told by the keys that were written.
    let min_key = own.0.map_or("relay.backoff_min", |_| &min_key);
    let max_key = own.1.map_or("relay.backoff_max", |_| &max_key);
    ordered((min_key, min), (max_key, max))?;
    let factor = match raw.backoff_factor {
        Some(own) => within(&format!("{key}.backoff_factor"), own, FACTORS)?,
        None => defaults.backoff_factor,
    };
    Ok(Backoff { min, max, factor })
}

/// `lease.ttl` where nobody has said: half as long again as a broker may take to answer, if that is longer than usual.
pub(super) fn default_ttl(transports: &[Transport]) -> Duration {
    let timeouts = transports
        .iter()
        .filter_map(|transport| transport.config.settings().ack_timeout());
    let longest = timeouts.max().unwrap_or_default();
    if longest < raw::TTL {
        raw::TTL
    } else {
        longest.saturating_add(longest / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_gives_way_to_what_is_written() {
        let pair = |low, high| give_way((low, high), (1000, 10_000));
        assert_eq!(pair(None, None), (1000, 10_000));
        assert_eq!(pair(None, Some(500)), (500, 500));
        assert_eq!(pair(None, Some(2000)), (1000, 2000));
        assert_eq!(pair(Some(20_000), None), (20_000, 20_000));
        assert_eq!(pair(Some(2000), None), (2000, 10_000));
        assert_eq!(
            pair(Some(600), Some(500)),
            (600, 500),
            "a mistake, for the caller to say"
        );
    }
}
