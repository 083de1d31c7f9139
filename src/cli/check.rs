//! `outboxd check`: is the configuration right, and with `--connect`, is what it points at (`doctor`)?

use std::process::ExitCode;

use serde::Serialize;

use crate::config::Config;
use crate::finding::{Finding, Level};

use super::doctor::{self, Diagnosis};
use super::terminal::{Out, Tone, safe};

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Connect to what is configured, too: what is wrong with it, why that matters, and what to do
    #[arg(long)]
    connect: bool,
    /// With --connect: as JSON
    #[arg(long, requires = "connect")]
    json: bool,
}

/// `--json`.
#[derive(Serialize)]
struct Report<'a> {
    faults: usize,
    warnings: usize,
    findings: &'a [Finding],
}

/// Exit code 0 without faults, else 1. A wrong configuration never gets here: that is 64.
pub(super) async fn check(parts: &[Config], args: &Args) -> anyhow::Result<ExitCode> {
    let mut out = Out::stdout();
    for config in parts.iter().filter(|_| !args.json) {
        let name = config
            .outbox
            .name
            .iter()
            .map(|name| format!("{name}: "))
            .collect::<String>();
        out.line(format!(
            "configuration ok: {name}{}.{} in {} lanes, {} transport(s), {} route(s)",
            config.outbox.schema,
            config.outbox.table,
            config.outbox.lanes,
            config.transports.len(),
            config.routes.iter().count()
        ))?;
    }
    let mut faults = 0;
    if args.connect {
        let diagnosis = doctor::diagnose_all(parts).await?;
        faults = count(&diagnosis.findings, Level::Fault);
        if args.json {
            out.json(&Report {
                faults,
                warnings: count(&diagnosis.findings, Level::Warning),
                findings: &diagnosis.findings,
            })?;
        } else {
            show(&mut out, &diagnosis)?;
        }
    }
    out.finish()?;
    Ok(if faults > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn count(findings: &[Finding], level: Level) -> usize {
    findings.iter().filter(|finding| finding.level == level).count()
}

fn show(out: &mut Out, diagnosis: &Diagnosis) -> std::io::Result<()> {
    for line in &diagnosis.fine {
        let word = out.paint(Tone::Good, "ok");
        out.line(format!("{word} {}", safe(line)))?;
    }
    for finding in &diagnosis.findings {
        let (tone, word) = match finding.level {
            Level::Fault => (Tone::Bad, "fault"),
            Level::Warning => (Tone::Heading, "warning"),
        };
        let word = out.paint(tone, word);
        out.line(format!("\n{word} {}", finding.code))?;
        for (label, text) in [("", &*finding.what), ("why: ", finding.why), ("do:  ", &finding.fix)] {
            out.paragraph(label, &safe(text))?;
        }
    }
    Ok(())
}
