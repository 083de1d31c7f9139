//! One batch on its way: a small state machine that sends what may be sent and waits for the answers.
//!
//! ```text
//!  ready --room--> in flight --ack--> next of its key becomes ready
//!                      |--refusal, timeout, broken link--> answered; the rest of its key is withheld
//! ```
//! Room is a permit of the window, and bytes that the server answers for within a moment ([`Flow`]).
//!
//! Times: each message waits `ack_timeout` for its acknowledgement, from when everything sent before it was answered
//! ([`Flow::turn`]); nothing new is sent once half of `ack_timeout` has passed since the batch began (what is left is withheld
//! and comes again). So a batch is answered within 1.5 times `ack_timeout`, or later while answers go on coming. Once a stream
//! has a new leader, what was sent before has [`GRACE`] left.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Message;
use async_nats::client::PublishErrorKind;
use tokio::time::{Instant, Sleep, timeout_at};

use super::Nats;
use super::acks::Inbox;
use super::reply::read;
use super::wire;
use crate::delivery::{Failure, FailureClass, Outcome};
use crate::transport::Envelope;
use crate::transport::chain::{Ledger, is_ordered};
use crate::transport::flow::Ticket;

/// Acknowledgements of messages that a new leader has after all come within this time.
const GRACE: Duration = Duration::from_secs(1);

pub(super) struct Flight<'a> {
    nats: &'a Nats,
    batch: &'a [Envelope],
    ledger: Ledger,
    /// May be sent, in this order.
    ready: VecDeque<u32>,
    /// Sent; oldest first. Answered ones stay until they reach the front.
    sent: VecDeque<u32>,
    /// Of each message that is in flight.
    tickets: Vec<Option<Ticket>>,
    /// Permits of the window this batch holds.
    permits: usize,
    number: u64,
    inbox: Arc<Inbox>,
    breaks: u64,
    elections: u64,
    denials: u64,
    abandoned: u64,
    /// When a stream last got a new leader: messages sent until then may have gone to the old one.
    elected: Option<Instant>,
    began: Instant,
    send_until: Instant,
    timer: Pin<Box<Sleep>>,
}

impl<'a> Flight<'a> {
    pub(super) fn new(nats: &'a Nats, batch: &'a [Envelope]) -> Self {
        let ledger = Ledger::new(batch, is_ordered);
        let ready = ledger.heads().iter().copied().collect();
        let (number, inbox) = nats.inboxes.open();
        let began = Instant::now();
        let send_until = began + nats.ack_timeout / 2;
        Self {
            nats,
            batch,
            ledger,
            ready,
            sent: VecDeque::new(),
            tickets: vec![None; batch.len()],
            permits: 0,
            number,
            inbox,
            breaks: nats.link.breaks(),
            elections: nats.link.elections(),
            denials: nats.link.rights.denials(),
            abandoned: nats.abandoned(),
            elected: None,
            began,
            send_until,
            timer: Box::pin(tokio::time::sleep_until(send_until)),
        }
    }

    /// Sends everything and answers.
    pub(super) async fn run(mut self) -> Vec<Outcome> {
        let mut replies = Vec::new();
        loop {
            self.send_ready().await;
            if self.ledger.open() == 0 {
                break;
            }
            let next = self.next_size();
            tokio::select! {
                () = self.inbox.changed.notified() => {}
                () = self.timer.as_mut() => self.expire(),
                ticket = self.nats.room(next.unwrap_or(0)), if next.is_some() => {
                    self.permits += 1;
                    self.send_next(ticket).await;
                }
            }
            self.inbox.take(&mut replies);
            for (index, reply) in replies.drain(..) {
                self.receive(index, &reply);
            }
            if self.nats.link.breaks() != self.breaks {
                self.link_broke();
            }
            if self.nats.link.rights.denials() != self.denials {
                self.denials = self.nats.link.rights.denials();
                self.heed_denials();
            }
            if self.nats.link.elections() != self.elections {
                self.elections = self.nats.link.elections();
                self.elected = Some(Instant::now());
                self.timer.as_mut().reset(Instant::now());
            }
        }
        std::mem::replace(&mut self.ledger, Ledger::new(&[], is_ordered)).finish()
    }

