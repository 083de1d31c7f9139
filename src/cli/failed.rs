//! `outboxd failed list|show|retry|discard|export`: what operators do with failed messages. Only the database is written.

use std::process::ExitCode;

use anyhow::Context;
use serde_json::{Map, Value};

use crate::config::Config;
use crate::store::StoreError;
use crate::store::postgres::desk::failed::{
    self, Action, Command, Done, FailedMessage, Filter, MessageRef, STEP, Steps,
};
use crate::store::postgres::desk::moment::Moment;
use crate::store::postgres::desk::row_identity::Identity;
use crate::store::postgres::link::database::Database;
use crate::store::postgres::link::sql::Names;

use super::chosen::{known, refusals};
use super::steps::{Interrupt, bar_of_rows};
use super::terminal::{Out, Tone, age, grouped, messages, safe};
use super::{Usage, export};

/// Verbs under `failed`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Verb {
    /// List failed messages, oldest first
    List {
        #[command(flatten)]
        filter: FilterArgs,
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        /// An array of objects keyed by column, without payload and headers
        #[arg(long)]
        json: bool,
    },
    /// Show whole messages with headers, payload and failed attempts
    Show {
        /// Message ids or seqs
        #[arg(required_unless_present = "id", value_name = "ID")]
        ids: Vec<MessageRef>,
        /// A message id or seq, may be given again
        #[arg(long, value_name = "ID")]
        id: Vec<MessageRef>,
        /// One object a line, keyed by column, with "attempts"
        #[arg(long)]
        json: bool,
    },
    /// Make failed messages pending again, as if new
    Retry(BulkArgs),
    /// Delete failed messages; the audit keeps each of them whole
    Discard(BulkArgs),
    /// Print whole messages as JSON Lines, which `enqueue --lines` takes
    Export(FilterArgs),
}

/// Which messages: every filter given must hold.
#[derive(Debug, clap::Args)]
pub(super) struct FilterArgs {
    /// Message ids or seqs
    #[arg(value_name = "ID")]
    ids: Vec<MessageRef>,
    /// A message id or seq, may be given again
    #[arg(long, value_name = "ID")]
    id: Vec<MessageRef>,
    /// Of this topic
    #[arg(long)]
    topic: Option<String>,
    /// Of this key
    #[arg(long)]
    key: Option<String>,
    /// Failed since: a distance ago ("90m") or an instant ("2026-01-31T12:00:00Z")
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Whose last error contains this
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
}

impl FilterArgs {
    fn is_empty(&self) -> bool {
        let (ids, texts) = (
            self.ids.is_empty() && self.id.is_empty(),
            [&self.topic, &self.key, &self.error],
        );
        ids && self.since.is_none() && texts.iter().all(|text| text.is_none())
    }

    async fn filter(self, database: &Database, names: &Names) -> anyhow::Result<Filter> {
        Ok(Filter {
            topic: self.topic,
            key: self.key,
            ids: references(database, names, self.ids, self.id).await?,
            since: self.since,
            error: self.error,
        })
    }
}

/// Which messages are named.
async fn references(
    database: &Database,
    names: &Names,
    ids: Vec<MessageRef>,
    as_ids: Vec<MessageRef>,
) -> anyhow::Result<Vec<MessageRef>> {
    let ids = failed::meant(names, ids, as_ids).map_err(Usage)?;
    if !names.has_numbered_ids() {
        return Ok(ids);
    }
    match failed::settle_numbers(database, names, ids).await {
        Err(StoreError::Misconfigured(both)) => Err(Usage(both).into()),
        answer => Ok(answer?),
    }
}

/// Arguments of `retry` and `discard`.
#[derive(Debug, clap::Args)]
pub(super) struct BulkArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// All failed messages: needed when there is no filter
    #[arg(long)]
    all: bool,
    /// Only say how many
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn failed(config: &Config, verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::List { filter, limit, json } => list(config, filter, limit, json).await,
        Verb::Show { ids, id, json } => show(config, (ids, id), json).await,
        Verb::Retry(args) => bulk(config, Action::Retry, args).await,
        Verb::Discard(args) => bulk(config, Action::Discard, args).await,
        Verb::Export(filter) => {
            let (database, names) = super::opened(config).await?;
            let filter = filter.filter(&database, &names).await?;
            export::export(&database, &names, &filter).await
        }
    }
}

async fn list(config: &Config, filter: FilterArgs, limit: Option<usize>, json: bool) -> anyhow::Result<ExitCode> {
    let (database, names) = super::opened(config).await?;
    let filter = filter.filter(&database, &names).await?;
    let chosen = failed::choose(&database, &names, &filter, limit).await?;
    let mut out = Out::stdout();
    let mut first = true;
    for step in chosen.seqs().chunks(STEP) {
        let page = failed::list(&database, &names, step).await?;
        if json {
            for message in &page {
                out.bytes(if first { b"[\n" } else { b",\n" })?;
                out.json_text(message)?;
                first = false;
            }
        } else {
            out.table(
                ["SEQ", "AGO", "TRIES", "TOPIC", "KEY", "ERROR"],
                &page.iter().map(row).collect::<Vec<_>>(),
                [12, 7, 5, 20, 14, 80],
            )?;
        }
    }
    if json {
        out.bytes(if first { b"[]\n" } else { b"\n]\n" })?;
    } else if chosen.rows.is_empty() && chosen.unknown.is_empty() {
        out.line("no failed messages")?;
    }
    out.finish()?;
    known(&chosen)?;
    Ok(ExitCode::SUCCESS)
}

