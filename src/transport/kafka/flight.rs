//! One batch on its way through librdkafka: sends what may be sent, waits for the reports.
//!
//! Times: a message waits at least `ack_timeout` for its report; nothing new is handed over once half of `ack_timeout` has
//! passed since the batch began, so a batch is answered within 1.5 times `ack_timeout`, or twice that when records have to
//! be sent again one by one.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use rdkafka::error::KafkaError;
use rdkafka::producer::BaseRecord;
use rdkafka::types::RDKafkaErrorCode as Code;
use tokio::time::Instant;

use super::classify::{classify, code_name, is_collateral};
use super::record;
use super::session::{Report, Reports, Session};
use super::topics::Topic;
use super::{Kafka, Slot};
use crate::delivery::{Failure, FailureClass, Order, Outcome};
use crate::transport::Envelope;
use crate::transport::chain::{Ledger, is_ordered};

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
    send_until: Instant,
    /// When the batch was handed over.
    started: std::time::Instant,
}

enum Sent {
    Yes,
    NoRoom,
    No(Failure),
}

impl<'a> Flight<'a> {
    pub(super) fn new(kafka: &'a Kafka, batch: &'a [Envelope], topics: Vec<Arc<Topic>>, alone: bool) -> Self {
        let mut flight = Self {
            kafka,
            batch,
            topics,
            alone,
            one_by_one: false,
            main: &kafka.main,
            ledger: Ledger::new(batch, is_ordered),
            ready: VecDeque::with_capacity(batch.len()),
            waits: vec![false; batch.len()],
            out: vec![false; batch.len()],
            out_count: 0,
            suspects: Vec::new(),
            reports: Arc::default(),
            send_until: Instant::now() + kafka.ack_timeout / 2,
            started: std::time::Instant::now(),
        };
        flight.find_waiting();
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
            let chain: Vec<u32> = std::iter::successors(Some(head), |index| self.ledger.behind(*index)).collect();
            let waits = |index: &u32| {
                let envelope = &self.batch[*index as usize];
                self.alone || envelope.order == Order::Strict || self.topics[*index as usize].is_careful()
            };
            if chain.len() > 1 && chain.iter().any(waits) {
                self.one_by_one = true;
                for index in chain {
                    self.waits[index as usize] = true;
                }
            }
        }
    }

    /// Sends everything and answers.
    pub(super) async fn run(mut self) -> Vec<Outcome> {
        let give_up = self.send_until + self.kafka.ack_timeout;
        let mut reports: Vec<Report> = Vec::new();
        loop {
            let full = self.send_ready();
            if self.out_count == 0 && self.ready.is_empty() {
                break;
            }
            self.reports.wake_at(if self.one_by_one { 1 } else { self.out_count });
            let look_again = if full {
                (Instant::now() + ROOM).min(give_up)
            } else {
                give_up
            };
            // A timeout is nothing to act on here: what is due is looked at below.
            let _woken = tokio::time::timeout_at(look_again, self.reports.changed.notified()).await;
            self.reports.take(&mut reports);
            for (index, code) in reports.drain(..) {
                self.receive(index, code);
            }
            let now = Instant::now();
            if now >= self.send_until && !self.ready.is_empty() {
                self.stop_sending();
            }
            if now >= give_up {
                self.give_up();
                break;
            }
        }
        if !self.suspects.is_empty() {
            self.send_suspects_alone().await;
        }
        std::mem::replace(&mut self.ledger, Ledger::new(&[], is_ordered)).finish()
    }

    /// Hands over what is ready; `true` when librdkafka has no room for more.
    fn send_ready(&mut self) -> bool {
        while let Some(&index) = self.ready.front() {
            if self.ledger.is_open(index) {
                match self.send(index) {
                    Sent::Yes => {
                        self.out[index as usize] = true;
                        self.out_count += 1;
                    }
                    Sent::No(failure) => self.ledger.refuse(index, failure),
                    Sent::NoRoom => return true,
                }
            }
            self.ready.pop_front();
        }
        false
    }

    fn send(&self, index: u32) -> Sent {
        let envelope = &self.batch[index as usize];
        let topic = &self.topics[index as usize];
        let id = envelope.message.id.to_string();
        let headers = match self.check(envelope, topic, &id) {
            Ok(headers) => headers,
            Err(failure) => return Sent::No(failure),
        };
        let session = match self.session(topic) {
            Ok(session) => session,
            Err(failure) => return Sent::No(failure),
        };
        let opaque = Box::new((Arc::clone(&self.reports), index));
        let mut record: BaseRecord<'_, str, [u8], _> = BaseRecord::with_opaque_to(&envelope.destination, opaque)
            .payload(&envelope.message.payload[..])
            .headers(headers);
        record.key = envelope.message.key.as_deref();
        match session.producer.send(record) {
            Ok(()) => Sent::Yes,
            Err((KafkaError::MessageProduction(Code::QueueFull), _)) => Sent::NoRoom,
            Err((error, _)) => Sent::No(failure(
                error.rdkafka_error_code().unwrap_or(Code::Unknown),
                &envelope.destination,
            )),
        }
    }

    fn check(&self, envelope: &Envelope, topic: &Topic, id: &str) -> Result<rdkafka::message::OwnedHeaders, Failure> {
        record::check_topic(&envelope.destination)?;
        let headers = record::headers(envelope, &self.kafka.id_header, id)?;
        if let Some((size, limit)) = self.kafka.exceeds(envelope, topic) {
            let error = format!(
                "record of {size} bytes is too large: it exceeds max.message.bytes = {limit} of kafka topic {:?}",
                &*envelope.destination
            );
            return Err(Failure::new(FailureClass::Rejected, "MSG_SIZE_TOO_LARGE", error));
        }
        match topic.stuck() {
            Some(failure) => Err(failure),
            None => Ok(headers),
        }
    }

    /// The producer for a topic: records go alone where a record set could be refused for one of them.
    fn session(&self, topic: &Topic) -> Result<Arc<Session>, Failure> {
        let small = topic
            .limits()
            .message_bytes
            .is_some_and(|limit| limit < self.kafka.batch_bytes);
        if self.alone || small || topic.is_careful() {
            self.kafka.single.get()
        } else {
            self.main.get()
        }
    }

    fn receive(&mut self, index: u32, code: Code) {
        self.out[index as usize] = false;
        self.out_count -= 1;
        if code == Code::NoError {
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

    fn stop_sending(&mut self) {
        for index in std::mem::take(&mut self.ready) {
            if self.ledger.is_open(index) {
                let error = "librdkafka's queue is full: kafka takes no more now";
                self.ledger
                    .refuse(index, Failure::new(FailureClass::Unavailable, "QUEUE_FULL", error));
            }
        }
    }

    /// The deadline: what librdkafka still holds is stuck in its topic, and nobody knows whether it arrived.
    fn give_up(&mut self) {
        for (index, code) in self.abandon(true) {
            self.receive(index, code);
        }
        self.ready.clear();
        let after = humantime::format_duration(self.kafka.ack_timeout);
        let silent = || {
            // A broker that died and came back meanwhile is an outage too, though it answers probes again.
            let died = self.kafka.health.was_down_since(self.started);
            let class = if died {
                FailureClass::Unavailable
            } else {
                FailureClass::TimedOut
            };
            Failure::new(
                class,
                "MSG_TIMED_OUT",
                format!("no acknowledgement from kafka within {after}"),
            )
        };
        let failure = self.kafka.health.outage().unwrap_or_else(silent);
        for index in 0..u32::try_from(self.batch.len()).expect("checked in new") {
            if self.out[index as usize] {
                self.ledger.answer_alone(index, Outcome::Refused(failure.clone()));
            }
        }
        self.out.fill(false);
        self.out_count = 0;
        self.ledger.withhold_all();
        self.suspects.clear();
    }

    fn abandon(&mut self, count: bool) -> Vec<Report> {
        let mut stuck = HashMap::new();
        if count {
            for (index, topic) in self.topics.iter().enumerate().filter(|(index, _)| self.out[*index]) {
                stuck.insert(u32::try_from(index).expect("checked in new"), Arc::clone(topic));
            }
        }
        self.reports.abandon(stuck)
    }

    /// The broker refused record sets: each of their records goes once more, alone, so that only the guilty are refused.
    async fn send_suspects_alone(&mut self) {
        let mut suspects = std::mem::take(&mut self.suspects);
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
    /// Dropped before it was answered: reports that still come go nowhere.
    fn drop(&mut self) {
        let _nobody_waits = self.abandon(false);
    }
}

fn failure(code: Code, topic: &str) -> Failure {
    let error = format!("kafka topic {topic:?}: {}", KafkaError::MessageProduction(code));
    Failure::new(classify(code), code_name(code), error.replace('\n', " "))
}
