//! What happens to the core, and what it wants done: the driver brings the first and carries out the second.

use std::sync::Arc;

use tokio::time::Instant;

use crate::delivery::{Failure, Outcome};
use crate::message::Seq;
use crate::route::{Routes, Unrouted};
use crate::store::{LaneSet, Page, Room, Settled, Settlement, StoreError, Tenancy};
use crate::transport::{Envelope, Probe};

use super::owning::standing::Standing;
use super::reading::{Answer, Question};
use super::sending::lanes::{QueueId, Slip};
use super::waiting::found::DestinationId;

/// Something happened.
pub(super) enum Event {
    /// A transport has answered for a batch.
    Published(Published),
    /// A destination was looked at.
    Probed(DestinationId, Result<Probe, Failure>),
    /// The store was opened, and its cursor stands there.
    Opened(Result<Seq, StoreError>),
    /// What became of messages was written.
    Settled(Result<Settled, StoreError>),
    /// The cursor's next page.
    Page(PageRead),
    /// A question was answered.
    Answered(Asked),
    /// Rows may have been committed.
    Hint,
    /// The lease task has said something new.
    Standing(Standing),
    /// Transports, routes and limits to come.
    Planned(Change),
    /// The process is to end.
    Stop,
    /// The time has come that the core asked to be woken at.
    Time,
}

/// Something is to be done. In the order in which they are answered.
#[derive(Debug)]
pub(super) enum Effect {
    /// Open the store anew.
    Open,
    /// Read the cursor's next page.
    Read(LaneSet, Room),
    /// Ask the store.
    Ask(Question, Room),
    /// Hand a batch to its transport.
    Publish(Batch),
    /// Look at the destination of this name, of this transport.
    Probe(DestinationId, usize, Arc<str>),
    /// Write what became of messages.
    Settle(Arc<Settlement>),
    /// These lanes may be handed over: nothing of them is unsettled.
    HandOver(Tenancy),
    /// Transports drop what they have not sent.
    Abandon,
    /// The store is told that the process is to end.
    Hurry,
    /// Forget what is under way.
    Drop(Underway),
    /// Nothing in memory belongs to the transports in force any more: go over to those of the last plan.
    GoOver,
}

/// What may be under way at the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Underway {
    Opening,
    Settling,
    Reads,
}

/// Messages of one queue that are sent together.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) queue: QueueId,
    pub(super) transport: usize,
    pub(super) envelopes: Vec<Envelope>,
    /// What the core needs to know when they come back.
    pub(super) slips: Vec<Slip>,
}

/// A batch the transport has answered for.
pub(super) struct Published {
    pub(super) batch: Batch,
    pub(super) sent_at: Instant,
    pub(super) outcomes: Vec<Outcome>,
}

/// The cursor's page, and when it was asked for.
pub(super) struct PageRead {
    pub(super) started: Instant,
    pub(super) page: Result<Page, StoreError>,
}

/// An answer, and when it was asked for.
pub(super) struct Asked {
    pub(super) started: Instant,
    pub(super) answer: Result<Answer, StoreError>,
}

/// What changes for the core with a plan.
#[derive(Clone)]
pub(super) struct Change {
    /// The transports' names and kinds, in configuration order.
    pub(super) names: Vec<Arc<str>>,
    pub(super) systems: Vec<&'static str>,
    pub(super) routes: Routes,
    pub(super) batch_size: usize,
    pub(super) window: Room,
    pub(super) unrouted: Unrouted,
}
