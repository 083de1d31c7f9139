//! `[transports.<name>.stdout]`: nothing to set.

use serde::Deserialize;

use crate::transport::ConnectError;

/// Standard output can be told nothing.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StdoutConfig {}

impl StdoutConfig {
    /// Nothing can be wrong.
    ///
    /// # Errors
    /// None.
    pub fn validate(&self, _name: &str) -> Result<(), ConnectError> {
        Ok(())
    }
}
