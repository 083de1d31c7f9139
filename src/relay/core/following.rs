//! What others decide: lanes that come and go, topics an operator pauses and resumes.

use std::sync::Arc;

use tokio::time::Instant;

use crate::relay::owning::Owning;
use crate::relay::owning::standing::Standing;
use crate::relay::reading::Reading;
use crate::relay::sending::Sending;
use crate::relay::waiting::Waiting;
use crate::relay::waiting::topics::Named;
use crate::relay::window::Window;

use super::returning::Returning;
use super::setup::Setup;

/// See the module.
pub(super) struct Following<'a> {
    pub(super) setup: &'a Setup,
    pub(super) window: &'a mut Window,
    pub(super) owning: &'a mut Owning,
    pub(super) waiting: &'a mut Waiting,
    pub(super) sending: &'a mut Sending,
    pub(super) reading: &'a mut Reading,
}

impl Following<'_> {
    /// The lease task has said something new.
    pub(super) fn hear(&mut self, standing: Standing, now: Instant) {
        let telemetry = &self.setup.telemetry;
        let held = standing.lanes.len();
        telemetry.health.lanes(held, usize::from(self.setup.options.lanes));
        telemetry.metrics.lanes_owned(held);
        self.pauses(&standing.paused, now);
        if self.reading.sweep.renewed(now) {
            self.reading.due.again();
        }
        self.owning.standing = standing;
    }

    /// Pauses and resumes topics as an operator says. What is queued of a paused topic goes back to the database.
    fn pauses(&mut self, paused: &Arc<Named>, now: Instant) {
        if self.waiting.topics.are_shut(paused) {
            return;
        }
        let before = self.waiting.topics.shut(paused);
        for topic in paused.difference(&before) {
            tracing::info!(topic = %topic, "topic paused by an operator: its messages wait");
        }
        for topic in before.difference(paused) {
            tracing::info!(topic = %topic, "topic resumed by an operator");
            self.reading.caught_up(now);
        }
        let queued = self
            .sending
            .lanes
            .remove(|entry| paused.contains(&entry.envelope.message.topic));
        for entry in queued {
            self.returning().back_to_topic(&entry);
        }
    }

    /// Takes over and gives up lanes as the lease task says. `false`: one was lost.
    pub(super) fn lanes(&mut self) -> bool {
        let Standing {
            lanes,
            leaving,
            valid_until,
            ..
        } = &self.owning.standing;
        self.owning.valid_until = *valid_until;
        if sabotaged!(LeaseEndIgnored) {
            self.owning.valid_until += 100 * self.setup.options.lease_ttl;
        }
        let Some(given_up) = self.owning.territory.follow(lanes, leaving) else {
            return false;
        };
        if !given_up.is_empty() {
            self.waiting.holds.forget(&given_up);
            for entry in self.sending.lanes.remove(|entry| given_up.contains(entry.lane)) {
                self.returning().let_go(&entry);
            }
        }
        true
    }

    fn returning(&mut self) -> Returning<'_> {
        Returning {
            window: self.window,
            waiting: self.waiting,
            destinations: &mut self.sending.destinations,
        }
    }
}
