//! The port to the outbox table.
//!
//! The engine reads rows, publishes them and settles what became of them; how rows are found without losing a late
//! commit, and what a lease is made of, is the store's business.
//!
//! # Laws (the headings of `tests/conformance/store.rs`)
//!
//! - **Exclusive.** A lane belongs to one instance at a time; rows of lanes not asked for are never returned.
//! - **Ordered per key.** `read`, `reread` and `recall` return rows in `seq` order within one answer, and `read` never
//!   returns a row behind one of the same key it returned before, late commits excepted.
//! - **Urgent.** `urgent` returns rows in the order of their priority, those of one in `seq` order, and before each row
//!   whatever had been committed when that row was inserted.
//! - **No gaps.** Sequence numbers are not commit order. Every row that commits is at or below the cursor that `open`
//!   answered and found by `reread` (at once, or after a page that said `sweep`), or returned by `read`, or by `due`. `read`
//!   returns no row twice between two `open`s, but for rows whose numbers the sequence has not reached: those come again while
//!   they are pending.
//! - **Fenced.** `settle` writes only for lanes whose owner and epoch still match; a failure only onto the attempt it
//!   belongs to. What no longer matches is counted in [`Settled::stale`], and is no error.
//! - **Identity.** What is settled is what was sent: the message with this number, id and replay, not another of that number.
//! - **One row's trouble.** A row that cannot be written for its own sake is answered in [`Settled::stuck`]; all others of the
//!   settlement are written.
//! - **One clock.** The database's. The process passes and receives durations, never points in time.
//! - **Idempotent.** Settling the same thing twice changes nothing the second time.
//! - **Even.** Lanes are shared evenly among live instances; nobody takes more than its share, or a lane that is owned.
//! - **Short.** No transaction stays open between two calls.
//! - **Hints.** `changed` may be missed or spurious: that moves latency only, never correctness.
//!
//! A dropped future of any method may or may not have taken effect; after [`StoreError::Unavailable`] the caller starts
//! over with `open`. `read` is never called in parallel with itself; everything else may run in parallel.

mod lane_set;
pub mod postgres;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::delivery::FailureClass;
use crate::message::{KeyId, Message, MessageId, Seq};
use crate::stuck::StuckReason;

/// One of the `outbox.lanes` shares of the work: a stable hash of (topic, key).
pub type Lane = u16;
/// Raised at each take-over of a lane; what an earlier owner writes no longer matches.
pub type Epoch = i64;

pub use lane_set::LaneSet;

/// How much a read may bring: rows, and bytes of memory they may take. A read may exceed `bytes` by one row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Rows at most.
    pub rows: usize,
    /// Bytes at most ([`Message::size`]).
    pub bytes: usize,
}

/// A pending row.
#[derive(Clone, Debug)]
pub struct Row {
    /// The row's lane.
    pub lane: Lane,
    /// The row.
    pub message: Message,
    /// Why it cannot be sent as it is: which column is null, is no text, or cannot be read. Nothing of its value.
    pub unreadable: Option<Box<str>>,
}

/// An answer of [`Store::read`].
#[derive(Debug, Default)]
pub struct Page {
    /// Rows in `seq` order: late ones first, then those past the cursor.
    pub rows: Vec<Row>,
    /// The cursor after this read: everything at or below it was returned, is waiting for a time, or is a gap being watched.
    pub cursor: Seq,
    /// The read was cut by its room: there is probably more right now.
    pub more: bool,
    /// The earliest time a delayed row passed by this read falls due.
    pub next_due: Option<Duration>,
    /// Rows at or below the cursor may have appeared unseen, and belong before rows of this page: read what is pending again
    /// with `reread`, from the beginning; the rows of this page too. A transaction has ended that was open at `open`.
    pub sweep: bool,
    /// Another table or sequence stands behind the name, or this one was emptied or set back: nothing was read; start over
    /// with `open`.
    pub exchanged: bool,
    /// Gaps being watched.
    pub gaps: usize,
    /// The commit watermark: every number at or below it was returned, or never will be. `i64::MIN` until known.
    pub decided: Seq,
}

/// Which pending rows [`Store::reread`] looks at.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Scope {
    /// Only these topics; `None`: all.
    pub topics: Option<Vec<Arc<str>>>,
    /// Only this key; `None`: all. An empty key is a key.
    pub key: Option<KeyId>,
    /// Only these lanes.
    pub lanes: LaneSet,
}

/// An open transaction that has taken a number: what the commit watermark waits for. For people.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct OpenTransaction {
    /// The server process; `None`: it is prepared.
    pub pid: Option<i32>,
    /// Its `application_name`, else its user; a prepared one's name.
    pub who: String,
    /// `active`, `idle in transaction`, `prepared` ...
    pub state: String,
    /// Seconds.
    pub open_for: f64,
}

