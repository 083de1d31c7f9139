//! Stand-in until the kafka transport is merged.

pub mod config;
