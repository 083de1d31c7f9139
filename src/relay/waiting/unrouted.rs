//! Topics that no route matches. A route that is missing is configuration, as a missing stream is: their rows wait in the database,
//! and are read again with every start, reload and sweep. Under `relay.unrouted = "fail"` they are rejected instead.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::telemetry::{NOWHERE, Telemetry};

/// Topics that are named at a time.
const NAMED_MAX: usize = 1_000;

/// Topics whose rows wait for a route, and whether any was seen since the last sweep ended.
#[derive(Debug, Default)]
pub(crate) struct Unrouted(BTreeMap<Arc<str>, bool>);

impl Unrouted {
    /// A row of `topic` waits for a route.
    pub(crate) fn wait(&mut self, topic: &Arc<str>, reason: &str, telemetry: &Telemetry) {
        if let Some(seen) = self.0.get_mut(topic) {
            *seen = true;
        } else if self.0.len() < NAMED_MAX {
            self.0.insert(Arc::clone(topic), true);
            let reason = format!("{reason}: add one and reload, or set relay.unrouted = \"fail\"");
            telemetry.paused(NOWHERE, topic, &reason);
        }
    }

    /// A sweep has seen every pending row: topics it met none of wait no longer.
    pub(crate) fn review(&mut self, telemetry: &Telemetry) {
        self.0.retain(|topic, seen| {
            let waits = std::mem::take(seen);
            if !waits {
                telemetry.recovered(NOWHERE, topic);
            }
            waits
        });
    }

    /// Routes have changed: whatever waits still is found again.
    pub(crate) fn forget(&mut self, telemetry: &Telemetry) {
        for topic in std::mem::take(&mut self.0).into_keys() {
            telemetry.forgotten(NOWHERE, &topic);
        }
    }
}
