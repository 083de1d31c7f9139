//! One batch on its way through librdkafka: sends what may be sent, waits for the reports.
//!
//! A message is handed over when the [`Flow`](crate::transport::flow::Flow) has room for it; nothing new is once half of
//! `ack_timeout` has passed since the batch began. Then it is waited for, as [`overdue`] says: a batch is answered within about
//! twice `ack_timeout` where brokers answer nothing, or twice that when records have to be sent again one by one. Brokers that
//! are only slow are waited for until librdkafka gives the message up.

mod overdue;
mod sending;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::OptionFuture;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;
use tokio::time::Instant;

use super::classify::{classify, code_name, is_collateral};
use super::session::{Report, Reports};
use super::topic::Topic;
use super::{Kafka, Slot};
use crate::delivery::{Failure, Order, Outcome};
use crate::transport::Envelope;
use crate::transport::chain::{Ledger, is_ordered};
use crate::transport::flow::Ticket;
use overdue::{Asking, Doubts};
use sending::Wait;

/// How long to wait for room in librdkafka's queue before looking again.
const ROOM: std::time::Duration = std::time::Duration::from_millis(5);

pub(super) struct Flight<'a> {
    kafka: &'a Kafka,
    batch: &'a [Envelope],
    /// Each message's topic.
    topics: Vec<Arc<Topic>>,
    /// Second time round: every record alone, every key one at a time, no third time.
    alone: bool,
    /// Some chain goes one at a time: each report counts.
    one_by_one: bool,
    /// The producer of those that do not go alone.
    main: &'a Slot,
    /// These do: record sets with them could be refused for one of them. Chosen once, as a key is to have one producer.
    singly: Vec<bool>,
    /// As long as the transport's is the same, the lease is held.
    tenure: usize,
    ledger: Ledger,
    /// May be handed over, in this order.
    ready: VecDeque<u32>,
    /// Goes only after the one before it in its key was acknowledged.
    waits: Vec<bool>,
    /// Handed over, no report yet.
    out: Vec<bool>,
    out_count: usize,
    /// Refused together with others, to be sent once more alone.
    suspects: Vec<u32>,
    reports: Arc<Reports>,
    /// All that was handed over and may be without a report, in that order.
    handed: VecDeque<Handed>,
    /// Room for the first that is ready.
    spare: Option<(u32, Ticket)>,
    doubts: Doubts,
    began: Instant,
    send_until: Instant,
    /// When to see what becomes of those that were not sent; later than `send_until`: nothing more is sent.
    stop_at: Instant,
}

/// A message that librdkafka has.
struct Handed {
    index: u32,
    at: Instant,
    ticket: Option<Ticket>,
}

impl<'a> Flight<'a> {
    pub(super) fn new(kafka: &'a Kafka, batch: &'a [Envelope], topics: Vec<Arc<Topic>>, alone: bool) -> Self {
        let began = Instant::now();
        let mut flight = Self {
            kafka,
            batch,
            topics,
            alone,
            one_by_one: false,
            main: &kafka.main,
            singly: Vec::new(),
            tenure: kafka.tenure.load(Ordering::Acquire),
            ledger: Ledger::new(batch, is_ordered),
            ready: VecDeque::with_capacity(batch.len()),
            waits: vec![false; batch.len()],
            out: vec![false; batch.len()],
            out_count: 0,
            suspects: Vec::new(),
            reports: Arc::new(Reports::new(&kafka.flow)),
            handed: VecDeque::with_capacity(batch.len()),
            spare: None,
            doubts: Doubts::new(began, kafka),
            began,
            send_until: began + kafka.ack_timeout / 2,
            stop_at: began + kafka.ack_timeout / 2,
        };
        flight.find_waiting();
        let goes_singly = |topic: &Arc<Topic>| {
            let small = topic.message_limit().is_some_and(|limit| limit < kafka.batch_bytes);
            alone || small || topic.is_careful()
        };
        flight.singly = flight.topics.iter().map(goes_singly).collect();
        if !flight.one_by_one {
            flight.main = kafka.main();
        }
        let mut heads = flight.ledger.heads().iter().copied().peekable();
        for index in 0..u32::try_from(batch.len()).expect("a batch holds fewer than 2^32 messages") {
            let is_head = heads.next_if_eq(&index).is_some();
            if is_head || !flight.waits[index as usize] {
                flight.ready.push_back(index);
            }
        }
        flight
    }

    /// Marks the chains that go one at a time.
    fn find_waiting(&mut self) {
        for head in self.ledger.heads().to_vec() {
            if self.ledger.behind(head).is_none() {
                continue;
            }
            let chain: Vec<u32> = std::iter::successors(Some(head), |index| self.ledger.behind(*index)).collect();
            let waits = |index: &u32| {
                let envelope = &self.batch[*index as usize];
                self.alone || envelope.order == Order::Strict || self.topics[*index as usize].is_careful()
            };
            if chain.iter().any(waits) {
                self.one_by_one = true;
                for index in chain {
                    self.waits[index as usize] = true;
                }
            }
        }
    }