    /// Bytes of the message to be sent next.
    fn next_size(&self) -> Option<usize> {
        self.ready.front().map(|index| self.batch[*index as usize].size())
    }

    async fn send_ready(&mut self) {
        while let Some(size) = self.next_size() {
            let Some(ticket) = self.nats.room_now(size) else {
                return;
            };
            self.permits += 1;
            self.send_next(ticket).await;
        }
    }

    /// Whether anything may be sent still. A process that was stopped for a while, or has lost its lease, must not go on
    /// where it was: somebody else may have taken over.
    fn may_send(&mut self) -> bool {
        let now = Instant::now();
        if self.nats.abandoned() != self.abandoned {
            self.send_until = self.send_until.min(now);
        }
        now < self.send_until
    }

    /// Sends the next ready message in the room already taken, or gives that back.
    async fn send_next(&mut self, ticket: Ticket) {
        if !self.may_send() {
            self.give_back(ticket);
            return self.expire();
        }
        let Some(index) = self.ready.pop_front() else {
            return self.give_back(ticket);
        };
        match self.send(index).await {
            Ok(true) => {
                self.tickets[index as usize] = Some(ticket);
                self.sent.push_back(index);
            }
            Ok(false) => {
                self.give_back(ticket);
                self.unsent(index);
            }
            Err(failure) => {
                self.give_back(ticket);
                self.settle(index, Outcome::Refused(failure));
            }
        }
    }

    /// Hands it to the client; `false`: the time to send was over before there was room.
    async fn send(&mut self, index: u32) -> Result<bool, Failure> {
        let envelope = &self.batch[index as usize];
        wire::check_subject(&envelope.destination)?;
        if let Some(denied) = self.nats.link.rights.denied(&envelope.destination) {
            return Err(denied);
        }
        let headers = wire::headers(envelope, &self.nats.allow_headers)?;
        let reply = self.nats.inboxes.reply_to(self.number, index);
        let subject: async_nats::Subject = envelope.destination.as_ref().into();
        let payload = envelope.body()?.clone();
        let client = &self.nats.client;
        let send = client.publish_with_reply_and_headers(subject, reply, headers, payload);
        match timeout_at(self.send_until, send).await {
            Ok(Ok(())) => Ok(true),
            Ok(Err(error)) => Err(refusal(error.kind(), client.max_payload())),
            Err(_) => Ok(false),
        }
    }

    /// The time to send is over. A server that answers is merely slow; where it has said nothing all the while, something is
    /// wrong with it.
    fn unsent(&mut self, index: u32) {
        if self.nats.flow.has_answered_since(self.began) {
            return self.ledger.withhold_from(index);
        }
        let error = "nats takes no more data: nothing of what was sent before is answered";
        self.ledger
            .refuse(index, Failure::new(FailureClass::Unavailable, "NO_ROOM", error));
    }

    fn receive(&mut self, index: u32, reply: &Message) {
        if !self.ledger.is_open(index) {
            return;
        }
        if let Some(ticket) = self.tickets[index as usize].take() {
            self.nats.flow.answered(ticket);
            self.release(1);
        }
        let destination = &self.batch[index as usize].destination;
        self.nats.link.rights.granted(destination);
        self.settle(index, read(reply, destination));
    }

    fn settle(&mut self, index: u32, outcome: Outcome) {
        if let Some(next) = self.ledger.answer(index, outcome) {
            if Instant::now() < self.send_until {
                self.ready.push_back(next);
            } else {
                self.ledger.withhold_from(next);
            }
        }
    }

