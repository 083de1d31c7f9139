//! One other read at a time, beside the cursor's: most urgent first.
//!
//! The holds of lanes just taken over, rows parked behind a key that is released, rows whose time has come, whether holders
//! still hold, the sweep for what numbers written by hand or cached by a session have hidden, and rows behind a lag.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::message::{KeyId, Message, Seq};
use crate::store::{DuePage, LaneSet, Reread, Room, Row, Scope};

use super::admission::Admission;
use super::destination::DestinationId;
use super::engine::{Engine, Phase};
use super::found::{Found, Laggard};
use super::holds::Recall;
use super::lag::Lag;
use super::reading::DUE_INTERVAL;
use super::side::{Answer, Side, SideAnswer, fetch};
use super::turns::Turn;
use super::window::Read;

/// A read for several lags looks for so many topics at most.
const TOPICS_TOGETHER: usize = 1_000;

impl Engine {
    pub(super) fn start_side(&mut self, now: Instant) {
        if self.reading.side.is_some() || self.phase != Phase::Running {
            return;
        }
        let Some((side, room)) = self.choose_side(now) else {
            return;
        };
        self.window.reserve(room);
        self.window.read_begins(Read::Side);
        self.reading.side_room = Some(room);
        self.reading.side_first = false;
        let upto = match &side {
            Side::Behind(Laggard::Destinations(ids)) => self.limit_of(ids[0]),
            // What is parked may stand past the cursor: numbers written by hand do.
            Side::Recall(_, Recall::Between(_, _, to)) => *to,
            Side::Arrive(..)
            | Side::Recall(_, Recall::Rows(_))
            | Side::Due(_)
            | Side::Behind(Laggard::Lanes | Laggard::Topic(_))
            | Side::CheckHolds(_)
            | Side::NameBlockers
            | Side::Sweep(_) => self.reading.cursor,
        };
        let scope = self.scope(&side);
        let after = match &side {
            Side::Behind(who) => self.place_of(who).unwrap_or(upto),
            Side::Recall(_, Recall::Between(_, from, _)) => Seq(from.0.saturating_sub(1)),
            Side::Sweep(seq) => *seq,
            Side::Arrive(..)
            | Side::Recall(_, Recall::Rows(_))
            | Side::Due(_)
            | Side::CheckHolds(_)
            | Side::NameBlockers => upto,
        };
        let store = Arc::clone(&self.store);
        self.reading.side = Some(Box::pin(async move {
            let started = Instant::now();
            let found = fetch(&*store, &side, &scope, (after, upto), room).await;
            SideAnswer {
                side,
                room,
                upto,
                started,
                found,
            }
        }));
    }

    /// Which pending rows it looks at.
    fn scope(&self, side: &Side) -> Scope {
        let lanes = || self.territory.lanes().clone();
        let all = |lanes| Scope {
            lanes,
            ..Scope::default()
        };
        match side {
            Side::Arrive(lanes, _) => all(LaneSet::of(lanes.keys().copied())),
            Side::Behind(Laggard::Lanes) => all(self.territory.behind().map_or_else(lanes, |(lanes, _)| lanes.clone())),
            Side::Behind(Laggard::Destinations(ids)) => Scope {
                topics: self.destinations.topics(ids),
                ..all(lanes())
            },
            Side::Behind(Laggard::Topic(topic)) => Scope {
                topics: Some(vec![Arc::clone(topic)]),
                ..all(lanes())
            },
            Side::Recall(id, Recall::Between(topic, ..)) => Scope {
                topics: Some(vec![Arc::clone(topic)]),
                key: Some(*id),
                lanes: lanes(),
            },
            Side::Recall(_, Recall::Rows(_))
            | Side::Due(_)
            | Side::CheckHolds(_)
            | Side::NameBlockers
            | Side::Sweep(_) => all(lanes()),
        }
    }

    fn choose_side(&mut self, now: Instant) -> Option<(Side, Room)> {
        let nothing = Room { rows: 0, bytes: 0 };
        let anew = self
            .reading
            .holds_to_read(now)
            .then(|| self.territory.held())
            .filter(|held| !held.is_empty());
        if let Some(arriving) = self.territory.arriving().or(anew) {
            return Some((Side::Arrive(Arc::new(arriving), self.routes.any_strict()), nothing));
        }
        let room = self.reading.room(&self.window, self.reading.batch_size);
        if let Some(room) = room {
            if let Some((id, recall)) = self.holds.next_recall(room.rows) {
                return Some((Side::Recall(id, recall), room));
            }
            if now >= self.reading.due_at {
                if self.reading.due_after.is_none() {
                    self.reading.due_started = now;
                }
                return Some((Side::Due(self.reading.due_after), room));
            }
        }
        if let Some(seqs) = self.holds_to_check(now) {
            return Some((Side::CheckHolds(Arc::new(seqs)), nothing));
        }
        if self.commits_stand_still(now) {
            return Some((Side::NameBlockers, nothing));
        }
        let room = room?;
        if now >= self.reading.sweep_at && !sabotaged!(LateCommitsSkipped) {
            if self.reading.sweep_after == Seq(i64::MIN) {
                self.reading.sweep_again = false;
            }
            return Some((Side::Sweep(self.reading.sweep_after), room));
        }
        let (who, room) = self.next_laggard(now, room)?;
        self.begin_reading(&who);
        Some((Side::Behind(who), room))
    }