fn row(message: &FailedMessage) -> [String; 6] {
    [
        message.seq.to_string(),
        age(message.failed_age_seconds).replace(' ', ""),
        message.attempt.saturating_sub(1).to_string(),
        safe(&message.topic),
        message.key.as_deref().map_or_else(|| "-".to_owned(), safe),
        message.last_error.as_deref().map(safe).unwrap_or_default(),
    ]
}

async fn show(
    config: &Config,
    (ids, as_ids): (Vec<MessageRef>, Vec<MessageRef>),
    json: bool,
) -> anyhow::Result<ExitCode> {
    let (database, names) = super::opened(config).await?;
    let ids = references(&database, &names, ids, as_ids).await?;
    let mut out = Out::stdout();
    for (index, id) in ids.iter().enumerate() {
        let Some(shown) = failed::show(&database, &names, id).await? else {
            out.finish()?;
            anyhow::bail!("no failed or pending message has id {id} (a relayed one is found by its seq)");
        };
        if json {
            out.json(&shown)?;
            continue;
        }
        if index > 0 {
            out.line("")?;
        }
        for (column, value) in &shown.columns {
            let name = out.paint(Tone::Faint, &format!("{:<13}", safe(column)));
            out.line(format!(
                "{name} {}",
                text(&serde_json::from_str(value.get())?, value.get())
            ))?;
        }
        for attempt in serde_json::from_str::<Vec<Map<String, Value>>>(shown.attempts.get())? {
            attempt_lines(&mut out, &attempt)?;
        }
    }
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// A JSON value as a person reads it: a string's text, nothing for null, else the JSON itself.
fn text(value: &Value, json: &str) -> String {
    match value {
        Value::String(text) => safe(text),
        Value::Null => "-".to_owned(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => safe(json),
    }
}

fn attempt_lines(out: &mut Out, attempt: &Map<String, Value>) -> std::io::Result<()> {
    let field = |name: &str| {
        attempt
            .get(name)
            .map_or_else(String::new, |value| text(value, &value.to_string()))
    };
    let name = out.paint(Tone::Faint, &format!("attempt {:<5}", field("attempt")));
    let at: String = field("at").chars().take(19).collect();
    out.line(format!(
        "{name} {at} {} {} on {}, {} ms",
        field("class"),
        field("code"),
        field("instance"),
        field("latency_ms")
    ))?;
    out.line(format!("{:13} {}", "", field("error")))
}

async fn bulk(config: &Config, action: Action, args: BulkArgs) -> anyhow::Result<ExitCode> {
    if args.filter.is_empty() && !args.all {
        return Err(Usage("this would change every failed message: give a filter, or --all".to_owned()).into());
    }
    let (database, names) = super::opened(config).await?;
    let filter = args.filter.filter(&database, &names).await?;
    let chosen = failed::choose(&database, &names, &filter, None).await?;
    known(&chosen)?;
    let (would, did) = match action {
        Action::Retry => ("retry", "retried"),
        Action::Discard => ("discard", "discarded"),
    };
    let mut out = Out::stdout();
    if args.dry_run {
        out.line(format!("would {would} {}", messages(chosen.rows.len() as u64)))?;
        out.finish()?;
        return Ok(ExitCode::SUCCESS);
    }
    let who = super::person::who();
    let command = Command {
        action,
        who: &who,
        filter: &filter,
    };
    let steps = Steps::new(&names, &command);
    let mut done = Done::default();
    let result = in_steps(&database, &steps, &chosen.rows, &mut done).await;
    if matches!(result, Ok(true)) {
        out.line(format!("{did} {}", messages(done.changed)))?;
    }
    refusals(&mut out, &done)?;
    out.finish()?;
    let (changed, all) = (grouped(done.changed), messages(chosen.rows.len() as u64));
    let so_far = format!("{changed} of {all} {did}");
    let finished = result.with_context(|| format!("{so_far}; run it again for the rest"))?;
    anyhow::ensure!(finished, "stopped: {so_far}; run it again for the rest");
    anyhow::ensure!(
        done.refused == 0,
        "{so_far}, {} refused: end what refuses, and run it again",
        grouped(done.refused)
    );
    Ok(ExitCode::SUCCESS)
}

/// `false`: an end was asked for.
async fn in_steps(database: &Database, steps: &Steps<'_>, rows: &[Identity], done: &mut Done) -> anyhow::Result<bool> {
    let (mut interrupt, mut behind) = (Interrupt::catch()?, 0);
    let bar = bar_of_rows(rows.len(), STEP);
    for step in rows.chunks(STEP) {
        if interrupt.came() {
            return Ok(false);
        }
        interrupt.step(steps.step(database, step, done)).await??;
        behind += step.len();
        bar.set_position(behind as u64);
    }
    bar.finish_and_clear();
    Ok(true)
}