impl std::fmt::Display for OpenTransaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            who, state, open_for, ..
        } = self;
        match self.pid {
            Some(pid) => write!(f, "pid {pid} ({who}, {state}), open for {open_for:.0} s"),
            None => write!(f, "prepared transaction {who:?}, for {open_for:.0} s"),
        }
    }
}

/// An answer of [`Store::reread`].
#[derive(Debug, Default)]
pub struct Reread {
    /// Pending rows in `seq` order, none of them waiting for a time.
    pub rows: Vec<Row>,
    /// Everything in scope up to here was looked at: the next call continues after it.
    pub position: Seq,
    /// The upper end was reached.
    pub done: bool,
    /// As [`Page::sweep`]. Nothing was looked at then: no rows, and the position is where it began.
    pub sweep: bool,
    /// As [`Page::exchanged`], and as there nothing else is said.
    pub exchanged: bool,
}

/// Where a walk over due rows stands: microseconds of `available_at` since the epoch on the database's clock, and the seq.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DuePosition {
    /// `available_at`, microseconds.
    pub available_at: i64,
    /// Tie breaker.
    pub seq: Seq,
}

/// An answer of [`Store::due`].
#[derive(Debug, Default)]
pub struct DuePage {
    /// Rows that waited for a time (retry, delay, an operator's retry or replay) and are due, earliest first.
    pub rows: Vec<Row>,
    /// Where to go on; `None`: this was the last page.
    pub next: Option<DuePosition>,
    /// When the earliest row that still waits falls due. Only on the last page.
    pub next_due: Option<Duration>,
}

/// A row that holds its key: [`Store::holds`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The holding row.
    pub seq: Seq,
    /// Its lane.
    pub lane: Lane,
    /// Its topic.
    pub topic: Arc<str>,
    /// Its key; rows without a key hold nobody and are not returned. `None`: it is long, and whoever asked knows it already.
    pub key: Option<KeyId>,
    /// Whether it has failed for good (`failed_at`); else it is retrying.
    pub failed: bool,
}

/// A message the broker acknowledged. A number is not an identity: a table that is emptied, restored or exchanged, or another
/// server, gives it to another message. What is settled is the message that was sent: this number, id and replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The row.
    pub seq: Seq,
    /// Its message id.
    pub id: MessageId,
    /// How often it had been replayed when it was sent.
    pub replay: i32,
    /// Its lane when it was sent.
    pub lane: Lane,
    /// That lane's epoch when it was sent.
    pub epoch: Epoch,
    /// The broker had the id already, although no attempt of this row is on record: it was sent before a crash, or another row
    /// has the same id, and then this one's message is nowhere. The store looks which.
    pub duplicate: bool,
}

/// A failed attempt that counts.
#[derive(Clone, Debug, PartialEq)]
pub struct FailedAttempt {
    /// The row.
    pub mark: Mark,
    /// The attempt that failed; the row must still be at it.
    pub attempt: i32,
    /// Until the next attempt; `None`: there is none, set `failed_at`.
    pub retry_in: Option<Duration>,
    /// The failure's class.
    pub class: FailureClass,
    /// The broker's code.
    pub code: String,
    /// What becomes `last_error`.
    pub error: String,
    /// From handing the message to the transport to its answer.
    pub latency: Duration,
}

/// What one flush of the settler writes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settlement {
    /// Messages to mark relayed (or delete).
    pub relayed: Vec<Mark>,
    /// Failures to record.
    pub failures: Vec<FailedAttempt>,
    /// These rows were stuck before: none of them is waited for as long as a healthy one.
    pub again: bool,
}

impl Settlement {
    /// Nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.relayed.is_empty() && self.failures.is_empty()
    }
}

/// What [`Store::settle`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Rows written.
    pub written: usize,
    /// Rows that no longer matched (lane lost, attempt changed, row gone, exchanged or settled before): not written.
    pub stale: usize,
    /// Those of them whose lane is no longer held: nothing follows for the rows.
    pub lost: usize,
    /// Rows that could not be written for their own sake: to be tried again later. Neither written nor stale.
    pub stuck: Vec<Stuck>,
    /// Rows there was no time for, because others of the settlement took so long: to be settled again, at once.
    pub later: Vec<Seq>,
}

impl Settled {
    /// So many written, so many that no longer matched, none stuck.
    #[must_use]
    pub const fn of(written: usize, stale: usize) -> Self {
        Self {
            written,
            stale,
            lost: 0,
            stuck: Vec::new(),
            later: Vec::new(),
        }
    }
}

