//! One destination: its breaker, the place from which it lags, what it holds of the window.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::time::Instant;

use crate::message::Seq;
use crate::relay::waiting::lag::{Lag, Way};
use crate::relay::waiting::wait::Wait;

use super::share::Load;

/// Topics remembered per destination; beyond, a reread looks at all topics.
const TOPICS_REMEMBERED: usize = 64;

/// A recovered destination is first tried with this many rows.
const TRIAL_ROWS: usize = 16;

#[derive(Debug)]
pub(crate) enum Breaker {
    /// Rows flow.
    Closed,
    /// Nothing is sent. When it is looked at, its transport's schedule knows.
    Open { looked_at: bool },
    /// A few rows are tried; one, where only a message can tell (`blind`).
    Trial { blind: bool },
}

#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) transport: usize,
    pub(crate) name: Arc<str>,
    pub(crate) breaker: Breaker,
    /// How often it was looked at in vain since it was paused.
    pub(super) looks: u32,
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
            looks: 0,
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

    /// Rows flow.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.breaker, Breaker::Closed)
    }

    /// The cursor's rows of this destination go through.
    pub(crate) fn takes_new_rows(&self) -> bool {
        self.lag.is_none() && self.is_closed()
    }

    /// The topics a reread of this destination looks at; `None`: all.
    pub(crate) fn topics(&self) -> Option<&BTreeSet<Arc<str>>> {
        (self.topics.len() <= TOPICS_REMEMBERED).then_some(&self.topics)
    }

    /// Whether a row that turns up so waits for the destination.
    pub(crate) fn keeps(&self, seq: Seq, way: Way) -> Option<Wait> {
        if self.is_open() {
            return Some(Wait::DestinationPaused);
        }
        let is_tried_enough = || self.tried_with().is_some_and(|rows| self.load.rows() >= rows);
        let passes = match &self.lag {
            // Rows that may pass its lag come with it nevertheless: it is read again anyway.
            Some(lag) => way != Way::Other && lag.lets_pass(seq, way),
            None => way != Way::Own,
        };
        if !passes {
            return Some(Wait::DestinationBehind);
        }
        match way {
            Way::Own => is_tried_enough().then_some(Wait::DestinationTried),
            Way::Other | Way::Urgent => (!self.is_closed()).then_some(Wait::DestinationTried),
            Way::NextOfKey | Way::Due => None,
        }
    }

    /// On trial: with how many rows at most.
    pub(crate) fn tried_with(&self) -> Option<usize> {
        match self.breaker {
            Breaker::Closed | Breaker::Open { .. } => None,
            Breaker::Trial { blind: true } => Some(1),
            Breaker::Trial { blind: false } => Some(TRIAL_ROWS),
        }
    }

    /// What is pending of `topic` waits in the database from now on, from `from` on; `None`: all of it.
    pub(crate) fn lag_from(&mut self, from: Option<Seq>, topic: &Arc<str>) {
        if self.topics.len() <= TOPICS_REMEMBERED && !self.topics.contains(topic) {
            self.topics.insert(Arc::clone(topic));
        }
        self.lag.get_or_insert_with(|| Lag::from(from)).include(from);
    }

    /// A reread has looked at everything up to `position`; `met`: that is where the cursor stands. Clears the lag when
    /// nothing is left behind.
    pub(crate) fn reread(&mut self, position: Seq, met: bool) {
        if self.lag.as_mut().is_some_and(|lag| lag.read(position, met)) {
            self.lag = None;
            self.topics.clear();
        }
    }

    /// Everything is read anew: what stays is what the breaker knows, and what is in flight still.
    pub(super) fn forget(&mut self) {
        self.lag = None;
        self.topics.clear();
    }

    pub(super) fn is_idle(&self) -> bool {
        self.load.rows() == 0 && self.lag.is_none() && !self.watched && self.is_closed()
    }
}
