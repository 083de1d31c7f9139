//! How long a statement is waited for: a time limit by what it is for, during which it may not be waiting for a lock.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::blocked::PATIENCE;
use super::database::{Database, GivenUp, Granted, Within};
use super::role::Role;
use crate::trouble::LockWait;

/// What a statement is granted.
struct Patience<'a> {
    /// So long, in each of so many rounds: another begins only while the server was not lost since `generation`.
    limit: Duration,
    rounds: u32,
    generation: u64,
    /// Given up then instead, whatever it waits for.
    deadline: Option<Instant>,
    /// A lock that somebody holds is not waited for.
    hasty: bool,
    /// The text of a statement of rows: a lock that only some of them wait for is not waited for.
    rows: Option<&'a str>,
    /// It is granted no more than [`HURRY`] once the process is to end.
    hurries: bool,
}

/// What a statement of rows is granted when the process is to end.
const HURRY: Duration = Duration::from_secs(1);

impl Database {
    /// The same connections, for somebody who waits no longer than `limit` from now: waiting for one and all statements
    /// together. One that is not done by then is cancelled, and only its own connection goes with it: a slow question says
    /// nothing about the server.
    #[must_use]
    pub fn within(&self, limit: Duration) -> Self {
        let deadline = Instant::now() + limit;
        let mut limited = self.clone();
        limited.within = Some(Within { limit, deadline });
        limited
    }

    /// The same, for a person's command: it does not wait for a lock that somebody holds, but names the holder.
    #[must_use]
    pub fn hasty(mut self) -> Self {
        self.hasty = true;
        self
    }

    /// Tells `observer` which lock held by somebody else is waited for, while one is; and `None` once none is any more.
    pub fn observe_locks(&self, observer: impl Fn(Option<&LockWait>) + Send + Sync + 'static) {
        self.watch.observe(Box::new(observer));
    }

    /// From now on statements that settle have little time: the process is to end.
    pub fn hurry(&self) {
        self.facts.ending.cancel();
    }

    /// Whether it was told to.
    pub(crate) fn hurries(&self) -> bool {
        self.facts.ending.is_cancelled()
    }

    /// The lock that a statement of `role` under way waits for, as far as it can be found out.
    pub async fn lock_waited_for(&self, role: Role) -> Option<LockWait> {
        Some(self.watch.look(self.pool_of(role)).await?.lock)
    }

    /// `work` of settling, a statement of this `text`; it took longer than it was `granted`: an error. The time that it waits for somebody's
    /// lock on a table of ours does not count. A lock that only some of its rows wait for is not waited for, and answered.
    pub(super) async fn patiently<T>(
        &self,
        granted: Granted,
        text: &str,
        work: impl Future<Output = T>,
    ) -> Result<T, Option<LockWait>> {
        let patience = Patience {
            limit: granted.limit,
            rounds: 1,
            generation: 0,
            deadline: None,
            hasty: false,
            rows: Some(text),
            hurries: granted.hurries,
        };
        let done = self.waited_for(Role::Settle, patience, work).await;
        done.map_err(|given_up| match given_up {
            GivenUp::Locked(lock) => Some(lock),
            GivenUp::Silent(_) => None,
        })
    }

    /// `work`, or why it was given up: a side statement may take longer than others, unless the server was lost since
    /// `generation`. The time that it waits for a lock does not count.
    pub(crate) async fn in_time<T>(
        &self,
        role: Role,
        generation: u64,
        work: impl Future<Output = T>,
    ) -> Result<T, GivenUp> {
        let overdue = self.facts.overdue.load(Ordering::Relaxed).min(2);
        let usual = self.statement_timeout * 2_u32.pow(overdue);
        let (limit, rounds) = match (self.within, role) {
            (Some(Within { limit, .. }), _) => (limit, 1),
            (None, Role::Read | Role::Settle | Role::Lease) => (usual, 1),
            (None, Role::Side) => (usual, 6),
        };
        let patience = Patience {
            limit,
            rounds,
            generation,
            deadline: self.within.map(|within| within.deadline),
            hasty: self.hasty,
            rows: None,
            hurries: false,
        };
        self.waited_for(role, patience, work).await
    }

    async fn waited_for<T>(
        &self,
        role: Role,
        patience: Patience<'_>,
        work: impl Future<Output = T>,
    ) -> Result<T, GivenUp> {
        let Patience {
            limit,
            rounds,
            generation,
            deadline,
            hasty,
            rows,
            mut hurries,
        } = patience;
        let mut waiting = self.watch.begun(self.pool_of(role));
        let (mut round, mut ends) = (1, deadline.unwrap_or_else(|| Instant::now() + limit));
        let mut work = std::pin::pin!(work);
        loop {
            let looking = async {
                tokio::time::sleep_until(waiting.next_look).await;
                Box::pin(waiting.look()).await;
            };
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = self.facts.ending.cancelled(), if hurries => {
                    hurries = false;
                    ends = ends.min(Instant::now() + HURRY);
                }
                () = tokio::time::sleep_until(ends) => {
                    if let Some(text) = rows {
                        Box::pin(waiting.look()).await;
                        if let Some(lock) = waiting.for_rows(text) {
                            return Err(GivenUp::Locked(lock.clone()));
                        }
                    }
                    match (&waiting.locked, deadline) {
                        (Some((_, lock)), Some(_)) => return Err(GivenUp::Locked(lock.clone())),
                        (None, None) if round < rounds && self.facts.generation.load(Ordering::Acquire) == generation => {
                            round += 1;
                            ends += limit;
                        }
                        (Some(_), None) => ends += limit,
                        (None, _) => return Err(GivenUp::Silent(limit * round)),
                    }
                }
                () = looking => {
                    if let Some(lock) = rows.and_then(|text| waiting.for_rows(text)) {
                        return Err(GivenUp::Locked(lock.clone()));
                    }
                    if let Some((since, lock)) = &waiting.locked {
                        if hasty && since.elapsed() >= PATIENCE {
                            return Err(GivenUp::Locked(lock.clone()));
                        }
                        if deadline.is_none() {
                            (round, ends) = (1, Instant::now() + limit);
                        }
                    }
                }
            }
        }
    }
}
