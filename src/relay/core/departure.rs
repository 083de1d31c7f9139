//! From queues to transports: batches of what may go now.

use tokio::time::Instant;

use crate::relay::event::Batch;
use crate::relay::owning::territory::Territory;
use crate::relay::sending::Sending;
use crate::relay::sending::lanes::{Entry, QueueId, Slip};
use crate::relay::waiting::Waiting;
use crate::relay::waiting::wait::Wait;
use crate::relay::window::Window;
use crate::store::Epoch;
use crate::transport::Envelope;

use super::returning::Returning;
use super::setup::Setup;

/// Bytes of one batch, about: a batch of large messages ends early, so that one lane does not hold the whole window.
const BATCH_BYTES: usize = 4 << 20;

/// See the module.
pub(super) struct Departure<'a> {
    pub(super) setup: &'a Setup,
    pub(super) window: &'a mut Window,
    pub(super) territory: &'a Territory,
    pub(super) waiting: &'a mut Waiting,
    pub(super) sending: &'a mut Sending,
}

impl Departure<'_> {
    /// A batch of the next queue that has one.
    pub(super) fn next(&mut self, now: Instant) -> Option<Batch> {
        while let Some(queue) = self.sending.lanes.next_ready() {
            let mut batch = self.form_batch(queue, now);
            if batch.envelopes.is_empty() {
                continue;
            }
            if let Some(tracer) = self.setup.telemetry.tracer() {
                for (envelope, slip) in batch.envelopes.iter_mut().zip(&mut batch.slips) {
                    slip.span = tracer.begin(&mut envelope.message.headers);
                }
            }
            for slip in &batch.slips {
                let destination = self.sending.destinations.get_mut(slip.destination);
                destination.waiting_since.get_or_insert(now);
            }
            self.sending.lanes.depart(queue, now);
            return Some(batch);
        }
        None
    }

    fn form_batch(&mut self, queue: QueueId, now: Instant) -> Batch {
        let most = self.setup.options.batch_size;
        let likely = self.sending.lanes.len_of(queue).min(most);
        let mut batch = Batch {
            queue,
            transport: self.sending.lanes.transport(queue),
            envelopes: Vec::with_capacity(likely),
            slips: Vec::with_capacity(likely),
        };
        let (mut bytes, mut not_yet) = (0, Vec::new());
        while batch.slips.len() < most && bytes < BATCH_BYTES {
            let Some(entry) = self.sending.lanes.pop(queue) else {
                break;
            };
            match self.may_go(&entry, now) {
                Ok(epoch) => {
                    bytes += entry.size;
                    let (envelope, slip) = Slip::of(entry, epoch);
                    batch.envelopes.push(envelope);
                    batch.slips.push(slip);
                }
                Err(Wait::RouteLimit) => {
                    self.sending.destinations.keep_back(entry.destination);
                    not_yet.push(entry);
                }
                Err(wait) => self.turn_away(&entry, wait),
            }
        }
        self.sending.lanes.put_aside(queue, not_yet);
        if sabotaged!(BatchReversed) {
            batch.envelopes.reverse();
            batch.slips.reverse();
        }
        batch
    }

    /// Whether the row's turn has come: what may have come up while it stood in its queue. A row whose key is held parks behind its
    /// holder; one that may go is counted by its route.
    fn may_go(&mut self, entry: &Entry, now: Instant) -> Result<Epoch, Wait> {
        if self.sending.destinations.get(entry.destination).is_open() {
            return Err(Wait::DestinationPaused);
        }
        let Envelope { message, order, .. } = &entry.envelope;
        if self.waiting.parks(message, *order, entry.released) {
            return Err(Wait::KeyHeld);
        }
        let epoch = self.territory.epoch(entry.lane).ok_or(Wait::Elsewhere)?;
        if self.sending.limits.take(entry.route, now) {
            Ok(epoch)
        } else {
            Err(Wait::RouteLimit)
        }
    }

    fn turn_away(&mut self, entry: &Entry, wait: Wait) {
        let mut returning = Returning {
            window: self.window,
            waiting: self.waiting,
            destinations: &mut self.sending.destinations,
        };
        if wait == Wait::DestinationPaused {
            returning.back_to_destination(entry);
        } else {
            returning.let_go(entry);
        }
    }
}
