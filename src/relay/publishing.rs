//! From queues to transports and back: batches out, outcomes in, each decided on its own.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::delivery::{Disposition, Failure, FailureClass, Order, Outcome, Policy, decide};
use crate::message::{KeyId, Message, Seq};
use crate::store::{Epoch, FailedAttempt, Lane, Mark};
use crate::telemetry::trace::{Attempt, PublishSpan};
use crate::transport::Envelope;

use super::destination::DestinationId;
use super::engine::Engine;
use super::holds::Holder;
use super::lanes::{Entry, QueueId};
use super::stuck::Claim;

/// Bytes of one batch, about: a batch of large messages ends early, so that one lane does not hold the whole window.
const BATCH_BYTES: usize = 4 << 20;

/// What the engine remembers of a message in flight.
pub(super) struct Slip {
    lane: Lane,
    epoch: Epoch,
    destination: DestinationId,
    route: usize,
    size: usize,
    released: bool,
    span: Option<Box<PublishSpan>>,
}

impl Slip {
    fn mark(&self, message: &Message) -> Mark {
        Mark {
            seq: message.seq,
            id: message.id,
            replay: message.replay,
            lane: self.lane,
            epoch: self.epoch,
            duplicate: false,
        }
    }
}

/// A batch the transport has answered for.
pub(super) struct Published {
    queue: QueueId,
    sent_at: Instant,
    batch: Vec<Envelope>,
    slips: Vec<Slip>,
    outcomes: Vec<Outcome>,
}

impl Engine {
    /// Hands a batch of every ready queue to its transport.
    pub(super) fn publish_ready(&mut self, now: Instant) {
        while let Some(queue) = self.lanes.next_ready() {
            let (mut batch, mut slips) = self.form_batch(queue, now);
            if batch.is_empty() {
                continue;
            }
            if let Some(tracer) = self.telemetry.tracer() {
                for (envelope, slip) in batch.iter_mut().zip(&mut slips) {
                    slip.span = tracer.begin(&mut envelope.message.headers);
                }
            }
            for slip in &slips {
                self.destinations
                    .get_mut(slip.destination)
                    .waiting_since
                    .get_or_insert(now);
            }
            if sabotaged!(MarkedBeforeTheAnswer) {
                for (envelope, slip) in batch.iter().zip(&slips) {
                    self.settler.relayed(slip.mark(&envelope.message), None, now);
                }
            }
            self.lanes.depart(queue, now);
            let transport = Arc::clone(&self.transports[self.lanes.transport(queue)]);
            self.publishing.push(Box::pin(async move {
                let sent_at = Instant::now();
                let outcomes = transport.publish(&batch).await;
                Published {
                    queue,
                    sent_at,
                    batch,
                    slips,
                    outcomes,
                }
            }));
        }
    }

