//! What tests run the engine on instead of a database and a broker.

mod gate;
pub mod memory_store;
pub mod scripted_transport;