    /// Who is read on next, and what that read may bring.
    fn next_laggard(&mut self, now: Instant, room: Room) -> Option<(Laggard, Room)> {
        if self.reading.turns.topics_first()
            && let Some(topic) = self.next_topic()
        {
            return Some((topic, room));
        }
        let other = self.next_destination_or_lanes(now, room);
        other.or_else(|| self.next_topic().map(|topic| (topic, room)))
    }

    fn next_topic(&mut self) -> Option<Laggard> {
        let behind: Vec<&Arc<str>> = self.gates.behind().map(|(topic, _)| topic).collect();
        self.reading.turns.topic(&behind).map(Laggard::Topic)
    }

    fn next_destination_or_lanes(&mut self, now: Instant, room: Room) -> Option<(Laggard, Room)> {
        let lagging: Vec<DestinationId> = self.destinations.lagging().collect();
        let mut ready = Vec::with_capacity(lagging.len());
        for id in lagging {
            if self.destinations.tidy(id) {
                self.recovered(id, now);
            }
            let lags = self.destinations.get(id).lag.is_some();
            if lags && self.may_be_read_on(id) && self.destinations.room(id, room).is_some() {
                ready.push(id);
            }
        }
        // While the cursor may still pass rows of lanes that arrived meanwhile, nobody can tell that it was met.
        let lanes_ready =
            self.territory.behind().is_some() && now >= self.reading.lanes_at && !self.reading.main_is_stale;
        let ending = ready.iter().copied().find(|id| self.is_about_to_end(*id));
        match self.reading.turns.other(&ready, ending, lanes_ready)? {
            Turn::Lanes => Some((Laggard::Lanes, room)),
            Turn::Destination(id) => {
                let together = self.destinations.read_with(id, &ready, TOPICS_TOGETHER);
                let mut room = self.destinations.room(id, room)?;
                if let ([_], Some(rows)) = (&*together, self.destinations.get(id).tried_with()) {
                    room.rows = room.rows.min(rows);
                }
                Some((Laggard::Destinations(together.into()), room))
            }
        }
    }

    /// Where these are read on from.
    fn place_of(&self, who: &Laggard) -> Option<Seq> {
        match who {
            Laggard::Lanes => self.territory.behind().map(|(_, next)| next),
            Laggard::Topic(topic) => self.gates.lag(topic).map(|lag| lag.next),
            Laggard::Destinations(ids) => self.destinations.get(ids[0]).lag.as_ref().map(|lag| lag.next),
        }
    }

    /// A read for these begins.
    fn begin_reading(&mut self, who: &Laggard) {
        match who {
            Laggard::Lanes => self.territory.lag_mut().into_iter().for_each(Lag::begin),
            Laggard::Topic(topic) => self.gates.lag_mut(topic).into_iter().for_each(Lag::begin),
            Laggard::Destinations(ids) => self.destinations.begin_reading(ids),
        }
    }

    pub(super) fn book_side(&mut self, answer: SideAnswer, now: Instant) -> Result<(), super::RelayError> {
        let SideAnswer {
            side,
            room,
            upto,
            started,
            found,
        } = answer;
        self.window.unreserve(room);
        self.reading.side_room = None;
        let settled = self.window.read_ends(Read::Side);
        let is_fresh = |row: &Row| !settled.contains(&row.message.seq);
        let mut found = match found {
            Ok(found) => found,
            Err(error) => return self.read_failed(error, now),
        };
        match &mut found {
            Answer::Reread(reread) => reread.rows.retain(is_fresh),
            Answer::Due(page) => page.rows.retain(is_fresh),
            Answer::Rows(_) | Answer::Holds(_) | Answer::Transactions(_) => {}
        }
        let took = now.saturating_duration_since(started);
        if let Answer::Reread(Reread { exchanged: true, .. }) = found {
            self.start_over(now);
            return Ok(());
        }
        if let Answer::Reread(Reread { sweep: true, .. }) = found {
            self.territory.fall_behind();
        }
        match (side, found) {
            (Side::Recall(id, Recall::Rows(asked)), Answer::Rows(mut rows)) => {
                // A recall may stop early for its bytes: what it did not reach stays parked.
                let all =
                    rows.len() == asked.len() || rows.iter().map(|row| row.message.size()).sum::<usize>() < room.bytes;
                let last = if all {
                    asked.last()
                } else {
                    rows.last().map(|row| &row.message.seq)
                };
                let upto = last.copied().expect("a recall asks for one row at least");
                rows.retain(is_fresh);
                self.release(id, rows, upto, now);
            }
            (Side::Recall(id, Recall::Between(..)), Answer::Reread(reread)) => {
                self.release(id, reread.rows, reread.position, now)
            }
            (Side::Due(_), Answer::Due(page)) => self.book_due(page, now),
            (Side::Arrive(lanes, _), Answer::Holds(holds)) => {
                for hold in holds {
                    self.remember_hold(&hold);
                }
                self.territory.settle_in(&lanes);
                self.reading.main_is_stale = self.reading.main.is_some();
                self.reading.due_at = now;
            }
            (Side::Behind(who), Answer::Reread(reread)) => self.book_behind(&who, reread, upto, now),
            (Side::Sweep(_), Answer::Reread(reread)) => self.book_sweep(reread, took, now),
            (Side::CheckHolds(asked), Answer::Holds(holds)) => self.book_hold_check(&asked, &holds),
            (Side::NameBlockers, Answer::Transactions(open)) => self.report_blockers(&open),
            (side, _) => unreachable!("{side:?} was answered with something else"),
        }
        Ok(())
    }

