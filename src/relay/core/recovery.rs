//! Destinations that pause and recover.

use std::sync::Arc;

use tokio::time::Instant;

use crate::delivery::Failure;
use crate::relay::event::Effect;
use crate::relay::reading::Reading;
use crate::relay::sending::destinations::Destinations;
use crate::relay::waiting::found::DestinationId;
use crate::telemetry::Telemetry;
use crate::transport::Probe;

/// See the module.
pub(super) struct Recovery<'a> {
    pub(super) telemetry: &'a Telemetry,
    pub(super) destinations: &'a mut Destinations,
    pub(super) reading: &'a mut Reading,
}

impl Recovery<'_> {
    /// Looks at paused destinations, and at those that have not answered for a while: whether a timeout counts depends on it.
    pub(super) fn looks(&mut self, now: Instant) -> Vec<Effect> {
        let due = self.destinations.take_due_probes(now).into_iter();
        let look = |id| {
            let destination = self.destinations.get(id);
            Effect::Probe(id, destination.transport, Arc::clone(&destination.name))
        };
        due.map(look).collect()
    }

    /// A look was answered.
    pub(super) fn looked(&mut self, id: DestinationId, answer: &Result<Probe, Failure>, now: Instant) {
        let was_open = self.destinations.get(id).is_open();
        self.destinations.probed(id, answer, now);
        if let (true, Err(why) | Ok(Probe::Unknown(why))) = (was_open, answer) {
            let destination = self.destinations.get(id);
            self.telemetry
                .pause_reason(destination.transport, &destination.name, &why.error);
        }
        if was_open && !self.destinations.get(id).is_open() {
            self.reading.caught_up(now);
            self.tidy(id, now);
        }
    }

    /// Something was acknowledged, at `at` or later.
    pub(super) fn acknowledged(&mut self, id: DestinationId, at: Instant, now: Instant) {
        if self.destinations.acknowledged(id, at) {
            self.recovered(id, now);
        }
    }

    /// Its lag may have ended.
    pub(super) fn tidy(&mut self, id: DestinationId, now: Instant) {
        if self.destinations.tidy(id) {
            self.recovered(id, now);
        }
    }

    /// It takes messages again. What kept it from that may be over for others too.
    fn recovered(&mut self, id: DestinationId, now: Instant) {
        let destination = self.destinations.get(id);
        let transport = destination.transport;
        self.telemetry.recovered(transport, &destination.name);
        if self.destinations.try_others(transport) {
            self.reading.caught_up(now);
        }
    }
}
