//! From configured transports to connected ones: the one place that names every kind.

use std::sync::Arc;

use crate::config::{self, Config, Fingerprint, TransportConfig};
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
                        system: transport.config.kind(),
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
    let name = &*transport.name;
    let refused = |error: &dyn std::fmt::Display| StoreError::Misconfigured(error.to_string());
    Ok(match &transport.config {
        #[cfg(feature = "nats")]
        TransportConfig::Nats(nats) => Arc::new(
            crate::transport::nats::Nats::connect(name, nats)
                .await
                .map_err(|error| refused(&error))?,
        ),
        #[cfg(feature = "kafka")]
        TransportConfig::Kafka(kafka) => Arc::new(
            crate::transport::kafka::Kafka::connect(name, kafka)
                .await
                .map_err(|error| refused(&error))?,
        ),
        #[cfg(feature = "redis")]
        TransportConfig::Redis(redis) => Arc::new(
            crate::transport::redis::Redis::connect(name, redis)
                .await
                .map_err(|error| refused(&error))?,
        ),
        TransportConfig::Stdout(stdout) => Arc::new(
            crate::transport::stdout::Stdout::connect(name, stdout)
                .await
                .map_err(|error| refused(&error))?,
        ),
    })
}
