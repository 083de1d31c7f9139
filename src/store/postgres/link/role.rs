//! What connections are for.

/// What a connection is for; part of its `application_name`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The cursor.
    Read,
    /// Marks and failures.
    Settle,
    /// The lease.
    Lease,
    /// Due rows, sweeps, holds, and what people ask for.
    Side,
}

impl Role {
    pub(super) const ALL: [Self; 4] = [Self::Read, Self::Settle, Self::Lease, Self::Side];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Settle => "settle",
            Self::Lease => "lease",
            Self::Side => "side",
        }
    }
}
