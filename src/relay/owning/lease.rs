//! The lease: which lanes this instance may send for, and until when.
//!
//! Runs on its own task and connection, so that a busy engine never lets it lapse. The engine reads the [`Standing`] and
//! stops publishing before its own monotonic clock says the lease could have ended: the time counts from *before* the
//! renewal was asked for.
//!
//! An instance that holds more than its share asks its engine to leave some lanes, and hands each over once the engine says
//! that nothing of it is on its way any more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::repeat::Repeat;
use crate::store::{Epoch, Lane, Lease, Leases, StoreError, Tenancy};
use crate::telemetry::health::chain;

use crate::relay::waiting::topics::Named;

use super::standing::Standing;

/// The lease task.
pub(crate) struct LeaseTask {
    pub(crate) leases: Arc<dyn Leases>,
    pub(crate) ttl: Duration,
    pub(crate) standing: watch::Sender<Standing>,
    /// Lanes the engine has left.
    pub(crate) left: mpsc::UnboundedReceiver<Tenancy>,
}

impl LeaseTask {
    /// Renews the lease every third of its length until cancelled. Returns only what a person must mend.
    pub(crate) async fn keep(mut self, stop: CancellationToken) -> Result<(), StoreError> {
        let mut failing = Repeat::default();
        loop {
            let asked = Instant::now();
            let answer = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                answer = tokio::time::timeout(self.ttl / 3, self.leases.renew(self.ttl)) => answer,
            };
            let soon = (self.ttl / 12).min(Duration::from_millis(500));
            let pause = match answer {
                Ok(Ok(lease)) => {
                    if failing.ended() {
                        tracing::info!("the lease is renewed again");
                    }
                    let missing = lease.lanes.len() < lease.share;
                    let regular = if missing { soon } else { self.ttl / 3 };
                    let look_again = lease.look_again.unwrap_or(regular);
                    self.book(lease, asked);
                    regular.min(look_again)
                }
                Ok(Err(StoreError::Misconfigured(reason))) => return Err(StoreError::Misconfigured(reason)),
                Ok(Err(StoreError::Unavailable(error))) => {
                    if let Some(count) = failing.occurred(Instant::now().into_std()) {
                        let error = chain(&*error);
                        tracing::warn!(error, count, "the lease could not be renewed: trying again");
                    }
                    soon
                }
                Err(_) => {
                    if let Some(count) = failing.occurred(Instant::now().into_std()) {
                        tracing::warn!(count, "the lease could not be renewed in time: trying again");
                    }
                    soon
                }
            };
            let next = Instant::now() + pause;
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = self.hand_over_until(next) => {}
            }
        }
    }

    fn book(&self, lease: Lease, asked: Instant) {
        // What was handed to a client library just before the end needs time to arrive.
        let valid_until = asked + self.ttl - self.ttl / 5;
        let paused: Named = lease.paused.into_iter().collect();
        self.standing.send_modify(|standing| {
            let mut leaving = Tenancy::clone(&standing.leaving);
            leaving.retain(|lane, epoch| lease.lanes.get(lane) == Some(epoch));
            let surplus = lease.lanes.len().saturating_sub(leaving.len() + lease.share);
            let stay = |lane: &Lane| !leaving.contains_key(lane);
            let chosen: BTreeSet<Lane> = lease.lanes.keys().rev().copied().filter(stay).take(surplus).collect();
            let (given_up, lanes): (Tenancy, Tenancy) = lease
                .lanes
                .into_iter()
                .partition(|(lane, _)| leaving.contains_key(lane) || chosen.contains(lane));
            if *standing.lanes != lanes {
                tracing::info!(lanes = lanes.len(), leaving = given_up.len(), "lanes held");
                standing.lanes = Arc::new(lanes);
            }
            standing.leaving = Arc::new(given_up);
            if *standing.paused != paused {
                standing.paused = Arc::new(paused);
            }
            standing.valid_until = valid_until;
        });
    }

    /// Hands over what the engine leaves, until it is time to renew, or others come and go.
    async fn hand_over_until(&mut self, next: Instant) {
        let leases = Arc::clone(&self.leases);
        let mut changed = std::pin::pin!(leases.membership_changed());
        loop {
            let left = tokio::select! {
                biased;
                Some(left) = self.left.recv() => left,
                () = tokio::time::sleep_until(next) => return,
                () = &mut changed => return,
            };
            let leaving = Arc::clone(&self.standing.borrow().leaving);
            let still = |(lane, epoch): &(Lane, Epoch)| leaving.get(lane) == Some(epoch);
            let lanes: Tenancy = left.into_iter().filter(still).collect();
            if lanes.is_empty() {
                continue;
            }
            match tokio::time::timeout(self.ttl / 3, self.leases.hand_over(&lanes)).await {
                Ok(Ok(())) => {
                    tracing::info!(lanes = lanes.len(), "lanes handed over");
                    self.standing.send_modify(|standing| {
                        let mut leaving = Tenancy::clone(&standing.leaving);
                        leaving.retain(|lane, _| !lanes.contains_key(lane));
                        standing.leaving = Arc::new(leaving);
                    });
                }
                // It may have been written or not: the next renewal tells, and the engine says again what it has left.
                Ok(Err(error)) => tracing::debug!(%error, "lanes not handed over"),
                Err(_) => tracing::debug!("lanes not handed over in time"),
            }
        }
    }
}
