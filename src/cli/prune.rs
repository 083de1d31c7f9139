//! `outboxd prune`: what retention does all the time, by hand and to the end.

use std::process::ExitCode;
use std::time::Duration;

use crate::config::Config;
use crate::store::postgres::database::Database;
use crate::store::postgres::find::{self, Stretch};
use crate::store::postgres::prune::{Prune, PruneAttempts, Pruner, Settled, Step};

use super::Usage;
use super::steps::{Interrupt, bar_of_stretch};
use super::terminal::{Out, messages};

/// Arguments of `prune`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only say how many
    #[arg(long)]
    dry_run: bool,
}

/// Until the next try while a daemon is at it: its steps are short.
const TURN: Duration = Duration::from_millis(20);

pub(super) async fn prune(config: &Config, args: &Args) -> anyhow::Result<ExitCode> {
    let retention = config.retention;
    let Some(longest) = retention.relayed.max(retention.failed) else {
        let line = "retention.relayed and retention.failed are \"0s\", which keeps all rows for ever: set one of them";
        return Err(Usage(line.to_owned()).into());
    };
    let (database, names) = (super::database(config)?, super::names(config));
    let stretch = find::stretch(&database, &names).await?;
    let pruner = Pruner::Person(super::person::who());
    let rows = config.relay.batch_size;
    let mut work = Work {
        database,
        stretch,
        dry_run: args.dry_run,
        interrupt: Interrupt::catch()?,
    };
    let mut out = Out::stdout();
    let verb = if args.dry_run { "would delete" } else { "deleted" };
    for (settled, age, word) in [
        (Settled::Relayed, retention.relayed, "relayed"),
        (Settled::Failed, retention.failed, "failed"),
    ] {
        let Some(age) = age else { continue };
        let count = work.walk(&Prune::new(&names, settled, age, rows, &pruner)).await?;
        let age = humantime::format_duration(age);
        out.line(format!("{verb} {} {word} more than {age} ago", messages(count)))?;
    }
    if !args.dry_run {
        work.attempts(PruneAttempts::new(&names, longest, rows, &pruner))
            .await?;
    }
    out.finish()?;
    Ok(ExitCode::SUCCESS)
}

struct Work {
    database: Database,
    stretch: Stretch,
    dry_run: bool,
    interrupt: Interrupt,
}

impl Work {
    /// From the first row to the last one there was at the beginning.
    async fn walk(&mut self, prune: &Prune) -> anyhow::Result<u64> {
        let bar = bar_of_stretch(self.stretch.length());
        let (mut after, mut deleted) = (self.stretch.first - 1, 0);
        loop {
            anyhow::ensure!(
                !self.interrupt.came(),
                "stopped: {} deleted; run it again for the rest",
                messages(deleted)
            );
            let step = if self.dry_run {
                self.interrupt.step(prune.count(&self.database, after)).await??
            } else {
                self.interrupt.step(prune.step(&self.database, after)).await??
            };
            if !step.mine {
                tokio::time::sleep(TURN).await;
                continue;
            }
            deleted += step.deleted;
            match step {
                Step {
                    more: true,
                    upto: Some(upto),
                    ..
                } if upto < self.stretch.last => after = upto,
                _ => return Ok(deleted),
            }
            bar.set_position(after.abs_diff(self.stretch.first - 1));
        }
    }

    async fn attempts(&mut self, mut prune: PruneAttempts) -> anyhow::Result<()> {
        while !self.interrupt.came() {
            let step = self.interrupt.step(prune.step(&self.database)).await??;
            if !step.mine {
                tokio::time::sleep(TURN).await;
            } else if !step.more {
                return Ok(());
            }
        }
        anyhow::bail!("stopped: run it again for the rest")
    }
}
