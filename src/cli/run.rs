//! `outboxd run`: the daemon.

use std::process::ExitCode;

use crate::config::Config;

/// Replaced by the composition root when the engine is merged.
pub(super) async fn run(_config: Config) -> anyhow::Result<ExitCode> {
    anyhow::bail!("this build has no engine")
}
