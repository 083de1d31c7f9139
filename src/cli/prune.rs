//! `outboxd prune`: what retention does all the time, by hand and to the end.

use std::process::ExitCode;
use std::time::Duration;

use crate::config::{Config, Retention};
use crate::daemon::settings::pruned;
use crate::store::postgres::desk::find::{self, Stretch};
use crate::store::postgres::desk::prune::{Again, Kept, Prune, Pruner};
use crate::store::postgres::desk::prune_attempts::PruneAttempts;
use crate::store::postgres::desk::retention::{Rule, off};
use crate::store::postgres::link::database::Database;
use crate::store::postgres::schema::made_by_migrate;

use super::Usage;
use super::steps::{Interrupt, bar_of_stretch};
use super::terminal::{Out, grouped, messages, safe};

/// Arguments of `prune`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only say how many
    #[arg(long)]
    dry_run: bool,
    /// Delete messages relayed longer ago than this, instead of retention.relayed
    #[arg(long, value_name = "AGE", value_parser = humantime::parse_duration)]
    relayed: Option<Duration>,
    /// Delete messages failed longer ago than this, instead of retention.failed
    #[arg(long, value_name = "AGE", value_parser = humantime::parse_duration)]
    failed: Option<Duration>,
}

/// Until the next try while a daemon is at it: its steps are short.
const TURN: Duration = Duration::from_millis(20);
/// Rows that could not be deleted that are named.
const KEPT_NAMED: usize = 100;
/// Rows that could not be deleted after which it is no use to go on.
const KEPT_MAX: u64 = 10_000;

impl Args {
    /// What the configuration asks for, and what is asked for instead.
    fn retention(&self, configured: Retention) -> Retention {
        let said = |age: Duration| (!age.is_zero()).then_some(age);
        Retention {
            relayed: self.relayed.map_or(configured.relayed, said),
            relayed_is_set: self.relayed.is_some() || configured.relayed_is_set,
            failed: self.failed.map_or(configured.failed, said),
        }
    }
}

pub(super) async fn prune(config: &Config, args: &Args) -> anyhow::Result<ExitCode> {
    let rules = pruned(args.retention(config.retention));
    if rules.is_empty() {
        let line = "retention.relayed and retention.failed are \"0s\", which keeps all rows for ever: set one of them";
        return Err(Usage(line.to_owned()).into());
    }
    let (database, names) = super::opened(config).await?;
    super::only_ours(&names, "prune", "old rows are its owner's")?;
    let made = made_by_migrate(&database, &names).await?;
    let (rules, silent): (Vec<Rule>, Vec<Rule>) = rules.into_iter().partition(|rule| rule.said || made);
    if let (true, Some(rule)) = (rules.is_empty(), silent.first()) {
        let (what, fix) = off(&names, *rule);
        return Err(Usage(format!(
            "{what}: {fix}; or name the age: outboxd prune --{} AGE",
            rule.settled.word()
        ))
        .into());
    }
    let stretch = find::stretch(&database, &names).await?;
    let pruner = Pruner::Person(super::person::who());
    let rows = config.relay.batch_size;
    let mut work = Work {
        database,
        stretch,
        dry_run: args.dry_run,
        interrupt: Interrupt::catch()?,
        kept: Vec::new(),
        unnamed: 0,
    };
    let mut out = Out::stdout();
    let verb = if args.dry_run { "would delete" } else { "deleted" };
    for rule in &rules {
        let count = work.walk(&mut Prune::new(&names, *rule, rows, &pruner)).await?;
        let (word, age) = (rule.settled.word(), humantime::format_duration(rule.age));
        out.line(format!("{verb} {} {word} more than {age} ago", messages(count)))?;
    }
    for rule in silent {
        out.line(off(&names, rule).0)?;
    }
    let longest = rules.iter().map(|rule| rule.age).max().unwrap_or_default();
    if !args.dry_run {
        work.attempts(PruneAttempts::new(&names, longest, rows, &pruner))
            .await?;
    }
    work.tell(out)
}

struct Work {
    database: Database,
    stretch: Stretch,
    dry_run: bool,
    interrupt: Interrupt,
    kept: Vec<Kept>,
    unnamed: u64,
}

impl Work {
    /// From the first row to the last one there was at the beginning.
    async fn walk(&mut self, prune: &mut Prune) -> anyhow::Result<u64> {
        let bar = bar_of_stretch(self.stretch.length());
        let before = self.stretch.first.saturating_sub(1);
        let (mut after, mut deleted) = (before, 0);
        let mut kept = Vec::new();
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
            if step.ours && !step.mine {
                tokio::time::sleep(TURN).await;
                continue;
            }
            deleted += step.deleted;
            self.unnamed += step.kept_count;
            kept.extend(step.kept);
            anyhow::ensure!(
                self.unnamed < KEPT_MAX,
                "stopped: {} deleted, and {} could not be: message {}: {}",
                messages(deleted),
                grouped(self.unnamed),
                kept.first().map_or(0, |kept| kept.seq),
                kept.first().map_or("", |kept| &kept.detail)
            );
            match (step.more, step.upto) {
                (true, Some(upto)) if upto < self.stretch.last => after = upto,
                (true | false, Some(_) | None) => break,
            }
            bar.set_position(after.abs_diff(before));
        }
        Ok(deleted + self.once_more(prune, kept).await?)
    }

    /// Who held a lock then may have let go of it by now.
    async fn once_more(&mut self, prune: &mut Prune, kept: Vec<Kept>) -> anyhow::Result<u64> {
        let mut deleted = 0;
        for kept in kept.into_iter().take(KEPT_NAMED) {
            self.unnamed -= 1;
            loop {
                match self.interrupt.step(prune.again(&self.database, kept.seq)).await?? {
                    Again::Kept(still) => self.kept.push(still),
                    Again::Settled { deleted: count } => deleted += count,
                    Again::NotMine => {
                        tokio::time::sleep(TURN).await;
                        continue;
                    }
                }
                break;
            }
        }
        Ok(deleted)
    }

    async fn attempts(&mut self, mut prune: PruneAttempts) -> anyhow::Result<()> {
        while !self.interrupt.came() {
            let step = self.interrupt.step(prune.step(&self.database)).await??;
            if !step.mine {
                tokio::time::sleep(TURN).await;
                continue;
            }
            self.kept.extend(step.kept.into_iter().map(|kept| Kept {
                detail: format!("the history of its attempts: {}", kept.detail),
                ..kept
            }));
            if !step.more {
                return Ok(());
            }
        }
        anyhow::bail!("stopped: run it again for the rest")
    }

    /// Names what could not be deleted.
    fn tell(self, mut out: Out) -> anyhow::Result<ExitCode> {
        for Kept { seq, reason, detail } in &self.kept {
            out.line(safe(format!("kept: message {seq} ({}): {detail}", reason.as_str())))?;
        }
        let count = self.unnamed + self.kept.len() as u64;
        out.finish()?;
        anyhow::ensure!(
            count == 0,
            "{} could not be deleted: end what keeps them, and run it again",
            messages(count)
        );
        Ok(ExitCode::SUCCESS)
    }
}
