//! Looking at destinations: whether paused ones take messages again, and whether silent ones live.

use std::sync::Arc;

use tokio::time::Instant;

use crate::delivery::Failure;
use crate::transport::Probe;

use super::destination::DestinationId;
use super::engine::Engine;

impl Engine {
    /// Looks at paused destinations, and at those that have not answered for a while: whether a timeout counts depends on it.
    pub(super) fn start_probes(&mut self, now: Instant) {
        for id in self.destinations.take_due_probes(now) {
            let destination = self.destinations.get(id);
            let transport = Arc::clone(&self.transports[destination.transport]);
            let name = Arc::clone(&destination.name);
            self.probing
                .push(Box::pin(async move { (id, transport.probe(&name).await) }));
        }
    }

    pub(super) fn book_probe(&mut self, id: DestinationId, answer: Result<Probe, Failure>, now: Instant) {
        let was_open = self.destinations.get(id).is_open();
        self.destinations.probed(id, &answer, now);
        if let (true, Err(why) | Ok(Probe::Unknown(why))) = (was_open, &answer) {
            let destination = self.destinations.get(id);
            self.telemetry
                .pause_reason(destination.transport, &destination.name, &why.error);
        }
        if was_open && !self.destinations.get(id).is_open() {
            self.reading.caught_up(now);
            if self.destinations.tidy(id) {
                self.recovered(id, now);
            }
        }
    }

    /// A destination takes messages again. What kept it from that may be over for others too.
    pub(super) fn recovered(&mut self, id: DestinationId, now: Instant) {
        let destination = self.destinations.get(id);
        let transport = destination.transport;
        self.telemetry.recovered(transport, &destination.name);
        if self.destinations.try_others(transport) {
            self.reading.caught_up(now);
        }
    }
}
