//! `[transports.<name>.redis]`. Stand-in until the transport is merged.

use std::time::Duration;

use serde::Deserialize;

/// The section's keys.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    /// Server.
    pub url: String,
    /// How long one message waits for its acknowledgement.
    #[serde(default = "default_ack_timeout", deserialize_with = "duration")]
    pub ack_timeout: Duration,
}

fn default_ack_timeout() -> Duration {
    Duration::from_secs(5)
}

fn duration<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    humantime::parse_duration(&text).map_err(|_| serde::de::Error::custom(format!("{text:?} is no duration")))
}

impl RedisConfig {
    /// Checks what the types cannot. `name` is the transport's name.
    ///
    /// # Errors
    /// The first wrong key.
    pub fn validate(&self, name: &str) -> Result<(), String> {
        if name.is_empty() {
            Err("transports: a name is empty".to_owned())
        } else {
            Ok(())
        }
    }
}
