//! Queues: one per lane and transport, each with at most one batch in flight.
//!
//! A key belongs to one lane and one route, so to one queue: it is never in two batches at a time. A slow transport
//! holds up its own queues only. Lanes run concurrently; which of the ready ones starts first is first come, first served. Rows
//! with a priority go before the others of their queue, and queues that have some before the others.

use std::collections::VecDeque;

use tokio::time::Instant;

use crate::message::{Message, Seq};
use crate::relay::waiting::found::DestinationId;
use crate::store::{Epoch, Lane, Mark};
use crate::telemetry::trace::PublishSpan;
use crate::transport::Envelope;

/// A row on its way: what is sent, and what the engine needs to know when it comes back.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) envelope: Envelope,
    pub(crate) lane: Lane,
    pub(crate) destination: DestinationId,
    pub(crate) route: usize,
    /// Bytes counted in the window.
    pub(crate) size: usize,
    /// It waited behind a hold that is being released: it goes before what waits there still.
    pub(crate) released: bool,
}

impl Entry {
    fn priority(&self) -> i16 {
        self.envelope.message.priority
    }
}

/// What is remembered of a row in flight.
#[derive(Debug)]
pub(crate) struct Slip {
    pub(crate) lane: Lane,
    /// The lane's when it was sent.
    pub(crate) epoch: Epoch,
    pub(crate) destination: DestinationId,
    pub(crate) route: usize,
    pub(crate) size: usize,
    pub(crate) released: bool,
    pub(crate) span: Option<Box<PublishSpan>>,
}

impl Slip {
    /// The row is sent under this epoch.
    pub(crate) fn of(entry: Entry, epoch: Epoch) -> (Envelope, Self) {
        let slip = Self {
            lane: entry.lane,
            epoch,
            destination: entry.destination,
            route: entry.route,
            size: entry.size,
            released: entry.released,
            span: None,
        };
        (entry.envelope, slip)
    }

    /// The row comes back.
    pub(crate) fn back(self, envelope: Envelope) -> Entry {
        Entry {
            envelope,
            lane: self.lane,
            destination: self.destination,
            route: self.route,
            size: self.size,
            released: self.released,
        }
    }

    /// The mark that says it was relayed.
    pub(crate) fn mark(&self, message: &Message) -> Mark {
        Mark {
            seq: message.seq,
            id: message.id.clone(),
            replay: message.replay,
            lane: self.lane,
            epoch: self.epoch,
            duplicate: false,
        }
    }
}

/// Index of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueId(usize);

/// Whether a queue stands among those that are ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Listed {
    #[default]
    No,
    InTurn,
    /// Before those that stand there in turn: it has entries with a priority.
    First,
}

#[derive(Default)]
struct Queue {
    /// Entries with a priority, the highest first, those of one in the order of their arrival.
    urgent: VecDeque<Entry>,
    entries: VecDeque<Entry>,
    /// Since when it has a batch in flight.
    in_flight: Option<Instant>,
    listed: Listed,
}

impl Queue {
    fn len(&self) -> usize {
        self.urgent.len() + self.entries.len()
    }

    /// In the order in which they go.
    fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.urgent.iter().chain(&self.entries)
    }

    /// Behind the others of its priority.
    fn push_back(&mut self, entry: Entry) {
        let own = entry.priority();
        if own == 0 {
            return self.entries.push_back(entry);
        }
        let before = |other: &Entry| other.priority() >= own && !sabotaged!(PriorityReversed);
        let place = self.urgent.partition_point(before);
        self.urgent.insert(place, entry);
    }

    /// Before the others of its priority.
    fn push_front(&mut self, entry: Entry) {
        let own = entry.priority();
        if own == 0 {
            return self.entries.push_front(entry);
        }
        let place = self.urgent.partition_point(|other| other.priority() > own);
        self.urgent.insert(place, entry);
    }

    /// Takes out entries for which `pick` says so.
    fn remove(&mut self, mut pick: impl FnMut(&Entry) -> bool, out: &mut Vec<Entry>) {
        for entries in [&mut self.urgent, &mut self.entries] {
            if entries.iter().any(&mut pick) {
                let (gone, stay): (VecDeque<_>, VecDeque<_>) = entries.drain(..).partition(&mut pick);
                *entries = stay;
                out.extend(gone);
            }
        }
    }
}

pub(crate) struct Lanes {
    queues: Vec<Queue>,
    transports: usize,
    ready: VecDeque<QueueId>,
    in_flight: usize,
}

impl Lanes {
    pub(crate) fn new(lanes: Lane, transports: usize) -> Self {
        let count = usize::from(lanes) * transports;
        Self {
            queues: std::iter::repeat_with(Queue::default).take(count).collect(),
            transports,
            ready: VecDeque::with_capacity(count),
            in_flight: 0,
        }
    }

