//! `outboxd enqueue TOPIC`: one message by hand.

use std::io::Read;
use std::process::ExitCode;

use serde_json::{Map, Value};

use crate::config::Config;
use crate::store::postgres::enqueue::{self, NewMessage};
use crate::store::postgres::moment::Moment;
use crate::store::postgres::schema;

use super::terminal::Out;

/// Arguments of `enqueue`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Topic
    topic: String,
    /// Ordering key; an empty key is a key
    #[arg(long)]
    key: Option<String>,
    /// A header, may be given again
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Not before: a distance from now ("90s") or an instant ("2026-01-31T12:00:00Z")
    #[arg(long, value_name = "TIME")]
    at: Option<Moment>,
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => Err("expected NAME=VALUE".to_owned()),
    }
}

pub(super) async fn enqueue(config: &Config, args: Args) -> anyhow::Result<ExitCode> {
    let mut payload = Vec::new();
    std::io::stdin().lock().read_to_end(&mut payload)?;
    let headers: Map<String, Value> = args
        .headers
        .into_iter()
        .map(|(name, value)| (name, value.into()))
        .collect();
    let message = NewMessage {
        topic: args.topic,
        key: args.key,
        headers,
        at: args.at,
        payload,
    };
    let (database, names) = (super::database(config)?, super::names(config));
    let column = schema::payload_type(&database, &names).await?;
    let id = enqueue::enqueue(&database, &names, column, &message).await?;
    let mut out = Out::stdout();
    out.line(id)?;
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}
