//! Where a message stands in a trace: W3C Trace Context, level 1, `traceparent`.
//!
//! ```text
//!  00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
//!  version      trace id               parent (span) id   flags
//! ```

use std::fmt;

const SAMPLED: u8 = 0x01;
/// The flags known: sampled, and random (level 2). Others are not passed on, as the recommendation demands.
const KNOWN: u8 = SAMPLED | 0x02;

/// A span, and the trace it belongs to. Neither id is all zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Context {
    pub(super) trace: [u8; 16],
    pub(super) span: [u8; 8],
    pub(super) flags: u8,
}

impl Context {
    /// Reads `traceparent`; `None` when it is malformed. A later version is read as far as it is known, which it must allow.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let [version] = hex::<1>(bytes.get(..2)?)?;
        let dashes = [2, 35, 52].iter().all(|at| bytes.get(*at) == Some(&b'-'));
        let ends = match bytes.get(55) {
            None => true,
            Some(next) => version > 0 && *next == b'-',
        };
        if !dashes || !ends || version == 0xff {
            return None;
        }
        let [flags] = hex::<1>(bytes.get(53..55)?)?;
        let context = Self {
            trace: hex(bytes.get(3..35)?)?,
            span: hex(bytes.get(36..52)?)?,
            flags,
        };
        (context.trace != [0; 16] && context.span != [0; 8]).then_some(context)
    }

    /// Whether whoever began the trace wants it recorded.
    pub(super) fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// A new span of the same trace.
    pub(super) fn child(&self) -> Self {
        Self {
            span: fastrand::u64(1..).to_be_bytes(),
            flags: self.flags & KNOWN,
            ..*self
        }
    }

    /// The first span of a new trace, sampled.
    pub(super) fn root() -> Self {
        Self {
            trace: fastrand::u128(1..).to_be_bytes(),
            span: fastrand::u64(1..).to_be_bytes(),
            flags: SAMPLED,
        }
    }
}

/// As `traceparent` wants it, with version 00.
impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace, span) = (u128::from_be_bytes(self.trace), u64::from_be_bytes(self.span));
        write!(f, "00-{trace:032x}-{span:016x}-{:02x}", self.flags)
    }
}

/// Lower-case digits only: the recommendation refuses others.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let value = |digit: &u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = (value(&pair[0])? << 4) | value(&pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_read_is_written_the_same() {
        let context = Context::parse(EXAMPLE).unwrap();
        assert!(context.is_sampled());
        assert_eq!(context.to_string(), EXAMPLE);
        let unsampled = Context::parse(&EXAMPLE.replace("-01", "-00")).unwrap();
        assert!(!unsampled.is_sampled());
    }

    #[test]
    fn a_child_keeps_the_trace_and_its_sampling() {
        let parent = Context::parse(&EXAMPLE.replace("-01", "-ff")).unwrap();
        let child = parent.child();
        assert_eq!((child.trace, child.flags), (parent.trace, 0x03));
        assert_ne!(child.span, parent.span);
        assert_ne!(child.span, parent.child().span);
        assert!(Context::root().is_sampled());
        assert_ne!(Context::root().trace, Context::root().trace);
    }

    #[test]
    fn what_is_malformed_is_no_context() {
        for text in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
            "00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01x",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333é-01",
            " 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(Context::parse(text), None, "{text:?}");
        }
        let later = EXAMPLE.replacen("00", "cc", 1) + "-what.else";
        assert_eq!(Context::parse(&later).unwrap().to_string(), EXAMPLE);
    }
}
