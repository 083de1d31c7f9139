//! `outboxd pause TOPIC`, `outboxd resume TOPIC`: hold messages back, and let them go. Only the database is written.

use std::process::ExitCode;

use crate::config::Config;
use crate::store::postgres::desk::paused;

use super::Usage;
use super::person::who;
use super::terminal::{Out, safe};

/// Arguments of `pause`.
#[derive(Debug, clap::Args)]
pub(super) struct PauseArgs {
    /// Topics, as rows name them
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
}

/// Arguments of `resume`.
#[derive(Debug, clap::Args)]
pub(super) struct ResumeArgs {
    /// Topics, as rows name them
    #[arg(required_unless_present = "all", value_name = "TOPIC")]
    topics: Vec<String>,
    /// Every paused topic
    #[arg(long, conflicts_with = "topics")]
    all: bool,
}

pub(super) async fn pause(config: &Config, args: &PauseArgs) -> anyhow::Result<ExitCode> {
    for topic in &args.topics {
        if config.routes.find(topic).is_none() {
            return Err(Usage(format!(
                "no route matches topic {topic:?}: nothing of it is sent anyway"
            ))
            .into());
        }
    }
    let (database, names) = super::opened(config).await?;
    let changed = paused::pause(&database, &names, &args.topics, &who()).await?;
    say(&args.topics, &changed, "paused", "paused already")
}

pub(super) async fn resume(config: &Config, args: &ResumeArgs) -> anyhow::Result<ExitCode> {
    let (database, names) = super::opened(config).await?;
    let topics = (!args.all).then_some(args.topics.as_slice());
    let changed = paused::resume(&database, &names, topics, &who()).await?;
    let named = topics.unwrap_or(&changed);
    let code = say(named, &changed, "resumed", "not paused")?;
    if named.is_empty() {
        let mut out = Out::stdout();
        out.line("no topic is paused")?;
        out.finish()?;
    }
    Ok(code)
}

fn say(named: &[String], changed: &[String], done: &str, before: &str) -> anyhow::Result<ExitCode> {
    let mut out = Out::stdout();
    for topic in named {
        let what = if changed.contains(topic) { done } else { before };
        out.line(format!("{}: {what}", safe(topic)))?;
    }
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}
