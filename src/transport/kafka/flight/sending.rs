//! Handing messages over to librdkafka, as fast as brokers answer for them.

use std::sync::Arc;

use rdkafka::error::KafkaError;
use rdkafka::producer::BaseRecord;
use rdkafka::types::RDKafkaErrorCode as Code;
use tokio::time::Instant;

use super::{Flight, Handed, failure};
use crate::delivery::{Failure, FailureClass};
use crate::transport::Envelope;
use crate::transport::flow::Ticket;
use crate::transport::kafka::record;
use crate::transport::kafka::session::Carried;
use crate::transport::kafka::topic::Topic;

enum Sent {
    Yes,
    NotYet(Wait),
    No(Failure),
}

/// What keeps the rest from being handed over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// Nothing does.
    Nothing,
    /// librdkafka's queue is full.
    Queue,
    /// Answers to earlier messages have to come before so many bytes may go.
    Answers(u32, usize),
}

impl Flight<'_> {
    /// Hands over what is ready; answers what keeps the rest back.
    pub(super) fn send_ready(&mut self) -> Wait {
        if self.has_lost_the_lease() {
            for index in std::mem::take(&mut self.ready) {
                self.ledger.withhold_from(index);
            }
        }
        if self.stop_at > self.send_until {
            return Wait::Nothing;
        }
        while let Some(&index) = self.ready.front() {
            if self.ledger.is_open(index) {
                match self.send(index) {
                    Sent::Yes => {
                        self.out[index as usize] = true;
                        self.out_count += 1;
                    }
                    Sent::No(failure) => self.ledger.refuse(index, failure),
                    Sent::NotYet(wait) => return wait,
                }
            }
            self.ready.pop_front();
        }
        Wait::Nothing
    }

    fn send(&mut self, index: u32) -> Sent {
        let envelope = &self.batch[index as usize];
        let topic = &self.topics[index as usize];
        let id = envelope.message.id.to_string();
        let headers = match self.check(envelope, topic, &id) {
            Ok(headers) => headers,
            Err(failure) => return Sent::No(failure),
        };
        let slot = if self.singly[index as usize] {
            &self.kafka.single
        } else {
            self.main
        };
        let session = match slot.get() {
            Ok(session) => session,
            Err(failure) => return Sent::No(failure),
        };
        // What waits for its topic to be made is not on its way to anybody.
        let ticket = if topic.is_missing() {
            None
        } else {
            let bytes = envelope.size();
            match self.take_room(index, bytes) {
                None => return Sent::NotYet(Wait::Answers(index, bytes)),
                taken @ Some(_) => taken,
            }
        };
        let opaque = Box::new(Carried {
            reports: Arc::clone(&self.reports),
            index,
            ticket,
        });
        let mut record: BaseRecord<'_, str, [u8], _> =
            BaseRecord::with_opaque_to(&envelope.destination, opaque).headers(headers);
        if !envelope.message.payload_is_null {
            record.payload = Some(&envelope.message.payload[..]);
        }
        record.key = envelope.message.key.as_deref();
        let at = ticket.map_or_else(Instant::now, |ticket| ticket.at());
        let Err((error, _)) = session.producer.send(record) else {
            self.handed.push_back(Handed { index, at, ticket });
            return Sent::Yes;
        };
        if let KafkaError::MessageProduction(Code::QueueFull) = error {
            self.spare = ticket.map(|ticket| (index, ticket));
            return Sent::NotYet(Wait::Queue);
        }
        if let Some(ticket) = ticket {
            self.kafka.flow.forget(ticket);
        }
        let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
        Sent::No(failure(code, &envelope.destination))
    }

    /// Room for a message of `bytes`, unless answers have to come before.
    fn take_room(&mut self, index: u32, bytes: usize) -> Option<Ticket> {
        match self.spare.take() {
            Some((wanted, ticket)) if wanted == index => Some(ticket),
            Some((_, ticket)) => {
                self.kafka.flow.forget(ticket);
                self.kafka.flow.try_take(bytes)
            }
            None => self.kafka.flow.try_take(bytes),
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
        if topic.is_missing() && self.kafka.topics.are_never_made() {
            return Err(failure(Code::UnknownTopicOrPartition, &envelope.destination));
        }
        match topic.stuck() {
            Some(failure) => Err(failure),
            None => Ok(headers),
        }
    }

    /// The time to send is over. What is left goes with a later batch, once there is any sign of life; without one for as long
    /// as what was sent is waited for, it is answered as that is.
    pub(super) fn stop_sending(&mut self, now: Instant) {
        let ack_timeout = self.kafka.ack_timeout;
        let lately = now.checked_sub(2 * ack_timeout);
        let alive = self
            .kafka
            .is_alive_since(lately.map_or(self.began, |at| at.min(self.began)));
        let end = self.send_until + ack_timeout;
        if !alive && now < end {
            self.stop_at = (now + self.kafka.moment()).min(end);
            return;
        }
        for index in std::mem::take(&mut self.ready) {
            if !self.ledger.is_open(index) {
                continue;
            }
            if alive {
                self.ledger.withhold_from(index);
            } else {
                let failure = self.kafka.health.outage().unwrap_or_else(|| {
                    let error = "kafka has answered for nothing lately, and takes no more until it does";
                    Failure::new(FailureClass::Unavailable, "QUEUE_FULL", error)
                });
                self.ledger.refuse(index, failure);
            }
        }
    }
}
