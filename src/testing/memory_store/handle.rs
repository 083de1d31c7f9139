//! One instance's handle: the port over the shared table.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use tokio::time::Instant;

use super::feed::{Feed, Filling, holders, is_wanted};
use super::{MemoryTable, State, StoredRow};
use crate::lock::lock;
use crate::message::{KeyId, Seq};
use crate::store::{
    DuePage, DuePosition, FailedAttempt, Hold, LaneSet, Mark, OpenTransaction, Page, Reread, Room, Row, Scope, Settled,
    Settlement, Store, StoreError, Stuck,
};
use crate::testing::gate::Gate;

/// One instance at a [`MemoryTable`]. Made anew under the same name, it is that instance restarted.
pub struct MemoryStore {
    pub(super) table: Arc<MemoryTable>,
    pub(super) instance: String,
    pub(super) session: u64,
    feed: Mutex<Feed>,
    commits_seen: AtomicU64,
    pub(super) membership_seen: AtomicU64,
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryStore")
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

/// What an answer says while the database is away.
#[derive(Debug, thiserror::Error)]
#[error("the test says the database is away")]
pub(super) struct Away;

impl MemoryStore {
    /// A handle for `instance`.
    #[must_use]
    pub fn new(table: &Arc<MemoryTable>, instance: &str) -> Self {
        let mut state = table.state();
        state.last_session += 1;
        let session = state.last_session;
        drop(state);
        Self {
            commits_seen: AtomicU64::new(table.commits.get()),
            membership_seen: AtomicU64::new(table.membership.get()),
            table: Arc::clone(table),
            instance: instance.to_owned(),
            session,
            feed: Mutex::default(),
        }
    }

    fn feed(&self) -> MutexGuard<'_, Feed> {
        lock(&self.feed)
    }

    pub(super) fn reachable(&self) -> Result<(), StoreError> {
        if self.table.away.get() {
            Err(StoreError::Unavailable(Box::new(Away)))
        } else {
            Ok(())
        }
    }

    /// Works on the table, then answers when the test lets it.
    async fn answer<T: Send>(&self, work: impl FnOnce(&mut State) -> T + Send) -> Result<T, StoreError> {
        self.reachable()?;
        let answer = work(&mut self.table.state());
        let held = &self.table.held;
        let away = &self.table.away;
        tokio::select! {
            biased;
            _ = away.wait_for(|away| away) => Err(StoreError::Unavailable(Box::new(Away))),
            _ = held.wait_for(|held| !held) => Ok(answer),
        }
    }

    fn owns(&self, state: &State, mark: &Mark) -> bool {
        let lease = &state.lanes[usize::from(mark.lane)];
        lease.owner.as_deref() == Some(&*self.instance) && lease.epoch == mark.epoch
    }

