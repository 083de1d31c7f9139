//! The integration tests: one binary.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed, and says where")]

mod config;
mod http;
mod migrate;
mod support;
mod tls;
