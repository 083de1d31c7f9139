//! Where acknowledgements arrive: one subscription for the whole transport, one inbox per batch.
//!
//! A message's reply subject is `<inbox>.<batch>.<index>`. One task takes each reply and puts it into the inbox of its
//! batch; replies for a batch that is gone (it timed out or was dropped) are ignored. So a message costs no channel, no
//! timer and no task of its own, and no acknowledgement future exists that could be dropped or hold a permit.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_nats::{Message, Subscriber};
use futures_util::StreamExt;
use tokio::sync::Notify;

use crate::lock::lock;

/// The replies of one batch that nobody has looked at yet.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    replies: Mutex<Vec<(u32, Message)>>,
    /// Told when there are replies, and when the link broke.
    pub(super) changed: Notify,
}

impl Inbox {
    /// Moves the replies into `into`.
    pub(super) fn take(&self, into: &mut Vec<(u32, Message)>) {
        into.append(&mut lock(&self.replies));
    }
}

/// All inboxes.
#[derive(Debug)]
pub(super) struct Inboxes {
    prefix: String,
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Inbox>>>,
}

impl Inboxes {
    /// `prefix` is the reply subject's first part, unique to this client.
    pub(super) fn new(prefix: String) -> Self {
        Self {
            prefix,
            next: AtomicU64::new(0),
            open: Mutex::default(),
        }
    }

    /// The subject to subscribe to.
    pub(super) fn subject(&self) -> String {
        format!("{}.>", self.prefix)
    }

    /// A new inbox, and its number.
    pub(super) fn open(&self) -> (u64, Arc<Inbox>) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let inbox = Arc::new(Inbox::default());
        self.lock().insert(number, Arc::clone(&inbox));
        (number, inbox)
    }

    /// Forgets an inbox: what still arrives for it is ignored.
    pub(super) fn close(&self, number: u64) {
        self.lock().remove(&number);
    }

    /// The reply subject of message `index` of inbox `number`.
    pub(super) fn reply_to(&self, number: u64, index: u32) -> String {
        format!("{}.{number}.{index}", self.prefix)
    }

    /// Wakes every batch, to look at the link.
    pub(super) fn wake_all(&self) {
        for inbox in self.lock().values() {
            inbox.changed.notify_one();
        }
    }

    /// Hands out replies until the subscription ends with its client.
    pub(super) async fn route(self: Arc<Self>, mut replies: Subscriber) {
        while let Some(reply) = replies.next().await {
            let Some((number, index)) = self.address(&reply.subject) else {
                continue;
            };
            let inbox = self.lock().get(&number).cloned();
            if let Some(inbox) = inbox {
                lock(&inbox.replies).push((index, reply));
                inbox.changed.notify_one();
            }
        }
    }

    fn address(&self, subject: &str) -> Option<(u64, u32)> {
        let (number, index) = subject.strip_prefix(&self.prefix)?.strip_prefix('.')?.split_once('.')?;
        Some((number.parse().ok()?, index.parse().ok()?))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Inbox>>> {
        lock(&self.open)
    }
}
