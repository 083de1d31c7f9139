//! One suite per port, run against every implementation, fakes included.

mod transport;
