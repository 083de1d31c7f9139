//! `outboxd check`: is the configuration right, and with `--connect`, is what it points at?
//!
//! A finding is a fault (the daemon would not start or not relay) or a warning, and says what to do. Whoever can look at
//! something adds a function that returns findings to [`connected`].

use std::process::ExitCode;

use crate::config::Config;
use crate::store::StoreError;
use crate::store::postgres::schema;

use super::terminal::{Out, Tone, safe};

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Connect to what is configured, too
    #[arg(long)]
    connect: bool,
}

/// What a look at one thing found.
enum Finding {
    /// Right, in a few words.
    Fine(String),
    /// Works, but not well: what, and what to do.
    Warning(String),
    /// Does not work: what, and what to do.
    Fault(String),
}

/// Exit code 0 without faults, else 1. A wrong configuration never gets here: that is 64.
pub(super) async fn check(config: &Config, args: &Args) -> anyhow::Result<ExitCode> {
    let mut out = Out::stdout();
    out.line(format!(
        "configuration ok: {}.{} in {} lanes, {} transport(s), {} route(s)",
        config.outbox.schema,
        config.outbox.table,
        config.outbox.lanes,
        config.transports.len(),
        config.routes.iter().count()
    ))?;
    let mut code = ExitCode::SUCCESS;
    if args.connect {
        for (subject, finding) in connected(config).await? {
            let (tone, word, text) = match finding {
                Finding::Fine(text) => (Tone::Good, "ok", text),
                Finding::Warning(text) => (Tone::Heading, "warning", text),
                Finding::Fault(text) => {
                    code = ExitCode::FAILURE;
                    (Tone::Bad, "fault", text)
                }
            };
            let word = out.paint(tone, &format!("{word:<7}"));
            out.line(format!("{word} {subject}: {}", safe(&text)))?;
        }
    }
    out.finish()?;
    Ok(code)
}

async fn connected(config: &Config) -> anyhow::Result<Vec<(String, Finding)>> {
    database(config).await
}

async fn database(config: &Config) -> anyhow::Result<Vec<(String, Finding)>> {
    let subject = || "database".to_owned();
    match schema::validate(&super::database(config)?, &super::names(config)).await {
        Ok(schema) => {
            let fine = format!(
                "{}.{} holds {} payloads",
                config.outbox.schema,
                config.outbox.table,
                schema.payload.as_str()
            );
            let warnings = schema
                .warnings
                .into_iter()
                .map(|line| (subject(), Finding::Warning(line)));
            Ok(std::iter::once((subject(), Finding::Fine(fine)))
                .chain(warnings)
                .collect())
        }
        Err(StoreError::Misconfigured(line)) => Ok(vec![(subject(), Finding::Fault(line))]),
        Err(error @ StoreError::Unavailable(_)) => {
            let line = super::one_line(&error.into());
            Ok(vec![(
                subject(),
                Finding::Fault(format!("{line}: check database.url and that the server runs")),
            )])
        }
    }
}
