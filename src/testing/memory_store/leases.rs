//! The lease of one instance's lanes.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::handle::{Away, MemoryStore, next};
use super::{Registration, State};
use crate::store::{Lease, Leases, StoreError, Tenancy};

impl MemoryStore {
    /// Takes free lanes up to an equal share, and in a new life its own ones anew.
    fn take(&self, state: &mut State, anew: bool, now: Instant) -> Lease {
        let paused = state.paused.iter().map(Arc::clone).collect();
        let State { lanes, instances, .. } = state;
        let live: Vec<&String> = instances
            .iter()
            .filter(|(_, registration)| registration.expires_at >= now)
            .map(|(name, _)| name)
            .collect();
        let rank = live.iter().position(|name| **name == self.instance).unwrap_or(0);
        let share = lanes.len() / live.len() + usize::from(rank < lanes.len() % live.len());
        let is_mine = |owner: &Option<String>| owner.as_deref() == Some(&*self.instance);
        let mut missing = share.saturating_sub(lanes.iter().filter(|lease| is_mine(&lease.owner)).count());
        let mut held = Tenancy::new();
        for (lane, lease) in (0..).zip(lanes.iter_mut()) {
            let mine = is_mine(&lease.owner);
            let free = lease.owner.as_ref().is_none_or(|owner| !live.contains(&owner)) && !mine && missing > 0;
            missing -= usize::from(free);
            if free || (mine && anew) {
                lease.owner = Some(self.instance.clone());
                lease.epoch += 1;
            }
            if mine || free {
                held.insert(lane, lease.epoch);
            }
        }
        let ends = instances.iter().filter(|(name, _)| **name != self.instance);
        let ends = ends
            .map(|(_, registration)| registration.expires_at)
            .filter(|end| *end >= now);
        Lease {
            lanes: held,
            share,
            paused,
            look_again: ends.min().map(|end| end - now + Duration::from_millis(1)),
        }
    }

    /// As [`Self::answer`], on the lease's own connection.
    fn answer_about_lease<T>(&self, work: impl FnOnce(&mut State) -> T) -> Result<T, StoreError> {
        self.reachable()?;
        let mut state = self.table.state();
        if state.leases_stalled {
            return Err(StoreError::Unavailable(Box::new(Away)));
        }
        Ok(work(&mut state))
    }
}

#[async_trait]
impl Leases for MemoryStore {
    async fn renew(&self, ttl: Duration) -> Result<Lease, StoreError> {
        let (lease, came) = self.answer_about_lease(|state| {
            let now = Instant::now();
            let before = state.instances.insert(
                self.instance.clone(),
                Registration {
                    session: self.session,
                    expires_at: now + ttl,
                },
            );
            let anew = before.is_none_or(|before| before.session != self.session || before.expires_at < now);
            (self.take(state, anew, now), anew)
        })?;
        if came {
            self.table.members_changed();
        }
        Ok(lease)
    }

    async fn hand_over(&self, lanes: &Tenancy) -> Result<(), StoreError> {
        self.answer_about_lease(|state| {
            for (lane, epoch) in lanes {
                let lease = &mut state.lanes[usize::from(*lane)];
                if lease.owner.as_deref() == Some(&*self.instance) && lease.epoch == *epoch {
                    lease.owner = None;
                }
            }
        })?;
        self.table.members_changed();
        Ok(())
    }

    async fn leave(&self) -> Result<(), StoreError> {
        self.answer_about_lease(|state| {
            let registered = state.instances.get(&self.instance);
            if registered.is_some_and(|registration| registration.session == self.session) {
                state.instances.remove(&self.instance);
                for lease in &mut state.lanes {
                    if lease.owner.as_deref() == Some(&*self.instance) {
                        lease.owner = None;
                    }
                }
            }
        })?;
        self.table.members_changed();
        Ok(())
    }

    async fn membership_changed(&self) {
        next(&self.table.membership, &self.membership_seen).await;
    }
}
