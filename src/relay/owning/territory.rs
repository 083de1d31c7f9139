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

use crate::message::Seq;
use crate::store::{Epoch, Lane, LaneSet, Tenancy};

use crate::relay::waiting::found::{Found, Laggard};
use crate::relay::waiting::lag::{Lag, Way};
use crate::relay::waiting::wait::Wait;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Territory {
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
    pub(crate) fn lanes(&self) -> &LaneSet {
        &self.lanes
    }

    /// The epoch under which this lane's rows are sent and settled; `None`: they are not.
    pub(crate) fn epoch(&self, lane: Lane) -> Option<Epoch> {
        self.epochs.get(&lane).copied()
    }

    /// No lane, and none to come.
    pub(crate) fn is_empty(&self) -> bool {
        self.epochs.is_empty() && self.arriving.is_empty()
    }

    /// Whether the cursor has anything to read for.
    pub(crate) fn has_lanes_at_the_cursor(&self) -> bool {
        self.epochs.len() > self.behind.len()
    }

    /// Lanes whose holds are to be read.
    pub(crate) fn arriving(&self) -> Option<Tenancy> {
        (!self.arriving.is_empty()).then(|| self.arriving.clone())
    }

    /// The lanes worked for, with their epochs.
    pub(crate) fn held(&self) -> Tenancy {
        self.epochs.clone()
    }

    /// Takes over what the lease holds and gives up what it wants back. Answers the lanes given up; `None`: a lane was lost,
    /// or taken anew under another epoch, without having been asked for.
    pub(crate) fn follow(&mut self, held: &Tenancy, wanted_back: &Tenancy) -> Option<LaneSet> {
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
    pub(crate) fn settle_in(&mut self, arrived: &Tenancy) {
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
    pub(crate) fn fall_behind(&mut self) {
        self.behind = self.lanes.clone();
        match &mut self.lag {
            Some(lag) => lag.include(None),
            None if self.behind.is_empty() => {}
            None => self.lag = Some(Lag::from(None)),
        }
    }

    /// Whether a row found so waits for its lane; then it will be found again.
    pub(crate) fn keeps(&self, lane: Lane, seq: Seq, found: &Found, is_holder: bool) -> Option<Wait> {
        if !self.lanes.contains(lane) {
            return Some(Wait::Elsewhere);
        }
        let lag = self.lag.as_ref().filter(|_| self.behind.contains(lane))?;
        let way = found.way(|who| *who == Laggard::Lanes, is_holder);
        (!lag.lets_pass(seq, way)).then_some(Wait::LaneBehind)
    }

    /// A row that [`Self::keeps`] keeps waits behind the lag, where it is not found again anyway.
    pub(crate) fn lag_from(&mut self, seq: Seq, found: &Found, is_holder: bool) {
        let way = found.way(|who| *who == Laggard::Lanes, is_holder);
        if let Some(lag) = self.lag.as_mut().filter(|_| way == Way::Other) {
            lag.include(Some(seq));
        }
    }

    /// The lanes to be read from the beginning on, and how far that has come.
    pub(crate) fn behind(&self) -> Option<(&LaneSet, Seq)> {
        self.lag.as_ref().map(|lag| (&self.behind, lag.next))
    }

    /// Where they lag from.
    pub(crate) fn lag_mut(&mut self) -> Option<&mut Lag> {
        self.lag.as_mut()
    }

    /// That read has come to `position`; `met`: where the cursor stands. Answers whether they have caught up.
    pub(crate) fn read_up_to(&mut self, position: Seq, met: bool) -> bool {
        let caught_up = self.lag.as_mut().is_some_and(|lag| lag.read(position, met));
        if caught_up {
            self.lag = None;
            self.behind = LaneSet::default();
        }
        caught_up
    }

    /// Lanes wanted back of which nothing is unsettled, as `unsettled` tells: they may be handed over.
    pub(crate) fn left(&mut self, unsettled: impl Fn(Lane) -> bool) -> Tenancy {
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
    pub(crate) fn clear(&mut self) {
        *self = Self {
            leaving: std::mem::take(&mut self.leaving),
            ..Self::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeps(territory: &Territory, lane: Lane, found: &Found) -> Option<Wait> {
        territory.keeps(lane, Seq(7), found, false)
    }

    #[test]
    fn a_lane_arrives_is_read_from_the_beginning_and_is_left() {
        let mut territory = Territory::default();
        let (held, none) = (Tenancy::from([(1, 5)]), Tenancy::new());
        assert_eq!(keeps(&territory, 1, &Found::Passing), Some(Wait::Elsewhere));
        territory.follow(&held, &none).unwrap();
        assert_eq!(territory.arriving(), Some(held.clone()));
        territory.settle_in(&held);
        assert_eq!((territory.arriving(), territory.epoch(1)), (None, Some(5)));
        assert_eq!(keeps(&territory, 1, &Found::Passing), Some(Wait::LaneBehind));
        assert!(!territory.has_lanes_at_the_cursor());
        territory.lag_mut().unwrap().begin();
        assert_eq!(keeps(&territory, 1, &Found::Behind(Laggard::Lanes)), None);
        assert!(territory.read_up_to(Seq(9), true) && territory.has_lanes_at_the_cursor());
        let given_up = territory.follow(&none, &held).unwrap();
        assert!(given_up.contains(1) && territory.epoch(1).is_none());
        assert_eq!(territory.left(|_| true), none, "something of it is unsettled");
        assert_eq!(territory.left(|_| false), held);
    }

    #[test]
    fn a_lane_that_is_lost_is_noticed() {
        let mut territory = Territory::default();
        let (held, none) = (Tenancy::from([(1, 5)]), Tenancy::new());
        territory.follow(&held, &none).unwrap();
        assert_eq!(territory.follow(&Tenancy::from([(1, 6)]), &none), None, "taken anew");
        assert_eq!(territory.follow(&none, &none), None);
    }
}
