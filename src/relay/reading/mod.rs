//! What is read when: the cursor's next page beside one other read at a time.
//!
//! Every read is promised room in the window before it starts; cursor and others take turns when room is short. Each walk keeps
//! its own state: the rows that overtake (`urgent`), those that are due (`due`), the sweep (`sweep`), the holders (`hold_check`),
//! the lags (`turns`).

mod due;
mod hold_check;
mod pace;
mod question;
mod sweep;
mod turns;
mod urgent;

use std::time::Duration;

use tokio::time::Instant;

use crate::message::Seq;
use crate::store::Room;

use super::options::Options;
use super::window::{Read, Window};

use due::{DUE_INTERVAL, DueWalk};
use hold_check::HoldCheck;
use pace::Pace;
use sweep::Sweep;
use turns::Turns;
use urgent::UrgentLook;

pub(super) use question::{Answer, Purpose, Question};
pub(super) use turns::Turn;
pub(super) use urgent::{Found as UrgentFound, URGENT_ROWS};

/// See the module.
#[derive(Debug)]
pub(super) struct Reading {
    cursor: Seq,
    /// When the cursor's next page is due.
    pub(super) pace: Pace,
    pub(super) urgent: UrgentLook,
    pub(super) due: DueWalk,
    pub(super) sweep: Sweep,
    pub(super) hold_check: HoldCheck,
    pub(super) turns: Turns,
    /// Lanes behind are not read before: nothing of theirs could be sent.
    lanes_at: Instant,
    underway: Underway,
    portion: Portion,
}

/// The reads under way, by the room they were promised.
#[derive(Debug, Default)]
struct Underway {
    main: Option<Room>,
    /// The cursor's began before the lanes that arrived last: what it passes of theirs it does not bring.
    main_is_stale: bool,
    side: Option<Room>,
    /// Room was short last time and the cursor got it.
    side_first: bool,
}

/// How much a read may bring.
#[derive(Debug)]
struct Portion {
    batch_size: usize,
    limit: Room,
    /// Somebody holds most of the window, and may not keep up: nothing is read until then.
    pressed_until: Option<Instant>,
}

impl Reading {
    pub(super) fn new(options: &Options, now: Instant) -> Self {
        Self {
            cursor: Seq(0),
            pace: Pace::new(options.poll_interval_min, options.poll_interval_max, now),
            urgent: UrgentLook::new(options.poll_interval_min, now),
            due: DueWalk::new(now),
            sweep: Sweep::new(options.sweep_interval, now),
            hold_check: HoldCheck::new(now),
            turns: Turns::default(),
            lanes_at: now,
            underway: Underway::default(),
            portion: Portion {
                batch_size: options.batch_size,
                limit: Room {
                    rows: options.max_in_flight,
                    bytes: options.max_in_flight_bytes,
                },
                pressed_until: None,
            },
        }
    }

    /// From now on reads bring so many rows, and the window is so large.
    pub(super) fn resize(&mut self, batch_size: usize, limit: Room) {
        self.portion.batch_size = batch_size;
        self.portion.limit = limit;
    }

    /// Begins anew behind a store just opened, whose cursor stands at `cursor`.
    pub(super) fn restart(&mut self, cursor: Seq, now: Instant) {
        self.cursor = cursor;
        self.due.restart(now);
        self.sweep.restart(now);
        self.pace.hint(now);
    }

    /// Everything at or below was read, or is left to others.
    pub(super) fn cursor(&self) -> Seq {
        self.cursor
    }

    /// Whether rows wait that others could overtake: those the cursor has yet to read, or more than a batch in memory.
    pub(super) fn has_a_queue(&self, window: &Window) -> bool {
        self.pace.has_more() || window.len() > self.portion.batch_size
    }

    /// Whether the cursor meets `seq` within a page.
    pub(super) fn is_near(&self, seq: Seq) -> bool {
        let page = i64::try_from(self.portion.batch_size).unwrap_or(i64::MAX);
        seq >= Seq(self.cursor.0.saturating_sub(page))
    }

    /// Whether the cursor is being read.
    pub(super) fn is_reading(&self) -> bool {
        self.underway.main.is_some()
    }

    /// Whether something else is.
    pub(super) fn is_asking(&self) -> bool {
        self.underway.side.is_some()
    }

    /// Whether the other read comes before the cursor's, should room be short.
    pub(super) fn asks_first(&self) -> bool {
        self.underway.side_first
    }

    /// Nothing is read before this time; see `share`.
    pub(super) fn wait_until(&mut self, pressed_until: Option<Instant>) {
        self.portion.pressed_until = pressed_until;
    }

