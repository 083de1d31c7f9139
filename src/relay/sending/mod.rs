//! What is on its way: queues, limits of routes, destinations, where topics go.

pub(super) mod addresses;
pub(super) mod destination;
pub(super) mod destinations;
pub(super) mod lanes;
pub(super) mod limits;
mod schedule;
mod share;
mod together;

use addresses::Addresses;
use destinations::Destinations;
use lanes::Lanes;
use limits::Limits;

/// See the module.
pub(super) struct Sending {
    pub(super) lanes: Lanes,
    pub(super) limits: Limits,
    pub(super) destinations: Destinations,
    pub(super) addresses: Addresses,
}
