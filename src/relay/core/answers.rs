//! What the store answered: rows are offered, and whoever was read for is told how far that came.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::delivery::Failure;
use crate::message::{KeyId, Message, Seq};
use crate::relay::event::{Asked, PageRead};
use crate::relay::owning::territory::Territory;
use crate::relay::reading::{Answer, Purpose, Reading, URGENT_ROWS, UrgentFound};
use crate::relay::sending::Sending;
use crate::relay::settling::Settler;
use crate::relay::waiting::Waiting;
use crate::relay::waiting::found::{Found, Laggard};
use crate::relay::waiting::lag::BEGINNING;
use crate::relay::waiting::wait::Wait;
use crate::relay::window::{Read, SeqSet, Window};
use crate::store::{DuePage, Hold, Lane, OpenTransaction, Page, Reread, Room, Row, StoreError};

use super::admission::{Admission, Offered};
use super::ends::Ends;
use super::outcomes::Outcomes;
use super::outlook::Outlook;
use super::recovery::Recovery;
use super::setup::Setup;

/// See the module.
pub(super) struct Answers<'a> {
    pub(super) setup: &'a Setup,
    pub(super) window: &'a mut Window,
    pub(super) territory: &'a mut Territory,
    pub(super) waiting: &'a mut Waiting,
    pub(super) sending: &'a mut Sending,
    pub(super) reading: &'a mut Reading,
    pub(super) settler: &'a mut Settler,
}

/// What a read that was booked says of the store.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It goes on.
    Sound,
    /// Another table or sequence stands behind the name.
    Exchanged,
    /// It did not answer.
    Failed(StoreError),
}

/// What became of offered rows.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    offered: usize,
    queued: usize,
    /// Their topics or destinations take nothing now.
    lagging: usize,
}

