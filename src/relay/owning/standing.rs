//! What the lease task tells the engine.

use std::sync::Arc;

use tokio::time::Instant;

use crate::relay::waiting::topics::Named;
use crate::store::Tenancy;

/// What the engine may do now.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    /// Lanes held and to be worked for, with their epochs.
    pub(crate) lanes: Arc<Tenancy>,
    /// Lanes held and to be left.
    pub(crate) leaving: Arc<Tenancy>,
    /// Topics whose messages are not to be sent.
    pub(crate) paused: Arc<Named>,
    /// Nothing may be handed to a transport from then on.
    pub(crate) valid_until: Instant,
}

impl Standing {
    /// No lanes.
    pub(crate) fn none(now: Instant) -> Self {
        Self {
            lanes: Arc::default(),
            leaving: Arc::default(),
            paused: Arc::default(),
            valid_until: now,
        }
    }

    /// Whether messages may be sent.
    pub(crate) fn is_valid(&self, now: Instant) -> bool {
        !self.lanes.is_empty() && now < self.valid_until
    }
}
