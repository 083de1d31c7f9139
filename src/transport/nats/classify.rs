//! JetStream's answers as classes of failure.
//!
//! Codes are the server's `err_code` (its `errors.json`); 503 without a code is "no responders": no stream captures the
//! subject, or JetStream is off. What is not listed is `Failed`.

use async_nats::jetstream::ErrorCode;

use crate::delivery::FailureClass;

/// The class of a JetStream API error. `status` is its HTTP-like code, `code` its `err_code`.
#[must_use]
pub fn classify(status: u64, code: ErrorCode) -> FailureClass {
    match code {
        ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
        | ErrorCode::CLUSTER_INCOMPLETE
        | ErrorCode::CLUSTER_NO_PEERS
        | ErrorCode::CLUSTER_NOT_AVAILABLE
        | ErrorCode::CLUSTER_NOT_LEADER
        | ErrorCode::INSUFFICIENT_RESOURCES
        | ErrorCode::MEMORY_RESOURCES_EXCEEDED
        | ErrorCode::NO_ACCOUNT
        | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT
        | ErrorCode::JETSTREAM_NOT_ENABLED
        | ErrorCode::STORAGE_RESOURCES_EXCEEDED
        | ErrorCode::STREAM_NOT_FOUND
        | ErrorCode::STREAM_STORE_FAILED
        | ErrorCode::STREAM_SEALED
        | ErrorCode::STREAM_OFFLINE
        | ErrorCode::STREAM_OFFLINE_REASON
        | ErrorCode::STREAM_TOO_MANY_REQUESTS => FailureClass::Unavailable,
        ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM => FailureClass::Rejected,
        ErrorCode(0) if status == 503 => FailureClass::Unavailable,
        ErrorCode(_) => FailureClass::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_the_contract_names_has_its_class() {
        for (status, code, class) in [
            (503, 0, FailureClass::Unavailable),
            (503, 10008, FailureClass::Unavailable),
            (503, 10009, FailureClass::Unavailable),
            (400, 10002, FailureClass::Unavailable),
            (503, 10023, FailureClass::Unavailable),
            (500, 10028, FailureClass::Unavailable),
            (503, 10035, FailureClass::Unavailable),
            (503, 10039, FailureClass::Unavailable),
            (500, 10047, FailureClass::Unavailable),
            (404, 10059, FailureClass::Unavailable),
            (503, 10076, FailureClass::Unavailable),
            (503, 10077, FailureClass::Unavailable),
            (400, 10109, FailureClass::Unavailable),
            (500, 10118, FailureClass::Unavailable),
            (429, 10167, FailureClass::Unavailable),
            (400, 10054, FailureClass::Rejected),
            (400, 10097, FailureClass::Rejected),
            (400, 10071, FailureClass::Failed),
            (400, 10060, FailureClass::Failed),
            (400, 19999, FailureClass::Failed),
            (500, 0, FailureClass::Failed),
        ] {
            assert_eq!(classify(status, ErrorCode(code)), class, "{status} {code}");
        }
    }
}
