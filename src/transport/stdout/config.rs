//! `[transports.<name>.stdout]`. Stand-in until the transport is merged.

use serde::Deserialize;

/// The section's keys.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StdoutConfig {}

impl StdoutConfig {
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
