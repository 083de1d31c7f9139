//! Stand-in until the stdout transport is merged.

pub mod config;
