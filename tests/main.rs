//! The integration tests: one binary.

mod config;
mod http;
mod migrate;
mod support;
mod tls;
