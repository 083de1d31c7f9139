//! What a value may be, and the words for one that is not accepted.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::ConfigError;
use super::units::{Number, Span};

/// `attempt` is an integer column, and the row that used up its attempts shows one more.
pub(super) const MAX_ATTEMPTS: u64 = i32::MAX as u64 - 1;

pub(super) fn wrong(key: impl Into<String>, problem: impl Into<String>) -> ConfigError {
    ConfigError::Value {
        key: key.into(),
        problem: problem.into(),
    }
}

pub(super) fn within<T: TryFrom<u64>>(key: &str, number: Number, range: RangeInclusive<u64>) -> Result<T, ConfigError> {
    let refuse = || {
        wrong(
            key,
            format!("{} is not within {} to {}", number.0, range.start(), range.end()),
        )
    };
    if range.contains(&number.0) {
        T::try_from(number.0).map_err(|_| refuse())
    } else {
        Err(refuse())
    }
}

pub(super) fn at_least(key: &str, span: Span, least: Duration) -> Result<Duration, ConfigError> {
    if span.0 >= least {
        Ok(span.0)
    } else {
        Err(wrong(
            key,
            format!("{} is too short: at least {}", show(span.0), show(least)),
        ))
    }
}

pub(super) fn show(span: Duration) -> impl Display {
    humantime::format_duration(span)
}

pub(super) fn ordered(min: (&str, Duration), max: (&str, Duration)) -> Result<(), ConfigError> {
    if min.1 <= max.1 {
        Ok(())
    } else {
        Err(wrong(
            min.0,
            format!(
                "{} is above {} ({}): lower one or raise the other",
                show(min.1),
                max.0,
                show(max.1)
            ),
        ))
    }
}

/// One of `names`, or an error that lists them.
pub(super) fn choice<T: Copy>(key: &str, value: &str, names: &[(&str, T)]) -> Result<T, ConfigError> {
    names
        .iter()
        .find(|(name, _)| *name == value)
        .map(|(_, chosen)| *chosen)
        .ok_or_else(|| {
            let accepted: Vec<String> = names.iter().map(|(name, _)| format!("{name:?}")).collect();
            wrong(
                key,
                format!("{value:?} is not accepted: one of {}", accepted.join(", ")),
            )
        })
}
