//! The lanes the engine works for, and how they come and go.
//!
//! ```text
//!   the lease holds it          its holds are read            read again from the beginning, the cursor is met
//!  ─────────────────> arriving ────────────────────> behind ───────────────────────────────────────────────> at work
//!                        │                              │  the lease task wants it back                         │
//!                        └──────────────────────────────┴────────────> leaving <────────────────────────────────┘
//!                                                                         │ nothing of it unsettled
//!                                                                         v
//!                                                          the lease task hands it over
//! ```
//!
//! So lanes change hands one by one: the others' rows go on flowing, and nothing of a lane is sent by two instances.

use tokio::time::Instant;

use crate::message::Seq;
use crate::store::{Epoch, Lane, LaneSet, Tenancy};

use super::engine::{Engine, Phase};
use super::found::{Found, Laggard};
use super::lag::{Lag, Way};
use super::tenure::Standing;

#[derive(Default)]
pub(super) struct Territory {
    epochs: Tenancy,
    /// The keys of `epochs`.
    lanes: LaneSet,
    arriving: Tenancy,
    leaving: Tenancy,
    behind: LaneSet,
    lag: Option<Lag>,
}

impl Territory {
    /// The lanes worked for, those behind included.
    pub(super) fn lanes(&self) -> &LaneSet {
        &self.lanes
    }

    /// The epoch under which this lane's rows are sent and settled; `None`: they are not.
    pub(super) fn epoch(&self, lane: Lane) -> Option<Epoch> {
        self.epochs.get(&lane).copied()
    }

    /// No lane, and none to come.
    pub(super) fn is_empty(&self) -> bool {
        self.epochs.is_empty() && self.arriving.is_empty()
    }

    /// Whether the cursor has anything to read for.
    pub(super) fn has_lanes_at_the_cursor(&self) -> bool {
        self.epochs.len() > self.behind.len()
    }

    /// Lanes whose holds are to be read.
    pub(super) fn arriving(&self) -> Option<Tenancy> {
        (!self.arriving.is_empty()).then(|| self.arriving.clone())
    }

    /// The lanes worked for, with their epochs.
    pub(super) fn held(&self) -> Tenancy {
        self.epochs.clone()
    }

    /// Takes over what the lease holds and gives up what it wants back. Answers the lanes given up; `None`: a lane was lost,
    /// or taken anew under another epoch, without having been asked for.
    pub(super) fn follow(&mut self, held: &Tenancy, wanted_back: &Tenancy) -> Option<LaneSet> {
        let stays =
            |(lane, epoch): (&Lane, &Epoch)| held.get(lane) == Some(epoch) || wanted_back.get(lane) == Some(epoch);
        if !self.epochs.iter().chain(&self.arriving).all(stays) {
            return None;
        }
        let mut given_up = LaneSet::default();
        for (lane, epoch) in wanted_back {
            self.leaving.insert(*lane, *epoch);
            self.arriving.remove(lane);
            if self.epochs.remove(lane).is_some() {
                self.lanes.remove(*lane);
                self.behind.remove(*lane);
                given_up.insert(*lane);
            }
        }
        for (lane, epoch) in held {
            if !self.epochs.contains_key(lane) {
                self.leaving.remove(lane);
                self.arriving.insert(*lane, *epoch);
            }
        }
        if self.behind.is_empty() {
            self.lag = None;
        }
        Some(given_up)
    }

    /// The holds of these lanes are known: their rows are read from the beginning on.
    pub(super) fn settle_in(&mut self, arrived: &Tenancy) {
        for (lane, epoch) in arrived {
            if self.arriving.get(lane) == Some(epoch) {
                self.arriving.remove(lane);
                self.epochs.insert(*lane, *epoch);
                self.lanes.insert(*lane);
                if sabotaged!(PastNotRead) {
                    continue;
                }
                self.behind.insert(*lane);
                self.lag = Some(Lag::from(None));
            }
        }
    }

    /// Everything is read from the beginning again.
    pub(super) fn fall_behind(&mut self) {
        self.behind = self.lanes.clone();
        match &mut self.lag {
            Some(lag) => lag.include(None),
            None if self.behind.is_empty() => {}
            None => self.lag = Some(Lag::from(None)),
        }
    }

