//! `outboxd migrate`: create or update the tables, print the SQL, or show what was applied.

use std::process::ExitCode;

use crate::config::Config;
use crate::daemon::settings::duties;
use crate::store::postgres::schema::migrate::{self, MigrationStatus, PayloadType};
use crate::store::postgres::schema::rights;

use super::terminal::{Out, safe};

/// Arguments of `migrate`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print the SQL for a DBA instead of running it (psql -v ON_ERROR_STOP=1 -f FILE)
    #[arg(long, conflicts_with = "status")]
    print: bool,
    /// Show which migrations were applied
    #[arg(long)]
    status: bool,
    /// With --status: as JSON
    #[arg(long, requires = "status")]
    json: bool,
    /// Type of the payload column of a new table
    #[arg(long, value_name = "TYPE", default_value = "jsonb", value_parser = payload_type)]
    #[arg(
        long_help = "Type of the payload column of a new table: jsonb, json, text or bytea. \
                       jsonb costs twice the CPU of the others at insert"
    )]
    payload_type: PayloadType,
}

impl Args {
    /// Whether what is printed is read by a program.
    pub(super) fn is_bare(&self) -> bool {
        self.print || self.json
    }
}

fn payload_type(text: &str) -> Result<PayloadType, String> {
    PayloadType::ALL
        .into_iter()
        .find(|kind| kind.as_str() == text)
        .ok_or_else(|| "expected jsonb, json, text or bytea".to_owned())
}

pub(super) async fn migrate(config: &Config, args: &Args) -> anyhow::Result<ExitCode> {
    let names = if args.print {
        super::printed(config).await?
    } else {
        super::opened(config).await?.1
    };
    let mut out = Out::stdout();
    if args.print {
        out.bytes(migrate::script(&names, args.payload_type).as_bytes())?;
        out.finish()?;
        return Ok(ExitCode::SUCCESS);
    }
    let database = super::database(config)?;
    if args.status {
        let list = migrate::status(&database, &names).await?;
        if args.json {
            out.json(&list)?;
        } else {
            out.table(
                ["MIGRATION", "STATE", "APPLIED"],
                &list.iter().map(row).collect::<Vec<_>>(),
                [40, 8, 32],
            )?;
        }
    } else {
        let gone = migrate::gone(&database, &names).await?;
        let applied = migrate::migrate(&database, &names, args.payload_type).await?;
        for table in &gone.tables {
            out.line(format!("made again: table {}.{table}", names.schema()))?;
        }
        // Of the tables that several outboxes share, others may have rights too.
        let outbox_alone = gone.tables == [names.rows()];
        let granted = outbox_alone && rights::grant_again(&database, &names, duties(config)).await?;
        if !gone.tables.is_empty() && !granted {
            out.line("rights went with what was gone: run: outboxd roles --print | psql")?;
        }
        for name in applied.iter().filter(|_| gone.tables.is_empty()) {
            out.line(format!("applied {name}"))?;
        }
        if gone.lanes > 0 {
            out.line(format!("put back: {} lanes", gone.lanes))?;
        }
        match migrate::newer(&migrate::status(&database, &names).await?) {
            Some(newer) => out.line(safe(format!("nothing to do: {}: {}", newer.what, newer.why)))?,
            None if applied.is_empty() && gone.lanes <= 0 => out.line("nothing to do: all migrations are applied")?,
            None => {}
        }
    }
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}

fn row(file: &MigrationStatus) -> [String; 3] {
    [
        file.name.clone(),
        file.state.as_str().to_owned(),
        file.applied_at.clone().unwrap_or_default(),
    ]
}
