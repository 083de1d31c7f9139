//! `[transports.<name>.file]`.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::transport::settings::duration;

/// Everything the file transport can be told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// The file that is appended to. Its directory is to be there.
    pub path: PathBuf,
    /// How long the disk may take for a batch.
    #[serde(default = "default_ack_timeout", deserialize_with = "duration")]
    pub ack_timeout: Duration,
}

/// `ack_timeout` where the file says nothing; a shorter lease shortens it.
pub(super) fn default_ack_timeout() -> Duration {
    Duration::from_secs(5)
}
