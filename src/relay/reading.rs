//! What to read next: the cursor's next page beside one other read at a time.
//!
//! Every read is promised room in the window before it starts; cursor and others take turns when room is short.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::message::Seq;
use crate::store::{DuePosition, Page, Room, StoreError};

use super::Options;
use super::destination::Breaker;
use super::destination::DestinationId;
use super::engine::Engine;
use super::found::Found;
use super::pace::Pace;
use super::side::SideAnswer;
use super::turns::Turns;
use super::window::{Read, Window};

/// Due rows are looked for at least this often: an operator's retry sends no notification.
pub(super) const DUE_INTERVAL: Duration = Duration::from_secs(1);

/// The cursor's read, answered.
pub(super) struct MainAnswer {
    room: Room,
    started: Instant,
    page: Result<Page, StoreError>,
}

pub(super) struct Reading {
    pub(super) pace: Pace,
    pub(super) main: Option<BoxFuture<'static, MainAnswer>>,
    pub(super) side: Option<BoxFuture<'static, SideAnswer>>,
    pub(super) main_room: Option<Room>,
    /// The cursor's read under way began before the lanes that arrived last: what it passes of theirs it does not bring.
    pub(super) main_is_stale: bool,
    pub(super) side_room: Option<Room>,
    pub(super) cursor: Seq,
    /// The commit watermark, and since when it stands there.
    pub(super) decided: Seq,
    pub(super) decided_at: Instant,
    /// When who keeps it back is asked for next.
    pub(super) blockers_at: Instant,
    /// Somebody holds most of the window, and may not keep up: nothing is read until then.
    pub(super) pressed_until: Option<Instant>,
    pub(super) names_blocker: bool,
    pub(super) batch_size: usize,
    pub(super) limit: Room,
    pub(super) due_at: Instant,
    pub(super) due_after: Option<DuePosition>,
    pub(super) due_started: Instant,
    /// The walk over due rows under way is followed by another: it has passed rows that may be let in now.
    pub(super) due_anew: bool,
    /// A row has turned up that retries and is not known to hold its key: holds are read again.
    pub(super) unknown_holder: bool,
    holds_read_at: Instant,
    pub(super) hold_check_at: Instant,
    pub(super) hold_checked: Seq,
    /// Lanes behind are not read before: nothing of theirs could be sent.
    pub(super) lanes_at: Instant,
    pub(super) sweep_at: Instant,
    pub(super) sweep_after: Seq,
    pub(super) sweep_interval: Duration,
    /// The sweep under way began before something called for one: another follows.
    pub(super) sweep_again: bool,
    /// No sweep is called for before: a strange trigger must not make a loop.
    pub(super) sweep_calm_until: Instant,
    /// Room was short last time and the cursor got it.
    pub(super) side_first: bool,
    /// Whose lag was read last.
    pub(super) turns: Turns,
}

impl Reading {
    pub(super) fn new(options: &Options, now: Instant) -> Self {
        Self {
            pace: Pace::new(options.poll_interval_min, options.poll_interval_max, now),
            main: None,
            side: None,
            main_room: None,
            main_is_stale: false,
            side_room: None,
            cursor: Seq(0),
            decided: Seq(i64::MIN),
            decided_at: now,
            blockers_at: now,
            pressed_until: None,
            names_blocker: false,
            batch_size: options.batch_size,
            limit: Room {
                rows: options.max_in_flight,
                bytes: options.max_in_flight_bytes,
            },
            due_at: now,
            due_after: None,
            due_started: now,
            due_anew: false,
            unknown_holder: false,
            holds_read_at: now,
            hold_check_at: now,
            hold_checked: Seq(i64::MIN),
            lanes_at: now,
            sweep_at: now + options.sweep_interval,
            sweep_after: Seq(i64::MIN),
            sweep_interval: options.sweep_interval,
            sweep_again: false,
            sweep_calm_until: now,
            side_first: false,
            turns: Turns::default(),
        }
    }

    /// Begins anew behind a store just opened, whose cursor stands at `cursor`.
    pub(super) fn restart(&mut self, cursor: Seq, now: Instant) {
        self.cursor = cursor;
        self.decide(Seq(i64::MIN), now);
        self.due_after = None;
        self.due_anew = false;
        self.due_at = now;
        self.sweep_after = Seq(i64::MIN);
        self.sweep_at = now + self.sweep_interval;
        self.sweep_again = false;
        self.pace.hint(now);
    }

    fn decide(&mut self, decided: Seq, now: Instant) {
        if self.decided != decided {
            self.decided = decided;
            self.decided_at = now;
        }
    }

    /// Drops the reads under way.
    pub(super) fn stop(&mut self, window: &mut Window) {
        if let Some(room) = self.main_room.take() {
            window.unreserve(room);
        }
        if let Some(room) = self.side_room.take() {
            window.unreserve(room);
        }
        for read in [Read::Main, Read::Side] {
            drop(window.read_ends(read));
        }
        self.main = None;
        self.main_is_stale = false;
        self.side = None;
    }

    /// A row falls due in `delay`.
    pub(super) fn due_in(&mut self, delay: Duration, now: Instant) {
        self.due_at = self.due_at.min(now + delay);
    }

    /// Rows that were due could not be sent and may be now.
    pub(super) fn due_again(&mut self) {
        self.due_at = self.due_started;
        self.due_anew = true;
    }

