//! The laws of `src/transport/mod.rs`, one test body per law, run for every transport.

mod file;
mod kafka;
mod laws;
mod nats;
mod redis;
mod scripted;
mod stdout;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use outboxd::delivery::{Order, Outcome};
use outboxd::message::{Headers, Message, MessageId, Seq};
use outboxd::transport::{Envelope, Transport};
use uuid::Uuid;

/// What a consumer finds at a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The message id as the wire carries it.
    pub id: String,
    /// The key; `None` when there is none.
    pub key: Option<String>,
    /// Every header, the relay's included.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub payload: Vec<u8>,
}

/// One implementation and the world around it.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// The transport under test.
    fn transport(&self) -> Arc<dyn Transport>;

    /// A destination that exists and is empty.
    async fn destination(&self) -> Arc<str>;

    /// A destination that does not exist; `None` where every destination does.
    fn missing(&self) -> Option<Arc<str>>;

    /// Everything visible at `destination`, in order, read without the code under test.
    async fn visible(&self, destination: &str) -> Vec<Seen>;

    /// Makes `envelope` one that the broker or the client refuses for good.
    fn spoil(&self, envelope: &mut Envelope);

    /// The headers the relay adds to a message with this id and key.
    fn added(&self, id: &str, key: Option<&str>) -> BTreeMap<String, String>;

    /// The broker stops answering, its connections stay open.
    async fn hang(&self);

    /// The broker goes away.
    async fn stop(&self);

    /// The broker answers again after `hang` or `stop`.
    async fn heal(&self);

    /// The longest `publish` and `probe` may take.
    fn bound(&self) -> Duration;
}

/// A message nobody sent before.
pub fn message(destination: &Arc<str>, key: Option<&str>, order: Order) -> Envelope {
    static SEQ: AtomicI64 = AtomicI64::new(1);
    let seq = Seq(SEQ.fetch_add(1, Ordering::Relaxed));
    let message = Message {
        seq,
        id: MessageId::Uuid(Uuid::new_v4()),
        topic: Arc::clone(destination),
        key: key.map(Into::into),
        payload: format!("{{\"n\": {seq}}}").into_bytes().into(),
        payload_is_null: false,
        headers: Headers::empty(),
        attempt: 1,
        max_attempts: None,
        priority: 0,
        replay: 0,
        origin: None,
        age: Duration::ZERO,
    };
    Envelope {
        message,
        destination: Arc::clone(destination),
        order,
    }
}

/// The id on the wire.
pub fn id(envelope: &Envelope) -> String {
    envelope.message.id.to_string()
}

/// Whether the outcome is an acknowledgement.
pub fn acknowledged(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Acknowledged { .. })
}
