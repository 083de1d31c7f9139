//! `outboxd wait`: until messages are relayed or failed; for scripts.
//!
//! A message id has no index. One just inserted is among the newest rows, and one that waits or has failed is in a small index;
//! what is neither was relayed long ago or never existed, and that is said. From then on a message is asked for by its seq.

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::{Config, OnRelayed};
use crate::store::postgres::desk::failed::{self, MessageRef};
use crate::store::postgres::desk::find::{self, State};
use crate::store::postgres::link::database::{Database, Role};
use crate::store::postgres::link::sql::Names;

use super::TimedOut;
use super::terminal::{Out, messages, safe};

/// Rows looked back over for a message id.
const LOOK_BACK: i64 = 100_000;
/// Between two looks: the first, the longest, and how much longer than a look took.
const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_millis(250);
const REST: u32 = 4;
/// How long past its time a look may take to be answered.
const GRACE: Duration = Duration::from_secs(2);

/// Arguments of `wait`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Message ids or seqs; none: until no message is due, retrying or held
    #[arg(value_name = "ID")]
    ids: Vec<MessageRef>,
    /// A message id or seq, may be given again
    #[arg(long, value_name = "ID")]
    id: Vec<MessageRef>,
    /// Without ids: only messages of this topic
    #[arg(long, conflicts_with_all = ["ids", "id"])]
    topic: Option<String>,
    /// Give up after this long, with exit code 2
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// 0: relayed; where relayed rows are deleted, gone. 1: one has failed, or is not known. 2: time-out.
pub(super) async fn wait(config: &Config, args: Args) -> anyhow::Result<ExitCode> {
    let Args {
        mut ids,
        id,
        topic,
        timeout,
    } = args;
    ids.extend(id);
    let waiting = Waiting {
        database: super::patient_database(config)?,
        gone_is_relayed: config.outbox.on_relayed == OnRelayed::Delete,
        ends: Instant::now().checked_add(timeout),
        timeout,
    };
    let work = async {
        let names = super::outbox(config, &waiting.database).await?;
        if ids.is_empty() {
            return waiting.for_all(&names, topic.as_deref()).await;
        }
        super::only_ours(
            &names,
            "wait",
            "one of its messages cannot be waited for, only all, or those of a --topic",
        )?;
        let ids = failed::meant(&names, ids, Vec::new()).map_err(super::Usage)?;
        let count = waiting.for_these(&names, &ids).await?;
        let mut out = Out::stdout();
        out.line(format!("relayed {}", messages(count)))?;
        Ok(out.finish()?)
    };
    let mut work = std::pin::pin!(work);
    // A look that waits for a lock is not answered in time, and may not be for hours.
    let done = match tokio::time::timeout(timeout, &mut work).await {
        Ok(done) => Ok(done),
        Err(elapsed) => match waiting.database.lock_waited_for(Role::Side).await {
            Some(lock) => return Err(waiting.timed_out(&lock.to_string()).into()),
            None => tokio::time::timeout(GRACE, work).await.map_err(|_| elapsed),
        },
    };
    match done {
        Ok(done) => done.map(|()| ExitCode::SUCCESS),
        Err(_) => Err(waiting.timed_out("the database does not answer").into()),
    }
}

struct Waiting {
    database: Database,
    gone_is_relayed: bool,
    ends: Option<Instant>,
    timeout: Duration,
}

impl Waiting {
    async fn for_all(&self, names: &Names, topic: Option<&str>) -> anyhow::Result<()> {
        let mut rhythm = Rhythm::default();
        loop {
            let began = Instant::now();
            if !find::pending(&self.database, names, topic).await? {
                return Ok(());
            }
            let which = topic.map(|topic| format!(" of topic {topic}")).unwrap_or_default();
            self.pause(rhythm.next(began.elapsed()), || {
                format!("messages{which} are still pending: outboxd status shows why")
            })
            .await?;
        }
    }

