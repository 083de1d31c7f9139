//! What is read next: the cursor's next page, and one other read beside it, the most urgent first.

use std::sync::Arc;

use tokio::time::Instant;

use crate::message::{KeyId, Seq};
use crate::store::{LaneSet, Room, Scope};

use super::destination::{Breaker, DestinationId};
use super::engine::{Asked, Engine, PageRead, Phase};
use super::found::Laggard;
use super::holds::Recall;
use super::lag::{BEGINNING, Lag};
use super::reading::{Purpose, Question, Turn};

/// A read for several lags looks for so many topics at most.
const TOPICS_TOGETHER: usize = 1_000;
/// What a question needs that brings no rows.
const NOTHING: Room = Room { rows: 0, bytes: 0 };

fn rows_of(lanes: &LaneSet) -> Scope {
    Scope {
        lanes: lanes.clone(),
        ..Scope::default()
    }
}

impl Engine {
    pub(super) fn start_reads(&mut self, now: Instant) {
        let pressed_until = self.destinations.reading_waits_until(now);
        self.reading.wait_until(pressed_until);
        if self.reading.asks_first() {
            self.ask(now);
            self.read_on(now);
        } else {
            self.read_on(now);
            self.ask(now);
        }
    }

    fn read_on(&mut self, now: Instant) {
        if self.reading.is_reading() || now < self.reading.pace.next() || self.cursor_waits() {
            return;
        }
        let Some(room) = self.reading.begin_page(&mut self.window) else {
            return;
        };
        let store = Arc::clone(&self.store);
        let lanes = self.territory.lanes().clone();
        self.page = Some(Box::pin(async move {
            let started = Instant::now();
            let page = store.read(&lanes, room).await;
            PageRead { started, page }
        }));
    }

    fn ask(&mut self, now: Instant) {
        if self.reading.is_asking() || self.phase != Phase::Running {
            return;
        }
        let Some((question, room)) = self.next_question(now) else {
            return;
        };
        self.reading.begin_question(room, &mut self.window);
        let store = Arc::clone(&self.store);
        self.answer = Some(Box::pin(async move {
            let started = Instant::now();
            let answer = question.ask(store, room).await;
            Asked { started, answer }
        }));
    }

    fn next_question(&mut self, now: Instant) -> Option<(Question, Room)> {
        if let Some(question) = self.holds_to_read(now) {
            return Some((question, NOTHING));
        }
        let cursor = self.reading.cursor();
        let room = self.reading.room(&self.window);
        if let Some(room) = room {
            if let Some((key, recall)) = self.holds.next_recall(room.rows) {
                return Some((self.recall(key, recall), room));
            }
            if now >= self.reading.due.at() {
                let after = self.reading.due.begin(now);
                return Some((Question::Due(self.territory.lanes().clone(), after, cursor), room));
            }
        }
        if let Some(seqs) = self.holders_to_check(now) {
            return Some((Question::StillHolding(self.territory.lanes().clone(), seqs), NOTHING));
        }
        if self.commits_stand_still(now) {
            return Some((Question::Blockers, NOTHING));
        }
        let room = room?;
        if now >= self.reading.sweep.at() && !sabotaged!(LateCommitsSkipped) {
            let after = self.reading.sweep.begin().unwrap_or(BEGINNING);
            let all = rows_of(self.territory.lanes());
            return Some((Question::Reread(Purpose::Sweep, all, (after, cursor)), room));
        }
        let (who, room) = self.next_laggard(now, room)?;
        Some((self.read_again(who), room))
    }

    fn holds_to_read(&mut self, now: Instant) -> Option<Question> {
        let anew = self.reading.hold_check.take_unknown(now);
        let arriving = self.territory.arriving();
        let lanes = arriving.or_else(|| anew.then(|| self.territory.held()).filter(|held| !held.is_empty()))?;
        let failed_too = self.routes.any_strict();
        Some(Question::Holds { lanes, failed_too })
    }

    fn holders_to_check(&mut self, now: Instant) -> Option<Vec<Seq>> {
        if self.holds.is_empty() {
            return None;
        }
        let past = |after, count| self.holds.holders_past(after, count);
        let mut seqs = self.reading.hold_check.next(past, now);
        seqs.retain(|seq| !self.window.holds(*seq));
        (!seqs.is_empty()).then_some(seqs)
    }