/// A row that could not be written, or read, for its own sake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// The row.
    pub seq: Seq,
    /// Why.
    pub reason: StuckReason,
    /// One line for people, without anything of the row.
    pub detail: String,
}

/// Lanes an instance holds, with their epochs.
pub type Tenancy = BTreeMap<Lane, Epoch>;

/// An answer of [`Leases::renew`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// The lanes held.
    pub lanes: Tenancy,
    /// How many it should hold: what is beyond belongs to others, and is to be handed over.
    pub share: usize,
    /// Topics an operator has paused.
    pub paused: Vec<Arc<str>>,
    /// Another instance's lease may end by then, unless it renews it.
    pub look_again: Option<Duration>,
}

/// Why a store did not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is away, starting, stopping, read-only or too slow: try again later.
    #[error("database unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Something only a person can mend: a missing table, column or grant, a lane count that does not fit. One line that
    /// names it and says what to do.
    #[error("{0}")]
    Misconfigured(String),
}

/// Reading and settling. See the module for the laws.
#[async_trait]
pub trait Store: Send + Sync {
    /// Starts over: forgets cursor and gaps. Answers where the cursor stands now: what is pending at or below is left to
    /// `reread`. Nothing may be unsettled when it is called.
    async fn open(&self) -> Result<Seq, StoreError>;

    /// Rows of `lanes` not returned since `open`: those past the cursor, and late ones. Rows waiting for a time are left to
    /// [`Self::due`]. The cursor passes by rows of other lanes.
    async fn read(&self, lanes: &LaneSet, room: Room) -> Result<Page, StoreError>;

    /// Pending rows with `after < seq <= upto` in `scope`, not waiting for a time: what was passed by and not sent.
    /// May return rows the engine has in memory; the engine knows them. Rows of gaps being watched are left to `read`: others of
    /// their transaction may stand before `after`.
    async fn reread(&self, scope: &Scope, after: Seq, upto: Seq, room: Room) -> Result<Reread, StoreError>;

    /// Rows of `lanes` with `seq <= upto` that waited for a time and are due, past `after`.
    async fn due(
        &self,
        lanes: &LaneSet,
        after: Option<DuePosition>,
        upto: Seq,
        room: Room,
    ) -> Result<DuePage, StoreError>;

    /// Pending rows of `lanes` with a priority above 0, not waiting for a time, without those of some topics: the highest priority
    /// first, those of one in `seq` order, all in one snapshot. Always from the beginning.
    async fn urgent(&self, lanes: &LaneSet, without: &[Arc<str>], room: Room) -> Result<Vec<Row>, StoreError>;

    /// The pending rows among `seqs`, of `lanes`, in `seq` order. May stop early for `room.bytes`, after one row at least.
    async fn recall(&self, lanes: &LaneSet, seqs: &[Seq], room: Room) -> Result<Vec<Row>, StoreError>;

    /// Rows of `lanes` with a key that have failed an attempt and wait for the next, or for a person's decision
    /// (`failed_too`); of `among` only, where given, and then without keys that are long.
    async fn holds(&self, lanes: &LaneSet, among: Option<&[Seq]>, failed_too: bool) -> Result<Vec<Hold>, StoreError>;

    /// Open transactions that have taken numbers, longest open first: who keeps `decided` back.
    async fn open_transactions(&self) -> Result<Vec<OpenTransaction>, StoreError>;

    /// Writes what became of messages.
    async fn settle(&self, settlement: &Settlement) -> Result<Settled, StoreError>;

    /// The process is to end: what is being settled, and will be, has a second. What cannot be written by then is answered in
    /// [`Settled::stuck`].
    fn hurry(&self) {}

    /// Returns when rows may have been committed. Never fails: without notifications it just does not return.
    async fn changed(&self);
}

/// The lease of lanes.
#[async_trait]
pub trait Leases: Send + Sync {
    /// Registers this instance for another `ttl`, keeps the lanes it holds, takes of those that are free or whose owner's
    /// lease ended what is missing from its share (raising their epoch), and answers what it holds now.
    async fn renew(&self, ttl: Duration) -> Result<Lease, StoreError>;

    /// Gives `lanes` to whoever needs them; those whose epoch is another by now are not touched. Nothing of theirs may be
    /// unsettled.
    async fn hand_over(&self, lanes: &Tenancy) -> Result<(), StoreError>;

    /// Hands all lanes back and unregisters.
    async fn leave(&self) -> Result<(), StoreError>;

    /// Returns when an instance may have come or gone, or lanes may have become free. A hint, as [`Store::changed`].
    async fn membership_changed(&self);
}
