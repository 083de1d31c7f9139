//! `outboxd failed export`: failed messages whole, as JSON Lines that `outboxd enqueue --lines` takes.

use std::io::IsTerminal;
use std::process::ExitCode;

use indicatif::ProgressBar;

use crate::store::postgres::desk::failed::{self, Filter, STEP};
use crate::store::postgres::desk::lines::Exporter;
use crate::store::postgres::link::database::Database;
use crate::store::postgres::link::sql::Names;
use crate::store::postgres::schema;

use super::chosen::known;
use super::steps::bar_of_rows;
use super::terminal::Out;

/// Rows one statement is asked for.
const PAGE: usize = 100;

/// Nothing is held of what was printed, and nothing is open in the database while a reader takes its time.
pub(super) async fn export(database: &Database, names: &Names, filter: &Filter) -> anyhow::Result<ExitCode> {
    let exporter = Exporter::new(names, schema::payload_type(database, names).await?);
    let chosen = failed::choose(database, names, filter, None).await?;
    let seqs = chosen.seqs();
    // On a terminal the lines themselves show how it goes.
    let bar = if std::io::stdout().is_terminal() {
        ProgressBar::hidden()
    } else {
        bar_of_rows(seqs.len(), STEP)
    };
    let mut out = Out::stdout();
    for step in seqs.chunks(PAGE) {
        let mut rest = step;
        while !rest.is_empty() {
            let page = exporter.page(database, rest).await?;
            let Some(last) = page.last().map(|message| message.seq) else {
                break;
            };
            for message in &page {
                out.json(message)?;
            }
            rest = &rest[rest.partition_point(|seq| seq.0 <= last)..];
        }
        out.flush()?;
        bar.inc(step.len() as u64);
    }
    bar.finish_and_clear();
    out.finish()?;
    known(&chosen)?;
    Ok(ExitCode::SUCCESS)
}
