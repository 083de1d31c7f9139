//! `outboxd enqueue TOPIC`: one message by hand. `outboxd enqueue --lines`: many, as `failed export` prints them.

use std::io::{BufRead, Read};
use std::process::ExitCode;

use anyhow::Context;
use serde_json::{Map, Value};

use crate::config::Config;
use crate::store::postgres::desk::enqueue::{self, EnqueueError, Lines, NewMessage};
use crate::store::postgres::desk::lines::NewLine;
use crate::store::postgres::desk::moment::Moment;
use crate::store::postgres::link::database::Database;
use crate::store::postgres::schema;

use super::terminal::{Out, messages};

/// Lines one transaction inserts at most ...
const STEP: usize = 1000;
/// ... and their bytes, about.
const STEP_BYTES: usize = 8 << 20;

/// Arguments of `enqueue`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Topic
    #[arg(required_unless_present = "lines", conflicts_with = "lines")]
    topic: Option<String>,
    /// Ordering key; an empty key is a key
    #[arg(long, conflicts_with = "lines")]
    key: Option<String>,
    /// A header, may be given again
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header, conflicts_with = "lines")]
    headers: Vec<(String, String)>,
    /// Not before: a distance from now ("90s") or an instant ("2026-01-31T12:00:00Z")
    #[arg(long, value_name = "TIME")]
    at: Option<Moment>,
    /// Read whole messages, one JSON object a line
    #[arg(long)]
    #[arg(
        long_help = "Read whole messages, one JSON object a line, as failed export prints them: topic, payload (or \
                     payload_base64), and if you like key, headers, id, priority, max_attempts, replay. A message \
                     keeps its id"
    )]
    lines: bool,
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => Err("expected NAME=VALUE".to_owned()),
    }
}

pub(super) async fn enqueue(config: &Config, args: Args) -> anyhow::Result<ExitCode> {
    let Some(topic) = args.topic else {
        return enqueue_lines(config, args.at).await;
    };
    let mut payload = Vec::new();
    std::io::stdin().lock().read_to_end(&mut payload)?;
    let headers: Map<String, Value> = args
        .headers
        .into_iter()
        .map(|(name, value)| (name, value.into()))
        .collect();
    let message = NewMessage {
        topic,
        key: args.key,
        headers,
        at: args.at,
        payload,
        who: super::person::who(),
    };
    let (database, names) = super::opened(config).await?;
    super::only_ours(&names, "enqueue", "insert a row into it")?;
    let column = schema::payload_type(&database, &names).await?;
    let id = match enqueue::enqueue(&database, &names, column, &message).await {
        Ok(id) => id,
        Err(error @ EnqueueError::Refused(_)) => return Err(error.into()),
        Err(EnqueueError::Store(error)) => return Err(error.into()),
    };
    let mut out = Out::stdout();
    out.line(id)?;
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// A line that cannot be inserted ends it: what stands before it is inserted, and nothing after.
async fn enqueue_lines(config: &Config, at: Option<Moment>) -> anyhow::Result<ExitCode> {
    let (database, names) = super::opened(config).await?;
    super::only_ours(&names, "enqueue", "insert a row into it")?;
    let column = schema::payload_type(&database, &names).await?;
    let lines = Lines::new(&names, column, at, super::person::who());
    let mut inserted = 0_u64;
    let mut numbered: Vec<(u64, NewLine)> = Vec::new();
    let (mut number, mut bytes, mut text) = (0, 0, Vec::new());
    let mut input = std::io::stdin().lock();
    let mut wrong = None;
    while wrong.is_none() {
        text.clear();
        let ended = input.read_until(b'\n', &mut text)? == 0;
        number += 1;
        if !text.trim_ascii().is_empty() {
            match NewLine::parse(text.trim_ascii(), column) {
                Ok(line) => {
                    bytes += line.size();
                    numbered.push((number, line));
                }
                Err(problem) => wrong = Some((number, problem)),
            }
        }
        if ended || wrong.is_some() || numbered.len() == STEP || bytes >= STEP_BYTES {
            if let Some(refused) = insert(&lines, &database, &mut numbered, &mut inserted).await? {
                wrong = Some(refused);
            }
            bytes = 0;
        }
        if ended {
            break;
        }
    }
    if let Some((number, problem)) = wrong {
        anyhow::bail!("{}, none after it: {problem}", before(number, inserted));
    }
    let mut out = Out::stdout();
    out.line(format!("inserted {}", messages(inserted)))?;
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// Inserts and forgets `numbered`; where one of them is refused, those before it. Answers which, and why.
async fn insert(
    lines: &Lines,
    database: &Database,
    numbered: &mut Vec<(u64, NewLine)>,
    inserted: &mut u64,
) -> anyhow::Result<Option<(u64, String)>> {
    let (numbers, step): (Vec<u64>, Vec<NewLine>) = numbered.drain(..).unzip();
    let Some(first) = numbers.first() else {
        return Ok(None);
    };
    match lines.insert(database, &step).await {
        Ok(()) => {
            *inserted += step.len() as u64;
            return Ok(None);
        }
        // One of them is. One by one shows which.
        Err(EnqueueError::Refused(_)) => {}
        Err(EnqueueError::Store(error)) => return Err(error).context(before(*first, *inserted)),
    }
    for (number, line) in numbers.iter().zip(&step) {
        match lines.insert(database, std::slice::from_ref(line)).await {
            Ok(()) => *inserted += 1,
            Err(EnqueueError::Refused(why)) => return Ok(Some((*number, why))),
            Err(EnqueueError::Store(error)) => return Err(error).context(before(*number, *inserted)),
        }
    }
    Ok(None)
}

/// How far it came, for an error at line `number`.
fn before(number: u64, inserted: u64) -> String {
    format!("line {number}: {} inserted before it", messages(inserted))
}
