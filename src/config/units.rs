//! Values with a unit: durations and sizes, and numbers that may also come as text (from the environment).
//!
//! Pure. Each reads what a person writes and says in words what it would have taken.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// A duration as written: `"250ms"`, `"5s"`, `"7d"`, `"1h 30m"`. A bare number is refused: its unit would be a guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span(pub(super) Duration);

/// A size in bytes as written: `"64MiB"`, `"1GB"` or a bare number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

/// A whole number at or above zero, as number or as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number(pub(super) u64);

impl Span {
    /// Reads a duration.
    ///
    /// # Errors
    /// The text, and what is accepted.
    fn parse(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text.trim())
            .map(Self)
            .map_err(|_| format!("{text:?} is no duration: write it like \"250ms\", \"5s\" or \"7d\""))
    }
}

impl Size {
    /// Reads a size.
    ///
    /// # Errors
    /// The text, and what is accepted.
    fn parse(text: &str) -> Result<Self, String> {
        let refuse = || format!("{text:?} is no size: write it like \"64MiB\", \"1GB\" or a number of bytes");
        let trimmed = text.trim();
        let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = trimmed[..digits].parse().map_err(|_| refuse())?;
        let factor: u64 = match trimmed[digits..].trim_start().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kb" => 1000,
            "kib" => 1 << 10,
            "mb" => 1_000_000,
            "mib" => 1 << 20,
            "gb" => 1_000_000_000,
            "gib" => 1 << 30,
            _ => return Err(refuse()),
        };
        number.checked_mul(factor).map(Self).ok_or_else(refuse)
    }
}

impl Number {
    /// Reads a number.
    ///
    /// # Errors
    /// The text, and what is accepted.
    fn parse(text: &str) -> Result<Self, String> {
        text.trim()
            .parse()
            .map(Self)
            .map_err(|_| format!("{text:?} is no whole number at or above 0"))
    }
}

/// Reads text, or a whole number where `number` takes one; everything else is refused with `expected`.
struct Written<T> {
    expected: &'static str,
    text: fn(&str) -> Result<T, String>,
    number: fn(i64) -> Result<T, String>,
}

impl<T> Visitor<'_> for Written<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<T, E> {
        (self.text)(value).map_err(E::custom)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<T, E> {
        (self.number)(value).map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<T, E> {
        let value = i64::try_from(value).map_err(|_| E::custom(format!("{value} is too large")))?;
        (self.number)(value).map_err(E::custom)
    }
}

fn whole(value: i64) -> Result<u64, String> {
    u64::try_from(value).map_err(|_| format!("{value} is below 0"))
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Written {
            expected: "a duration such as \"5s\"",
            text: Self::parse,
            number: |value| {
                Err(format!(
                    "{value} has no unit: write it like \"{value}s\" or \"{value}ms\""
                ))
            },
        })
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Written {
            expected: "a size such as \"64MiB\"",
            text: Self::parse,
            number: |value| whole(value).map(Self),
        })
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Written {
            expected: "a whole number",
            text: Self::parse,
            number: |value| whole(value).map(Self),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(Span::parse("250ms"), Ok(Span(Duration::from_millis(250))));
        assert_eq!(Span::parse("7d"), Ok(Span(Duration::from_secs(7 * 86_400))));
        assert_eq!(Span::parse("0s"), Ok(Span(Duration::ZERO)));
        for bad in ["", "5", "s", "-1s", "5 parsecs", "99999999999999999999d"] {
            assert!(Span::parse(bad).unwrap_err().contains("\"5s\""), "{bad}");
        }
    }

    #[test]
    fn sizes_take_both_families_of_units() {
        assert_eq!(Size::parse("64MiB"), Ok(Size(64 << 20)));
        assert_eq!(Size::parse("1GB"), Ok(Size(1_000_000_000)));
        assert_eq!(Size::parse("4 kib"), Ok(Size(4096)));
        assert_eq!(Size::parse("12"), Ok(Size(12)));
        for bad in ["", "MiB", "-1", "1.5MiB", "64M", "99999999999GiB", "1é"] {
            assert!(Size::parse(bad).unwrap_err().contains("64MiB"), "{bad}");
        }
    }
}
