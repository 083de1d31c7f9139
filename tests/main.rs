//! The tests from outside, in one binary.

mod migrate;
mod support;
