//! How a row was found, and who lags: whose rows wait in the database, to be read again from one place on.

use std::sync::Arc;

use super::lag::Way;

/// Index of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct DestinationId(pub(crate) usize);

/// Whose rows are read again from one place on, until the cursor is met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Laggard {
    /// Lanes taken over, or everything when the cursor cannot be trusted.
    Lanes,
    /// A topic an operator has resumed.
    Topic(Arc<str>),
    /// Destinations that recover: one, and those that can be read with it.
    Destinations(Arc<[DestinationId]>),
}

/// How a row was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// By the cursor, as a late commit, or by a sweep.
    Passing,
    /// It waited for a time.
    Due,
    /// For its priority, before its turn. Where it may not go yet, the next look for such rows finds it again, and whatever
    /// would have found it without.
    Urgent,
    /// Read again for one that lags.
    Behind(Laggard),
    /// Behind a hold that is being released.
    Released,
}

impl Found {
    /// How the row stands to a lag, which may be the one it was read again for (`is_own`). `is_holder`: it holds its key.
    pub(crate) fn way(&self, is_own: impl FnOnce(&Laggard) -> bool, is_holder: bool) -> Way {
        match self {
            Self::Behind(who) if is_own(who) => Way::Own,
            Self::Passing | Self::Behind(_) => Way::Other,
            Self::Urgent => Way::Urgent,
            Self::Due if !is_holder => Way::Due,
            Self::Due | Self::Released => Way::NextOfKey,
        }
    }
}
