//! An OpenTelemetry collector on loopback, as far as traces go: OTLP over HTTP, read with the project's own messages.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// What came so far.
#[derive(Debug, Default)]
struct Received {
    requests: usize,
    resource: BTreeMap<String, String>,
    spans: Vec<Span>,
}

/// A running collector.
pub(crate) struct Collector {
    port: u16,
    received: Arc<Mutex<Received>>,
    _server: JoinSet<()>,
}

impl Collector {
    /// Starts one.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let received: Arc<Mutex<Received>> = Arc::default();
        let book = Arc::clone(&received);
        let take = move |headers: HeaderMap, body: Bytes| async move {
            if headers
                .get("content-type")
                .is_none_or(|kind| kind != "application/x-protobuf")
            {
                return StatusCode::UNSUPPORTED_MEDIA_TYPE;
            }
            let request = ExportTraceServiceRequest::decode(body).expect("an OTLP request");
            let mut book = book.lock().unwrap();
            book.requests += 1;
            for one in request.resource_spans {
                book.resource = attributes(&one.resource.expect("a resource").attributes);
                book.spans
                    .extend(one.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
            StatusCode::OK
        };
        let router = Router::new().route("/v1/traces", post(take));
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.expect("the collector serves") });
        Self {
            port,
            received,
            _server: server,
        }
    }

    /// The `[trace]` section that names it.
    pub(crate) fn section(&self) -> String {
        format!("[trace]\notlp_endpoint = \"http://127.0.0.1:{}\"\n", self.port)
    }

    /// Every span so far.
    pub(crate) fn spans(&self) -> Vec<Span> {
        self.received.lock().unwrap().spans.clone()
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> usize {
        self.received.lock().unwrap().requests
    }

    /// Attributes of the resource of the latest request.
    pub(crate) fn resource(&self) -> BTreeMap<String, String> {
        self.received.lock().unwrap().resource.clone()
    }
}

/// Attributes by their names, as text.
pub(crate) fn attributes(list: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |pair: &KeyValue| match pair.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => panic!("{}: {other:?}", pair.key),
    };
    list.iter().map(|pair| (pair.key.clone(), text(pair))).collect()
}

/// Bytes as a `traceparent` shows them.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
