//! How much a broker is given before it has answered: what it answers for within a moment, measured.
//!
//! A line or a quota may carry a tenth of what is offered. Whatever is handed over beyond that only waits: in buffers of the
//! client, the kernel and proxies, where it cannot be taken back, until somebody takes the wait for a failure. So what is on
//! its way is limited in bytes, and the limit follows the answers: while they come within [`Flow::new`]'s `moment` and more is
//! wanted it grows with each of them (it doubles per turnover), when they take longer it shrinks. A broker that is merely far
//! away is not slow: how long an answer takes while hardly anything is on its way is measured now and then.
//!
//! And a message's time does not begin before its turn: while answers come for what was sent earlier, it stands in a queue,
//! and nothing is wrong with it ([`Flow::turn`]).

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::lock::lock;

/// Bytes: to begin with, and after a silence.
const INITIAL: usize = 64 << 10;
/// Bytes that are always allowed; so is any single message.
const LEAST: usize = 16 << 10;
/// After so long without an answer nothing is known any more.
const SILENCE: Duration = Duration::from_secs(1);
/// How long it is remembered how far away the broker is.
const DISTANCE_FOR: Duration = Duration::from_secs(60);
/// Answers that come closer together are one.
const GRAIN: Duration = Duration::from_millis(10);

/// Within which answers are to come, for a broker that may take `ack_timeout`.
pub(super) fn moment(ack_timeout: Duration) -> Duration {
    (ack_timeout / 4).min(Duration::from_secs(1))
}

/// What was handed over, to be given back by [`Flow::answered`] or [`Flow::forget`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    number: u64,
    bytes: usize,
    at: Instant,
}