    /// Whether holds are to be read again now: somebody else has written rows that retry.
    pub(super) fn holds_to_read(&mut self, now: Instant) -> bool {
        let due = self.unknown_holder && now >= self.holds_read_at;
        if due {
            self.unknown_holder = false;
            self.holds_read_at = now + DUE_INTERVAL;
        }
        due
    }

    /// When a read may be due, as far as time alone decides; `cursor_waits`: for a lag, whose end is an event of its own.
    pub(super) fn wake_at(&self, window: &Window, cursor_waits: bool, now: Instant) -> Instant {
        let room = self.room(window, self.batch_size).is_some();
        let mut at = now + DUE_INTERVAL;
        if let Some(until) = self.pressed_until {
            at = at.min(until);
        }
        if self.side.is_none() && self.lanes_at > now {
            at = at.min(self.lanes_at);
        }
        if self.side.is_none() && self.unknown_holder {
            at = at.min(self.holds_read_at);
        }
        if self.main.is_none() && room && !cursor_waits {
            at = at.min(self.pace.next());
        }
        if self.side.is_none() {
            if self.hold_check_at > now {
                at = at.min(self.hold_check_at);
            }
            if room {
                at = at.min(self.due_at.min(self.sweep_at).max(now + Duration::from_millis(1)));
            }
        }
        at
    }

    /// Room for a read of up to `rows`, or `None` while there is too little to be worth a statement.
    pub(super) fn room(&self, window: &Window, rows: usize) -> Option<Room> {
        if self.pressed_until.is_some() {
            return None;
        }
        let free = window.free();
        let worth = window.is_quiet()
            || (free.rows >= rows.min(self.batch_size).min(self.limit.rows / 4) && free.bytes >= self.limit.bytes / 8);
        (worth && free.rows > 0 && free.bytes > 0).then(|| Room {
            rows: free.rows.min(rows),
            bytes: free.bytes.min(self.limit.bytes / 2),
        })
    }
}

impl Engine {
    pub(super) fn start_reads(&mut self, now: Instant) {
        self.reading.pressed_until = self.destinations.reading_waits_until(now);
        if self.reading.side_first {
            self.start_side(now);
            self.start_main(now);
        } else {
            self.start_main(now);
            self.start_side(now);
        }
    }

    fn start_main(&mut self, now: Instant) {
        if self.reading.main.is_some() || now < self.reading.pace.next() || self.cursor_waits() {
            return;
        }
        let Some(room) = self.reading.room(&self.window, self.reading.batch_size) else {
            return;
        };
        self.window.reserve(room);
        self.window.read_begins(Read::Main);
        self.reading.main_room = Some(room);
        self.reading.side_first = true;
        let store = Arc::clone(&self.store);
        let lanes = self.territory.lanes().clone();
        self.reading.main = Some(Box::pin(async move {
            let started = Instant::now();
            MainAnswer {
                room,
                started,
                page: store.read(&lanes, room).await,
            }
        }));
    }

    /// The cursor stands still while it has nothing to read for, and for the last page of a lag, or the two would never
    /// meet under load.
    pub(super) fn cursor_waits(&self) -> bool {
        let is_ending = |id| self.may_be_read_on(id) && self.is_about_to_end(id);
        !self.territory.has_lanes_at_the_cursor()
            || self.territory.behind().is_some_and(|(_, next)| self.is_near(next))
            || self.destinations.lagging().any(is_ending)
            || self.gates.behind().any(|(_, lag)| self.is_near(lag.next))
    }

    /// The cursor waits for its end.
    pub(super) fn is_about_to_end(&self, id: DestinationId) -> bool {
        let lag = &self.destinations.get(id).lag;
        lag.as_ref().is_some_and(|lag| self.is_near(lag.next))
    }

    fn is_near(&self, seq: Seq) -> bool {
        let page = i64::try_from(self.reading.batch_size).unwrap_or(i64::MAX);
        seq >= Seq(self.reading.cursor.0.saturating_sub(page))
    }

    /// Not paused, nor waiting for earlier commits; and one that is on trial only when its last rows came back.
    pub(super) fn may_be_read_on(&self, id: DestinationId) -> bool {
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

    pub(super) fn book_read(&mut self, answer: MainAnswer, now: Instant) -> Result<(), super::RelayError> {
        let MainAnswer { room, started, page } = answer;
        self.window.unreserve(room);
        self.reading.main_room = None;
        self.reading.main_is_stale = false;
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
            page.rows.retain(|row| row.message.seq > self.reading.cursor);
        }
        self.reading.cursor = page.cursor;
        if let Some(delay) = page.next_due {
            self.reading.due_in(delay, now);
        }
        if page.sweep {
            // What was open at the start has committed, and may belong before rows of this page: all are found in order.
            self.territory.fall_behind();
            page.rows.clear();
        }
        page.rows.retain(|row| !settled.contains(&row.message.seq));
        let found = page.rows.len();
        self.reading.decide(page.decided, now);
        let (_, lagging) = self.admit_all(page.rows, &Found::Passing, now);
        self.note_commits();
        self.reading.pace.read(now, found, page.more, page.gaps);
        if found > 0 && lagging == found && !self.destinations.any_transport_at_peace() {
            self.reading.pace.rest(now);
        }
        Ok(())
    }

    pub(super) fn read_failed(&mut self, error: StoreError, now: Instant) -> Result<(), super::RelayError> {
        self.database_away(error, now)?;
        self.drain("a read failed");
        Ok(())
    }
}
