//! One suite per port, run against every implementation, fakes included.

mod store;
mod transport;
