//! What this instance may send for: the lanes worked for, and until when.

pub(super) mod lease;
pub(super) mod standing;
pub(super) mod territory;

use tokio::time::Instant;

use standing::Standing;
use territory::Territory;

/// See the module.
pub(super) struct Owning {
    pub(super) territory: Territory,
    /// Nothing is handed to a transport from then on.
    pub(super) valid_until: Instant,
    /// What the lease task said last.
    pub(super) standing: Standing,
}

impl Owning {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            territory: Territory::default(),
            valid_until: now,
            standing: Standing::none(now),
        }
    }
}
