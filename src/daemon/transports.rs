//! From configured transports to connected ones.

use std::sync::Arc;

use crate::config::{self, Config, Fingerprint};
use crate::relay::plan::Broker;
use crate::store::StoreError;
use crate::transport::Transport;

/// A connected transport, and what its section said.
#[derive(Clone)]
pub(crate) struct Connected {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) broker: Broker,
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