    /// The timer fired: answers what waited too long and sets the timer for the next one.
    fn expire(&mut self) {
        let now = Instant::now();
        if now >= self.send_until {
            for index in std::mem::take(&mut self.ready) {
                self.unsent(index);
            }
        }
        let mut oldest = now + self.nats.ack_timeout;
        while let Some(&index) = self.sent.front() {
            if let Some(ticket) = self.tickets[index as usize] {
                let (deadline, failure) = self.deadline(ticket);
                if now < deadline {
                    oldest = deadline;
                    break;
                }
                self.refuse(index, failure);
            }
            self.sent.pop_front();
        }
        let next = if now < self.send_until {
            oldest.min(self.send_until)
        } else {
            oldest
        };
        self.timer.as_mut().reset(next);
    }

    /// How long a message is waited for, and what it met when that has passed.
    fn deadline(&self, ticket: Ticket) -> (Instant, Failure) {
        let deadline = self.nats.flow.turn(ticket) + self.nats.ack_timeout;
        match self.elected {
            Some(elected) if ticket.at() <= elected => (deadline.min(elected + GRACE), leader_changed()),
            Some(_) | None => (deadline, timed_out(self.nats.ack_timeout)),
        }
    }

    /// Refuses a message that is in flight.
    fn refuse(&mut self, index: u32, failure: Failure) {
        if let Some(ticket) = self.tickets[index as usize].take() {
            self.give_back(ticket);
        }
        if self.ledger.is_open(index) {
            self.ledger.refuse(index, failure);
        }
    }

    /// The server said that it let something fall: what was sent before it said so is answered with that.
    fn heed_denials(&mut self) {
        for place in 0..self.sent.len() {
            let index = self.sent[place];
            let Some(ticket) = self.tickets[index as usize] else {
                continue;
            };
            let destination = &self.batch[index as usize].destination;
            if let Some(failure) = self.nats.link.rights.denied_since(destination, ticket.at()) {
                self.refuse(index, failure);
            }
        }
    }

    /// Acknowledgements of what was sent over the broken connection will never come; those messages may have arrived.
    fn link_broke(&mut self) {
        let mut failure = self.nats.link.failure();
        failure.error = format!(
            "connection lost before the acknowledgement, the message may have arrived: {}",
            failure.error
        );
        self.ready.clear();
        self.ledger.refuse_all(&failure);
    }

    /// Room that is not needed after all, or no longer.
    fn give_back(&mut self, ticket: Ticket) {
        self.nats.flow.forget(ticket);
        self.release(1);
    }

    fn release(&mut self, permits: usize) {
        self.permits -= permits;
        self.nats.window.add_permits(permits);
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.nats.inboxes.close(self.number);
        for ticket in self.tickets.iter_mut().filter_map(Option::take) {
            self.nats.flow.forget(ticket);
        }
        self.nats.window.add_permits(self.permits);
    }
}

fn leader_changed() -> Failure {
    let error = "the stream's leader changed before the acknowledgement, the message may have arrived";
    Failure::new(FailureClass::Unavailable, "LEADER_CHANGED", error)
}

fn timed_out(after: Duration) -> Failure {
    let error = format!(
        "no acknowledgement from nats within {}",
        humantime::format_duration(after)
    );
    Failure::new(FailureClass::TimedOut, "TIMED_OUT", error)
}

/// What the client itself refuses. `limit`: the server's `max_payload`.
pub(super) fn refusal(kind: PublishErrorKind, limit: usize) -> Failure {
    match kind {
        PublishErrorKind::MaxPayloadExceeded => {
            let error = format!("payload and headers exceed the server's max_payload of {limit} bytes");
            Failure::new(FailureClass::Rejected, "MAX_PAYLOAD", error)
        }
        PublishErrorKind::InvalidSubject => {
            Failure::new(FailureClass::Rejected, "INVALID_SUBJECT", "nats refuses the subject")
        }
        PublishErrorKind::Send => Failure::new(FailureClass::Unavailable, "CLOSED", "the nats client is closed"),
    }
}
