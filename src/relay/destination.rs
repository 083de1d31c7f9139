//! One destination: its breaker, the place from which it lags, what it holds of the window.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::time::Instant;

use crate::message::Seq;
use crate::store::{LaneSet, Scope};

use super::lag::Lag;
use super::share::Load;

/// Topics remembered per destination; beyond, a reread looks at all topics.
const TOPICS_REMEMBERED: usize = 64;

/// Index of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct DestinationId(pub(crate) usize);

#[derive(Debug)]
pub(crate) enum Breaker {
    Closed,
    Open {
        next_probe: Instant,
        probing: bool,
    },
    /// A few rows are tried; one, where only a message can tell (`blind`).
    Trial {
        blind: bool,
    },
}

#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) transport: usize,
    pub(crate) name: Arc<str>,
    pub(crate) breaker: Breaker,
    pub(crate) lag: Option<Lag>,
    /// Rows queued or in flight.
    pub(crate) load: Load,
    /// The last acknowledgement or successful probe.
    pub(crate) alive_at: Option<Instant>,
    /// Since when an answer is awaited: the first batch sent, or the last answer while more is outstanding. Means nothing
    /// while nothing is outstanding.
    pub(crate) waiting_since: Option<Instant>,
    pub(crate) watched: bool,
    /// Takes a row only once every earlier number is decided.
    pub(crate) in_commit_order: bool,
    topics: BTreeSet<Arc<str>>,
}

impl Destination {
    pub(super) fn new(transport: usize, name: Arc<str>) -> Self {
        Self {
            transport,
            name,
            breaker: Breaker::Closed,
            lag: None,
            load: Load::default(),
            alive_at: None,
            waiting_since: None,
            watched: false,
            in_commit_order: false,
            topics: BTreeSet::new(),
        }
    }

    pub(super) fn is(&self, transport: usize, name: &str) -> bool {
        self.transport == transport && *self.name == *name
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.breaker, Breaker::Open { .. })
    }

    /// The cursor's rows of this destination go through.
    pub(crate) fn takes_new_rows(&self) -> bool {
        self.lag.is_none() && matches!(self.breaker, Breaker::Closed)
    }

    /// What a reread of this destination looks at.
    pub(crate) fn scope(&self, lanes: LaneSet) -> Scope {
        let topics =
            (self.topics.len() <= TOPICS_REMEMBERED).then(|| self.topics.iter().map(Arc::clone).collect::<Vec<_>>());
        Scope {
            topics,
            key: None,
            lanes,
        }
    }

    /// The row `seq` of `topic` waits in the database from now on.
    pub(crate) fn lag_from(&mut self, seq: Seq, topic: &Arc<str>) {
        if self.topics.len() <= TOPICS_REMEMBERED && !self.topics.contains(topic) {
            self.topics.insert(Arc::clone(topic));
        }
        self.lag.get_or_insert_with(|| Lag::past(seq)).include(seq);
    }

    /// A reread has looked at everything up to `position`; `met`: that is where the cursor stands. Clears the lag when
    /// nothing is left behind.
    pub(crate) fn reread(&mut self, position: Seq, met: bool) {
        if self.lag.as_mut().is_some_and(|lag| lag.read(position, met)) {
            self.lag = None;
            self.topics.clear();
        }
    }

    /// Everything is read anew: only what the breaker knows stays.
    pub(super) fn forget(&mut self) {
        self.lag = None;
        self.topics.clear();
        self.load = Load::default();
        self.waiting_since = None;
    }

    pub(super) fn is_idle(&self) -> bool {
        self.load.rows() == 0 && self.lag.is_none() && !self.watched && matches!(self.breaker, Breaker::Closed)
    }
}
