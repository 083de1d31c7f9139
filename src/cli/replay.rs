//! `outboxd replay`: already relayed messages again. Only the database is written; a running daemon finds them by itself.

use std::num::NonZeroU32;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::time::Instant;

use crate::config::{Config, OnRelayed};
use crate::store::postgres::desk::failed::{Done, MessageRef};
use crate::store::postgres::desk::find::{self, State, Stretch};
use crate::store::postgres::desk::moment::Moment;
use crate::store::postgres::desk::replay::{Filter, Replay, STEP};
use crate::store::postgres::desk::row_identity::Identity;
use crate::store::postgres::link::database::Database;
use crate::store::postgres::link::sql::Names;

use super::Usage;
use super::chosen::refusals;
use super::steps::{Interrupt, bar_of_stretch};
use super::terminal::{Out, messages};

/// Arguments of `replay`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
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
    /// Relayed since: a distance ago ("90m") or an instant ("2026-01-31T12:00:00Z")
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Relayed until: a distance ago or an instant
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,
    /// At most so many messages a second
    #[arg(long, value_name = "N")]
    rate: Option<NonZeroU32>,
    /// All relayed messages: needed when there is no filter
    #[arg(long)]
    all: bool,
    /// Only say how many
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn replay(config: &Config, args: Args) -> anyhow::Result<ExitCode> {
    let Args {
        mut ids,
        id,
        rate,
        dry_run,
        ..
    } = args;
    ids.extend(id);
    let filter = Filter {
        topic: args.topic,
        key: args.key,
        ids,
        since: args.since,
        until: args.until,
    };
    if filter.is_empty() && !args.all {
        return Err(Usage("this would replay every relayed message: give a filter, or --all".to_owned()).into());
    }
    if config.outbox.on_relayed == OnRelayed::Delete {
        let line = "outbox.on_relayed is \"delete\": relayed messages are gone from the outbox and cannot be replayed";
        return Err(Usage(line.to_owned()).into());
    }
    let (database, names) = super::opened(config).await?;
    super::only_ours(&names, "replay", "set the row pending there, and it is sent again")?;
    let stretch = find::stretch(&database, &names).await?;
    let replay = Replay::new(&names, &filter, stretch.now, super::person::who());
    let rows = if filter.ids.is_empty() {
        None
    } else {
        Some(named(&database, &names, &replay, &filter.ids).await?)
    };
    let mut work = Work {
        replay,
        database,
        dry_run,
        pace: Pace::new(rate),
        interrupt: Interrupt::catch()?,
        done: Done::default(),
    };
    let result = match &rows {
        None => work.all(stretch).await,
        Some(rows) => work.these(rows).await,
    };
    work.tell(result)
}

/// A replay under way.
struct Work {
    database: Database,
    replay: Replay,
    dry_run: bool,
    pace: Pace,
    interrupt: Interrupt,
    done: Done,
}

impl Work {
    /// Everything the filter lets through; `false`: an end was asked for.
    async fn all(&mut self, stretch: Stretch) -> anyhow::Result<bool> {
        let bar = bar_of_stretch(stretch.length());
        let mut after = stretch.first - 1;
        while after < stretch.last {
            if self.stopped().await {
                return Ok(false);
            }
            let choose = self
                .replay
                .choose(&self.database, after, stretch.last, self.pace.step());
            let chosen = self.interrupt.step(choose).await??;
            self.step(&chosen.rows).await?;
            after = chosen.upto;
            bar.set_position(after.abs_diff(stretch.first - 1));
        }
        Ok(true)
    }

    /// These rows, in their order; `false`: an end was asked for.
    async fn these(&mut self, rows: &[Identity]) -> anyhow::Result<bool> {
        for step in rows.chunks(self.pace.step()) {
            if self.stopped().await {
                return Ok(false);
            }
            self.step(step).await?;
        }
        Ok(true)
    }

