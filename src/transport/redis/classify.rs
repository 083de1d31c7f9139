//! Redis' error codes (the first word of an error) as classes of failure. What is not listed is `Failed`.

use crate::delivery::FailureClass;

/// The class of an error answer that begins with `code`.
#[must_use]
pub fn classify(code: &str) -> FailureClass {
    match code {
        // Server state, roles and memory; the destination is no stream; who we are and what we may.
        "LOADING" | "READONLY" | "OOM" | "MISCONF" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "BUSY"
        | "NOREPLICAS" | "MOVED" | "ASK" | "UNBLOCKED" | "WRONGTYPE" | "NOAUTH" | "WRONGPASS" | "NOPERM" => {
            FailureClass::Unavailable
        }
        _other => FailureClass::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_concerns_the_server_or_the_stream_is_an_outage() {
        for code in [
            "LOADING",
            "READONLY",
            "OOM",
            "MISCONF",
            "NOAUTH",
            "WRONGPASS",
            "NOPERM",
            "WRONGTYPE",
            "NOREPLICAS",
        ] {
            assert_eq!(classify(code), FailureClass::Unavailable, "{code}");
        }
        for code in ["ERR", "EXECABORT", ""] {
            assert_eq!(classify(code), FailureClass::Failed, "{code}");
        }
    }
}
