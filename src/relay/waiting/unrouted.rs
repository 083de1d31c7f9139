//! Topics that no route matches. A route that is missing is configuration, as a missing stream is: their rows wait in the database,
//! and are read again with every start, reload and sweep. Under `relay.unrouted = "fail"` they are rejected instead.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::message::shortened;
use crate::telemetry::{NOWHERE, Telemetry};

/// Topics that are named at a time.
const NAMED_MAX: usize = 1_000;
/// Characters of a topic that are shown: whoever inserts rows chooses them.
const NAME_MAX: usize = 200;

/// Topics whose rows wait for a route, and whether any was seen since the last sweep ended.
#[derive(Debug, Default)]
pub(crate) struct Unrouted(BTreeMap<Arc<str>, bool>);

impl Unrouted {
    /// A row of `topic` waits for a route.
    pub(crate) fn wait(&mut self, topic: &Arc<str>, telemetry: &Telemetry) {
        let name = shortened(topic, NAME_MAX);
        if let Some(seen) = self.0.get_mut(&*name) {
            *seen = true;
        } else if self.0.len() < NAMED_MAX {
            let reason =
                format!("no route matches topic {name:?}: add one and reload, or set relay.unrouted = \"fail\"");
            let name: Arc<str> = name.into();
            telemetry.paused(NOWHERE, &name, &reason);
            self.0.insert(name, true);
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