    async fn step(&mut self, rows: &[Identity]) -> anyhow::Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        if self.dry_run {
            self.done.changed += rows.len() as u64;
            return Ok(());
        }
        let step = self.replay.step(&self.database, rows, &mut self.done);
        Ok(self.interrupt.step(step).await??)
    }

    /// Waits for the next step's turn; whether an end is asked for instead.
    async fn stopped(&mut self) -> bool {
        if self.interrupt.came() {
            return true;
        }
        let turn = if self.dry_run {
            None
        } else {
            self.pace.turn(self.done.changed)
        };
        let Some(turn) = turn else { return false };
        tokio::select! {
            () = tokio::time::sleep_until(turn) => false,
            () = self.interrupt.wait() => true,
        }
    }

    /// What was done, and what refused. `Ok(false)`: an end was asked for.
    fn tell(&self, result: anyhow::Result<bool>) -> anyhow::Result<ExitCode> {
        let mut out = Out::stdout();
        if matches!(result, Ok(true)) {
            let did = if self.dry_run { "would replay" } else { "replayed" };
            out.line(format!("{did} {}", messages(self.done.changed)))?;
        }
        refusals(&mut out, &self.done)?;
        out.finish()?;
        let finished = match result {
            Err(error) if self.done.changed > 0 => return Err(error.context(self.so_far())),
            other => other?,
        };
        anyhow::ensure!(finished, "stopped: {}", self.so_far());
        anyhow::ensure!(
            self.done.refused == 0,
            "{} could not be replayed: {}",
            messages(self.done.refused),
            self.so_far()
        );
        Ok(ExitCode::SUCCESS)
    }

    /// How far it came, and how to go on: what was replayed is relayed again later than this began.
    fn so_far(&self) -> String {
        let done = messages(self.done.changed);
        if self.dry_run {
            return format!("{done} counted");
        }
        let (since, until) = self.replay.rest();
        let since = since.map(|since| format!("--since {since} ")).unwrap_or_default();
        format!("{done} replayed; for the rest run it again with {since}--until {until}")
    }
}

/// The rows these names mean, in order. An error names the first that is not a relayed message, or that a filter leaves out.
async fn named(
    database: &Database,
    names: &Names,
    replay: &Replay,
    ids: &[MessageRef],
) -> anyhow::Result<Vec<Identity>> {
    let texts: Vec<String> = ids.iter().filter_map(MessageRef::text).collect();
    let found = find::newest(database, names, &texts, None).await?;
    let mut seqs = Vec::with_capacity(ids.len());
    for id in ids {
        let seq = match id {
            MessageRef::Seq(seq) => Some(*seq),
            MessageRef::Id(_) | MessageRef::Text(_) => id.text().and_then(|id| found.get(&id).copied()),
        };
        seqs.push((id, seq.with_context(|| format!("no message has id {id}"))?));
    }
    let wanted: Vec<i64> = seqs.iter().map(|(_, seq)| *seq).collect();
    let states = find::states(database, names, &wanted).await?;
    let mut wanted = Vec::with_capacity(seqs.len());
    for (id, seq) in &seqs {
        match states.get(seq).map(|(_, state)| state) {
            Some(State::Relayed) => {}
            Some(State::Failed(_)) => anyhow::bail!("message {id} has failed: outboxd failed retry {id}"),
            Some(State::Pending) => anyhow::bail!("message {id} is not relayed yet: it is still to be sent"),
            None => anyhow::bail!("no message has id {id}"),
        }
        let chosen = replay.choose(database, seq - 1, *seq, 1).await?;
        let is_meant = |row: &&Identity| match id {
            MessageRef::Seq(_) => true,
            MessageRef::Id(_) | MessageRef::Text(_) => row.id.text() == id.text(),
        };
        let row = chosen.rows.first().filter(is_meant);
        wanted.push(
            row.cloned()
                .with_context(|| format!("message {id} is relayed, but a filter leaves it out"))?,
        );
    }
    wanted.sort_unstable_by_key(|row| row.seq);
    wanted.dedup();
    Ok(wanted)
}

/// So many messages a second, in small steps.
struct Pace {
    rate: Option<NonZeroU32>,
    began: Instant,
}

impl Pace {
    fn new(rate: Option<NonZeroU32>) -> Self {
        Self {
            rate,
            began: Instant::now(),
        }
    }

    /// Messages a step may have: a quarter of a second's.
    fn step(&self) -> usize {
        self.rate.map_or(STEP, |rate| {
            usize::try_from(rate.get() / 4).unwrap_or(STEP).clamp(1, STEP)
        })
    }

    /// When the next step may begin after so many messages.
    fn turn(&self, done: u64) -> Option<Instant> {
        let rate = self.rate?;
        let seconds = done as f64 / f64::from(rate.get());
        Some(self.began + Duration::from_secs_f64(seconds.min(1e9)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_in_steps_of_a_quarter_of_a_second() {
        let pace = Pace::new(NonZeroU32::new(200));
        assert_eq!(pace.step(), 50);
        assert_eq!(pace.turn(100), Some(pace.began + Duration::from_millis(500)));
        assert_eq!(Pace::new(NonZeroU32::new(1)).step(), 1);
        assert_eq!((Pace::new(None).step(), Pace::new(None).turn(9)), (STEP, None));
    }
}