    /// The cursor is read, as far as there is room.
    pub(super) fn begin_page(&mut self, window: &mut Window) -> Option<Room> {
        let room = self.room(window)?;
        window.reserve(room);
        window.read_begins(Read::Main);
        self.pace.asked();
        self.underway.main = Some(room);
        self.underway.side_first = true;
        Some(room)
    }

    /// The cursor's read was answered.
    pub(super) fn end_page(&mut self, window: &mut Window) {
        self.underway.main_is_stale = false;
        if let Some(room) = self.underway.main.take() {
            window.unreserve(room);
        }
    }

    /// The cursor has come to `cursor`.
    pub(super) fn advance(&mut self, cursor: Seq) {
        self.cursor = cursor;
    }

    /// Something else is asked, whose answer needs so much room.
    pub(super) fn begin_question(&mut self, room: Room, window: &mut Window) {
        window.reserve(room);
        window.read_begins(Read::Side);
        self.underway.side = Some(room);
        self.underway.side_first = false;
    }

    /// It was answered. Answers the room it was promised.
    pub(super) fn end_question(&mut self, window: &mut Window) -> Room {
        let room = self.underway.side.take().unwrap_or_default();
        window.unreserve(room);
        room
    }

    /// The reads under way are dropped.
    pub(super) fn stop(&mut self, window: &mut Window) {
        self.end_page(window);
        self.end_question(window);
        for read in [Read::Main, Read::Side] {
            drop(window.read_ends(read));
        }
    }

    /// Lanes have arrived: what the cursor's read under way passes of theirs it does not bring.
    pub(super) fn lanes_arrived(&mut self, now: Instant) {
        self.underway.main_is_stale = self.is_reading();
        self.due.look_now(now);
    }

    /// Lanes behind are read now. While the cursor may still pass rows of lanes that arrived meanwhile, nobody can tell that it
    /// was met.
    pub(super) fn may_read_lanes(&self, now: Instant) -> bool {
        now >= self.lanes_at && !self.underway.main_is_stale
    }

    /// Nothing of the lanes behind can be sent now.
    pub(super) fn rest_lanes_until(&mut self, time: Instant) {
        self.lanes_at = time;
    }

    /// A lag has ended: retries past where it stood were left alone.
    pub(super) fn caught_up(&mut self, now: Instant) {
        self.due.again();
        self.pace.hint(now);
    }

    /// When a read may be due, as far as time alone decides; `cursor_waits`: for a lag, whose end is an event of its own;
    /// `overtaken`: something could be.
    pub(super) fn wake_at(&self, window: &Window, (cursor_waits, overtaken): (bool, bool), now: Instant) -> Instant {
        let room = self.room(window).is_some();
        let mut at = now + DUE_INTERVAL;
        if let Some(until) = self.portion.pressed_until {
            at = at.min(until);
        }
        if !self.is_reading() && room && !cursor_waits {
            at = at.min(self.pace.next());
        }
        if self.is_asking() {
            return at;
        }
        if overtaken {
            at = at.min(self.urgent.at());
        }
        if self.lanes_at > now {
            at = at.min(self.lanes_at);
        }
        if let Some(read_at) = self.hold_check.read_at() {
            at = at.min(read_at);
        }
        if self.hold_check.at() > now {
            at = at.min(self.hold_check.at());
        }
        if room {
            let due = self.due.at().min(self.sweep.at());
            at = at.min(due.max(now + Duration::from_millis(1)));
        }
        at
    }

    /// Room for rows that overtake: where there is none, one look still tells whether there are any.
    pub(super) fn room_for_urgent(&self, window: &Window) -> Room {
        let free = window.free_for_urgent();
        Room {
            rows: free.rows.min(URGENT_ROWS),
            bytes: free.bytes.min(self.portion.limit.bytes / 2),
        }
    }

    /// Room for a read, or `None` while there is too little to be worth a statement.
    pub(super) fn room(&self, window: &Window) -> Option<Room> {
        let Portion {
            batch_size,
            limit,
            pressed_until,
        } = &self.portion;
        if pressed_until.is_some() {
            return None;
        }
        let free = window.free();
        let worth =
            window.is_quiet() || (free.rows >= (*batch_size).min(limit.rows / 4) && free.bytes >= limit.bytes / 8);
        (worth && free.rows > 0 && free.bytes > 0).then(|| Room {
            rows: free.rows.min(*batch_size),
            bytes: free.bytes.min(limit.bytes / 2),
        })
    }
}
