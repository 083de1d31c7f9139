//! From configured transports to connected ones, and how several outboxes share them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;

use crate::config::{self, Config, Fingerprint};
use crate::delivery::{Failure, Outcome};
use crate::finding::Finding;
use crate::relay::plan::Broker;
use crate::store::StoreError;
use crate::transport::{Envelope, Probe, Transport, Use};

/// A connected transport, and what its section said.
#[derive(Clone)]
pub(crate) struct Connected {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) broker: Broker,
}

/// A transport as one of several outboxes has it. Closing it is nothing to the others: whoever lends it closes it.
struct Lent {
    transport: Arc<dyn Transport>,
    publishing: AtomicUsize,
}

/// `broker`, for one of several outboxes.
pub(super) fn lent(broker: &Broker) -> Broker {
    let transport = Lent {
        transport: Arc::clone(&broker.transport),
        publishing: AtomicUsize::new(0),
    };
    Broker {
        transport: Arc::new(transport),
        ..broker.clone()
    }
}

#[async_trait]
impl Transport for Lent {
    async fn publish(&self, batch: &[Envelope]) -> Vec<Outcome> {
        let under_way = UnderWay::of(&self.publishing);
        let outcomes = self.transport.publish(batch).await;
        drop(under_way);
        outcomes
    }

    async fn probe(&self, destination: &str) -> Result<Probe, Failure> {
        self.transport.probe(destination).await
    }

    async fn inspect(&self, uses: &[Use]) -> Result<Vec<Finding>, Failure> {
        self.transport.inspect(uses).await
    }

    /// The others send theirs again; one that has nothing under way does them no harm.
    fn abandon(&self) {
        if self.publishing.load(Ordering::Acquire) > 0 {
            self.transport.abandon();
        }
    }

    async fn close(&self) {}
}

/// Counted for as long as it lives, also where the future is dropped.
struct UnderWay<'a>(&'a AtomicUsize);

impl<'a> UnderWay<'a> {
    fn of(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Connects every transport, in configuration order; those of `known` whose section says the same keep their connection. A
/// broker that is down is no error: it is waited for.
pub(crate) async fn connect(config: &Config, known: &[Connected]) -> anyhow::Result<Vec<Connected>> {
    let mut connected: Vec<Connected> = Vec::with_capacity(config.transports.len());
    let mut new = Vec::new();
    for transport in &config.transports {
        let is_known =
            |known: &&Connected| known.broker.name == transport.name && known.fingerprint == transport.fingerprint;
        if let Some(known) = known.iter().find(is_known) {
            connected.push(known.clone());
            continue;
        }
        match one(transport).await {
            Ok(made) => {
                new.push(Arc::clone(&made));
                connected.push(Connected {
                    fingerprint: transport.fingerprint,
                    broker: Broker {
                        name: Arc::clone(&transport.name),
                        system: transport.config.settings().kind(),
                        transport: made,
                    },
                });
            }
            Err(error) => {
                for made in new {
                    made.close().await;
                }
                return Err(error);
            }
        }
    }
    Ok(connected)
}

async fn one(transport: &config::Transport) -> anyhow::Result<Arc<dyn Transport>> {
    let made = transport.config.settings().connect(&transport.name).await;
    made.map_err(|error| StoreError::Misconfigured(error.to_string()).into())
}
