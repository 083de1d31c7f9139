//! The outbox in memory: the fake behind the store port.
//!
//! [`MemoryTable`] is what a database would be: rows, a sequence, open transactions that own numbers, lanes, leases. Tests
//! write to it as an application does, look at rows as an operator does, and break it. [`MemoryStore`] is one instance's
//! view of it: the port, with a cursor and gaps of its own. Both follow the adapter for PostgreSQL rule by rule (the same
//! conformance suite runs on both): numbers are taken at insert and appear at commit, rows waiting for a time are left to
//! `due`, what a transaction open at `open` commits later is left to the sweep.
//!
//! Time is tokio's, so that it can be paused. One mutex, never held across an await.

mod feed;
mod handle;
mod leases;
mod new_row;
mod transaction;
mod trouble;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::gate::Gate;
use crate::lock::lock;
use crate::message::{Message, MessageId, Seq};
use crate::store::{Epoch, FailedAttempt, Lane};
use crate::stuck::StuckReason;

pub use handle::MemoryStore;
pub use new_row::NewRow;
pub use transaction::Transaction;

/// A committed row as it stands in the table.
#[derive(Clone, Debug)]
pub struct StoredRow {
    /// What a relay sends; `age` is zero.
    pub message: Message,
    /// Its lane.
    pub lane: Lane,
    /// Not before.
    pub available_at: Instant,
    /// When it was inserted.
    pub inserted_at: Instant,
    /// When it was marked.
    pub relayed_at: Option<Instant>,
    /// When it failed for good.
    pub failed_at: Option<Instant>,
    /// The latest failure.
    pub last_error: Option<String>,
}

impl StoredRow {
    /// Neither relayed nor failed.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.relayed_at.is_none() && self.failed_at.is_none()
    }

    /// Left to `due`: it retries, was replayed, or was delayed by its insert.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.message.attempt > 1 || self.message.replay > 0 || self.available_at > self.inserted_at
    }
}

#[derive(Default)]
struct Lease {
    owner: Option<String>,
    epoch: Epoch,
}

struct Registration {
    session: u64,
    expires_at: Instant,
}

#[derive(Default)]
struct State {
    rows: BTreeMap<i64, StoredRow>,
    last_seq: i64,
    /// Open transactions, and the rows they have inserted.
    open: BTreeMap<u64, Vec<StoredRow>>,
    last_transaction: u64,
    lanes: Vec<Lease>,
    instances: BTreeMap<String, Registration>,
    /// Topics an operator has paused.
    paused: BTreeSet<Arc<str>>,
    last_session: u64,
    attempts: Vec<FailedAttempt>,
    settlements: u64,
    lose_settlements: u32,
    leases_stalled: bool,
    /// Rows that cannot be written.
    stuck: BTreeMap<i64, StuckReason>,
    /// What is settled is whatever has the number: as it must not be.
    identities_ignored: bool,
}

impl State {
    fn new_row(&mut self, lanes: Lane, new: &NewRow, at: Option<i64>) -> StoredRow {
        let seq = at.unwrap_or(self.last_seq + 1);
        if at.is_none() {
            self.last_seq = seq;
        }
        let now = Instant::now();
        StoredRow {
            lane: lane_of(&new.topic, new.key.as_deref(), Seq(seq), lanes),
            message: Message {
                seq: Seq(seq),
                id: MessageId::Uuid(Uuid::new_v4()),
                topic: Arc::clone(&new.topic),
                key: new.key.clone(),
                payload: new.payload.clone(),
                payload_is_null: false,
                headers: new.headers.clone(),
                attempt: 1,
                max_attempts: new.max_attempts,
                priority: new.priority,
                replay: 0,
                origin: None,
                age: Duration::ZERO,
            },
            available_at: now + new.available_in,
            inserted_at: now,
            relayed_at: None,
            failed_at: None,
            last_error: None,
        }
    }

    /// Numbers that open transactions have taken.
    fn numbers_taken(&self) -> BTreeSet<i64> {
        self.open.values().flatten().map(|row| row.message.seq.0).collect()
    }
}

/// A stable hash of (topic, key); rows without a key are spread by their number.
fn lane_of(topic: &str, key: Option<&str>, seq: Seq, lanes: Lane) -> Lane {
    const PRIME: u64 = 0x0100_0000_01b3;
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let number = seq.0.to_le_bytes();
    let parts: [&[u8]; 3] = match key {
        Some(key) => [topic.as_bytes(), b"\0", key.as_bytes()],
        None => [&number, b"", b""],
    };
    for byte in parts.into_iter().flatten() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(PRIME);
    }
    // The last bytes have reached the low bits only.
    let spread = hash.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    Lane::try_from(spread % u64::from(lanes)).expect("taken modulo the lane count")
}

/// The table and everything around it. See the module.
pub struct MemoryTable {
    state: Mutex<State>,
    lanes: Lane,
    began: Instant,
    away: Gate<bool>,
    held: Gate<bool>,
    commits: Gate<u64>,
    membership: Gate<u64>,
}

impl std::fmt::Debug for MemoryTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryTable")
            .field("lanes", &self.lanes)
            .field("away", &self.away.get())
            .finish_non_exhaustive()
    }
}

