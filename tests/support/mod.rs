//! What tests stand on: real servers on free loopback ports.

pub mod kafka;
pub mod nats;
pub mod ports;
pub mod process;
pub mod redis;