    /// The row a settlement means: pending, the message that was sent, of a lane that is held.
    fn meant<'a>(&self, state: &'a mut State, mark: &Mark) -> Option<&'a mut StoredRow> {
        if !self.owns(state, mark) {
            return None;
        }
        let row = state.rows.get_mut(&mark.seq.0)?;
        let same = row.message.id == mark.id && row.message.replay == mark.replay;
        (row.is_pending() && (same || state.identities_ignored)).then_some(row)
    }

    fn mark(&self, state: &mut State, mark: &Mark) -> Result<bool, Stuck> {
        let stuck = state.stuck(mark.seq);
        let Some(row) = self.meant(state, mark) else {
            return Ok(false);
        };
        stuck?;
        row.relayed_at = Some(Instant::now());
        Ok(true)
    }

    fn fail(&self, state: &mut State, failed: &FailedAttempt) -> Result<bool, Stuck> {
        let stuck = state.stuck(failed.mark.seq);
        let Some(row) = self.meant(state, &failed.mark) else {
            return Ok(false);
        };
        if row.message.attempt != failed.attempt {
            return Ok(false);
        }
        stuck?;
        row.message.attempt += 1;
        row.last_error = Some(failed.error.clone());
        match failed.retry_in {
            Some(delay) => row.available_at = Instant::now() + delay,
            None => row.failed_at = Some(Instant::now()),
        }
        state.attempts.push(failed.clone());
        Ok(true)
    }

    fn settle_now(&self, state: &mut State, settlement: &Settlement) -> Settled {
        let all = settlement.failures.iter().map(|failed| &failed.mark);
        let lost = all.chain(&settlement.relayed).filter(|mark| !self.owns(state, mark));
        let mut settled = Settled {
            lost: lost.count(),
            ..Settled::default()
        };
        let mut book = |outcome: Result<bool, Stuck>| match outcome {
            Ok(true) => settled.written += 1,
            Ok(false) => settled.stale += 1,
            Err(stuck) => settled.stuck.push(stuck),
        };
        for failed in &settlement.failures {
            book(self.fail(state, failed));
        }
        for mark in &settlement.relayed {
            book(self.mark(state, mark));
        }
        settled
    }

    /// A point in time as a position: microseconds since the table was made.
    fn position(&self, row: &StoredRow) -> DuePosition {
        let since = row.available_at.saturating_duration_since(self.table.began);
        DuePosition {
            available_at: i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
            seq: row.message.seq,
        }
    }

    fn due_rows(
        &self,
        state: &State,
        lanes: &LaneSet,
        (after, upto): (Option<DuePosition>, Seq),
        room: Room,
    ) -> DuePage {
        let now = Instant::now();
        let pending = || state.rows.values().filter(|row| row.is_pending() && row.is_waiting());
        let mut due: Vec<&StoredRow> = pending()
            .filter(|row| row.available_at <= now && row.message.seq <= upto && lanes.contains(row.lane))
            .filter(|row| after.is_none_or(|after| self.position(row) > after))
            .collect();
        due.sort_by_key(|row| self.position(row));
        let mut filling = Filling::new(room);
        for row in due {
            if !filling.take(row) {
                return DuePage {
                    rows: filling.rows(),
                    next: Some(self.position(row)),
                    next_due: None,
                };
            }
        }
        let later = pending().map(|row| row.available_at).filter(|at| *at > now).min();
        DuePage {
            rows: filling.rows(),
            next: None,
            next_due: later.map(|at| at - now),
        }
    }
}

fn key_id(row: &StoredRow) -> Option<KeyId> {
    let message = &row.message;
    message.key.as_deref().map(|key| KeyId::of(&message.topic, key))
}

fn is_in(scope: &Scope, row: &StoredRow) -> bool {
    let topic = scope
        .topics
        .as_ref()
        .is_none_or(|topics| topics.contains(&row.message.topic));
    topic && (scope.key.is_none() || scope.key == key_id(row))
}

fn reread(watched: &BTreeSet<i64>, state: &State, scope: &Scope, (after, upto): (Seq, Seq), room: Room) -> Reread {
    let mut filling = Filling::new(room);
    if after < upto {
        for row in state.rows.range(after.0.saturating_add(1)..=upto.0).map(|(_, row)| row) {
            let wanted = is_wanted(row, &scope.lanes) && !watched.contains(&row.message.seq.0);
            if wanted && is_in(scope, row) && !filling.take(row) {
                return Reread {
                    rows: filling.rows(),
                    position: row.message.seq,
                    ..Reread::default()
                };
            }
        }
    }
    Reread {
        rows: filling.rows(),
        position: upto,
        done: true,
        ..Reread::default()
    }
}

fn hold(row: &StoredRow, lanes: &LaneSet, failed_too: bool) -> Option<Hold> {
    let failed = row.failed_at.is_some();
    let holds = row.relayed_at.is_none() && (!failed || failed_too) && lanes.contains(row.lane);
    let key = key_id(row).filter(|_| holds)?;
    Some(Hold {
        seq: row.message.seq,
        lane: row.lane,
        topic: Arc::clone(&row.message.topic),
        key: Some(key),
        failed,
    })
}

#[async_trait]
impl Store for MemoryStore {
    async fn open(&self) -> Result<Seq, StoreError> {
        self.answer(|state| {
            let mut feed = self.feed();
            *feed = Feed::open(state);
            feed.cursor()
        })
        .await
    }

    async fn read(&self, lanes: &LaneSet, room: Room) -> Result<Page, StoreError> {
        let (mut page, now) = self
            .answer(|state| (self.feed().read(state, lanes, room), holders(state)))
            .await?;
        self.feed().hand_over(&mut page, &now);
        Ok(page)
    }

