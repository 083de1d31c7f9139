//! Commit order: a destination whose route asks for it takes a row only once every earlier number is decided.
//!
//! Sequence numbers are not commit order. The store tells up to where all of them are decided (`Page::decided`); rows past
//! that lag, like those of a paused destination, and are read again as the watermark moves. While it stands still, the
//! transaction that keeps it back is named.

use std::time::Duration;

use tokio::time::Instant;

use crate::message::Seq;
use crate::store::OpenTransaction;

use super::destination::DestinationId;
use super::engine::Engine;
use super::reading::Reading;

/// A watermark that stands still for so long is worth a word, and then again after so long.
const AFTER: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_secs(30);

impl Engine {
    /// Up to where a destination's rows may be sent now.
    pub(super) fn limit_of(&self, id: DestinationId) -> Seq {
        let Reading { cursor, decided, .. } = self.reading;
        if self.destinations.get(id).in_commit_order {
            decided.min(cursor)
        } else {
            cursor
        }
    }

    /// Its next row waits until an earlier number is decided.
    pub(super) fn waits_for_commits(&self, id: DestinationId) -> bool {
        let limit = self.limit_of(id);
        let lag = &self.destinations.get(id).lag;
        limit < self.reading.cursor && lag.as_ref().is_some_and(|lag| lag.next >= limit)
    }

    /// Some route in commit order has waited for an earlier number for a while.
    pub(super) fn commits_stand_still(&mut self, now: Instant) -> bool {
        let Reading {
            decided_at,
            blockers_at,
            ..
        } = self.reading;
        let waits = now >= blockers_at.max(decided_at + AFTER)
            && self.destinations.lagging().any(|id| self.waits_for_commits(id));
        if waits {
            self.reading.blockers_at = now + AGAIN;
        }
        waits
    }

    pub(super) fn report_blockers(&mut self, open: &[OpenTransaction]) {
        if let Some(blocker) = open.first() {
            tracing::warn!(decided = %self.reading.decided, others = open.len() - 1, "commit order waits for {blocker}");
            self.telemetry.health.waits_for_commit(Some(blocker.to_string()));
            self.reading.names_blocker = true;
        }
    }

    /// Nothing waits for a commit any more: takes back what was said.
    pub(super) fn note_commits(&mut self) {
        if self.reading.names_blocker && !self.destinations.lagging().any(|id| self.waits_for_commits(id)) {
            self.telemetry.health.waits_for_commit(None);
            self.reading.names_blocker = false;
        }
    }
}
