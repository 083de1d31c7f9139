//! What is read next: the cursor's next page, and one other read beside it, the most urgent first.

use std::sync::Arc;

use tokio::time::Instant;

use crate::message::{KeyId, Seq};
use crate::relay::event::Effect;
use crate::relay::owning::territory::Territory;
use crate::relay::reading::{Purpose, Question, Reading, Turn};
use crate::relay::sending::destinations::Destinations;
use crate::relay::waiting::Waiting;
use crate::relay::waiting::found::{DestinationId, Laggard};
use crate::relay::waiting::holds::Recall;
use crate::relay::waiting::lag::{BEGINNING, Lag};
use crate::relay::window::Window;
use crate::store::{LaneSet, Room, Scope};

use super::outlook::Outlook;
use super::recovery::Recovery;
use super::setup::Setup;

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

/// See the module.
pub(super) struct Asking<'a> {
    pub(super) setup: &'a Setup,
    pub(super) window: &'a mut Window,
    pub(super) territory: &'a mut Territory,
    pub(super) waiting: &'a mut Waiting,
    pub(super) destinations: &'a mut Destinations,
    pub(super) reading: &'a mut Reading,
}

impl Asking<'_> {
    /// What is read now: the cursor's page, another read, or both; those first that came second when room was short.
    pub(super) fn reads(&mut self, now: Instant) -> [Option<Effect>; 2] {
        let pressed_until = self.destinations.reading_waits_until(now);
        self.reading.wait_until(pressed_until);
        if self.reading.asks_first() {
            [self.ask(now), self.read_on(now)]
        } else {
            [self.read_on(now), self.ask(now)]
        }
    }

    fn read_on(&mut self, now: Instant) -> Option<Effect> {
        if self.reading.is_reading() || now < self.reading.pace.next() || self.outlook().cursor_waits() {
            return None;
        }
        let room = self.reading.begin_page(self.window)?;
        Some(Effect::Read(self.territory.lanes().clone(), room))
    }

    fn ask(&mut self, now: Instant) -> Option<Effect> {
        if self.reading.is_asking() {
            return None;
        }
        let (question, room) = self.next_question(now)?;
        self.reading.begin_question(room, self.window);
        Some(Effect::Ask(question, room))
    }

    fn outlook(&self) -> Outlook<'_> {
        Outlook {
            territory: self.territory,
            waiting: self.waiting,
            destinations: self.destinations,
            reading: self.reading,
        }
    }

    fn next_question(&mut self, now: Instant) -> Option<(Question, Room)> {
        if let Some(question) = self.holds_to_read(now) {
            return Some((question, NOTHING));
        }
        if let Some(urgent) = self.what_overtakes(now) {
            return Some(urgent);
        }
        let cursor = self.reading.cursor();
        let room = self.reading.room(self.window);
        if let Some(room) = room {
            if let Some((key, recall)) = self.waiting.holds.next_recall(room.rows) {
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
        if self.waiting.watermark.asks_at(now) && self.outlook().somebody_waits_for_commits() {
            self.waiting.watermark.asked(now);
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

    fn what_overtakes(&mut self, now: Instant) -> Option<(Question, Room)> {
        if now < self.reading.urgent.at() || !self.outlook().may_be_overtaken(self.window) {
            return None;
        }
        let room = self.reading.room_for_urgent(self.window);
        let left_out = self.reading.urgent.begin(now);
        Some((Question::Urgent(self.territory.lanes().clone(), left_out), room))
    }

    fn holds_to_read(&mut self, now: Instant) -> Option<Question> {
        let anew = self.reading.hold_check.take_unknown(now);
        let arriving = self.territory.arriving();
        let lanes = arriving.or_else(|| anew.then(|| self.territory.held()).filter(|held| !held.is_empty()))?;
        let failed_too = self.setup.routes.any_strict();
        Some(Question::Holds { lanes, failed_too })
    }

    fn holders_to_check(&mut self, now: Instant) -> Option<Vec<Seq>> {
        if self.waiting.holds.is_empty() {
            return None;
        }
        let past = |after, count| self.waiting.holds.holders_past(after, count);
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
                (scope, self.waiting.topics.lag(topic).map(|lag| lag.next), cursor)
            }
            Laggard::Destinations(ids) => {
                let scope = Scope {
                    topics: self.destinations.topics(ids),
                    ..all
                };
                let lag = self.destinations.get(ids[0]).lag.as_ref();
                let upto = self.outlook().limit_of(ids[0]).unwrap_or(BEGINNING);
                (scope, lag.map(|lag| lag.next), upto)
            }
        };
        match &who {
            Laggard::Lanes => self.territory.lag_mut().into_iter().for_each(Lag::begin),
            Laggard::Topic(topic) => self.waiting.topics.lag_mut(topic).into_iter().for_each(Lag::begin),
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
        let behind: Vec<&Arc<str>> = self.waiting.topics.behind().map(|(topic, _)| topic).collect();
        self.reading.turns.topic(&behind).map(Laggard::Topic)
    }

    fn next_destination_or_lanes(&mut self, now: Instant, room: Room) -> Option<(Laggard, Room)> {
        let lagging: Vec<DestinationId> = self.destinations.lagging().collect();
        let mut ready = Vec::with_capacity(lagging.len());
        for id in lagging {
            let mut recovery = Recovery {
                telemetry: &self.setup.telemetry,
                destinations: self.destinations,
                reading: self.reading,
            };
            recovery.tidy(id, now);
            let lags = self.destinations.get(id).lag.is_some();
            if lags && self.outlook().may_be_read_on(id) && self.destinations.room(id, room).is_some() {
                ready.push(id);
            }
        }
        let lanes_ready = self.territory.behind().is_some() && self.reading.may_read_lanes(now);
        let ending = ready.iter().copied().find(|id| self.outlook().is_about_to_end(*id));
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
}
