//! `[transports.<name>.stdout]`: nothing to set.

use serde::Deserialize;

/// Standard output can be told nothing.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StdoutConfig {}