impl Answers<'_> {
    pub(super) fn page(&mut self, read: PageRead, now: Instant) -> Verdict {
        let PageRead { started, page } = read;
        self.reading.end_page(self.window);
        // A reread may have found one of them meanwhile, and it may have been sent and settled since.
        let settled = self.window.read_ends(Read::Main);
        let mut page = match page {
            Ok(page) => page,
            Err(error) => return Verdict::Failed(error),
        };
        let telemetry = &self.setup.telemetry;
        telemetry.metrics.fetch_latency(now.saturating_duration_since(started));
        telemetry.metrics.gaps_open(page.gaps);
        telemetry.health.database_up();
        if page.exchanged {
            return Verdict::Exchanged;
        }
        if sabotaged!(LateCommitsSkipped) {
            page.rows.retain(|row| row.message.seq > self.reading.cursor());
        }
        self.reading.advance(page.cursor);
        if let Some(delay) = page.next_due {
            self.reading.due.falls_due_in(delay, now);
        }
        if page.sweep {
            // What was open at the start has committed, and may belong before rows of this page: all are found in order.
            self.territory.fall_behind();
            page.rows.clear();
        }
        page.rows.retain(|row| !settled.contains(&row.message.seq));
        self.pass(page, now);
        Verdict::Sound
    }

    /// The cursor passes these rows.
    fn pass(&mut self, page: Page, now: Instant) {
        let decided = Some(page.decided).filter(|decided| *decided != BEGINNING);
        self.waiting.watermark.stands_at(decided, now);
        let count = self.offer_all(page.rows, &Found::Passing, now);
        self.note_commits();
        self.reading.pace.read(now, count.offered, page.more, page.gaps);
        if self.is_of_no_use(count) {
            self.reading.pace.rest(now);
        }
    }

    /// Nothing that was read can be sent now.
    fn is_of_no_use(&self, count: Count) -> bool {
        count.offered > 0
            && count.lagging == count.offered
            && !self.sending.destinations.some_transport_has_none_paused()
    }

    /// Nothing waits for a commit any more: takes back what was said.
    fn note_commits(&mut self) {
        let outlook = Outlook {
            territory: self.territory,
            waiting: self.waiting,
            destinations: &self.sending.destinations,
            reading: self.reading,
        };
        if self.waiting.watermark.is_named() && !outlook.somebody_waits_for_commits() {
            self.setup.telemetry.health.waits_for_commit(None);
            self.waiting.watermark.take_back();
        }
    }

    /// Offers rows in `seq` order.
    fn offer_all(&mut self, rows: Vec<Row>, found: &Found, now: Instant) -> Count {
        let mut count = Count {
            offered: rows.len(),
            ..Count::default()
        };
        for row in rows {
            match self.admission().offer(row, found, now) {
                Offered::Queued(queue, entry) => {
                    count.queued += 1;
                    self.sending.lanes.push_back(queue, entry);
                }
                Offered::Waits(wait) => {
                    count.lagging += usize::from(wait.is_of_its_address());
                    self.note_wait(wait);
                }
                Offered::Known => {}
                Offered::Rejected(lane, message, failure) => self.reject(lane, &message, failure, now),
            }
        }
        count
    }

    fn admission(&mut self) -> Admission<'_> {
        Admission {
            setup: self.setup,
            window: self.window,
            territory: self.territory,
            waiting: self.waiting,
            destinations: &mut self.sending.destinations,
            lanes: &self.sending.lanes,
            addresses: &mut self.sending.addresses,
        }
    }

    fn note_wait(&mut self, wait: Wait) {
        if wait == Wait::UnknownHolder {
            self.reading.hold_check.unknown_holder();
        }
    }

    fn reject(&mut self, lane: Lane, message: &Message, failure: Failure, now: Instant) {
        let mut outcomes = Outcomes {
            setup: self.setup,
            window: self.window,
            territory: self.territory,
            waiting: self.waiting,
            sending: self.sending,
            reading: self.reading,
            settler: self.settler,
            is_running: true,
        };
        outcomes.reject(lane, message, failure, now);
    }

    pub(super) fn answered(&mut self, asked: Asked, now: Instant) -> Verdict {
        let Asked { started, answer } = asked;
        let room = self.reading.end_question(self.window);
        let settled = self.window.read_ends(Read::Side);
        let is_fresh = |row: &Row| !settled.contains(&row.message.seq);
        match answer {
            Ok(Answer::Holds(lanes, holds)) => {
                let routes = &self.setup.routes;
                for hold in holds {
                    if let Some(route) = routes.find(&hold.topic) {
                        self.waiting.remember_hold(&hold, routes.get(route).order);
                    }
                }
                self.territory.settle_in(&lanes);
                self.reading.lanes_arrived(now);
            }
            Ok(Answer::Urgent(rows)) => {
                let found = self.urgent(rows, room, &settled, now);
                self.reading
                    .urgent
                    .read(found, now.saturating_duration_since(started), now);
                self.window.keep_room(self.reading.urgent.are_expected(now));
            }
            Ok(Answer::Recalled(key, asked, rows)) => self.recalled(key, &asked, (rows, room), &settled, now),
            Ok(Answer::Due(mut page)) => {
                page.rows.retain(is_fresh);
                self.due(page, now);
            }
            Ok(Answer::StillHolding(asked, holds)) => self.hold_check(&asked, &holds),
            Ok(Answer::Blockers(open)) => self.report_blockers(&open),
            Ok(Answer::Reread(_, _, Reread { exchanged: true, .. })) => return Verdict::Exchanged,
            Ok(Answer::Reread(purpose, upto, mut reread)) => {
                reread.rows.retain(is_fresh);
                if reread.sweep {
                    self.territory.fall_behind();
                }
                match purpose {
                    Purpose::Key(key) => self.release(key, reread.rows, reread.position, now),
                    Purpose::Behind(who) => self.behind(&who, reread, upto, now),
                    Purpose::Sweep => self.sweep(reread, now.saturating_duration_since(started), now),
                }
            }
            Err(error) => return Verdict::Failed(error),
        }
        Verdict::Sound
    }

    fn recalled(
        &mut self,
        key: KeyId,
        asked: &[Seq],
        (mut rows, room): (Vec<Row>, Room),
        settled: &SeqSet,
        now: Instant,
    ) {
        // A recall may stop early for its bytes: what it did not reach stays parked.
        let all = rows.len() == asked.len() || rows.iter().map(|row| row.message.size()).sum::<usize>() < room.bytes;
        let last = if all {
            asked.last()
        } else {
            rows.last().map(|row| &row.message.seq)
        };
        let upto = last.copied().expect("a recall asks for one row at least");
        rows.retain(|row| !settled.contains(&row.message.seq));
        self.release(key, rows, upto, now);
    }

    /// Offers rows that overtake, as long as the window has room: what follows one that found none must not go before it.
    fn urgent(&mut self, rows: Vec<Row>, room: Room, settled: &SeqSet, now: Instant) -> UrgentFound {
        let bytes: usize = rows.iter().map(|row| row.message.size()).sum();
        let mut found = UrgentFound {
            any: !rows.is_empty(),
            full: rows.len() >= URGENT_ROWS || bytes >= room.bytes,
            ..UrgentFound::default()
        };
        for row in rows {
            let free = self.window.free_for_urgent();
            if free.rows == 0 || free.bytes == 0 {
                found.no_room = true;
                break;
            }
            if settled.contains(&row.message.seq) {
                continue;
            }
            let topic = Arc::clone(&row.message.topic);
            match self.admission().offer(row, &Found::Urgent, now) {
                Offered::Queued(queue, entry) => {
                    found.queued += 1;
                    self.sending.lanes.push_back(queue, entry);
                }
                Offered::Waits(wait) if wait.is_of_its_address() || wait.is_of_its_route() => found.shut.push(topic),
                Offered::Waits(_) | Offered::Known => {}
                Offered::Rejected(lane, message, failure) => self.reject(lane, &message, failure, now),
            }
        }
        found
    }

    fn due(&mut self, mut page: DuePage, now: Instant) {
        // Those of a key that failed together are due in any order, and go in their own.
        page.rows.sort_by_key(|row| row.message.seq);
        self.offer_all(page.rows, &Found::Due, now);
        self.reading.due.read(page.next, page.next_due, now);
    }

    fn sweep(&mut self, reread: Reread, took: Duration, now: Instant) {
        let Count { queued, .. } = self.offer_all(reread.rows, &Found::Passing, now);
        if queued > 0 {
            tracing::debug!(rows = queued, "found by the sweep");
        }
        if reread.done {
            self.waiting.unrouted.review(&self.setup.telemetry);
        }
        let upto = (!reread.done).then_some(reread.position);
        self.reading.sweep.read(upto, took, now);
    }

    fn behind(&mut self, who: &Laggard, reread: Reread, upto: Seq, now: Instant) {
        let position = reread.position;
        let met = reread.done && upto == self.reading.cursor();
        let count = self.offer_all(reread.rows, &Found::Behind(who.clone()), now);
        let caught_up = match who {
            Laggard::Lanes => {
                if self.is_of_no_use(count) {
                    let pause = self.setup.options.poll_interval_max;
                    self.reading.rest_lanes_until(now + pause);
                }
                self.territory.read_up_to(position, met)
            }
            Laggard::Topic(topic) => self.waiting.topics.read_up_to(topic, position, met),
            Laggard::Destinations(ids) => {
                let mut recovery = Recovery {
                    telemetry: &self.setup.telemetry,
                    destinations: &mut self.sending.destinations,
                    reading: self.reading,
                };
                for id in ids.iter().copied() {
                    recovery.destinations.get_mut(id).reread(position, met);
                    recovery.tidy(id, now);
                }
                false
            }
        };
        if caught_up {
            self.reading.caught_up(now);
        }
    }

    fn hold_check(&mut self, asked: &[Seq], still: &[Hold]) {
        let still: HashMap<Seq, &Hold> = still.iter().map(|hold| (hold.seq, hold)).collect();
        for seq in asked {
            // Another message may have the number by now: it holds a key of its own, if any.
            let row = still
                .get(seq)
                .filter(|hold| self.waiting.holds.is_held_by(*seq, hold.key));
            let holds = row.is_some_and(|hold| !hold.failed || self.waiting.holds.is_strict(*seq));
            if !holds && !self.window.holds(*seq) {
                let mut ends = Ends {
                    window: self.window,
                    holds: &mut self.waiting.holds,
                    reading: self.reading,
                };
                ends.resolve(*seq);
            }
        }
    }

    fn report_blockers(&mut self, open: &[OpenTransaction]) {
        if let Some(blocker) = open.first() {
            let decided = self.waiting.watermark.decided().unwrap_or(BEGINNING);
            tracing::warn!(%decided, others = open.len() - 1, "commit order waits for {blocker}");
            self.setup.telemetry.health.waits_for_commit(Some(blocker.to_string()));
            self.waiting.watermark.name();
        }
    }

    /// Rows parked behind a key that is free again go before whatever of the key is queued.
    fn release(&mut self, id: KeyId, mut rows: Vec<Row>, upto: Seq, now: Instant) {
        if !self.waiting.holds.is_fetching(id) {
            return; // Its lane was given up meanwhile, or its destination lags: its rows are found by that.
        }
        // What parked meanwhile is fetched next; what is behind it, with it.
        let missed = self.waiting.holds.missed_from(id);
        let upto = missed.map_or(upto, |missed| upto.min(Seq(missed.0 - 1)));
        // By its number alone another table's row may have come.
        let is_of_key = |message: &Message| {
            let key = message.key.as_deref();
            key.is_some_and(|key| KeyId::of(&message.topic, key) == id)
        };
        rows.retain(|row| row.message.seq <= upto && is_of_key(&row.message));
        let mut entries = Vec::with_capacity(rows.len());
        let queue = rows.first().and_then(|row| {
            let route = self.setup.routes.get(self.setup.routes.find(&row.message.topic)?);
            Some(self.sending.lanes.queue(row.lane, route.transport))
        });
        for row in rows {
            match self.admission().offer(row, &Found::Released, now) {
                Offered::Queued(_, entry) => entries.push(entry),
                Offered::Waits(_) | Offered::Known => {}
                Offered::Rejected(lane, message, failure) => self.reject(lane, &message, failure, now),
            }
        }
        if let Some(queue) = queue {
            // Another read may have queued some of them already, or all, behind later ones.
            entries.extend(self.sending.lanes.remove_from(queue, |entry| {
                let message = &entry.envelope.message;
                message.seq <= upto && is_of_key(message)
            }));
            entries.sort_by_key(|entry| entry.envelope.message.seq);
            for entry in &mut entries {
                entry.released = true;
            }
            self.sending.lanes.push_front(queue, entries);
        }
        self.waiting.holds.recalled(id, upto);
    }
}