    /// Whether a row found so may come in now; where it may not, it will be found again.
    pub(super) fn takes(&mut self, lane: Lane, seq: Seq, found: &Found, is_holder: bool) -> bool {
        if !self.lanes.contains(lane) {
            return false;
        }
        let Some(lag) = self.lag.as_mut().filter(|_| self.behind.contains(lane)) else {
            return true;
        };
        let way = found.way(|who| *who == Laggard::Lanes, is_holder);
        let passes = lag.lets_pass(seq, way);
        if !passes && way == Way::Other {
            lag.include(Some(seq));
        }
        passes
    }

    /// The lanes to be read from the beginning on, and how far that has come.
    pub(super) fn behind(&self) -> Option<(&LaneSet, Seq)> {
        self.lag.as_ref().map(|lag| (&self.behind, lag.next))
    }

    /// Where they lag from.
    pub(super) fn lag_mut(&mut self) -> Option<&mut Lag> {
        self.lag.as_mut()
    }

    /// That read has come to `position`; `met`: where the cursor stands. Answers whether they have caught up.
    pub(super) fn read_up_to(&mut self, position: Seq, met: bool) -> bool {
        let caught_up = self.lag.as_mut().is_some_and(|lag| lag.read(position, met));
        if caught_up {
            self.lag = None;
            self.behind = LaneSet::default();
        }
        caught_up
    }

    /// Lanes wanted back of which nothing is unsettled, as `unsettled` tells: they may be handed over.
    pub(super) fn left(&mut self, unsettled: impl Fn(Lane) -> bool) -> Tenancy {
        if self.leaving.is_empty() {
            return Tenancy::new();
        }
        let (stay, gone) = std::mem::take(&mut self.leaving)
            .into_iter()
            .partition(|(lane, _)| unsettled(*lane));
        self.leaving = stay;
        gone
    }

    /// Everything is taken over anew.
    pub(super) fn clear(&mut self) {
        *self = Self {
            leaving: std::mem::take(&mut self.leaving),
            ..Self::default()
        };
    }
}

impl Engine {
    pub(super) fn book_standing(&mut self, now: Instant) {
        let standing = self.standing.borrow_and_update().clone();
        self.telemetry
            .health
            .lanes(standing.lanes.len(), usize::from(self.options.lanes));
        self.telemetry.metrics.lanes_owned(standing.lanes.len());
        self.follow_pauses(&standing.paused);
        if self.reading.sweep.renewed(now) {
            self.reading.due.again();
        }
        match self.phase {
            Phase::Running => self.follow(&standing),
            Phase::Opening | Phase::Draining(_) => drop(self.territory.follow(&Tenancy::new(), &standing.leaving)),
            Phase::Waiting(time) => {
                drop(self.territory.follow(&Tenancy::new(), &standing.leaving));
                self.phase = Phase::Waiting(time.min(now));
            }
        }
    }

    /// Takes over and gives up lanes as the lease task says.
    pub(super) fn follow(&mut self, standing: &Standing) {
        self.valid_until = standing.valid_until;
        if sabotaged!(LeaseEndIgnored) {
            self.valid_until += 100 * self.options.lease_ttl;
        }
        let Some(given_up) = self.territory.follow(&standing.lanes, &standing.leaving) else {
            return self.drain("a lane was lost");
        };
        if !given_up.is_empty() {
            self.holds.forget(&given_up);
            for entry in self.lanes.remove(|entry| given_up.contains(entry.lane)) {
                self.let_go(&entry);
            }
        }
        if self.territory.is_empty() {
            self.drain("no lanes left");
        }
    }

    /// Tells the lease task which lanes it wanted back are free of unsettled rows.
    pub(super) fn report_left(&mut self) {
        let (window, stuck) = (&self.window, &self.settler.stuck);
        // Who waits for a stuck row may wait for ever, and the lane's other rows with it.
        let left = self
            .territory
            .left(|lane| window.count_of(lane) > stuck.of_lane(lane) && !sabotaged!(HandedOverTooEarly));
        if !left.is_empty() {
            self.give_up_stuck(left.keys().copied());
            // The lease task outlives the engine.
            drop(self.left.send(left));
        }
    }

    pub(super) fn lose_lease(&mut self) {
        tracing::warn!("the lease could have ended: publishing stops until it is renewed");
        self.telemetry.metrics.lease_lost();
        for transport in &self.transports {
            transport.abandon();
        }
        self.drain("lease lost");
    }
}
