//! Traces: each attempt to publish a message that belongs to a sampled trace is a span of it.
//!
//! ```text
//!  traceparent of the row ──begin──> its own span's id goes out with the message ──finish──> bounded queue ──> Exporter
//!      (trace, parent)                 (so the consumer continues from it)                  full: dropped      (its task)
//! ```
//!
//! A span begins when its batch is handed to the transport and ends when that answers; a message that was not sent at all
//! ([`Outcome::Withheld`]) has none. The engine calls [`Tracer`] and knows nothing of where spans go. Without a tracer no
//! header is looked at. A collector that is slow or away costs spans (`outboxd_spans_dropped_total`), never a message:
//! nothing here waits on the engine's path.
//!
//! Names are those of OpenTelemetry's semantic conventions for messaging spans.

mod client;
mod context;
mod endpoint;
mod export;
mod otlp;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::metrics::Metrics;
use crate::delivery::Outcome;
use crate::message::{Headers, Message};
use context::Context;
pub use endpoint::Endpoint;
pub use export::{Exporter, FLUSH_MAX};
use otlp::{KeyValue, Span};

/// Spans that wait for the exporter at most.
pub const QUEUE_MAX: usize = 2_048;

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// What is traced, and where it goes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The collector.
    pub endpoint: Endpoint,
    /// A message without `traceparent` begins a trace of its own.
    pub start_new: bool,
    /// `service.instance.id`.
    pub instance: String,
}

/// A span under way.
#[derive(Debug)]
pub struct PublishSpan {
    context: Context,
    parent: Option<Context>,
    /// Where the header is, and what it said; `None`: it was added.
    header: usize,
    original: Option<Box<str>>,
}

/// What is known of an attempt once the transport has answered.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// What kind of broker the transport is (`messaging.system`).
    pub system: &'static str,
    /// Kafka topic, NATS subject, Redis stream.
    pub destination: &'a str,
    /// The answer.
    pub outcome: &'a Outcome,
    /// From handing over to the answer.
    pub took: Duration,
}

/// Makes spans of attempts.
#[derive(Debug)]
pub struct Tracer {
    queue: mpsc::Sender<Span>,
    metrics: Arc<Metrics>,
    start_new: bool,
}

impl Tracer {
    /// A tracer, and the task that sends what it makes.
    pub(super) fn new(settings: Settings, metrics: Arc<Metrics>) -> (Self, Exporter) {
        let (queue, spans) = mpsc::channel(QUEUE_MAX);
        let exporter = Exporter::new(settings.endpoint, &settings.instance, spans, Arc::clone(&metrics));
        let tracer = Self {
            queue,
            metrics,
            start_new: settings.start_new,
        };
        (tracer, exporter)
    }

    /// The message is about to be handed over: its `traceparent` names a new span as parent from now on. `None`, and nothing
    /// is touched, when it belongs to no trace, to one that is not sampled, or when the header is malformed.
    pub fn begin(&self, headers: &mut Headers) -> Option<Box<PublishSpan>> {
        let Headers::Valid(list) = headers else { return None };
        let found = list.iter().position(|(name, _)| name.eq_ignore_ascii_case(TRACEPARENT));
        let span = match found {
            Some(header) => {
                let parent = Context::parse(&list[header].1).filter(Context::is_sampled)?;
                let context = parent.child();
                let original = std::mem::replace(&mut list[header].1, context.to_string().into());
                PublishSpan {
                    context,
                    parent: Some(parent),
                    header,
                    original: Some(original),
                }
            }
            None if self.start_new => {
                let context = Context::root();
                list.push((TRACEPARENT.into(), context.to_string().into()));
                PublishSpan {
                    context,
                    parent: None,
                    header: list.len() - 1,
                    original: None,
                }
            }
            None => return None,
        };
        Some(Box::new(span))
    }

    /// The transport has answered. The message's headers are again what the row says: it may be sent once more.
    pub fn finish(&self, span: PublishSpan, message: &mut Message, attempt: Attempt<'_>) {
        let PublishSpan {
            context,
            parent,
            header,
            original,
        } = span;
        if let Headers::Valid(list) = &mut message.headers {
            match original {
                Some(original) => list[header].1 = original,
                None => drop(list.remove(header)),
            }
        }
        if matches!(attempt.outcome, Outcome::Withheld) {
            return;
        }
        match self.queue.try_reserve() {
            Ok(place) => place.send(self.span(context, parent, message, attempt)),
            Err(_) => self.metrics.spans_dropped(1),
        }
    }

    fn span(&self, context: Context, parent: Option<Context>, message: &Message, attempt: Attempt<'_>) -> Span {
        let end = u64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or_default();
        let took = u64::try_from(attempt.took.as_nanos()).unwrap_or(u64::MAX);
        let state = parent.and_then(|_| {
            let mut headers = message.headers.iter();
            headers.find(|(name, _)| name.eq_ignore_ascii_case(TRACESTATE))
        });
        let mut attributes = vec![
            KeyValue::text("messaging.system", attempt.system),
            KeyValue::text("messaging.operation.name", "publish"),
            KeyValue::text("messaging.operation.type", "send"),
            KeyValue::text("messaging.destination.name", attempt.destination),
            KeyValue::text("messaging.message.id", message.id.to_string()),
            KeyValue::whole(
                "messaging.message.body.size",
                i64::try_from(message.payload.len()).unwrap_or(i64::MAX),
            ),
            KeyValue::whole("outboxd.seq", message.seq.0),
            KeyValue::whole("outboxd.attempt", message.attempt.into()),
        ];
        let status = match attempt.outcome {
            Outcome::Refused(failure) => {
                attributes.push(KeyValue::text("error.type", failure.code.as_ref()));
                attributes.push(KeyValue::text("outboxd.failure.class", failure.class.as_str()));
                Some(otlp::Status {
                    message: failure.error.clone(),
                    code: otlp::STATUS_ERROR,
                })
            }
            Outcome::Acknowledged { .. } | Outcome::Withheld => None,
        };
        let remote = if parent.is_some() { otlp::PARENT_IS_REMOTE } else { 0 };
        Span {
            trace_id: context.trace.to_vec(),
            span_id: context.span.to_vec(),
            trace_state: state.map_or_else(String::new, |(_, value)| value.to_owned()),
            parent_span_id: parent.map_or_else(Vec::new, |parent| parent.span.to_vec()),
            name: format!("publish {}", message.topic),
            kind: otlp::KIND_PRODUCER,
            start_unix_nanos: end.saturating_sub(took),
            end_unix_nanos: end,
            attributes,
            status,
            flags: u32::from(context.flags) | remote,
        }
    }
}

#[cfg(test)]
mod tests;