    /// Answers how many there are.
    async fn for_these(&self, names: &Names, ids: &[MessageRef]) -> anyhow::Result<u64> {
        let mut left = self.resolve(names, ids).await?;
        // A number is not an identity: once seen, it is this message that is waited for.
        let mut known: HashMap<i64, String> = HashMap::new();
        for (id, seq) in &left {
            if let Some(id) = id.text() {
                known.insert(*seq, id);
            }
        }
        let (mut rhythm, mut first) = (Rhythm::default(), true);
        loop {
            let began = Instant::now();
            let seqs: Vec<i64> = left.iter().map(|(_, seq)| *seq).collect();
            let states = find::states(&self.database, names, &seqs).await?;
            let mut pending = Vec::new();
            for (id, seq) in left {
                let found = states.get(&seq);
                let is_other =
                    found.is_some_and(|(id, _)| known.get(&seq).is_some_and(|known| Some(known) != id.text().as_ref()));
                if is_other && !self.gone_is_relayed {
                    anyhow::bail!("message {id} is gone: another one has its seq; the outbox was emptied or exchanged");
                }
                let found = found.filter(|_| !is_other);
                known.extend(found.and_then(|(id, _)| Some((seq, id.text()?))));
                match found.map(|(_, state)| state) {
                    Some(State::Relayed) => {}
                    Some(State::Failed(error)) => anyhow::bail!("message {id} has failed: {}", safe(error)),
                    Some(State::Pending) => pending.push((id, seq)),
                    // It was there before: relayed, and deleted since.
                    None if self.gone_is_relayed || !first => {}
                    None => anyhow::bail!("no message has id {id}: it may have been relayed and deleted since"),
                }
            }
            first = false;
            left = pending;
            let Some((id, _)) = left.first() else {
                return Ok(ids.len() as u64);
            };
            let more = match left.len() {
                1 => String::new(),
                several => format!(" (and {} more)", several - 1),
            };
            self.pause(rhythm.next(began.elapsed()), || {
                format!("message {id}{more} is still pending")
            })
            .await?;
        }
    }

    /// The seqs of those that are in the outbox still.
    async fn resolve<'a>(&self, names: &Names, ids: &'a [MessageRef]) -> anyhow::Result<Vec<(&'a MessageRef, i64)>> {
        let texts: Vec<String> = ids.iter().filter_map(MessageRef::text).collect();
        let mut found = find::newest(&self.database, names, &texts, Some(LOOK_BACK)).await?;
        let missing: Vec<String> = texts.into_iter().filter(|id| !found.contains_key(id)).collect();
        if !missing.is_empty() {
            found.extend(find::unsettled(&self.database, names, &missing).await?);
        }
        let mut seqs = Vec::with_capacity(ids.len());
        for id in ids {
            match id {
                MessageRef::Seq(seq) => seqs.push((id, *seq)),
                MessageRef::Id(_) | MessageRef::Text(_) => match id.text().and_then(|id| found.get(&id)) {
                    Some(seq) => seqs.push((id, *seq)),
                    None if self.gone_is_relayed => {}
                    None => anyhow::bail!(
                        "no pending, failed or recent message has id {id}: it may have been relayed long ago (its seq finds it)"
                    ),
                },
            }
        }
        Ok(seqs)
    }

    /// Waits for the next look; an error that says `what` when there is no time left.
    async fn pause(&self, pause: Duration, what: impl Fn() -> String) -> anyhow::Result<()> {
        let now = Instant::now();
        let left = self.ends.map_or(pause, |ends| ends.saturating_duration_since(now));
        if left.is_zero() {
            return Err(self.timed_out(&what()).into());
        }
        tokio::time::sleep(pause.min(left)).await;
        Ok(())
    }

    fn timed_out(&self, what: &str) -> TimedOut {
        TimedOut(format!(
            "timed out after {}: {what}",
            humantime::format_duration(self.timeout)
        ))
    }
}

/// Ever longer pauses.
struct Rhythm(Duration);

impl Default for Rhythm {
    fn default() -> Self {
        Self(SHORTEST)
    }
}

impl Rhythm {
    fn next(&mut self, look_took: Duration) -> Duration {
        let pause = self.0.max(look_took * REST);
        self.0 = (self.0 * 3 / 2).min(LONGEST);
        pause
    }
}
