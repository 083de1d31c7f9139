//! I/O errors as classes of failure, and what to do about each.

use std::io::ErrorKind;

use crate::delivery::FailureClass;

/// The class of a failed write. Nothing about one message can make a write fail.
pub(super) fn classify(kind: ErrorKind) -> FailureClass {
    if kind == ErrorKind::TimedOut {
        FailureClass::TimedOut
    } else {
        FailureClass::Unavailable
    }
}

/// Whether `kind` is about room (the file opens all the same, and only a write can tell that there is some), and what to do.
#[rustfmt::skip]
pub(super) fn known(kind: ErrorKind) -> (bool, &'static str) {
    const KNOWN: [(ErrorKind, bool, &str); 6] = [
        (ErrorKind::NotFound, false, ": make its directory, writable for the daemon's user"),
        (ErrorKind::PermissionDenied, false, ": let the daemon's user read and write it, and write to its directory"),
        (ErrorKind::ReadOnlyFilesystem, false, ": under systemd, name its directory in ReadWritePaths= of the unit"),
        (ErrorKind::StorageFull, true, ": make room on its disk"),
        (ErrorKind::QuotaExceeded, true, ": raise the quota of the daemon's user, or make room"),
        (ErrorKind::FileTooLarge, true, ": rename it, and a new one is made"),
    ];
    let found = KNOWN.iter().find(|(known, ..)| *known == kind);
    found.map_or((false, ""), |(_, is_about_room, advice)| (*is_about_room, advice))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_disk_says_is_an_outage() {
        for (code, room, advised) in [
            (libc::ENOENT, false, true),
            (libc::EACCES, false, true),
            (libc::EROFS, false, true),
            (libc::ENOSPC, true, true),
            (libc::EDQUOT, true, true),
            (libc::EFBIG, true, true),
            (libc::EIO, false, false),
        ] {
            let kind = std::io::Error::from_raw_os_error(code).kind();
            let (is_about_room, advice) = known(kind);
            assert_eq!((is_about_room, !advice.is_empty()), (room, advised), "{kind:?}");
            assert_eq!(classify(kind), FailureClass::Unavailable, "{kind:?}");
        }
        assert_eq!(classify(ErrorKind::TimedOut), FailureClass::TimedOut);
    }
}
