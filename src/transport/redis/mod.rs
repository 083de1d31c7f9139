//! Stand-in until the redis transport is merged.

pub mod config;