    fn form_batch(&mut self, queue: QueueId, now: Instant) -> (Vec<Envelope>, Vec<Slip>) {
        let (mut batch, mut slips, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut not_yet = Vec::new();
        while batch.len() < self.options.batch_size && bytes < BATCH_BYTES {
            let Some(entry) = self.lanes.pop(queue) else { break };
            let message = &entry.envelope.message;
            if self.destinations.get(entry.destination).is_open() {
                self.send_back(&entry);
                continue;
            }
            if let (Order::Key | Order::Strict, Some(key)) = (entry.envelope.order, &message.key)
                && !self.holds.is_empty()
                && self.holds.park(&message.topic, key, message.seq, entry.released)
            {
                self.let_go(&entry);
                continue;
            }
            let Some(epoch) = self.territory.epoch(entry.lane) else {
                self.let_go(&entry);
                continue;
            };
            if !self.limits.take(entry.route, now) {
                self.destinations.keep_back(entry.destination);
                not_yet.push(entry);
                continue;
            }
            bytes += entry.size;
            let Entry {
                envelope,
                lane,
                destination,
                route,
                size,
                released,
            } = entry;
            batch.push(envelope);
            slips.push(Slip {
                lane,
                epoch,
                destination,
                route,
                size,
                released,
                span: None,
            });
        }
        self.lanes.put_aside(queue, not_yet);
        if sabotaged!(BatchReversed) {
            batch.reverse();
            slips.reverse();
        }
        (batch, slips)
    }

    /// The row no longer holds its key: what waits behind it may go.
    pub(super) fn resolve(&mut self, seq: Seq) {
        if !self.holds.is_empty() && self.holds.resolve(seq) {
            self.reading.due.again();
        }
    }

    /// The row leaves memory; the database still has it.
    pub(super) fn let_go(&mut self, entry: &Entry) {
        self.holds.stays(entry.envelope.message.seq);
        self.destinations.give_back(entry.destination, entry.size);
        self.window.release(entry.size);
        self.window.forget(entry.envelope.message.seq);
    }

    /// The row leaves memory, and its destination lags from it; or it waits for its key, where that is held.
    fn send_back(&mut self, entry: &Entry) {
        let message = &entry.envelope.message;
        self.give_up(entry, |engine| {
            engine.lag_from(entry.destination, Some(message.seq), message)
        });
    }

    /// The row leaves memory, and is remembered as `remember` does; or it waits for its key, where that is held.
    pub(super) fn give_up(&mut self, entry: &Entry, remember: impl FnOnce(&mut Self)) {
        let message = &entry.envelope.message;
        // A row that waited for a time is found again by that, once it may be sent.
        if message.attempt == 1 && message.replay == 0 && !self.parks(&entry.envelope) {
            remember(self);
        }
        self.let_go(entry);
    }

    pub(super) fn book_published(&mut self, published: Published, now: Instant) {
        let Published {
            queue,
            sent_at,
            batch,
            slips,
            mut outcomes,
        } = published;
        outcomes.resize_with(batch.len(), || {
            Outcome::Refused(Failure::new(
                FailureClass::TimedOut,
                "no_answer",
                "the transport gave no answer",
            ))
        });
        let latency = now.saturating_duration_since(sent_at);
        self.telemetry.publish_latency(self.lanes.transport(queue), latency);
        // Acknowledgements first: they tell whether a destination is alive. Where others of the batch waited in vain, nobody
        // knows when they came: perhaps just before it fell silent.
        let in_vain = outcomes
            .iter()
            .any(|outcome| matches!(outcome, Outcome::Refused(failure) if failure.class == FailureClass::TimedOut));
        let alive_at = if in_vain { sent_at } else { now };
        for (slip, outcome) in slips.iter().zip(&outcomes) {
            self.limits.give_back(slip.route, now);
            let destination = self.destinations.get_mut(slip.destination);
            destination.waiting_since = None;
            if matches!(outcome, Outcome::Acknowledged { .. })
                && self.destinations.acknowledged(slip.destination, alive_at)
            {
                self.recovered(slip.destination, now);
            }
        }
        let answered: Vec<DestinationId> = slips.iter().map(|slip| slip.destination).collect();
        let mut again = Vec::new();
        for ((mut envelope, mut slip), outcome) in batch.into_iter().zip(slips).zip(outcomes) {
            if let Some((tracer, span)) = self.telemetry.tracer().zip(slip.span.take()) {
                let attempt = Attempt {
                    system: self.telemetry.system(self.lanes.transport(queue)),
                    destination: &envelope.destination,
                    outcome: &outcome,
                    took: latency,
                };
                tracer.finish(*span, &mut envelope.message, attempt);
            }
            if let Some(entry) = self.book_outcome(envelope, slip, outcome, (sent_at, now)) {
                again.push(entry);
            }
        }
        for id in answered {
            let destination = self.destinations.get_mut(id);
            destination.waiting_since = (destination.load.rows() > 0).then_some(now);
        }
        self.lanes.push_front(queue, again);
        self.lanes.arrive(queue);
    }

    /// Books one message; answers it when it is to be sent again.
    fn book_outcome(
        &mut self,
        envelope: Envelope,
        slip: Slip,
        outcome: Outcome,
        (sent_at, now): (Instant, Instant),
    ) -> Option<Entry> {
        let latency = now.saturating_duration_since(sent_at);
        let message = &envelope.message;
        let mut mark = slip.mark(message);
        if let Outcome::Acknowledged { duplicate } = outcome {
            mark.duplicate = duplicate && message.attempt <= 1 && message.replay == 0;
            self.telemetry.relayed(slip.route, message.age + latency, duplicate);
            self.resolve(message.seq);
            let claim = Claim::of(envelope);
            self.leave_for_settling(&slip, claim.as_ref());
            self.settler.relayed(mark, claim, now);
            return None;
        }
        let route = self.routes.get(slip.route);
        let policy = Policy {
            attempt: message.attempt,
            max_attempts: message.attempts_at_most(route.max_attempts),
            backoff: route.backoff,
            count_outages: self.options.count_outages || sabotaged!(OutageCounted),
            // A sign of life in the first half of the wait may have been the last one before it fell silent. While it lives
            // there are later ones: it is probed every probe interval.
            destination_alive: self
                .destinations
                .get(slip.destination)
                .alive_at
                .is_some_and(|alive| alive >= sent_at + latency / 2),
        };
        let (failure, retry_in) = match decide(outcome, policy, fastrand::f64()) {
            Disposition::Relay => return None,
            Disposition::Resend => return self.resend(envelope, slip, now),
            Disposition::Pause(failure) => {
                let entry = entry(envelope, slip);
                self.pause(entry.destination, &failure, now);
                self.send_back(&entry);
                return None;
            }
            Disposition::Retry { delay, failure } => (failure, Some(delay)),
            Disposition::Fail(failure) => (failure, None),
        };
        self.report_failure(&envelope, &slip, &failure, retry_in);
        // Even a last failure holds until it is written: after a crash before that, it is an attempt like any other.
        let holds = match envelope.order {
            Order::Strict | Order::Key => true,
            Order::None => false,
        } && !sabotaged!(HoldForgotten);
        if let (true, Some(key)) = (holds && self.territory.epoch(slip.lane).is_some(), &message.key) {
            let (seq, lane) = (message.seq, slip.lane);
            let strict = envelope.order == Order::Strict;
            self.holds
                .hold(KeyId::of(&message.topic, key), Holder { seq, lane, strict });
        }
        let attempt = FailedAttempt {
            mark,
            attempt: message.attempt,
            retry_in,
            class: failure.class,
            code: failure.code.into_owned(),
            error: failure.error,
            latency,
        };
        let claim = Claim::of(envelope);
        self.leave_for_settling(&slip, claim.as_ref());
        self.settler.failed(attempt, claim, now);
        None
    }

    /// The payload is done with; the row stays in the window until its end is written, and so does its key.
    fn leave_for_settling(&mut self, slip: &Slip, claim: Option<&Claim>) {
        self.window.release(slip.size - Claim::size(claim));
        self.destinations.give_back(slip.destination, slip.size);
    }

    /// An earlier message of its key was not acknowledged, so this one was not sent.
    fn resend(&mut self, envelope: Envelope, slip: Slip, now: Instant) -> Option<Entry> {
        let same_lease = self.territory.epoch(slip.lane).is_none_or(|epoch| epoch == slip.epoch);
        let entry = entry(envelope, slip);
        if !same_lease {
            // Somebody else had the lane meanwhile, and may have sent it.
            self.reading.sweep.soon(now);
            self.let_go(&entry);
            return None;
        }
        if self.gates.is_shut(&entry.envelope.message.topic) {
            self.send_back_to_gate(&entry);
            return None;
        }
        if self.phase == super::engine::Phase::Running && !self.destinations.get(entry.destination).is_open() {
            return Some(entry);
        }
        self.send_back(&entry);
        None
    }

    fn pause(&mut self, id: DestinationId, failure: &Failure, now: Instant) {
        if self.destinations.get(id).is_open() {
            return;
        }
        let news = self.destinations.pause(id, now);
        let destination = self.destinations.get(id);
        let (transport, name) = (destination.transport, &destination.name);
        if news {
            self.telemetry.paused(transport, name, &failure.error);
        } else {
            self.telemetry.pause_reason(transport, name, &failure.error);
        }
        if self.destinations.get(id).load.rows() == 1 {
            return; // Only this one.
        }
        // Its queued rows go back too, or they would go first.
        for entry in self.lanes.remove(|entry| entry.destination == id) {
            self.send_back(&entry);
        }
    }

    fn report_failure(&self, envelope: &Envelope, slip: &Slip, failure: &Failure, retry_in: Option<Duration>) {
        let message = &envelope.message;
        let transport = self.routes.get(slip.route).transport;
        self.telemetry.attempt_failed(transport, failure);
        if let Some(delay) = retry_in {
            tracing::debug!(seq = %message.seq, attempt = message.attempt, ?delay, error = %failure.error, "attempt failed");
        } else {
            self.telemetry.failed(slip.route, message, failure);
        }
    }

    /// A failure is in the database: the row is out of memory, and what it held goes on if it failed for good.
    pub(super) fn book_failure_written(&mut self, failed: &FailedAttempt, now: Instant) {
        self.window.forget(failed.mark.seq);
        match failed.retry_in {
            Some(delay) => self.reading.due.falls_due_in(delay, now),
            None if self.holds.is_strict(failed.mark.seq) => {}
            None => self.resolve(failed.mark.seq),
        }
    }
}

fn entry(envelope: Envelope, slip: Slip) -> Entry {
    let Slip {
        lane,
        epoch: _,
        destination,
        route,
        size,
        released,
        span: _,
    } = slip;
    Entry {
        envelope,
        lane,
        destination,
        route,
        size,
        released,
    }
}
