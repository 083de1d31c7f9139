//! `outboxd status`: how the outbox stands.

mod row;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use crate::backlog::{HeldKey, PausedTopic};
use crate::config::Config;
use crate::daemon::settings::{rule_of, rules};
use crate::store::postgres::desk::lock_waits::BlockedSession;
use crate::store::postgres::desk::paused;
use crate::store::postgres::desk::status::{self, EXACT, Status, StuckMessage};
use crate::store::postgres::link::about::{DatabaseError, one_line};
use crate::store::postgres::link::database::{Database, Role};
use crate::store::postgres::link::sql::Names;
use crate::store::{OpenTransaction, StoreError};

use super::outboxes;
use super::terminal::{Out, Tone, age, cut, grouped, safe};

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Again every two seconds, until interrupted
    #[arg(long)]
    watch: bool,
    /// Why this message has not been sent: its seq, the number in the outbox
    #[arg(long, value_name = "SEQ", conflicts_with = "watch", allow_negative_numbers = true)]
    row: Option<i64>,
}

/// A server that does not answer a small question by then is away.
const SILENCE: Duration = Duration::from_millis(1_500);
/// Whether it waits for a lock is mostly known by then.
const LOCK_LOOK: Duration = Duration::from_millis(400);
const WATCH_EVERY: Duration = Duration::from_secs(2);
/// Held keys shown to a person.
const HELD_SHOWN: usize = 10;

/// Of one outbox, or of all one after the other; as JSON in one array then.
pub(super) async fn of_all(parts: Vec<Config>, args: &Args) -> anyhow::Result<ExitCode> {
    if parts.len() > 1 && (args.watch || args.row.is_some()) {
        outboxes::one(parts.clone())?;
    }
    if parts.len() == 1 || !args.json {
        let explained = async |one: &Config| super::explain(one, status(one, args).await).await;
        return outboxes::each(parts, false, explained).await;
    }
    let (mut all, mut code) = (Vec::new(), ExitCode::SUCCESS);
    for part in &parts {
        let mut one = match super::explain(part, counted(part).await).await {
            Ok(status) => serde_json::to_value(status)?,
            Err(error) => {
                if code == ExitCode::SUCCESS {
                    code = ExitCode::from(super::exit_code(&error));
                }
                json!({"error": one_line(&*error)})
            }
        };
        one["outbox"] = json!(part.outbox.name.as_deref());
        all.push(one);
    }
    let mut out = Out::stdout();
    out.json(&all)?;
    out.flush()?;
    Ok(code)
}

async fn counted(config: &Config) -> anyhow::Result<Status> {
    let (database, names) = opened(config).await?;
    let rule_of = |topic: &str| rule_of(&config.routes, topic);
    Ok(status::status(&database, &names, rules(&config.routes, &rule_of)).await?)
}

/// The outbox, where the server answers soon. One that is silent is told from a long answer by a small question.
async fn opened(config: &Config) -> anyhow::Result<(Database, Names)> {
    let database = super::database(config)?;
    let mut small = std::pin::pin!(async {
        let names = super::outbox(config, &database).await?;
        paused::topics(&database, &names, None, 0).await.map(|_| names)
    });
    let Ok(answered) = tokio::time::timeout(SILENCE, &mut small).await else {
        let looking = tokio::time::timeout(LOCK_LOOK, database.lock_waited_for(Role::Side));
        if let Ok(Some(lock)) = looking.await {
            let locked = DatabaseError::locked(&lock);
            return Err(StoreError::Unavailable(Box::new(locked)).into());
        }
        anyhow::bail!(
            "database unavailable: no answer within {SILENCE:?}{}",
            super::CHECK_SERVER
        );
    };
    let names = answered?;
    Ok((database.clone(), names))
}

