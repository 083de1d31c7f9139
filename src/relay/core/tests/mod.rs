//! The core without a runtime: an event in, effects out.

mod flows;
mod overtaking;
mod waits;
mod weather;
mod world;
