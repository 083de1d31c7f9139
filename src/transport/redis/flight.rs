//! One batch on its way, in rounds of pipelines.
//!
//! A round is the first open message of every key. It goes out in chunks, each one pipeline, as many at a time as the server
//! answers for within a moment ([`Flow`]): the replies of a pipeline come together, so a chunk must be small where the line is
//! thin.
//!
//! Times: a chunk waits `ack_timeout` for its replies, from when everything sent before it was answered ([`Flow::turn`]);
//! nothing new is sent once half of `ack_timeout` has passed since the batch began.

use std::future::Future;
use std::pin::pin;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::{Pipeline, RedisResult, Value};
use tokio::time::{Instant, timeout_at};

use super::{Redis, timed_out, wire};
use crate::delivery::{Failure, FailureClass, Outcome};
use crate::transport::Envelope;
use crate::transport::chain::{Ledger, is_ordered};
use crate::transport::flow::{Flow, Ticket};

/// Bytes of a chunk, beyond its first message.
const CHUNK: usize = 64 << 10;

pub(super) struct Flight<'a> {
    redis: &'a Redis,
    batch: &'a [Envelope],
    began: Instant,
    send_until: Instant,
    abandoned: u64,
}

/// Messages that go out together, and about how many bytes they are.
struct Chunk {
    messages: Vec<u32>,
    bytes: usize,
}

/// What became of a chunk.
enum Answer {
    Replies(Vec<RedisResult<Value>>),
    Refused(Failure),
    /// The time to send was over before there was room.
    Unsent,
}

/// A ticket that is given back whatever happens.
struct Taken<'a> {
    flow: &'a Flow,
    ticket: Option<Ticket>,
}

impl Taken<'_> {
    fn answered(mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.flow.answered(ticket);
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.flow.forget(ticket);
        }
    }
}

impl<'a> Flight<'a> {
    pub(super) fn new(redis: &'a Redis, batch: &'a [Envelope]) -> Self {
        let began = Instant::now();
        Self {
            redis,
            batch,
            began,
            send_until: began + redis.ack_timeout / 2,
            abandoned: redis.abandoned(),
        }
    }

    /// Sends everything and answers.
    pub(super) async fn run(self) -> Vec<Outcome> {
        let mut ledger = Ledger::new(self.batch, is_ordered);
        let mut round = ledger.heads().to_vec();
        while !round.is_empty() && self.may_send() {
            round = self.round(round, &mut ledger).await;
        }
        // Time ran out between two rounds: these were not sent.
        ledger.withhold_all();
        ledger.finish()
    }

    /// A process that was stopped for a while, or has lost its lease, must not go on where it was.
    fn may_send(&self) -> bool {
        Instant::now() < self.send_until && self.redis.abandoned() == self.abandoned
    }

    /// Sends `round`, answers each of it and returns who may go next.
    async fn round(&self, round: Vec<u32>, ledger: &mut Ledger) -> Vec<u32> {
        let mut under_way: FuturesUnordered<_> = self
            .chunks(round, ledger)
            .into_iter()
            .map(|chunk| async move {
                let answer = self.send(&chunk).await;
                (chunk.messages, answer)
            })
            .collect();
        let mut next = Vec::new();
        while let Some((sent, answer)) = under_way.next().await {
            match answer {
                Answer::Replies(replies) => {
                    let answers = sent.into_iter().zip(replies);
                    next.extend(answers.filter_map(|(index, reply)| {
                        let destination = &self.batch[index as usize].destination;
                        ledger.answer(index, self.redis.outcome(reply, destination))
                    }));
                }
                Answer::Refused(failure) => {
                    for index in sent {
                        ledger.refuse(index, failure.clone());
                    }
                }
                Answer::Unsent => {
                    for index in sent {
                        self.unsent(index, ledger);
                    }
                }
            }
        }
        next.sort_unstable();
        next
    }

    /// `round` in chunks; what Redis cannot take is refused.
    fn chunks(&self, round: Vec<u32>, ledger: &mut Ledger) -> Vec<Chunk> {
        let mut chunks: Vec<Chunk> = Vec::new();
        for index in round {
            let envelope = &self.batch[index as usize];
            if let Err(failure) = wire::check(envelope) {
                ledger.refuse(index, failure);
                continue;
            }
            let bytes = envelope.size();
            match chunks.last_mut() {
                Some(chunk) if chunk.bytes + bytes <= CHUNK => {
                    chunk.messages.push(index);
                    chunk.bytes += bytes;
                }
                Some(_) | None => chunks.push(Chunk {
                    messages: vec![index],
                    bytes,
                }),
            }
        }
        chunks
    }

    async fn send(&self, chunk: &Chunk) -> Answer {
        let connected = timeout_at(self.began + self.redis.ack_timeout, self.redis.line()).await;
        let mut line = match connected {
            Err(_) => {
                let error = "cannot connect to redis in time";
                return Answer::Refused(Failure::new(FailureClass::Unavailable, "CONNECT", error));
            }
            Ok(Err(failure)) => return Answer::Refused(failure),
            Ok(Ok(line)) => line,
        };
        let flow = &self.redis.flow;
        let Ok(ticket) = timeout_at(self.send_until, flow.take(chunk.bytes)).await else {
            return Answer::Unsent;
        };
        let taken = Taken {
            flow,
            ticket: Some(ticket),
        };
        if !self.may_send() {
            return Answer::Unsent;
        }
        let mut pipeline = Pipeline::with_capacity(chunk.messages.len());
        pipeline.ignore_errors();
        for index in &chunk.messages {
            wire::add(&mut pipeline, &self.batch[*index as usize], self.redis.maxlen);
        }
        let query = pipeline.query_async::<Vec<RedisResult<Value>>>(&mut line.connection);
        match self.in_turn(ticket, query).await {
            Some(Ok(replies)) => {
                taken.answered();
                self.redis.heed(&replies, &line);
                Answer::Replies(replies)
            }
            Some(Err(error)) => {
                self.redis.link.give_up(&line);
                Answer::Refused(self.redis.failure(&error, "redis"))
            }
            None => {
                self.redis.link.give_up(&line);
                Answer::Refused(timed_out(self.redis.ack_timeout))
            }
        }
    }

    /// Waits for the replies of a chunk; `None`: they did not come in time.
    async fn in_turn<T>(&self, ticket: Ticket, query: impl Future<Output = T>) -> Option<T> {
        let mut query = pin!(query);
        let mut deadline = self.redis.flow.turn(ticket) + self.redis.ack_timeout;
        loop {
            if let Ok(answer) = timeout_at(deadline, query.as_mut()).await {
                return Some(answer);
            }
            let later = self.redis.flow.turn(ticket) + self.redis.ack_timeout;
            if later <= deadline {
                return None;
            }
            deadline = later;
        }
    }

    /// The time to send is over. A server that answers is merely slow; where it has said nothing all the while, something is
    /// wrong with it.
    fn unsent(&self, index: u32, ledger: &mut Ledger) {
        let answers = self.redis.flow.has_answered_since(self.began);
        if answers || self.redis.abandoned() != self.abandoned {
            return ledger.withhold_from(index);
        }
        let error = "redis takes no more data: nothing of what was sent before is answered";
        ledger.refuse(index, Failure::new(FailureClass::Unavailable, "NO_ROOM", error));
    }
}
