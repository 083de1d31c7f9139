//! What transports answered, message by message: each outcome is decided on its own.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::delivery::{Disposition, Failure, FailureClass, Order, Outcome, Policy, decide};
use crate::message::Message;
use crate::relay::event::Published;
use crate::relay::owning::territory::Territory;
use crate::relay::reading::Reading;
use crate::relay::sending::Sending;
use crate::relay::sending::lanes::{Entry, Slip};
use crate::relay::settling::Settler;
use crate::relay::settling::stuck::Claim;
use crate::relay::waiting::Waiting;
use crate::relay::waiting::found::DestinationId;
use crate::relay::waiting::holds::Holder;
use crate::relay::window::Window;
use crate::store::{Epoch, FailedAttempt, Lane, Mark};
use crate::telemetry::NOWHERE;
use crate::telemetry::trace::Attempt;
use crate::transport::Envelope;

use super::ends::Ends;
use super::recovery::Recovery;
use super::returning::Returning;
use super::setup::Setup;

/// See the module.
pub(super) struct Outcomes<'a> {
    pub(super) setup: &'a Setup,
    pub(super) window: &'a mut Window,
    pub(super) territory: &'a Territory,
    pub(super) waiting: &'a mut Waiting,
    pub(super) sending: &'a mut Sending,
    pub(super) reading: &'a mut Reading,
    pub(super) settler: &'a mut Settler,
    /// Rows flow.
    pub(super) is_running: bool,
}

/// When a batch was sent, and when it was answered.
#[derive(Clone, Copy)]
struct Flight {
    sent_at: Instant,
    now: Instant,
}

impl Flight {
    fn latency(self) -> Duration {
        self.now.saturating_duration_since(self.sent_at)
    }
}

