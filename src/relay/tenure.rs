//! The lease: which lanes this instance may send for, and until when.
//!
//! Runs on its own task and connection, so that a busy engine never lets it lapse. The engine reads the [`Standing`] and
//! stops publishing before its own monotonic clock says the lease could have ended: the time counts from *before* the
//! renewal was asked for.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::store::{Leases, StoreError, Tenancy};

/// What the engine may do now.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    /// Lanes held, with their epochs.
    pub(crate) lanes: Arc<Tenancy>,
    /// Nothing may be handed to a transport from then on.
    pub(crate) valid_until: Instant,
}

impl Standing {
    /// No lanes.
    pub(crate) fn none(now: Instant) -> Self {
        Self { lanes: Arc::new(Tenancy::new()), valid_until: now }
    }

    /// Whether messages may be sent.
    pub(crate) fn is_valid(&self, now: Instant) -> bool {
        !self.lanes.is_empty() && now < self.valid_until
    }
}

/// Renews the lease every third of `ttl` until cancelled, and tells `standing`. Returns only what a person must mend.
pub(crate) async fn keep(
    leases: Arc<dyn Leases>,
    ttl: Duration,
    standing: watch::Sender<Standing>,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    // What was handed to a client library just before the end needs time to arrive.
    let margin = ttl / 5;
    loop {
        let asked = Instant::now();
        let answer = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            answer = tokio::time::timeout(ttl / 3, leases.renew(ttl)) => answer,
        };
        let pause = match answer {
            Ok(Ok(lanes)) => {
                let valid_until = asked + ttl - margin;
                standing.send_modify(|standing| {
                    standing.valid_until = valid_until;
                    if *standing.lanes != lanes {
                        tracing::info!(lanes = lanes.len(), "lanes held");
                        standing.lanes = Arc::new(lanes);
                    }
                });
                ttl / 3
            }
            Ok(Err(StoreError::Misconfigured(reason))) => return Err(StoreError::Misconfigured(reason)),
            Ok(Err(StoreError::Unavailable(error))) => {
                tracing::debug!(%error, "lease not renewed");
                (ttl / 12).min(Duration::from_millis(500))
            }
            Err(_) => (ttl / 12).min(Duration::from_millis(500)),
        };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}