impl Ticket {
    /// When it was handed over.
    #[cfg(any(feature = "kafka", feature = "nats", test))]
    pub(super) fn at(&self) -> Instant {
        self.at
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Flow {
    moment: Duration,
    state: Mutex<State>,
    room: Notify,
}

#[derive(Debug)]
struct State {
    limit: usize,
    in_flight: usize,
    /// Who waits for room.
    waiting: usize,
    next: u64,
    /// Somebody was told to wait: the limit is what keeps more from being sent.
    pressed: bool,
    /// Tickets before this one were handed over before the limit last shrank: their times say nothing of it.
    shrunk: u64,
    /// How long an answer takes by itself, and when that was measured.
    distance: Option<(Duration, Instant)>,
    /// Being measured, by this ticket or a later one: until then hardly anything is sent.
    measuring: Option<u64>,
    turns: VecDeque<Turn>,
    answered: Option<Instant>,
}

/// Answers within a [`GRAIN`]: the earliest ticket of them, and when they came.
#[derive(Debug)]
struct Turn {
    number: u64,
    first: Instant,
    last: Instant,
}

impl Flow {
    /// Answers are to come within about `moment`.
    pub(super) fn new(moment: Duration) -> Self {
        let state = State {
            limit: INITIAL,
            in_flight: 0,
            waiting: 0,
            next: 0,
            pressed: false,
            shrunk: 0,
            distance: None,
            measuring: None,
            turns: VecDeque::new(),
            answered: None,
        };
        Self {
            moment,
            state: Mutex::new(state),
            room: Notify::new(),
        }
    }

    /// `bytes` may go now; `None`: they have to wait for answers.
    pub(super) fn try_take(&self, bytes: usize) -> Option<Ticket> {
        let now = Instant::now();
        let mut state = self.lock();
        if state.in_flight == 0 && state.answered.is_none_or(|at| now >= at + SILENCE) {
            state.limit = state.limit.min(INITIAL);
        }
        let limit = state.measuring.map_or(state.limit, |_| LEAST);
        if state.in_flight > 0 && state.in_flight + bytes > limit {
            state.pressed = true;
            return None;
        }
        state.in_flight += bytes;
        let number = state.next;
        state.next += 1;
        Some(Ticket { number, bytes, at: now })
    }

    /// As [`Self::try_take`], waiting for answers. Dropping the future takes nothing.
    pub(super) async fn take(&self, bytes: usize) -> Ticket {
        let _waiting = Waiting::at(self);
        loop {
            let room = self.room.notified();
            if let Some(ticket) = self.try_take(bytes) {
                // Whoever waits beside may find room too.
                self.room.notify_one();
                return ticket;
            }
            room.await;
        }
    }

    /// The broker has answered for it, whatever it said.
    pub(super) fn answered(&self, ticket: Ticket) {
        let now = Instant::now();
        let mut state = self.lock();
        state.note_turn(ticket.number, now);
        state.answered = Some(now);
        state.judge(ticket, now, self.moment);
        self.give_back(state, ticket);
    }

    /// No answer is waited for any more.
    pub(super) fn forget(&self, ticket: Ticket) {
        self.give_back(self.lock(), ticket);
    }

    fn give_back(&self, mut state: MutexGuard<'_, State>, ticket: Ticket) {
        state.in_flight -= ticket.bytes;
        state.pressed &= state.in_flight * 2 >= state.limit;
        let waited_for = state.waiting > 0;
        drop(state);
        if waited_for {
            self.room.notify_one();
        }
    }

    /// From when on an answer for it can be expected: when it was handed over, or when the last answer came for something handed
    /// over before it.
    pub(super) fn turn(&self, ticket: Ticket) -> Instant {
        let state = self.lock();
        let before = state.turns.partition_point(|turn| turn.number < ticket.number);
        let last = before.checked_sub(1).map(|index| state.turns[index].last);
        last.map_or(ticket.at, |last| last.max(ticket.at))
    }

    /// When the broker last answered for anything.
    pub(super) fn last_answer(&self) -> Option<Instant> {
        self.lock().answered
    }

    /// Whether it has answered for anything at `then` or later: it is there, and merely slow.
    pub(super) fn has_answered_since(&self, then: Instant) -> bool {
        self.last_answer().is_some_and(|at| at >= then)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Counted among those who wait for room until it is dropped.
struct Waiting<'a>(&'a Flow);

impl<'a> Waiting<'a> {
    fn at(flow: &'a Flow) -> Self {
        flow.lock().waiting += 1;
        Self(flow)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}

/// Answers older than this are of no use to anybody: longer than any wait for one.
const TURNS_KEPT: Duration = Duration::from_secs(60);

impl State {
    /// An answer came: more may be on its way than now, or less.
    fn judge(&mut self, ticket: Ticket, now: Instant, moment: Duration) {
        let took = now - ticket.at;
        if self.measuring.is_some_and(|first| ticket.number >= first) {
            self.measuring = None;
            self.distance = Some((took, now));
        }
        let distance = self.distance.filter(|(_, at)| now < *at + DISTANCE_FOR);
        let slow = distance.map_or(moment, |(away, _)| moment.max(away * 2));
        if took <= slow {
            if self.pressed {
                self.limit = self.limit.saturating_add(ticket.bytes);
            }
        } else if ticket.number >= self.shrunk {
            let share = (slow.as_secs_f64() / took.as_secs_f64()).max(0.125);
            self.limit = ((self.limit as f64 * share) as usize).max(LEAST);
            self.shrunk = self.next;
            if distance.is_none() {
                self.measuring.get_or_insert(self.next);
            }
        }
    }

    /// Kept in the order of numbers and of times: an answer makes those for later tickets that came before it superfluous.
    fn note_turn(&mut self, number: u64, now: Instant) {
        while self.turns.back().is_some_and(|turn| turn.number >= number) {
            self.turns.pop_back();
        }
        match self.turns.back_mut() {
            Some(turn) if now < turn.first + GRAIN => turn.last = now,
            Some(_) | None => self.turns.push_back(Turn {
                number,
                first: now,
                last: now,
            }),
        }
        while self.turns.len() > 1 && self.turns[0].last + TURNS_KEPT < now {
            self.turns.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A line of `rate` bytes a second that answers in order, `away` later. Offers messages of `bytes` without end for
    /// `seconds`; answers the longest wait of the latter half and the bytes carried in it.
    async fn carry(flow: &Flow, rate: usize, away: Duration, bytes: usize, seconds: u64) -> (Duration, usize) {
        let start = Instant::now();
        let (half, end) = (Duration::from_secs(seconds) / 2, Duration::from_secs(seconds));
        let (mut line, mut free_at): (VecDeque<(Instant, Ticket)>, _) = (VecDeque::new(), start);
        let (mut longest, mut carried) = (Duration::ZERO, 0);
        loop {
            while let Some(ticket) = flow.try_take(bytes) {
                free_at = free_at.max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / rate as f64);
                line.push_back((free_at + away, ticket));
            }
            let (at, ticket) = line.pop_front().unwrap();
            tokio::time::sleep_until(at).await;
            flow.answered(ticket);
            if start.elapsed() > end {
                return (longest, carried);
            }
            if start.elapsed() > half {
                longest = longest.max(ticket.at().elapsed());
                carried += bytes;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_thin_line_is_filled_and_not_more() {
        let flow = Flow::new(500 * MS);
        let (longest, carried) = carry(&flow, 100_000, 5 * MS, 5_000, 60).await;
        assert!(longest < 1_500 * MS, "{longest:?}");
        assert!(carried > 95_000 * 30, "{carried}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wide_line_is_soon_filled_near_or_far() {
        for away in [MS, 100 * MS, 1_500 * MS] {
            let flow = Flow::new(500 * MS);
            let (_, carried) = carry(&flow, 10_000_000, away, 1_000, 60).await;
            assert!(carried > 9_000_000 * 30, "{away:?}: {carried}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_that_becomes_thin_is_found_out() {
        let flow = Flow::new(500 * MS);
        carry(&flow, 1_000_000, MS, 1_000, 10).await;
        // What was on its way when this stopped is forgotten with it.
        flow.lock().in_flight = 0;
        let (longest, _) = carry(&flow, 50_000, MS, 1_000, 60).await;
        assert!(longest < 1_500 * MS, "{longest:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn any_message_may_go_alone() {
        let flow = Flow::new(500 * MS);
        let ticket = flow.try_take(1 << 30).unwrap();
        assert_eq!(flow.try_take(1), None);
        flow.forget(ticket);
        assert!(flow.try_take(1).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_comes_when_what_was_sent_before_is_answered() {
        let flow = Flow::new(500 * MS);
        let tickets: Vec<Ticket> = (0..5).map(|_| flow.try_take(1).unwrap()).collect();
        let start = Instant::now();
        tokio::time::advance(100 * MS).await;
        flow.answered(tickets[3]);
        assert_eq!(flow.turn(tickets[2]), start, "only a later one was answered");
        assert_eq!(flow.turn(tickets[4]), start + 100 * MS);
        tokio::time::advance(100 * MS).await;
        flow.answered(tickets[0]);
        assert_eq!(flow.turn(tickets[2]), start + 200 * MS);
        assert_eq!(flow.turn(tickets[4]), start + 200 * MS);
        tokio::time::advance(100 * MS).await;
        flow.answered(tickets[4]);
        assert_eq!(
            flow.turn(tickets[2]),
            start + 200 * MS,
            "what came after it says nothing"
        );
        assert_eq!(flow.last_answer(), Some(start + 300 * MS));
        assert!(flow.has_answered_since(start + 300 * MS) && !flow.has_answered_since(start + 301 * MS));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_woken() {
        let flow = Flow::new(500 * MS);
        let first = flow.try_take(INITIAL).unwrap();
        let (second, third) = tokio::join!(flow.take(10), async {
            tokio::time::sleep(10 * MS).await;
            flow.answered(first);
            flow.take(20).await
        });
        assert_eq!((second.bytes, third.bytes), (10, 20));
    }
}
