//! I/O errors as classes of failure.

use std::io::ErrorKind;

use crate::delivery::FailureClass;

/// The class of a failed write. Nothing about one message can make a write fail.
#[must_use]
pub fn classify(kind: ErrorKind) -> FailureClass {
    if kind == ErrorKind::TimedOut {
        FailureClass::TimedOut
    } else {
        FailureClass::Unavailable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_pipe_is_an_outage() {
        for (kind, class) in [
            (ErrorKind::BrokenPipe, FailureClass::Unavailable),
            (ErrorKind::StorageFull, FailureClass::Unavailable),
            (ErrorKind::Other, FailureClass::Unavailable),
            (ErrorKind::TimedOut, FailureClass::TimedOut),
        ] {
            assert_eq!(classify(kind), class, "{kind:?}");
        }
    }
}
