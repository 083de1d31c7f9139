//! What the store answered: rows are offered, and whoever was read for is told how far that came.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::message::{KeyId, Message, Seq};
use crate::store::{DuePage, Hold, OpenTransaction, Page, Reread, Room, Row, StoreError};

use super::RelayError;
use super::admission::Admission;
use super::engine::{Asked, Engine, PageRead};
use super::found::{Found, Laggard};
use super::lag::BEGINNING;
use super::reading::{Answer, Purpose};
use super::window::{Read, SeqSet};

impl Engine {
    pub(super) fn book_page(&mut self, read: PageRead, now: Instant) -> Result<(), RelayError> {
        let PageRead { started, page } = read;
        self.reading.end_page(&mut self.window);
        // A reread may have found one of them meanwhile, and it may have been sent and settled since.
        let settled = self.window.read_ends(Read::Main);
        let mut page = match page {
            Ok(page) => page,
            Err(error) => return self.read_failed(error, now),
        };
        self.telemetry
            .metrics
            .fetch_latency(now.saturating_duration_since(started));
        self.telemetry.metrics.gaps_open(page.gaps);
        self.telemetry.health.database_up();
        if page.exchanged {
            self.start_over(now);
            return Ok(());
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
        Ok(())
    }

    /// The cursor passes these rows.
    fn pass(&mut self, page: Page, now: Instant) {
        let found = page.rows.len();
        let decided = Some(page.decided).filter(|decided| *decided != BEGINNING);
        self.watermark.stands_at(decided, now);
        let (_, lagging) = self.admit_all(page.rows, &Found::Passing, now);
        self.note_commits();
        self.reading.pace.read(now, found, page.more, page.gaps);
        if found > 0 && lagging == found && !self.destinations.any_transport_at_peace() {
            self.reading.pace.rest(now);
        }
    }

    fn read_failed(&mut self, error: StoreError, now: Instant) -> Result<(), RelayError> {
        self.database_away(error, now)?;
        self.drain("a read failed");
        Ok(())
    }

    pub(super) fn book_answer(&mut self, asked: Asked, now: Instant) -> Result<(), RelayError> {
        let Asked { started, answer } = asked;
        let room = self.reading.end_question(&mut self.window);
        let settled = self.window.read_ends(Read::Side);
        let is_fresh = |row: &Row| !settled.contains(&row.message.seq);
        match answer {
            Ok(Answer::Holds(lanes, holds)) => {
                for hold in holds {
                    self.remember_hold(&hold);
                }
                self.territory.settle_in(&lanes);
                self.reading.lanes_arrived(now);
            }
            Ok(Answer::Recalled(key, asked, rows)) => self.book_recalled(key, &asked, (rows, room), &settled, now),
            Ok(Answer::Due(mut page)) => {
                page.rows.retain(is_fresh);
                self.book_due(page, now);
            }
            Ok(Answer::StillHolding(asked, holds)) => self.book_hold_check(&asked, &holds),
            Ok(Answer::Blockers(open)) => self.report_blockers(&open),
            Ok(Answer::Reread(_, _, Reread { exchanged: true, .. })) => self.start_over(now),
            Ok(Answer::Reread(purpose, upto, mut reread)) => {
                reread.rows.retain(is_fresh);
                if reread.sweep {
                    self.territory.fall_behind();
                }
                match purpose {
                    Purpose::Key(key) => self.release(key, reread.rows, reread.position, now),
                    Purpose::Behind(who) => self.book_behind(&who, reread, upto, now),
                    Purpose::Sweep => self.book_sweep(reread, now.saturating_duration_since(started), now),
                }
            }
            Err(error) => return self.read_failed(error, now),
        }
        Ok(())
    }

    fn book_recalled(
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

    fn book_due(&mut self, mut page: DuePage, now: Instant) {
        // Those of a key that failed together are due in any order, and go in their own.
        page.rows.sort_by_key(|row| row.message.seq);
        self.admit_all(page.rows, &Found::Due, now);
        self.reading.due.read(page.next, page.next_due, now);
    }

    fn book_sweep(&mut self, reread: Reread, took: Duration, now: Instant) {
        let (queued, _) = self.admit_all(reread.rows, &Found::Passing, now);
        if queued > 0 {
            tracing::debug!(rows = queued, "found by the sweep");
        }
        if reread.done {
            self.review_unrouted();
        }
        let upto = (!reread.done).then_some(reread.position);
        self.reading.sweep.read(upto, took, now);
    }

    fn book_behind(&mut self, who: &Laggard, reread: Reread, upto: Seq, now: Instant) {
        let (found, position) = (reread.rows.len(), reread.position);
        let met = reread.done && upto == self.reading.cursor();
        let (_, lagging) = self.admit_all(reread.rows, &Found::Behind(who.clone()), now);
        let caught_up = match who {
            Laggard::Lanes => {
                if found > 0 && lagging == found && !self.destinations.any_transport_at_peace() {
                    self.reading.rest_lanes_until(now + self.options.poll_interval_max);
                }
                self.territory.read_up_to(position, met)
            }
            Laggard::Topic(topic) => self.gates.read_up_to(topic, position, met),
            Laggard::Destinations(ids) => {
                for id in ids.iter().copied() {
                    self.destinations.get_mut(id).reread(position, met);
                    if self.destinations.tidy(id) {
                        self.recovered(id, now);
                    }
                }
                false
            }
        };
        if caught_up {
            self.reading.caught_up(now);
        }
    }

    fn book_hold_check(&mut self, asked: &[Seq], still: &[Hold]) {
        let still: HashMap<Seq, &Hold> = still.iter().map(|hold| (hold.seq, hold)).collect();
        for seq in asked {
            // Another message may have the number by now: it holds a key of its own, if any.
            let row = still.get(seq).filter(|hold| self.holds.is_held_by(*seq, hold.key));
            let holds = row.is_some_and(|hold| !hold.failed || self.holds.is_strict(*seq));
            if !holds && !self.window.holds(*seq) {
                self.resolve(*seq);
            }
        }
    }

    fn report_blockers(&mut self, open: &[OpenTransaction]) {
        if let Some(blocker) = open.first() {
            let decided = self.watermark.decided().unwrap_or(BEGINNING);
            tracing::warn!(%decided, others = open.len() - 1, "commit order waits for {blocker}");
            self.telemetry.health.waits_for_commit(Some(blocker.to_string()));
            self.watermark.name();
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