    fn recall(&self, key: KeyId, recall: Recall) -> Question {
        let lanes = self.territory.lanes();
        match recall {
            Recall::Rows(seqs) => Question::Recall(key, lanes.clone(), seqs),
            Recall::Between(topic, from, to) => {
                let scope = Scope {
                    topics: Some(vec![topic]),
                    key: Some(key),
                    lanes: lanes.clone(),
                };
                // What is parked may stand past the cursor: numbers written by hand do.
                let place = (Seq(from.0.saturating_sub(1)), to);
                Question::Reread(Purpose::Key(key), scope, place)
            }
        }
    }

    /// Reads on for those who lag.
    fn read_again(&mut self, who: Laggard) -> Question {
        let cursor = self.reading.cursor();
        let all = rows_of(self.territory.lanes());
        let (scope, after, upto) = match &who {
            Laggard::Lanes => match self.territory.behind() {
                Some((lanes, next)) => (rows_of(lanes), Some(next), cursor),
                None => (all, None, cursor),
            },
            Laggard::Topic(topic) => {
                let scope = Scope {
                    topics: Some(vec![Arc::clone(topic)]),
                    ..all
                };
                (scope, self.gates.lag(topic).map(|lag| lag.next), cursor)
            }
            Laggard::Destinations(ids) => {
                let scope = Scope {
                    topics: self.destinations.topics(ids),
                    ..all
                };
                let lag = self.destinations.get(ids[0]).lag.as_ref();
                let upto = self.limit_of(ids[0]).unwrap_or(BEGINNING);
                (scope, lag.map(|lag| lag.next), upto)
            }
        };
        match &who {
            Laggard::Lanes => self.territory.lag_mut().into_iter().for_each(Lag::begin),
            Laggard::Topic(topic) => self.gates.lag_mut(topic).into_iter().for_each(Lag::begin),
            Laggard::Destinations(ids) => self.destinations.begin_reading(ids),
        }
        Question::Reread(Purpose::Behind(who), scope, (after.unwrap_or(upto), upto))
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
        let lanes_ready = self.territory.behind().is_some() && self.reading.may_read_lanes(now);
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

    /// The cursor stands still while it has nothing to read for, and for the last page of a lag, or the two would never
    /// meet under load.
    pub(super) fn cursor_waits(&self) -> bool {
        let is_ending = |id| self.may_be_read_on(id) && self.is_about_to_end(id);
        !self.territory.has_lanes_at_the_cursor()
            || self
                .territory
                .behind()
                .is_some_and(|(_, next)| self.reading.is_near(next))
            || self.destinations.lagging().any(is_ending)
            || self.gates.behind().any(|(_, lag)| self.reading.is_near(lag.next))
    }

    fn is_about_to_end(&self, id: DestinationId) -> bool {
        let lag = &self.destinations.get(id).lag;
        lag.as_ref().is_some_and(|lag| self.reading.is_near(lag.next))
    }

    /// Not paused, nor waiting for earlier commits; and one that is on trial only when its last rows came back.
    fn may_be_read_on(&self, id: DestinationId) -> bool {
        let destination = self.destinations.get(id);
        if self.waits_for_commits(id) || self.destinations.is_crowding(id) {
            return false;
        }
        match destination.breaker {
            Breaker::Closed => true,
            Breaker::Trial { .. } => destination.load.rows() == 0,
            Breaker::Open { .. } => false,
        }
    }

    /// Up to where a destination's rows may be sent now; `None`: that is not known yet.
    fn limit_of(&self, id: DestinationId) -> Option<Seq> {
        let cursor = self.reading.cursor();
        if self.destinations.get(id).in_commit_order {
            self.watermark.decided().map(|decided| decided.min(cursor))
        } else {
            Some(cursor)
        }
    }

    /// Its next row waits until an earlier number is decided.
    fn waits_for_commits(&self, id: DestinationId) -> bool {
        let Some(lag) = &self.destinations.get(id).lag else {
            return false;
        };
        let limit = self.limit_of(id);
        limit.is_none_or(|limit| limit < self.reading.cursor() && lag.next >= limit)
    }

    fn somebody_waits_for_commits(&self) -> bool {
        self.destinations.lagging().any(|id| self.waits_for_commits(id))
    }

    /// Some route in commit order has waited for an earlier number for a while.
    fn commits_stand_still(&mut self, now: Instant) -> bool {
        let waits = self.somebody_waits_for_commits();
        self.watermark.asks(|| waits, now)
    }

    /// Nothing waits for a commit any more: takes back what was said.
    pub(super) fn note_commits(&mut self) {
        let waits = self.somebody_waits_for_commits();
        if self.watermark.take_back(|| waits) {
            self.telemetry.health.waits_for_commit(None);
        }
    }
}
