//! One batch on its way: a small state machine that sends what may be sent and waits for the answers.
//!
//! ```text
//!  ready --permit--> in flight --ack--> next of its key becomes ready
//!                        |--refusal, timeout, broken link--> answered; the rest of its key is withheld
//! ```
//! Times: each message waits `ack_timeout` for its acknowledgement; nothing new is sent once half of `ack_timeout` has
//! passed since the batch began (what is left is withheld and comes again), so a batch is answered within 1.5 times
//! `ack_timeout`. Once a stream has a new leader, what was sent before has [`GRACE`] left.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Message;
use async_nats::client::PublishErrorKind;
use tokio::time::{Instant, Sleep};

use super::Nats;
use super::acks::Inbox;
use super::reply::read;
use super::wire;
use crate::delivery::{Failure, FailureClass, Outcome};
use crate::transport::Envelope;
use crate::transport::chain::{Ledger, is_ordered};

/// Acknowledgements of messages that a new leader has after all come within this time.
const GRACE: Duration = Duration::from_secs(1);

pub(super) struct Flight<'a> {
    nats: &'a Nats,
    batch: &'a [Envelope],
    ledger: Ledger,
    /// May be sent, in this order.
    ready: VecDeque<u32>,
    /// Sent, and when; oldest first. Answered ones stay until they reach the front.
    sent: VecDeque<(Instant, u32)>,
    /// Permits of the window this batch holds.
    permits: usize,
    number: u64,
    inbox: Arc<Inbox>,
    breaks: u64,
    elections: u64,
    abandoned: u64,
    /// When a stream last got a new leader: messages sent until then may have gone to the old one.
    elected: Option<Instant>,
    send_until: Instant,
    timer: Pin<Box<Sleep>>,
}

impl<'a> Flight<'a> {
    pub(super) fn new(nats: &'a Nats, batch: &'a [Envelope]) -> Self {
        let ledger = Ledger::new(batch, is_ordered);
        let ready = ledger.heads().iter().copied().collect();
        let (number, inbox) = nats.inboxes.open();
        let send_until = Instant::now() + nats.ack_timeout / 2;
        Self {
            nats,
            batch,
            ledger,
            ready,
            sent: VecDeque::new(),
            permits: 0,
            number,
            inbox,
            breaks: nats.link.breaks(),
            elections: nats.link.elections(),
            abandoned: nats.abandoned(),
            elected: None,
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
            tokio::select! {
                () = self.inbox.changed.notified() => {}
                () = self.timer.as_mut() => self.expire(),
                permit = self.nats.window.acquire(), if !self.ready.is_empty() => {
                    permit.expect("the window is never closed").forget();
                    self.permits += 1;
                    self.send_next().await;
                }
            }
            self.inbox.take(&mut replies);
            for (index, reply) in replies.drain(..) {
                self.receive(index, &reply);
            }
            if self.nats.link.breaks() != self.breaks {
                self.link_broke();
            }
            if self.nats.link.elections() != self.elections {
                self.elections = self.nats.link.elections();
                self.elected = Some(Instant::now());
                self.timer.as_mut().reset(Instant::now());
            }
        }
        std::mem::replace(&mut self.ledger, Ledger::new(&[], is_ordered)).finish()
    }

    async fn send_ready(&mut self) {
        while !self.ready.is_empty() {
            let Ok(permit) = self.nats.window.try_acquire() else {
                return;
            };
            permit.forget();
            self.permits += 1;
            self.send_next().await;
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

    /// Sends the next ready message with a permit already taken, or gives the permit back.
    async fn send_next(&mut self) {
        if !self.may_send() {
            self.give_back(1);
            return self.expire();
        }
        let Some(index) = self.ready.pop_front() else {
            return self.give_back(1);
        };
        let outcome = match self.send(index).await {
            Ok(()) => {
                self.sent.push_back((Instant::now(), index));
                return;
            }
            Err(failure) => Outcome::Refused(failure),
        };
        self.give_back(1);
        self.settle(index, outcome);
    }

    async fn send(&mut self, index: u32) -> Result<(), Failure> {
        let envelope = &self.batch[index as usize];
        wire::check_subject(&envelope.destination)?;
        let headers = wire::headers(envelope, &self.nats.allow_headers)?;
        let reply = self.nats.inboxes.reply_to(self.number, index);
        let subject: async_nats::Subject = envelope.destination.as_ref().into();
        let payload = envelope.message.payload.clone();
        let send = self
            .nats
            .client
            .publish_with_reply_and_headers(subject, reply, headers, payload);
        tokio::select! {
            biased;
            sent = send => sent.map_err(|error| refusal(&error, self.nats)),
            () = self.timer.as_mut() => {
                self.timer.as_mut().reset(Instant::now());
                Err(Failure::new(FailureClass::Unavailable, "NO_ROOM", "nats takes no more data: the connection is stuck"))
            }
        }
    }

    fn receive(&mut self, index: u32, reply: &Message) {
        if !self.ledger.is_open(index) {
            return;
        }
        self.give_back(1);
        self.settle(index, read(reply, &self.batch[index as usize].destination));
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
                let full = "the window of messages in flight is full (max_in_flight)";
                self.ledger
                    .refuse(index, Failure::new(FailureClass::Unavailable, "NO_ROOM", full));
            }
        }
        while let Some(&(since, index)) = self.sent.front() {
            if self.ledger.is_open(index) {
                let (deadline, failure) = self.deadline(since);
                if now < deadline {
                    break;
                }
                self.give_back(1);
                self.ledger.refuse(index, failure);
            }
            self.sent.pop_front();
        }
        let oldest = self
            .sent
            .front()
            .map_or(now + self.nats.ack_timeout, |(since, _)| self.deadline(*since).0);
        let next = if now < self.send_until {
            oldest.min(self.send_until)
        } else {
            oldest
        };
        self.timer.as_mut().reset(next);
    }

    /// How long a message sent at `since` is waited for, and what it met when that has passed.
    fn deadline(&self, since: Instant) -> (Instant, Failure) {
        let deadline = since + self.nats.ack_timeout;
        match self.elected {
            Some(elected) if since <= elected => (deadline.min(elected + GRACE), leader_changed()),
            Some(_) | None => (deadline, timed_out(self.nats.ack_timeout)),
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

    fn give_back(&mut self, permits: usize) {
        self.permits -= permits;
        self.nats.window.add_permits(permits);
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.nats.inboxes.close(self.number);
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

fn refusal(error: &async_nats::PublishError, nats: &Nats) -> Failure {
    match error.kind() {
        PublishErrorKind::MaxPayloadExceeded => {
            let limit = nats.client.max_payload();
            let error = format!("payload and headers exceed the server's max_payload of {limit} bytes");
            Failure::new(FailureClass::Rejected, "MAX_PAYLOAD", error)
        }
        PublishErrorKind::InvalidSubject => {
            Failure::new(FailureClass::Rejected, "INVALID_SUBJECT", "nats refuses the subject")
        }
        PublishErrorKind::Send => Failure::new(FailureClass::Unavailable, "CLOSED", "the nats client is closed"),
    }
}