    fn book_behind(&mut self, who: &Laggard, reread: Reread, upto: Seq, now: Instant) {
        let (found, position) = (reread.rows.len(), reread.position);
        let met = reread.done && upto == self.reading.cursor;
        let (_, lagging) = self.admit_all(reread.rows, &Found::Behind(who.clone()), now);
        match who {
            Laggard::Lanes => {
                if found > 0 && lagging == found && !self.destinations.any_transport_at_peace() {
                    self.reading.lanes_at = now + self.options.poll_interval_max;
                }
                if self.territory.read_up_to(position, met) {
                    self.caught_up(now);
                }
            }
            Laggard::Topic(topic) => {
                if self.gates.read_up_to(topic, position, met) {
                    self.caught_up(now);
                }
            }
            Laggard::Destinations(ids) => {
                for id in ids.iter().copied() {
                    self.destinations.get_mut(id).reread(position, met);
                    if self.destinations.tidy(id) {
                        self.recovered(id, now);
                    }
                }
            }
        }
    }

    /// Retries past where a lag stood were left alone: they are looked for again now that it has ended.
    fn caught_up(&mut self, now: Instant) {
        self.reading.due_again();
        self.reading.pace.hint(now);
    }

    fn book_due(&mut self, mut page: DuePage, now: Instant) {
        // Those of a key that failed together are due in any order, and go in their own.
        page.rows.sort_by_key(|row| row.message.seq);
        self.admit_all(page.rows, &Found::Due, now);
        self.reading.due_after = page.next;
        if page.next.is_none() {
            let walk = now.saturating_duration_since(self.reading.due_started);
            let next = page.next_due.unwrap_or(DUE_INTERVAL).min(DUE_INTERVAL);
            let pause = next.max(walk * 5).max(Duration::from_millis(1));
            let anew = std::mem::take(&mut self.reading.due_anew);
            self.reading.due_at = if anew { now } else { now + pause };
        }
    }

    /// Rows parked behind a key that is free again go before whatever of the key is queued.
    fn release(&mut self, id: KeyId, mut rows: Vec<Row>, upto: Seq, now: Instant) {
        if !self.holds.is_fetching(id) {
            return; // Its lane was given up meanwhile, or its destination lags: its rows are found by that.
        }
        // What parked meanwhile is fetched next; what is behind it, with it.
        let upto = self
            .holds
            .missed_from(id)
            .map_or(upto, |missed| upto.min(Seq(missed.0 - 1)));
        // By its number alone another table's row may have come.
        let is_of_key = |message: &Message| {
            let key = message.key.as_deref();
            key.is_some_and(|key| KeyId::of(&message.topic, key) == id)
        };
        rows.retain(|row| row.message.seq <= upto && is_of_key(&row.message));
        let mut entries = Vec::with_capacity(rows.len());
        let queue = rows.first().and_then(|row| {
            let route = self.routes.get(self.routes.find(&row.message.topic)?);
            Some(self.lanes.queue(row.lane, route.transport))
        });
        for row in rows {
            if let Admission::Queued(_, entry) = self.admit(row, &Found::Released, now) {
                entries.push(entry);
            }
        }
        if let Some(queue) = queue {
            // Another read may have queued some of them already, or all, behind later ones.
            entries.extend(self.lanes.remove_from(queue, |entry| {
                let message = &entry.envelope.message;
                message.seq <= upto && is_of_key(message)
            }));
            entries.sort_by_key(|entry| entry.envelope.message.seq);
            for entry in &mut entries {
                entry.released = true;
            }
            self.lanes.push_front(queue, entries);
        }
        self.holds.recalled(id, upto);
    }
}
