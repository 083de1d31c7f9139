//! One binary for all tests: servers are started once and shared.
#![expect(
    unreachable_pub,
    reason = "a test binary exports nothing: pub marks what other test modules use"
)]

mod conformance;
mod support;