async fn status(config: &Config, args: &Args) -> anyhow::Result<ExitCode> {
    let rule_of = |topic: &str| rule_of(&config.routes, topic);
    let rules = rules(&config.routes, &rule_of);
    let (database, names) = opened(config).await?;
    let mut out = Out::stdout();
    if let Some(seq) = args.row {
        let why = row::why(&database, &names, seq).await?;
        if args.json {
            out.json(&why)?;
        } else {
            row::show(&mut out, &why)?;
        }
        out.flush()?;
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        let status = status::status(&database, &names, rules).await?;
        if args.watch && !args.json {
            out.page()?;
        }
        if args.json {
            out.json(&status)?
        } else {
            show(&mut out, &status)?
        }
        out.flush()?;
        if !args.watch {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::select! {
            () = tokio::time::sleep(WATCH_EVERY) => {}
            _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
        }
    }
}

fn count(number: u64) -> String {
    let about = if number > EXACT.unsigned_abs() { "about " } else { "" };
    format!("{about}{}", grouped(number))
}

fn field(out: &Out, name: &str, value: &str) -> String {
    format!("{} {value}", out.paint(Tone::Faint, &format!("{name:<11}")))
}

fn show(out: &mut Out, status: &Status) -> io::Result<()> {
    let pending = &status.pending;
    let total = pending.due + pending.delayed + pending.retrying + pending.held;
    let line = field(out, "pending", &count(total));
    out.line(line)?;
    for (name, number) in [
        ("due", pending.due),
        ("delayed", pending.delayed),
        ("retrying", pending.retrying),
        ("held", pending.held),
    ] {
        let line = field(out, &format!("  {name}"), &count(number));
        out.line(line)?;
    }
    let failed = if status.failed > 0 {
        format!("{}  (outboxd failed list)", out.paint(Tone::Bad, &count(status.failed)))
    } else {
        "0".to_owned()
    };
    let oldest = if pending.due > 0 {
        age(status.oldest_due_age_seconds)
    } else {
        "-".to_owned()
    };
    for (name, value) in [
        ("failed", failed),
        ("oldest due", oldest),
        ("rate", format!("{:.1} messages/s", status.rate_per_second)),
    ] {
        let line = field(out, name, &value);
        out.line(line)?;
    }
    stuck(out, status.stuck_count, &status.stuck)?;
    lock_waits(out, &status.lock_waits)?;
    instances(out, status)?;
    unrouted(out, &status.unrouted_topics)?;
    paused_topics(out, &status.paused_topics)?;
    held(out, &status.held_keys)?;
    open_transactions(out, &status.open_transactions)
}

/// Whole lines: a reason cut in the middle helps nobody.
fn stuck(out: &mut Out, count: u64, named: &[StuckMessage]) -> io::Result<()> {
    if count == 0 {
        return Ok(());
    }
    let title = format!("{count} {} stuck", if count == 1 { "message" } else { "messages" });
    let title = out.paint(Tone::Bad, &title);
    out.line(format!(
        "{title}  (everything else goes on; each is tried again by itself)"
    ))?;
    for StuckMessage { row, instance } in named.iter().take(HELD_SHOWN) {
        let seconds = u32::try_from(row.seconds).unwrap_or(u32::MAX);
        let since = age(seconds.into());
        out.line(format!("  {}", safe(row.line())))?;
        out.line(format!(
            "    for {since}, known to {}. Next: {}",
            safe(instance),
            row.reason.todo()
        ))?;
    }
    let more = count.saturating_sub(named.len().min(HELD_SHOWN) as u64);
    if more > 0 {
        out.line(format!("  ... and {more} more"))?;
    }
    Ok(())
}

fn lock_waits(out: &mut Out, waits: &[BlockedSession]) -> io::Result<()> {
    for wait in waits.iter().take(HELD_SHOWN) {
        let title = out.paint(Tone::Bad, "waiting for a lock:");
        let BlockedSession { session, what, todo } = wait;
        out.line(format!("{title} {}: {}", safe(session), safe(what)))?;
        out.line(format!("    Next: {}", safe(todo)))?;
    }
    Ok(())
}

/// Of `topics` as many are shown as fit a screen.
fn and_more(out: &mut Out, topics: usize) -> io::Result<()> {
    if topics > HELD_SHOWN {
        let more = topics - HELD_SHOWN;
        out.line(format!("... and {more} more topics (--json shows all)"))?;
    }
    Ok(())
}

fn unrouted(out: &mut Out, topics: &[String]) -> io::Result<()> {
    for topic in topics.iter().take(HELD_SHOWN) {
        let title = out.paint(Tone::Bad, "no route:");
        out.line(format!("{title} topic {}", safe(topic)))?;
    }
    and_more(out, topics.len())?;
    if !topics.is_empty() {
        out.line("    Next: add [[routes]] for them, then: systemctl reload outboxd")?;
    }
    Ok(())
}

fn paused_topics(out: &mut Out, topics: &[PausedTopic]) -> io::Result<()> {
    if topics.is_empty() {
        return Ok(());
    }
    out.line("")?;
    let rows: Vec<[String; 3]> = topics
        .iter()
        .take(HELD_SHOWN)
        .map(|paused| {
            let since = paused.since.as_deref().unwrap_or("-").chars().take(19).collect();
            let by = paused.who.as_deref().unwrap_or("its route (routes[].paused)");
            [cut(&paused.topic, 32), since, cut(by, 24)]
        })
        .collect();
    out.table(["PAUSED TOPIC", "SINCE", "BY"], &rows, [32, 19, 24])?;
    and_more(out, topics.len())?;
    Ok(())
}

/// With `commit_order` messages wait for them; without, the gaps they leave are watched.
fn open_transactions(out: &mut Out, transactions: &[OpenTransaction]) -> io::Result<()> {
    if transactions.is_empty() {
        return Ok(());
    }
    out.line("")?;
    let rows: Vec<[String; 4]> = transactions
        .iter()
        .map(|open| {
            let pid = open.pid.map_or("-".to_owned(), |pid| pid.to_string());
            [cut(&open.who, 36), pid, age(open.open_for), open.state.clone()]
        })
        .collect();
    out.table(["OPEN TRANSACTION", "PID", "FOR", "STATE"], &rows, [36, 9, 10, 22])
}

fn instances(out: &mut Out, status: &Status) -> io::Result<()> {
    let owned = status.lanes.iter().filter(|lane| lane.owner.is_some()).count();
    let line = field(out, "lanes", &format!("{owned} of {} owned", status.lanes.len()));
    out.line(line)?;
    if status.instances.is_empty() {
        let line = field(out, "instances", "none registered: is the daemon running?");
        return out.line(line);
    }
    out.line("")?;
    let rows: Vec<[String; 4]> = status
        .instances
        .iter()
        .map(|instance| {
            let lease = if instance.lease_seconds > 0.0 {
                format!("for {}", age(instance.lease_seconds))
            } else {
                format!("ended {} ago", age(-instance.lease_seconds))
            };
            [
                instance.instance.clone(),
                instance.lanes.to_string(),
                instance.version.clone().unwrap_or_default(),
                lease,
            ]
        })
        .collect();
    out.table(["INSTANCE", "LANES", "VERSION", "LEASE"], &rows, [36, 6, 12, 20])
}

fn held(out: &mut Out, keys: &[HeldKey]) -> io::Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    out.line("")?;
    let rows: Vec<[String; 4]> = keys
        .iter()
        .take(HELD_SHOWN)
        .map(|held| {
            let why = format!("message {} is {}", held.seq, held.reason);
            [cut(&held.topic, 24), cut(&held.key, 20), held.waiting.to_string(), why]
        })
        .collect();
    out.table(["HELD TOPIC", "KEY", "WAIT", "WHY"], &rows, [24, 20, 8, 40])?;
    if keys.len() > HELD_SHOWN {
        out.line(format!(
            "... and {} more keys (--json shows all)",
            keys.len() - HELD_SHOWN
        ))?;
    }
    Ok(())
}
