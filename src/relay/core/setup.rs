//! What is the same for every message, between two plans.

use crate::relay::options::Options;
use crate::route::Routes;
use crate::telemetry::Telemetry;

/// See the module.
pub(crate) struct Setup {
    pub(crate) routes: Routes,
    pub(crate) options: Options,
    pub(crate) telemetry: Telemetry,
}
