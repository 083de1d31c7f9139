//! From configured transports to connected ones: the one place that names every kind.

use std::sync::Arc;

use crate::config::{Config, TransportConfig};
use crate::store::StoreError;
use crate::transport::Transport;

/// Connects every transport, in configuration order. A broker that is down is no error: it is waited for.
pub(super) async fn connect(config: &Config) -> anyhow::Result<Vec<Arc<dyn Transport>>> {
    let mut transports: Vec<Arc<dyn Transport>> = Vec::with_capacity(config.transports.len());
    for transport in &config.transports {
        let name = &*transport.name;
        let refused = |error: &dyn std::fmt::Display| StoreError::Misconfigured(error.to_string());
        transports.push(match &transport.config {
            #[cfg(feature = "nats")]
            TransportConfig::Nats(nats) => {
                Arc::new(crate::transport::nats::Nats::connect(name, nats).await.map_err(|error| refused(&error))?)
            }
            #[cfg(feature = "kafka")]
            TransportConfig::Kafka(kafka) => {
                Arc::new(crate::transport::kafka::Kafka::connect(name, kafka).await.map_err(|error| refused(&error))?)
            }
            #[cfg(feature = "redis")]
            TransportConfig::Redis(redis) => {
                Arc::new(crate::transport::redis::Redis::connect(name, redis).await.map_err(|error| refused(&error))?)
            }
            TransportConfig::Stdout(stdout) => {
                Arc::new(crate::transport::stdout::Stdout::connect(name, stdout).await.map_err(|error| refused(&error))?)
            }
        });
    }
    Ok(transports)
}
