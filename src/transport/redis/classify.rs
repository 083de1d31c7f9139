//! Redis' errors as classes of failure: by the code, an error's first word, and for `ERR` by what it says.
//!
//! Every `XADD` of ours is made alike; what a message adds is its bytes. So an error is about a message only where it is about
//! a size, and all others are about the server, the stream, the login or us: an outage of the destination. `codes` in the tests
//! lists what servers say.

use crate::delivery::FailureClass;

/// The class of an error answer that begins with `code` and says `detail`.
#[must_use]
pub fn classify(code: &str, detail: &str) -> FailureClass {
    known(code, detail).unwrap_or(FailureClass::Unavailable)
}

/// The class of an error that is known.
fn known(code: &str, detail: &str) -> Option<FailureClass> {
    Some(match code {
        "ERR" if is_about_size(detail) => FailureClass::Rejected,
        "ERR" => FailureClass::Unavailable,
        // The server's state, its role, memory and disk; a cluster; a failover.
        "LOADING" | "READONLY" | "OOM" | "MISCONF" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "BUSY"
        | "NOREPLICAS" | "MOVED" | "ASK" | "REDIRECT" | "CROSSSLOT" | "UNBLOCKED" | "INPROG" | "FAILOVER"
        | "NOMASTERLINK" | "NOGOODSLAVE" | "NOQUORUM" | "IOERR" => FailureClass::Unavailable,
        // The destination is no stream; who we are and what we may.
        "WRONGTYPE" | "NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED" | "NOPROTO" => FailureClass::Unavailable,
        // Answers to other commands than ours: something between us and the server mixes them up.
        "NOSCRIPT" | "EXECABORT" | "NOTBUSY" | "UNKILLABLE" | "BUSYKEY" | "BUSYGROUP" | "NOGROUP" | "NOSUB"
        | "INVALIDOBJ" | "DUPLICATE" => FailureClass::Unavailable,
        _unknown => return None,
    })
}

/// What servers say of a value that is too large for them, lower case.
const SIZES: [&str; 5] = [
    "elements are too large to be stored",
    "invalid bulk length",
    "exceeds maximum allowed size",
    // Managed servers.
    "max request size exceeded",
    "value is too large",
];

fn is_about_size(detail: &str) -> bool {
    let detail = detail.to_lowercase();
    SIZES.iter().any(|size| detail.contains(size))
}

/// Whether the error is about the server behind the connection: the address may lead to another one by now, so a new connection
/// is worth trying.
pub(super) fn leads_elsewhere(code: &str, detail: &str) -> bool {
    match code {
        "READONLY" | "MASTERDOWN" | "LOADING" | "NOREPLICAS" | "UNBLOCKED" | "CLUSTERDOWN" | "REDIRECT"
        | "NOMASTERLINK" | "FAILOVER" | "NOAUTH" | "WRONGPASS" | "DENIED" | "NOPROTO" => true,
        "ERR" => {
            is_unknown_command(code, detail)
                || detail.contains("max number of clients")
                || detail.to_lowercase().contains("protocol error")
        }
        _other => false,
    }
}

/// The server has no such command: a Sentinel, a proxy, a server too old.
pub(super) fn is_unknown_command(code: &str, detail: &str) -> bool {
    code == "ERR" && {
        let detail = detail.to_lowercase();
        detail.contains("unknown command")
            || detail.contains("unsupported command")
            || detail.contains("is not supported")
    }
}

mod codes;