impl MemoryTable {
    /// An empty table of `lanes` lanes.
    #[must_use]
    pub fn new(lanes: Lane) -> Arc<Self> {
        let state = State {
            lanes: std::iter::repeat_with(Lease::default)
                .take(usize::from(lanes))
                .collect(),
            ..State::default()
        };
        Arc::new(Self {
            state: Mutex::new(state),
            lanes,
            began: Instant::now(),
            away: Gate::new(false),
            held: Gate::new(false),
            commits: Gate::new(0),
            membership: Gate::new(0),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn woke(&self) {
        self.commits.change(|commits| *commits += 1);
    }

    fn members_changed(&self) {
        self.membership.change(|changes| *changes += 1);
    }

    /// Inserts and commits.
    pub fn insert(&self, new: &NewRow) -> Seq {
        self.put(new, None)
    }

    /// Inserts and commits a row with a number written by hand: no gap tells of it.
    pub fn insert_at(&self, seq: i64, new: &NewRow) -> Seq {
        self.put(new, Some(seq))
    }

    fn put(&self, new: &NewRow, at: Option<i64>) -> Seq {
        let mut state = self.state();
        let row = state.new_row(self.lanes, new, at);
        let seq = row.message.seq;
        state.rows.insert(seq.0, row);
        drop(state);
        self.woke();
        seq
    }

    /// Opens a transaction.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> Transaction {
        let mut state = self.state();
        state.last_transaction += 1;
        let id = state.last_transaction;
        state.open.insert(id, Vec::new());
        drop(state);
        Transaction {
            table: Arc::clone(self),
            id,
        }
    }

    /// A committed row.
    #[must_use]
    pub fn row(&self, seq: Seq) -> Option<StoredRow> {
        self.peek(seq, StoredRow::clone)
    }

    /// Something of a committed row.
    pub fn peek<T>(&self, seq: Seq, look: impl FnOnce(&StoredRow) -> T) -> Option<T> {
        self.state().rows.get(&seq.0).map(look)
    }

    /// Committed rows neither relayed nor failed.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.state().rows.values().filter(|row| row.is_pending()).count()
    }

    /// Committed rows marked relayed.
    #[must_use]
    pub fn relayed(&self) -> usize {
        self.state()
            .rows
            .values()
            .filter(|row| row.relayed_at.is_some())
            .count()
    }

    /// The history of failed attempts, as written.
    #[must_use]
    pub fn attempts(&self) -> Vec<FailedAttempt> {
        self.state().attempts.clone()
    }

    /// How many settlements took effect, wholly or in part.
    #[must_use]
    pub fn settlements(&self) -> u64 {
        self.state().settlements
    }

    /// Changes a row as a person may by SQL; answers whether there is one.
    pub fn update(&self, seq: Seq, change: impl FnOnce(&mut StoredRow)) -> bool {
        self.state().rows.get_mut(&seq.0).map(change).is_some()
    }

    /// `failed retry`: from the first attempt, at once.
    pub fn retry(&self, seq: Seq) -> bool {
        self.update(seq, |row| {
            row.failed_at = None;
            row.message.attempt = 1;
            row.available_at = Instant::now();
        })
    }

    /// `failed discard`: the row is gone.
    pub fn discard(&self, seq: Seq) -> bool {
        self.state().rows.remove(&seq.0).is_some()
    }

    /// `pause`, `resume`: instances follow when they renew.
    pub fn set_paused(&self, topic: &str, paused: bool) {
        if paused {
            self.state().paused.insert(topic.into());
        } else {
            self.state().paused.remove(topic);
        }
        self.members_changed();
    }

    /// Whose a lane is, and its epoch.
    #[must_use]
    pub fn lease(&self, lane: Lane) -> (Option<String>, Epoch) {
        let state = self.state();
        let lease = &state.lanes[usize::from(lane)];
        (lease.owner.clone(), lease.epoch)
    }

    /// The lane of a row with this topic and key.
    #[must_use]
    pub fn lane(&self, topic: &str, key: &str) -> Lane {
        lane_of(topic, Some(key), Seq(0), self.lanes)
    }

    /// `instance` takes these lanes, whoever holds them, and stays registered for `ttl`.
    pub fn take_over(&self, instance: &str, lanes: impl IntoIterator<Item = Lane>, ttl: Duration) {
        let mut state = self.state();
        state.last_session += 1;
        let session = state.last_session;
        let expires_at = Instant::now() + ttl;
        state
            .instances
            .insert(instance.to_owned(), Registration { session, expires_at });
        for lane in lanes {
            let lease = &mut state.lanes[usize::from(lane)];
            lease.owner = Some(instance.to_owned());
            lease.epoch += 1;
        }
    }

    /// Every call answers `Unavailable` from now on, calls under way included.
    pub fn go_away(&self) {
        self.away.set(true);
    }

    /// The database is back.
    pub fn come_back(&self) {
        self.away.set(false);
    }

    /// Whether it does not answer.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.away.get()
    }

    /// The next `count` settlements are written, and answer `Unavailable`.
    pub fn lose_answers_of_settlements(&self, count: u32) {
        self.state().lose_settlements = count;
    }

    /// Renewals answer `Unavailable` while `stalled`, everything else works: a lease about to lapse.
    pub fn stall_leases(&self, stalled: bool) {
        self.state().leases_stalled = stalled;
    }

    /// Calls take effect, but their answers wait for [`release`](Self::release). The lease's do not.
    pub fn hold(&self) {
        self.held.set(true);
    }

    /// Lets held answers go.
    pub fn release(&self) {
        self.held.set(false);
    }
}
