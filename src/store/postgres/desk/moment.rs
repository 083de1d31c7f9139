//! A point in time as a person says it: absolute, or so far from now by the database's clock.

use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use serde::{Serialize, Serializer};

/// See the module. What a distance is measured from, and in which direction, is the reader's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// This instant.
    At(Timestamp),
    /// So long before or after now.
    Distance(Duration),
}

impl Moment {
    /// The two parameters every statement takes for it: an instant, or seconds.
    #[must_use]
    pub fn params(moment: Option<Self>) -> (Option<Timestamp>, Option<f64>) {
        match moment {
            None => (None, None),
            Some(Self::At(at)) => (Some(at), None),
            Some(Self::Distance(distance)) => (None, Some(distance.as_secs_f64())),
        }
    }

    /// The instant, a distance being measured back from `now`, no further than to 1970.
    #[must_use]
    pub fn before(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Distance(distance) => {
                let at = now.checked_sub(distance).unwrap_or(Timestamp::UNIX_EPOCH);
                at.max(Timestamp::UNIX_EPOCH)
            }
        }
    }
}

impl FromStr for Moment {
    type Err = String;

    /// `90m`, `2h 30s`; `2026-01-31`, `2026-01-31 12:00` (UTC); `2026-01-31T12:00:00+01:00`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(distance) = humantime::parse_duration(text) {
            return Ok(Self::Distance(distance));
        }
        if let Ok(at) = text.parse::<Timestamp>() {
            return Ok(Self::At(at));
        }
        let civil = text
            .parse::<DateTime>()
            .or_else(|_| text.parse::<Date>().map(DateTime::from));
        civil
            .and_then(|civil| TimeZone::UTC.to_timestamp(civil))
            .map(Self::At)
            .map_err(|_| "not a time: give a distance (\"90m\") or an instant (\"2026-01-31T12:00:00Z\")".to_owned())
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::At(at) => serializer.collect_str(at),
            Self::Distance(distance) => serializer.collect_str(&humantime::format_duration(*distance)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_and_instants() {
        let at = |text: &str| Moment::At(text.parse().unwrap());
        assert_eq!("90m".parse(), Ok(Moment::Distance(Duration::from_secs(5400))));
        assert_eq!("2026-01-31".parse(), Ok(at("2026-01-31T00:00:00Z")));
        assert_eq!("2026-01-31 12:00".parse(), Ok(at("2026-01-31T12:00:00Z")));
        assert_eq!("2026-01-31T12:00:00+01:00".parse(), Ok(at("2026-01-31T11:00:00Z")));
        let now: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        assert_eq!(
            Moment::Distance(Duration::from_secs(60)).before(now).to_string(),
            "2026-01-31T11:59:00Z"
        );
        assert_eq!(Moment::Distance(Duration::MAX).before(now), Timestamp::UNIX_EPOCH);
        assert!("yesterday".parse::<Moment>().unwrap_err().contains("not a time"));
    }
}
