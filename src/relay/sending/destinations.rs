//! Destinations: one circuit breaker each, and the place from which a destination lags.
//!
//! ```text
//!          refused as Unavailable, timed out with nothing else alive
//!  Closed ────────────────────────────────────────────────────────────> Open: nothing is sent, its rows go back to the
//!    ^                                                                   │    database; `lag` says where to read on from
//!    │ acknowledged, or nothing left to read again                       │ a look at it succeeds (`schedule`), or others recover
//!    └─────────────────────────────── Trial: a few rows are read again <─┘
//! ```
//!
//! A destination that lags is skipped by the cursor (see `lag`): an outage costs one number however long it lasts, and the
//! other destinations go on.
//! What a breaker never does is count an attempt.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::delivery::Failure;
use crate::message::Seq;
use crate::store::Room;
use crate::transport::Probe;

use crate::relay::waiting::found::DestinationId;

use super::destination::{Breaker, Destination};
use super::schedule::{Schedule, Waiting};
use super::share::Load;

/// Idle destinations are forgotten once there are more.
const DESTINATIONS_KEPT: usize = 4_096;
/// So many others of its transport are tried when one recovers: an outage of all ends within a few rounds.
const TRIED_WITH_IT: usize = 4;

/// What the destinations of one transport share.
#[derive(Debug)]
struct OfTransport {
    /// When the paused ones are looked at, and how many there are.
    schedule: Schedule,
    paused: usize,
    load: Load,
}

/// See the module.
pub(crate) struct Destinations {
    ids: HashMap<(usize, Arc<str>), DestinationId>,
    /// Found last.
    last: Option<DestinationId>,
    slots: Vec<Destination>,
    free: Vec<DestinationId>,
    /// Idle ones are looked for when there are so many.
    crowded_at: usize,
    probe_interval: Duration,
    /// When silent destinations are looked for.
    watch_at: Instant,
    /// Destinations that lag or are on trial, the paused ones left out.
    lagging: BTreeSet<DestinationId>,
    transports: Vec<OfTransport>,
    /// The window they share.
    limit: Room,
    /// Destinations that hold most of the window.
    pressing: BTreeSet<DestinationId>,
}

impl Destinations {
    pub(crate) fn new(probe_interval: Duration, transports: usize, limit: Room, now: Instant) -> Self {
        Self {
            limit,
            transports: std::iter::repeat_with(|| OfTransport {
                schedule: Schedule::new(now),
                paused: 0,
                load: Load::default(),
            })
            .take(transports)
            .collect(),
            pressing: BTreeSet::new(),
            ids: HashMap::new(),
            last: None,
            slots: Vec::new(),
            free: Vec::new(),
            crowded_at: DESTINATIONS_KEPT,
            probe_interval,
            watch_at: now,
            lagging: BTreeSet::new(),
        }
    }

    /// The destination called `name` on `transport`, made when it is new.
    pub(crate) fn find(&mut self, transport: usize, name: &Arc<str>) -> DestinationId {
        // Neighbours tend to go to the same place.
        if let Some(id) = self.last.filter(|id| self.get(*id).is(transport, name)) {
            return id;
        }
        if let Some(id) = self.ids.get(&(transport, Arc::clone(name))) {
            self.last = Some(*id);
            return *id;
        }
        if self.ids.len() >= self.crowded_at {
            self.forget_idle();
            self.crowded_at = (self.ids.len() * 2).max(DESTINATIONS_KEPT);
        }
        let destination = Destination::new(transport, Arc::clone(name));
        let id = match self.free.pop() {
            Some(id) => {
                self.slots[id.0] = destination;
                id
            }
            None => {
                self.slots.push(destination);
                DestinationId(self.slots.len() - 1)
            }
        };
        self.ids.insert((transport, Arc::clone(name)), id);
        id
    }

    /// The destination called `name` on `transport`, if anything was sent there lately, or waits for it.
    pub(crate) fn known(&self, transport: usize, name: &Arc<str>) -> Option<DestinationId> {
        self.ids.get(&(transport, Arc::clone(name))).copied()
    }

    fn forget_idle(&mut self) {
        self.last = None;
        let slots = &self.slots;
        let free = &mut self.free;
        self.ids.retain(|_, id| {
            let idle = slots[id.0].is_idle();
            if idle {
                free.push(*id);
            }
            !idle
        });
    }

    pub(crate) fn get(&self, id: DestinationId) -> &Destination {
        &self.slots[id.0]
    }

    pub(crate) fn get_mut(&mut self, id: DestinationId) -> &mut Destination {
        &mut self.slots[id.0]
    }

