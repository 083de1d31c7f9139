//! The integration tests: one binary.

mod cli;
mod migrate;
mod support;