    /// The queue of a lane's messages for one transport.
    pub(crate) fn queue(&self, lane: Lane, transport: usize) -> QueueId {
        QueueId(usize::from(lane) * self.transports + transport)
    }

    /// The transport a queue's batches go to.
    pub(crate) fn transport(&self, queue: QueueId) -> usize {
        queue.0 % self.transports
    }

    /// Batches in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Since when the batch has been in flight that has been longest.
    pub(crate) fn in_flight_since(&self) -> Option<Instant> {
        self.queues.iter().filter_map(|queue| queue.in_flight).min()
    }

    /// Since when this queue has a batch in flight.
    pub(crate) fn in_flight_of(&self, queue: QueueId) -> Option<Instant> {
        self.queues[queue.0].in_flight
    }

    /// The queue of this lane in which a row stands, and what stands there.
    pub(crate) fn find(&self, lane: Lane, seq: Seq) -> Option<(QueueId, &Entry)> {
        (0..self.transports).find_map(|transport| {
            let queue = self.queue(lane, transport);
            let mut entries = self.queues[queue.0].iter();
            let entry = entries.find(|entry| entry.envelope.message.seq == seq)?;
            Some((queue, entry))
        })
    }

    pub(crate) fn push_back(&mut self, queue: QueueId, entry: Entry) {
        self.queues[queue.0].push_back(entry);
        self.list(queue);
    }

    /// Puts entries before all others of their priority, keeping their order.
    pub(crate) fn push_front(&mut self, queue: QueueId, entries: Vec<Entry>) {
        self.put_aside(queue, entries);
        self.list(queue);
    }

    /// As [`Self::push_front`], but they may not go yet: the queue is looked at again with the others ([`Self::list_all`]), or
    /// when something else happens to it.
    pub(crate) fn put_aside(&mut self, queue: QueueId, entries: Vec<Entry>) {
        for entry in entries.into_iter().rev() {
            self.queues[queue.0].push_front(entry);
        }
    }

    /// Every queue with entries is looked at again.
    pub(crate) fn list_all(&mut self) {
        for index in 0..self.queues.len() {
            self.list(QueueId(index));
        }
    }

    fn list(&mut self, queue: QueueId) {
        let state = &mut self.queues[queue.0];
        if state.in_flight.is_some() {
            return;
        }
        if !state.urgent.is_empty() {
            // Where it stood in turn already, that place is passed over when its time comes.
            if state.listed != Listed::First {
                state.listed = Listed::First;
                self.ready.push_front(queue);
            }
        } else if state.listed == Listed::No && !state.entries.is_empty() {
            state.listed = Listed::InTurn;
            self.ready.push_back(queue);
        }
    }

    /// The next queue that has entries and no batch in flight.
    pub(crate) fn next_ready(&mut self) -> Option<QueueId> {
        loop {
            let queue = self.ready.pop_front()?;
            if std::mem::take(&mut self.queues[queue.0].listed) != Listed::No {
                return Some(queue);
            }
        }
    }

    /// Entries of a queue.
    pub(crate) fn len_of(&self, queue: QueueId) -> usize {
        self.queues[queue.0].len()
    }

    /// Takes the first entry of a queue.
    pub(crate) fn pop(&mut self, queue: QueueId) -> Option<Entry> {
        let queue = &mut self.queues[queue.0];
        queue.urgent.pop_front().or_else(|| queue.entries.pop_front())
    }

    /// The queue's batch is handed to the transport.
    pub(crate) fn depart(&mut self, queue: QueueId, now: Instant) {
        debug_assert!(
            self.queues[queue.0].in_flight.is_none(),
            "one batch in flight per queue"
        );
        self.queues[queue.0].in_flight = (!sabotaged!(TwoBatches)).then_some(now);
        self.in_flight += 1;
    }

    /// The transport has answered for the queue's batch.
    pub(crate) fn arrive(&mut self, queue: QueueId) {
        self.queues[queue.0].in_flight = None;
        self.in_flight -= 1;
        self.list(queue);
    }

    /// Takes out the queue's entries for which `pick` says so, in the order in which they would go.
    pub(crate) fn remove_from(&mut self, queue: QueueId, pick: impl FnMut(&Entry) -> bool) -> Vec<Entry> {
        let mut removed = Vec::new();
        self.queues[queue.0].remove(pick, &mut removed);
        removed
    }

    /// Takes out every queued entry for which `pick` says so; batches in flight are not touched.
    pub(crate) fn remove(&mut self, mut pick: impl FnMut(&Entry) -> bool) -> Vec<Entry> {
        let mut removed = Vec::new();
        for queue in &mut self.queues {
            queue.remove(&mut pick, &mut removed);
        }
        removed
    }
}
