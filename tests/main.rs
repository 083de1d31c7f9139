//! The integration tests: one binary.

mod conformance;
mod migrate;
mod support;
