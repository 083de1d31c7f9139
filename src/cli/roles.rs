//! `outboxd roles --print`: the SQL that makes the roles. It never runs it: who may make roles is not the relay's business.

use std::process::ExitCode;

use crate::config::Config;
use crate::daemon::settings::duties;
use crate::store::postgres::schema::rights;

use super::terminal::Out;

/// Arguments of `roles`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print the SQL (run it as the tables' owner: psql -v ON_ERROR_STOP=1 -f FILE)
    #[arg(long, required = true)]
    print: bool,
}

pub(super) async fn print(config: &Config) -> anyhow::Result<ExitCode> {
    let script = rights::script(&super::printed(config).await?, duties(config));
    let mut out = Out::stdout();
    out.bytes(script.as_bytes())?;
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}
