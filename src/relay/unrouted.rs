//! Topics that no route matches. A route that is missing is configuration, as a missing stream is: their rows wait in the database,
//! and are read again with every start, reload and sweep. Under `relay.unrouted = "fail"` they are rejected instead.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::telemetry::NOWHERE;

use super::engine::Engine;

/// Topics that are named at a time.
const NAMED_MAX: usize = 1_000;

/// Topics whose rows wait for a route, and whether any was seen since the last sweep ended.
pub(super) type Waiting = BTreeMap<Arc<str>, bool>;

impl Engine {
    /// A row of `topic` waits for a route.
    pub(super) fn wait_for_route(&mut self, topic: &Arc<str>, reason: &str) {
        if let Some(seen) = self.unrouted.get_mut(topic) {
            *seen = true;
        } else if self.unrouted.len() < NAMED_MAX {
            self.unrouted.insert(Arc::clone(topic), true);
            let reason = format!("{reason}: add one and reload, or set relay.unrouted = \"fail\"");
            self.telemetry.paused(NOWHERE, topic, &reason);
        }
    }

    /// A sweep has seen every pending row: topics it met none of wait no longer.
    pub(super) fn review_unrouted(&mut self) {
        let telemetry = &self.telemetry;
        self.unrouted.retain(|topic, seen| {
            let waits = std::mem::take(seen);
            if !waits {
                telemetry.recovered(NOWHERE, topic);
            }
            waits
        });
    }
}
