//! What can be read on with: whose rows behind may be sent now, and whether the cursor waits for somebody's end.

use crate::message::Seq;
use crate::relay::owning::territory::Territory;
use crate::relay::reading::Reading;
use crate::relay::sending::destination::Breaker;
use crate::relay::sending::destinations::Destinations;
use crate::relay::waiting::Waiting;
use crate::relay::waiting::found::DestinationId;
use crate::relay::window::Window;

/// See the module. It only looks.
#[derive(Clone, Copy)]
pub(super) struct Outlook<'a> {
    pub(super) territory: &'a Territory,
    pub(super) waiting: &'a Waiting,
    pub(super) destinations: &'a Destinations,
    pub(super) reading: &'a Reading,
}

impl Outlook<'_> {
    /// The cursor stands still while it has nothing to read for, and for the last page of a lag, or the two would never
    /// meet under load.
    pub(super) fn cursor_waits(self) -> bool {
        let is_near = |next| self.reading.is_near(next);
        let is_ending = |id| self.may_be_read_on(id) && self.is_about_to_end(id);
        !self.territory.has_lanes_at_the_cursor()
            || self.territory.behind().is_some_and(|(_, next)| is_near(next))
            || self.destinations.lagging().any(is_ending)
            || self.waiting.topics.behind().any(|(_, lag)| is_near(lag.next))
    }

    /// Whether there is something that rows with a priority could overtake.
    pub(super) fn may_be_overtaken(self, window: &Window) -> bool {
        self.reading.has_a_queue(window)
            || self.territory.behind().is_some()
            || self.waiting.topics.behind().next().is_some()
            || self
                .destinations
                .lagging()
                .any(|id| self.destinations.get(id).is_closed())
    }

    /// The cursor waits for its end.
    pub(super) fn is_about_to_end(self, id: DestinationId) -> bool {
        let lag = &self.destinations.get(id).lag;
        lag.as_ref().is_some_and(|lag| self.reading.is_near(lag.next))
    }

    /// Not paused, nor waiting for earlier commits; and one that is on trial only when its last rows came back.
    pub(super) fn may_be_read_on(self, id: DestinationId) -> bool {
        let destination = self.destinations.get(id);
        if self.waits_for_commits(id) || self.destinations.is_crowding(id) {
            return false;
        }
        match destination.breaker {
            Breaker::Closed => true,
            Breaker::Trial { .. } => destination.load.rows() == 0,
            Breaker::Open { .. } => false,
        }
    }

    /// Up to where a destination's rows may be sent now; `None`: that is not known yet.
    pub(super) fn limit_of(self, id: DestinationId) -> Option<Seq> {
        let cursor = self.reading.cursor();
        if self.destinations.get(id).in_commit_order {
            self.waiting.watermark.decided().map(|decided| decided.min(cursor))
        } else {
            Some(cursor)
        }
    }

    /// Its next row waits until an earlier number is decided.
    fn waits_for_commits(self, id: DestinationId) -> bool {
        let Some(lag) = &self.destinations.get(id).lag else {
            return false;
        };
        let limit = self.limit_of(id);
        limit.is_none_or(|limit| limit < self.reading.cursor() && lag.next >= limit)
    }

    /// Some destination does.
    pub(super) fn somebody_waits_for_commits(self) -> bool {
        self.destinations.lagging().any(|id| self.waits_for_commits(id))
    }
}