    /// Sends everything and answers.
    pub(super) async fn run(mut self) -> Vec<Outcome> {
        let (kafka, reported) = (self.kafka, Arc::clone(&self.reports));
        let mut reports: Vec<Report> = Vec::new();
        let mut asking: Option<Asking<'a>> = None;
        loop {
            let wait = self.send_ready();
            if self.out_count == 0 && self.ready.is_empty() {
                break;
            }
            reported.wake_at(if self.one_by_one { 1 } else { self.out_count });
            let room = OptionFuture::from(match wait {
                Wait::Answers(index, bytes) => Some(async move { (index, kafka.flow.take(bytes).await) }),
                Wait::Nothing | Wait::Queue => None,
            });
            tokio::select! {
                () = reported.changed.notified() => {}
                Some(room) = room => self.spare = Some(room),
                Some(verdicts) = OptionFuture::from(asking.as_mut()) => {
                    asking = None;
                    self.judge(verdicts);
                }
                () = tokio::time::sleep_until(self.look_again(wait)) => {}
            }
            reported.take(&mut reports);
            for (index, code) in reports.drain(..) {
                self.receive(index, code);
            }
            let now = Instant::now();
            if now >= self.stop_at && !self.ready.is_empty() {
                self.stop_sending(now);
            }
            if asking.is_some() {
                self.doubts.look_at = now + kafka.ack_timeout;
            } else if now >= self.doubts.look_at {
                asking = self.look(now);
            }
        }
        if !self.suspects.is_empty() {
            self.send_suspects_alone().await;
        }
        std::mem::replace(&mut self.ledger, Ledger::new(&[], is_ordered)).finish()
    }

    /// Somebody else may be sending: nothing more is handed over.
    fn has_lost_the_lease(&self) -> bool {
        self.tenure != self.kafka.tenure.load(Ordering::Acquire)
    }

    fn look_again(&self, wait: Wait) -> Instant {
        let mut at = self.doubts.look_at;
        if !self.ready.is_empty() {
            at = at.min(self.stop_at);
        }
        if wait == Wait::Queue {
            at = at.min(Instant::now() + ROOM);
        }
        at
    }

    fn receive(&mut self, index: u32, code: Code) {
        self.out[index as usize] = false;
        self.out_count -= 1;
        // A sequence number the broker has seen before is this very record's, sent again by librdkafka.
        if matches!(code, Code::NoError | Code::DuplicateSequenceNumber) {
            self.topics[index as usize].exists();
            let acknowledged = Outcome::Acknowledged { duplicate: false };
            if !self.waits[index as usize] {
                self.ledger.answer_alone(index, acknowledged);
            } else if let Some(next) = self.ledger.answer(index, acknowledged) {
                if Instant::now() < self.send_until {
                    self.ready.push_back(next)
                } else {
                    self.ledger.withhold_from(next)
                }
            }
            return;
        }
        if matches!(code, Code::UnknownTopic | Code::UnknownTopicOrPartition) {
            self.topics[index as usize].is_gone();
        }
        if !self.alone && is_collateral(code) {
            self.topics[index as usize].handle_with_care();
            self.suspects.push(index);
        } else {
            let refused = Outcome::Refused(failure(code, &self.batch[index as usize].destination));
            self.ledger.answer_alone(index, refused);
        }
        self.withhold_behind(index);
    }

    /// Withholds what is behind `index` in its key and was not handed over yet.
    fn withhold_behind(&mut self, index: u32) {
        let mut behind = self.ledger.behind(index);
        while let Some(index) = behind {
            if !self.out[index as usize] && !self.suspects.contains(&index) {
                self.ledger.answer_alone(index, Outcome::Withheld);
            }
            behind = self.ledger.behind(index);
        }
    }

    /// The broker refused record sets: each of their records goes once more, alone, so that only the guilty are refused.
    async fn send_suspects_alone(&mut self) {
        let mut suspects = std::mem::take(&mut self.suspects);
        if self.has_lost_the_lease() {
            suspects.clear();
        }
        suspects.sort_unstable();
        let again: Vec<Envelope> = suspects
            .iter()
            .map(|index| self.batch[*index as usize].clone())
            .collect();
        let topics = suspects
            .iter()
            .map(|index| Arc::clone(&self.topics[*index as usize]))
            .collect();
        let outcomes = Box::pin(Flight::new(self.kafka, &again, topics, true).run()).await;
        for (index, outcome) in suspects.into_iter().zip(outcomes) {
            self.ledger.answer_alone(index, outcome);
        }
        self.ledger.withhold_all();
    }
}

impl Drop for Flight<'_> {
    /// Answered, or dropped before it was: reports that still come go nowhere, and nobody waits for the room they take.
    fn drop(&mut self) {
        let out = self.handed.iter().filter(|handed| self.out[handed.index as usize]);
        self.reports
            .give_back(out.filter_map(|handed| Some((handed.index, handed.ticket?))));
        self.reports.close();
        if let Some((_, ticket)) = self.spare.take() {
            self.kafka.flow.forget(ticket);
        }
    }
}

fn failure(code: Code, topic: &str) -> Failure {
    let error = format!("kafka topic {topic:?}: {}", KafkaError::MessageProduction(code));
    Failure::new(classify(code), code_name(code), error.replace('\n', " "))
}