    async fn reread(&self, scope: &Scope, after: Seq, upto: Seq, room: Room) -> Result<Reread, StoreError> {
        let watched = self.feed().watched();
        let (found, now) = self
            .answer(|state| (reread(&watched, state, scope, (after, upto), room), holders(state)))
            .await?;
        let sweep = self.feed().first_has_ended(&now);
        let nothing = Reread {
            position: after,
            sweep,
            ..Reread::default()
        };
        Ok(if sweep { nothing } else { found })
    }

    async fn due(
        &self,
        lanes: &LaneSet,
        after: Option<DuePosition>,
        upto: Seq,
        room: Room,
    ) -> Result<DuePage, StoreError> {
        self.answer(|state| self.due_rows(state, lanes, (after, upto), room))
            .await
    }

    async fn urgent(&self, lanes: &LaneSet, without: &[Arc<str>], room: Room) -> Result<Vec<Row>, StoreError> {
        self.answer(|state| {
            let is_urgent = |row: &&StoredRow| {
                row.message.priority > 0 && is_wanted(row, lanes) && !without.contains(&row.message.topic)
            };
            let mut rows: Vec<&StoredRow> = state.rows.values().filter(is_urgent).collect();
            rows.sort_by_key(|row| (std::cmp::Reverse(row.message.priority), row.message.seq));
            let mut filling = Filling::new(room);
            for row in rows {
                if !filling.take(row) {
                    break;
                }
            }
            filling.rows()
        })
        .await
    }

    async fn recall(&self, lanes: &LaneSet, seqs: &[Seq], room: Room) -> Result<Vec<Row>, StoreError> {
        self.answer(|state| {
            let asked: BTreeSet<Seq> = seqs.iter().copied().collect();
            let mut filling = Filling::new(Room {
                rows: usize::MAX,
                ..room
            });
            for row in asked.iter().filter_map(|seq| state.rows.get(&seq.0)) {
                if is_wanted(row, lanes) && !filling.take(row) {
                    break;
                }
            }
            filling.rows()
        })
        .await
    }

    async fn holds(&self, lanes: &LaneSet, among: Option<&[Seq]>, failed_too: bool) -> Result<Vec<Hold>, StoreError> {
        self.answer(|state| {
            let holding = |row: &StoredRow| match among {
                // A row an operator retries waits at its first attempt, keeps its last error, and holds on.
                None => {
                    row.failed_at.is_some() || row.message.attempt > 1 || (row.is_waiting() && row.last_error.is_some())
                }
                Some(seqs) => seqs.contains(&row.message.seq) && (row.failed_at.is_some() || row.is_waiting()),
            };
            let rows = state.rows.values().filter(|row| holding(row));
            rows.filter_map(|row| hold(row, lanes, failed_too)).collect()
        })
        .await
    }

    async fn open_transactions(&self) -> Result<Vec<OpenTransaction>, StoreError> {
        self.answer(|state| {
            let holding = state.open.iter().filter(|(_, rows)| !rows.is_empty());
            let named = holding.map(|(transaction, _)| OpenTransaction {
                pid: i32::try_from(*transaction).ok(),
                who: "test".to_owned(),
                state: "idle in transaction".to_owned(),
                open_for: 0.0,
            });
            named.collect()
        })
        .await
    }

    async fn settle(&self, settlement: &Settlement) -> Result<Settled, StoreError> {
        let (settled, lost) = self
            .answer(|state| {
                let settled = self.settle_now(state, settlement);
                state.settlements += 1;
                let lost = state.lose_settlements > 0;
                state.lose_settlements = state.lose_settlements.saturating_sub(1);
                (settled, lost)
            })
            .await?;
        if lost {
            return Err(StoreError::Unavailable(Box::new(Away)));
        }
        Ok(settled)
    }

    async fn changed(&self) {
        next(&self.table.commits, &self.commits_seen).await;
    }
}

/// Waits until `counter` is past what was seen of it.
pub(super) async fn next(counter: &Gate<u64>, seen: &AtomicU64) {
    let before = seen.load(Ordering::Relaxed);
    let now = counter.wait_for(|now| now > before).await;
    seen.store(now, Ordering::Relaxed);
}
