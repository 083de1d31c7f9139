//! Stand-in until the nats transport is merged.

pub mod config;
