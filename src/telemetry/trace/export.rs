//! The task that sends spans to the collector: 512 at a time, or what there is every 5 s.
//!
//! A batch that is not taken now is tried again, 1 s later, then 2, up to 30; meanwhile the queue fills and what does not
//! fit is dropped and counted. A clean stop sends what is left, for at most [`FLUSH_MAX`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::client::{Client, Refusal};
use super::endpoint::Endpoint;
use super::otlp::{KeyValue, Request, Resource, ResourceSpans, Scope, ScopeSpans, Span};
use crate::repeat::Repeat;
use crate::telemetry::metrics::Metrics;

/// Spans of one request at most.
const BATCH: usize = 512;
/// A span waits no longer for others to go with.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long the rest may take at a clean stop.
pub const FLUSH_MAX: Duration = Duration::from_secs(2);
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// See the module. Made by [`Telemetry::traced`](super::super::Telemetry::traced).
pub struct Exporter {
    spans: mpsc::Receiver<Span>,
    client: Client,
    resource: Resource,
    metrics: Arc<Metrics>,
    repeat: Repeat,
    /// The request that has not been taken yet, and its spans.
    pending: Option<(Bytes, u64)>,
}

impl Exporter {
    pub(super) fn new(endpoint: Endpoint, instance: &str, spans: mpsc::Receiver<Span>, metrics: Arc<Metrics>) -> Self {
        let attributes = vec![
            KeyValue::text("service.name", "outboxd"),
            KeyValue::text("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::text("service.instance.id", instance),
        ];
        Self {
            spans,
            client: Client::new(endpoint),
            resource: Resource { attributes },
            metrics,
            repeat: Repeat::default(),
            pending: None,
        }
    }

    /// Until `stop`, and then until what is left is sent.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        let sending = async {
            loop {
                if self.pending.is_none() {
                    fill(&mut self.spans, &mut batch).await;
                    self.wrap(&mut batch);
                }
                self.deliver().await;
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = sending => {}
        }
        self.spans.close();
        if tokio::time::timeout(FLUSH_MAX, self.flush(&mut batch)).await.is_err() {
            tracing::debug!("the collector did not take the last spans in time");
        }
        let left = self.pending.as_ref().map_or(0, |(_, count)| *count) + whole(batch.len()) + whole(self.spans.len());
        self.metrics.spans_dropped(left);
    }

    /// Makes a request of the batch, and leaves that empty.
    fn wrap(&mut self, batch: &mut Vec<Span>) {
        let count = whole(batch.len());
        let scope = Scope {
            name: "outboxd".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let scope_spans = ScopeSpans {
            scope: Some(scope),
            spans: std::mem::replace(batch, Vec::with_capacity(BATCH)),
        };
        let resource_spans = ResourceSpans {
            resource: Some(self.resource.clone()),
            scope_spans: vec![scope_spans],
        };
        let request = Request {
            resource_spans: vec![resource_spans],
        };
        self.pending = Some((request.encode_to_vec().into(), count));
    }

    /// Sends the pending request until it is taken, or never will be.
    async fn deliver(&mut self) {
        let mut wait = RETRY_MIN;
        while !self.try_once().await {
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY_MAX);
        }
    }

    /// `false`: it is still pending.
    async fn try_once(&mut self) -> bool {
        let Some((body, count)) = &self.pending else {
            return true;
        };
        let (count, answer) = (*count, self.client.send(body.clone()).await);
        match answer {
            Ok(None) => {
                if self.repeat.ended() {
                    tracing::info!("the trace collector takes spans again");
                }
            }
            Ok(Some((rejected, why))) => {
                self.metrics.spans_dropped(rejected);
                self.complain(&format!("{rejected} of {count} spans rejected: {why}"));
            }
            Err(refusal) => {
                self.complain(refusal.error());
                match refusal {
                    Refusal::Later(_) => return false,
                    Refusal::Never(_) => self.metrics.spans_dropped(count),
                }
            }
        }
        self.pending = None;
        true
    }

    fn complain(&mut self, error: &str) {
        if let Some(count) = self.repeat.occurred(Instant::now().into_std()) {
            let dropped = self.metrics.spans_dropped_so_far();
            tracing::warn!(
                error,
                count,
                dropped,
                "spans do not reach the trace collector (trace.otlp_endpoint); messages go on"
            );
        }
    }

    async fn flush(&mut self, batch: &mut Vec<Span>) {
        loop {
            if self.pending.is_none() {
                while batch.len() < BATCH
                    && let Ok(span) = self.spans.try_recv()
                {
                    batch.push(span);
                }
                if batch.is_empty() {
                    return;
                }
                self.wrap(batch);
            }
            if !self.try_once().await {
                return;
            }
        }
    }
}

/// At least one span; then until the batch is full or its first span has waited long enough. What is dropped half way stays
/// in `batch`.
async fn fill(spans: &mut mpsc::Receiver<Span>, batch: &mut Vec<Span>) {
    while batch.is_empty() {
        if spans.recv_many(batch, BATCH).await == 0 {
            // No tracer is left: nothing will come.
            std::future::pending::<()>().await;
        }
    }
    let until = Instant::now() + INTERVAL;
    while batch.len() < BATCH {
        let room = BATCH - batch.len();
        match tokio::time::timeout_at(until, spans.recv_many(batch, room)).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

fn whole(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
