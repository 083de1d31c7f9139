//! `outboxd adopt`: what the configuration of an application's own table might be. Reads only; a person checks it.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::config::Config;
use crate::store::StoreError;
use crate::store::postgres::desk::sample::{Sample, sample};
use crate::store::postgres::link::sql::Names;
use crate::store::postgres::link::theirs::{Place, Theirs};
use crate::store::postgres::schema::foreign::{self, adopt};

use super::terminal::{Out, safe};

/// Arguments of `adopt`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The table
    #[arg(value_name = "TABLE")]
    table: String,
    /// Also print the first pending rows, as they would be sent
    #[arg(long, value_name = "N")]
    sample: Option<u32>,
}

pub(super) async fn adopt(config: &Config, args: &Args) -> anyhow::Result<ExitCode> {
    let database = super::database(config)?;
    let own = Names::new(&config.outbox.schema, &args.table, config.outbox.lanes);
    let adopted = adopt::adopt(&database, &own).await.map_err(not_found)?;
    let names = foreign::recognize(&database, own, &adopted.mapping)
        .await
        .map_err(not_found)?;
    let mut out = Out::stdout();
    out.bytes(adopted.sections.as_bytes())?;
    for note in adopted.notes.iter().chain(&notes(&names)) {
        eprintln!("outboxd: {}", safe(note));
    }
    if let (Some(limit), true) = (args.sample, names.is_foreign()) {
        for row in sample(&database, &names, limit.into()).await? {
            out.json(&shown(row))?;
        }
    }
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// What is missing is nobody's mistake in the configuration: it is there to be found.
fn not_found(error: StoreError) -> anyhow::Error {
    match error {
        StoreError::Misconfigured(line) => anyhow::anyhow!(line),
        error @ StoreError::Unavailable(_) => error.into(),
    }
}

/// As the stdout transport shows a message.
fn shown(row: Sample) -> Value {
    let parsed = |text: Option<String>| {
        let value = |text: String| serde_json::from_str(&text).unwrap_or(Value::String(text));
        text.map_or(Value::Null, value)
    };
    json!({
        "id": row.id,
        "topic": row.topic,
        "key": row.key,
        "headers": parsed(row.headers),
        "payload": parsed(row.payload),
    })
}

/// What order can be promised, how new rows are found, and what to do before.
fn notes(names: &Names) -> Vec<String> {
    let Some(theirs) = names.theirs() else {
        return vec!["the table has all columns outboxd needs: it is relayed as its own, at full speed".to_owned()];
    };
    let mut notes = vec![order(names, theirs)];
    notes.push(match &theirs.served_by {
        Some(index) => format!("pending rows are found by {index}"),
        None => format!(
            "no index finds pending rows, and each look reads the whole table: {}",
            foreign::index_recipe(names, theirs)
        ),
    });
    if !theirs.deletes {
        notes.push("nothing prunes it: old rows are its owner's".to_owned());
    }
    notes.push("an application that deletes its rows right after inserting them must stop that first".to_owned());
    notes.push("stop the relay that reads it now first, or messages in its hands are sent twice".to_owned());
    notes
}

fn order(names: &Names, theirs: &Theirs) -> String {
    let exact = || format!("exact with a sequence: {}", foreign::sequence_recipe(names));
    match theirs.place {
        Place::Number => {
            "order: that of the sequence, exactly, where a key's transactions follow each other".to_owned()
        }
        Place::Time => format!(
            "order: the time they were inserted at (where that is now(), overlapping transactions of one key may swap), then the place \
             in the table; {}",
            exact()
        ),
        Place::Nowhere => format!(
            "order: that of the transactions, as far as PostgreSQL knows it; {}",
            exact()
        ),
    }
}