impl Outcomes<'_> {
    pub(super) fn published(&mut self, published: Published, now: Instant) {
        let Published {
            batch,
            sent_at,
            mut outcomes,
        } = published;
        outcomes.resize_with(batch.envelopes.len(), || {
            Outcome::Refused(Failure::new(
                FailureClass::TimedOut,
                "no_answer",
                "the transport gave no answer",
            ))
        });
        let flight = Flight { sent_at, now };
        let telemetry = &self.setup.telemetry;
        telemetry.publish_latency(batch.transport, flight.latency());
        self.note_signs_of_life(&batch.slips, &outcomes, flight);
        let answered: Vec<DestinationId> = batch.slips.iter().map(|slip| slip.destination).collect();
        let system = telemetry.system(batch.transport);
        let mut again = Vec::new();
        for ((mut envelope, mut slip), outcome) in batch.envelopes.into_iter().zip(batch.slips).zip(outcomes) {
            if let Some((tracer, span)) = telemetry.tracer().zip(slip.span.take()) {
                let attempt = Attempt {
                    system,
                    destination: &envelope.destination,
                    outcome: &outcome,
                    took: flight.latency(),
                };
                tracer.finish(*span, &mut envelope.message, attempt);
            }
            again.extend(self.outcome(envelope, slip, outcome, flight));
        }
        for id in answered {
            let destination = self.sending.destinations.get_mut(id);
            destination.waiting_since = (destination.load.rows() > 0).then_some(now);
        }
        self.sending.lanes.push_front(batch.queue, again);
        self.sending.lanes.arrive(batch.queue);
    }

    /// Acknowledgements first: they tell whether a destination is alive.
    fn note_signs_of_life(&mut self, slips: &[Slip], outcomes: &[Outcome], Flight { sent_at, now }: Flight) {
        // Where others of the batch waited in vain, nobody knows when they came: perhaps just before it fell silent.
        let in_vain = outcomes
            .iter()
            .any(|outcome| matches!(outcome, Outcome::Refused(failure) if failure.class == FailureClass::TimedOut));
        let alive_at = if in_vain { sent_at } else { now };
        for (slip, outcome) in slips.iter().zip(outcomes) {
            self.sending.limits.give_back(slip.route, now);
            let destination = self.sending.destinations.get_mut(slip.destination);
            destination.waiting_since = None;
            if matches!(outcome, Outcome::Acknowledged { .. }) {
                self.recovery().acknowledged(slip.destination, alive_at, now);
            }
        }
    }

    /// Books one message; answers it when it is to be sent again.
    fn outcome(&mut self, envelope: Envelope, slip: Slip, outcome: Outcome, flight: Flight) -> Option<Entry> {
        let now = flight.now;
        let message = &envelope.message;
        let mut mark = slip.mark(message);
        if let Outcome::Acknowledged { duplicate } = outcome {
            mark.duplicate = duplicate && message.attempt <= 1 && message.replay == 0;
            let since_insert = message.age + flight.latency();
            self.setup.telemetry.relayed(slip.route, since_insert, duplicate);
            self.ends().resolve(message.seq);
            let claim = Claim::of(envelope);
            self.leave_for_settling(&slip, claim.as_ref());
            self.settler.relayed(mark, claim, now);
            return None;
        }
        let policy = self.policy(message, &slip, flight);
        let (failure, retry_in) = match decide(outcome, policy, fastrand::f64()) {
            Disposition::Relay => return None,
            Disposition::Resend => return self.resend(slip.epoch, slip.back(envelope), now),
            Disposition::Pause(failure) => {
                let entry = slip.back(envelope);
                self.pause(entry.destination, &failure, now);
                self.returning().back_to_destination(&entry);
                return None;
            }
            Disposition::Retry { delay, failure } => (failure, Some(delay)),
            Disposition::Fail(failure) => (failure, None),
        };
        self.report_failure(message, slip.route, &failure, retry_in);
        self.hold(&envelope, slip.lane);
        let attempt = FailedAttempt {
            mark,
            attempt: message.attempt,
            retry_in,
            class: failure.class,
            code: failure.code.into_owned(),
            error: failure.error,
            latency: flight.latency(),
        };
        let claim = Claim::of(envelope);
        self.leave_for_settling(&slip, claim.as_ref());
        self.settler.failed(attempt, claim, now);
        None
    }

    fn policy(&self, message: &Message, slip: &Slip, flight: Flight) -> Policy {
        let route = self.setup.routes.get(slip.route);
        let alive_at = self.sending.destinations.get(slip.destination).alive_at;
        // A sign of life in the first half of the wait may have been the last one before it fell silent. While it lives there are
        // later ones: it is probed every probe interval.
        let lives_since = flight.sent_at + flight.latency() / 2;
        Policy {
            attempt: message.attempt,
            max_attempts: message.attempts_at_most(route.max_attempts),
            backoff: route.backoff,
            count_outages: self.setup.options.count_outages || sabotaged!(OutageCounted),
            destination_alive: alive_at.is_some_and(|alive| alive >= lives_since),
        }
    }

    /// Even a last failure holds until it is written: after a crash before that, it is an attempt like any other.
    fn hold(&mut self, envelope: &Envelope, lane: Lane) {
        let holds = match envelope.order {
            Order::Strict | Order::Key => true,
            Order::None => false,
        } && !sabotaged!(HoldForgotten);
        let message = &envelope.message;
        if let (true, Some(key)) = (holds && self.territory.epoch(lane).is_some(), &message.key) {
            let (seq, strict) = (message.seq, envelope.order == Order::Strict);
            self.waiting.hold(&message.topic, key, Holder { seq, lane, strict });
        }
    }

    /// The payload is done with; the row stays in the window until its end is written, and so does its key.
    fn leave_for_settling(&mut self, slip: &Slip, claim: Option<&Claim>) {
        self.window.release(slip.size - Claim::size(claim));
        self.sending.destinations.give_back(slip.destination, slip.size);
    }

    /// An earlier message of its key was not acknowledged, so this one was not sent. Answers it where it may go again at once.
    fn resend(&mut self, sent_under: Epoch, entry: Entry, now: Instant) -> Option<Entry> {
        let epoch = self.territory.epoch(entry.lane);
        if epoch.is_some_and(|epoch| epoch != sent_under) {
            // Somebody else had the lane meanwhile, and may have sent it.
            self.reading.sweep.soon(now);
            self.returning().let_go(&entry);
            return None;
        }
        if self.waiting.topics.is_shut(&entry.envelope.message.topic) {
            self.returning().back_to_topic(&entry);
            return None;
        }
        if self.is_running && !self.sending.destinations.get(entry.destination).is_open() {
            return Some(entry);
        }
        self.returning().back_to_destination(&entry);
        None
    }

    fn pause(&mut self, id: DestinationId, failure: &Failure, now: Instant) {
        let destinations = &mut self.sending.destinations;
        if destinations.get(id).is_open() {
            return;
        }
        let news = destinations.pause(id, now);
        let destination = destinations.get(id);
        let (transport, name) = (destination.transport, &destination.name);
        if news {
            self.setup.telemetry.paused(transport, name, &failure.error);
        } else {
            self.setup.telemetry.pause_reason(transport, name, &failure.error);
        }
        if destination.load.rows() == 1 {
            return; // Only this one.
        }
        // Its queued rows go back too, or they would go first.
        for entry in self.sending.lanes.remove(|entry| entry.destination == id) {
            self.returning().back_to_destination(&entry);
        }
    }

    fn report_failure(&self, message: &Message, route: usize, failure: &Failure, retry_in: Option<Duration>) {
        let transport = self.setup.routes.get(route).transport;
        self.setup.telemetry.attempt_failed(transport, failure);
        if let Some(delay) = retry_in {
            tracing::debug!(seq = %message.seq, attempt = message.attempt, ?delay, error = %failure.error, "attempt failed");
        } else {
            self.setup.telemetry.failed(route, message, failure);
        }
    }

    /// The row can never be sent: `failed_at` at its first attempt, without a transport.
    pub(super) fn reject(&mut self, lane: Lane, message: &Message, failure: Failure, now: Instant) {
        let Some(epoch) = self.territory.epoch(lane) else {
            return;
        };
        let routes = &self.setup.routes;
        let route = routes.find(&message.topic);
        let order = route.map_or(Order::None, |route| routes.get(route).order);
        let claim = Claim::new(order, Arc::clone(&message.topic), message.key.clone());
        if !self.window.admit(message.seq, lane, Claim::size(claim.as_ref())) {
            return;
        }
        self.setup.telemetry.attempt_failed(NOWHERE, &failure);
        self.setup.telemetry.failed(NOWHERE, message, &failure);
        if let Some(claim) = claim.as_ref().filter(|claim| claim.strict) {
            let (seq, strict) = (message.seq, true);
            self.waiting
                .hold(&claim.topic, &claim.key, Holder { seq, lane, strict });
        }
        let mark = Mark {
            seq: message.seq,
            id: message.id.clone(),
            replay: message.replay,
            lane,
            epoch,
            duplicate: false,
        };
        let attempt = FailedAttempt {
            mark,
            attempt: message.attempt,
            retry_in: None,
            class: failure.class,
            code: failure.code.into_owned(),
            error: failure.error,
            latency: Duration::ZERO,
        };
        self.settler.failed(attempt, claim, now);
    }

    fn returning(&mut self) -> Returning<'_> {
        Returning {
            window: self.window,
            waiting: self.waiting,
            destinations: &mut self.sending.destinations,
        }
    }

    fn recovery(&mut self) -> Recovery<'_> {
        Recovery {
            telemetry: &self.setup.telemetry,
            destinations: &mut self.sending.destinations,
            reading: self.reading,
        }
    }

    fn ends(&mut self) -> Ends<'_> {
        Ends {
            window: self.window,
            holds: &mut self.waiting.holds,
            reading: self.reading,
        }
    }
}