    /// Destinations whose rows wait in the database, or that are on trial; not the paused ones.
    pub(crate) fn lagging(&self) -> impl Iterator<Item = DestinationId> + '_ {
        self.lagging.iter().copied()
    }

    /// Paused destinations, and those on trial.
    pub(crate) fn troubled(&self) -> impl Iterator<Item = &Destination> {
        let all = self.ids.values().map(|id| self.get(*id));
        all.filter(|destination| !matches!(destination.breaker, Breaker::Closed))
    }

    /// Whether some transport has no paused destination.
    pub(crate) fn some_transport_has_none_paused(&self) -> bool {
        self.transports.iter().any(|of| of.paused == 0)
    }

    /// A row of that destination came into the window.
    pub(crate) fn take(&mut self, id: DestinationId, bytes: usize, now: Instant) {
        let limit = self.limit;
        let destination = &mut self.slots[id.0];
        destination.load.take(bytes, limit, now);
        if destination.load.presses(limit) {
            self.pressing.insert(id);
        }
        self.transports[destination.transport].load.take(bytes, limit, now);
    }

    /// A row of that destination was answered for, or went back to the database.
    pub(crate) fn give_back(&mut self, id: DestinationId, bytes: usize) {
        let destination = &mut self.slots[id.0];
        destination.load.give_back(bytes, self.limit);
        self.transports[destination.transport].load.give_back(bytes, self.limit);
    }

    /// Until when reading waits to see whether a destination or transport that holds most of the window keeps up; `None`: it need not.
    pub(crate) fn reading_waits_until(&mut self, now: Instant) -> Option<Instant> {
        let mut until = None;
        if self.transports.len() > 1 {
            let transports = self.transports.iter_mut();
            until = transports.filter_map(|of| of.load.presses_until(now)).max();
        }
        if self.ids.len() > 1 && !self.pressing.is_empty() {
            let (slots, limit) = (&mut self.slots, self.limit);
            self.pressing.retain(|id| {
                let load = &mut slots[id.0].load;
                until = until.max(load.presses_until(now));
                load.presses(limit)
            });
        }
        until
    }

    /// A limit of its route keeps a row of it back: it is not to fill the window while others wait.
    pub(crate) fn keep_back(&mut self, id: DestinationId) {
        if self.ids.len() > 1 {
            self.slots[id.0].load.keep_back(self.limit);
        }
    }

    /// Whether it, or its transport, does not keep up.
    pub(crate) fn is_crowding(&self, id: DestinationId) -> bool {
        let destination = self.get(id);
        destination.load.is_crowding() || self.transports[destination.transport].load.is_crowding()
    }

    /// What a reread for it may bring without filling more than its share.
    pub(crate) fn room(&self, id: DestinationId, room: Room) -> Option<Room> {
        let destination = self.get(id);
        let mut share = room;
        let mut shrink = |load: &Load| {
            let left = load.room(self.limit);
            share.rows = share.rows.min(left.rows);
            share.bytes = share.bytes.min(left.bytes);
        };
        if self.ids.len() > 1 {
            shrink(&destination.load);
        }
        if self.transports.len() > 1 {
            shrink(&self.transports[destination.transport].load);
        }
        (share.rows > 0 && share.bytes > 0).then_some(share)
    }

    /// `row` of `topic` goes back to the database.
    pub(crate) fn lag_from(&mut self, id: DestinationId, from: Option<Seq>, topic: &Arc<str>) {
        let destination = &mut self.slots[id.0];
        destination.lag_from(from, topic);
        if !destination.is_open() {
            self.lagging.insert(id);
        }
    }

    /// The destination takes nothing now. `true` when that is news.
    pub(crate) fn pause(&mut self, id: DestinationId, now: Instant) -> bool {
        // The first look comes early: most outages are a reconnect long.
        let (wait, news) = match self.get(id).breaker {
            Breaker::Open { .. } => return false,
            Breaker::Closed => (self.probe_interval / 4, true),
            Breaker::Trial { .. } => (self.probe_interval, false),
        };
        self.lagging.remove(&id);
        let destination = &mut self.slots[id.0];
        destination.breaker = Breaker::Open { looked_at: false };
        self.transports[destination.transport].paused += 1;
        let looks = if news { 0 } else { destination.looks.saturating_add(1) };
        self.look_later(id, looks, now + wait);
        news
    }

    /// A paused destination is looked at again, at `at` or later; it was in vain `looks` times so far.
    fn look_later(&mut self, id: DestinationId, looks: u32, at: Instant) {
        let destination = &mut self.slots[id.0];
        destination.looks = looks;
        self.transports[destination.transport]
            .schedule
            .insert(Waiting { looks, at, id });
    }

    /// A paused destination is tried; nobody looks at it any more.
    fn try_rows(&mut self, id: DestinationId, blind: bool) {
        let destination = &mut self.slots[id.0];
        destination.breaker = Breaker::Trial { blind };
        self.transports[destination.transport].paused -= 1;
        self.lagging.insert(id);
    }

    /// Something got through on this transport: others of it are tried, those first that have waited longest. Answers whether
    /// there are any.
    pub(crate) fn try_others(&mut self, transport: usize) -> bool {
        let mut tried = false;
        for _ in 0..TRIED_WITH_IT {
            let Some(id) = self.transports[transport].schedule.take_longest() else {
                break;
            };
            self.try_rows(id, true);
            tried = true;
        }
        tried
    }

    /// Something was acknowledged, at `at` or later. `true` when that ends a pause.
    pub(crate) fn acknowledged(&mut self, id: DestinationId, at: Instant) -> bool {
        let destination = self.get_mut(id);
        destination.alive_at = destination.alive_at.max(Some(at));
        let recovered = matches!(destination.breaker, Breaker::Trial { .. });
        if recovered {
            destination.breaker = Breaker::Closed;
        }
        recovered
    }

    /// Settles the books of a destination whose lag may have ended. `true` when that ends a pause.
    pub(crate) fn tidy(&mut self, id: DestinationId) -> bool {
        let destination = self.get_mut(id);
        let ended = destination.lag.is_none()
            && destination.load.rows() == 0
            && matches!(destination.breaker, Breaker::Trial { .. });
        if ended {
            destination.breaker = Breaker::Closed;
        }
        if destination.takes_new_rows() {
            self.lagging.remove(&id);
        }
        ended
    }

    /// Destinations to look at now, taken as being looked at: paused ones whose turn has come, and those that have not
    /// answered for an interval.
    pub(crate) fn take_due_probes(&mut self, now: Instant) -> Vec<DestinationId> {
        let mut due = Vec::new();
        for OfTransport { schedule, .. } in &mut self.transports {
            while let Some(id) = schedule.take_due(now) {
                if let Breaker::Open { looked_at } = &mut self.slots[id.0].breaker {
                    *looked_at = true;
                }
                due.push(id);
            }
        }
        if now >= self.watch_at {
            self.watch_at = now + self.probe_interval;
            for id in self.ids.values() {
                let destination = &mut self.slots[id.0];
                let silent = destination.load.rows() > 0
                    && destination
                        .waiting_since
                        .is_some_and(|since| now >= since + self.probe_interval);
                if silent
                    && !destination.watched
                    && !destination.is_open()
                    && self.transports[destination.transport].schedule.spend(now)
                {
                    destination.watched = true;
                    due.push(*id);
                }
            }
        }
        due.sort_unstable();
        due
    }

    /// When the next look is due.
    pub(crate) fn next_probe(&self) -> Option<Instant> {
        self.transports.iter().filter_map(|of| of.schedule.next()).min()
    }

    /// A look at a destination was answered.
    pub(crate) fn probed(&mut self, id: DestinationId, answer: &Result<Probe, Failure>, now: Instant) {
        let destination = &mut self.slots[id.0];
        destination.watched = false;
        self.transports[destination.transport].schedule.answered();
        if matches!(answer, Ok(Probe::Ready)) {
            destination.alive_at = Some(now);
        }
        // Its rows may have been tried meanwhile, and refused: then it is not the one that was looked at.
        let Breaker::Open { looked_at } = &mut destination.breaker else {
            return;
        };
        if !std::mem::take(looked_at) {
            return;
        }
        match answer {
            Ok(probe) => self.try_rows(id, matches!(probe, Probe::Unknown(_))),
            Err(_) => {
                let looks = destination.looks.saturating_add(1);
                self.look_later(id, looks, now + self.probe_interval);
            }
        }
    }

    /// Forgets every lag and closes what was only lagging: the store is opened anew and returns every pending row. Paused
    /// destinations stay paused.
    pub(crate) fn reset(&mut self) {
        for destination in &mut self.slots {
            destination.forget();
        }
        let slots = &self.slots;
        self.lagging
            .retain(|id| !matches!(slots[id.0].breaker, Breaker::Closed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room { rows: 100, bytes: 100 };

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_one_number_and_ends_when_the_cursor_is_met() {
        let mut all = Destinations::new(Duration::from_secs(1), 1, ROOM, Instant::now());
        let id = all.find(0, &"d".into());
        let topic: Arc<str> = "t".into();
        assert!(all.pause(id, Instant::now()));
        for seq in [7, 5, 9] {
            all.lag_from(id, Some(Seq(seq)), &topic);
        }
        assert_eq!(all.get(id).lag.as_ref().unwrap().next, Seq(4));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(all.take_due_probes(Instant::now()), [id]);
        assert!(all.take_due_probes(Instant::now()).is_empty(), "one probe at a time");
        all.probed(id, &Ok(Probe::Ready), Instant::now());
        assert!(matches!(all.get(id).breaker, Breaker::Trial { blind: false }));
        assert!(all.acknowledged(id, Instant::now()));
        assert!(!all.get(id).takes_new_rows(), "it lags until the cursor is met");
        all.get_mut(id).lag.as_mut().unwrap().begin();
        all.lag_from(id, Some(Seq(6)), &topic);
        all.get_mut(id).reread(Seq(9), true);
        assert_eq!(
            all.get(id).lag.as_ref().unwrap().next,
            Seq(5),
            "a late row is gone back to"
        );
        all.get_mut(id).reread(Seq(9), true);
        all.tidy(id);
        assert!(all.get(id).takes_new_rows());
        assert_eq!(all.lagging().count(), 0);
    }

    #[tokio::test]
    async fn idle_destinations_are_forgotten() {
        let mut all = Destinations::new(Duration::from_secs(1), 1, ROOM, Instant::now());
        for n in 0..DESTINATIONS_KEPT * 3 {
            all.find(0, &format!("d{n}").into());
        }
        assert!(all.slots.len() <= DESTINATIONS_KEPT);
    }
}
