//! What happened, in the order it happened: written by the world, read by the judge.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outboxd::delivery::FailureClass;
use tokio::time::Instant;

use super::scenario::RowSpec;

/// A process, from its start to its end.
pub type Process = usize;
pub type SeqNumber = i64;

/// An answer, as the relay got it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    Acknowledged,
    Withheld,
    Refused(FailureClass),
}

/// A message of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sending {
    pub seq: SeqNumber,
    pub attempt: i32,
    pub lane: u16,
    /// The lane is this process's.
    pub owned: bool,
}

/// How a lane changed hands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneChange {
    pub lane: u16,
    pub from: Option<String>,
    pub to: Option<String>,
    pub epoch: i64,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A row got its number.
    Inserted(SeqNumber),
    Committed(SeqNumber),
    RolledBack(SeqNumber),
    Retried(SeqNumber),
    Discarded(SeqNumber),
    /// It cannot be written from now on.
    Stuck(SeqNumber),
    /// A batch is handed over.
    Sent {
        process: Process,
        transport: usize,
        batch: usize,
        messages: Vec<Sending>,
    },
    /// A consumer can see a copy.
    Visible {
        transport: usize,
        seq: SeqNumber,
    },
    Answered {
        process: Process,
        batch: usize,
        replies: Vec<(SeqNumber, Reply)>,
    },
    Probed {
        process: Process,
        transport: usize,
        destination: String,
        alive: bool,
    },
    /// `relayed_at` was written.
    Marked {
        process: Process,
        seq: SeqNumber,
        owned: bool,
    },
    /// A failed attempt was written.
    Failed {
        process: Process,
        seq: SeqNumber,
        attempt: i32,
        class: FailureClass,
        for_good: bool,
        owned: bool,
    },
    Renewed(Process),
    Lane {
        process: Process,
        change: LaneChange,
    },
    Started(Process, String),
    Crashed(Process),
    Stopping(Process),
    /// The end of a stop; why it was not a clean one.
    Ended(Process, Option<String>),
    /// Something outside changed.
    Weather(String),
}

/// A number that was given out.
#[derive(Clone, Debug)]
pub struct Row {
    pub spec: RowSpec,
    pub by_hand: bool,
    /// The open transaction it was written in; `None`: one of its own.
    pub transaction: Option<usize>,
}

#[derive(Debug, Default)]
struct Pages {
    events: Vec<(Duration, Event)>,
    rows: BTreeMap<SeqNumber, Row>,
    batches: usize,
}

/// Shared by everything that takes part.
pub struct Journal {
    began: Instant,
    pages: Mutex<Pages>,
}

/// A journal that is closed.
#[derive(Debug)]
pub struct Record {
    pub events: Vec<(Duration, Event)>,
    pub rows: BTreeMap<SeqNumber, Row>,
}

impl Journal {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            pages: Mutex::default(),
        })
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn note(&self, event: Event) {
        let at = self.began.elapsed();
        self.pages().events.push((at, event));
    }

    pub fn insert(&self, seq: SeqNumber, row: Row) {
        self.pages().rows.insert(seq, row);
        self.note(Event::Inserted(seq));
    }

    /// A number for a batch.
    pub fn next_batch(&self) -> usize {
        let mut pages = self.pages();
        pages.batches += 1;
        pages.batches
    }

    /// Every number given out.
    pub fn numbers(&self) -> Vec<SeqNumber> {
        self.pages().rows.keys().copied().collect()
    }

    pub fn close(&self) -> Record {
        let pages = std::mem::take(&mut *self.pages());
        Record {
            events: pages.events,
            rows: pages.rows,
        }
    }
}

impl Record {
    /// Every event.
    pub fn tell_all(&self) -> String {
        let lines = self.events.iter().enumerate();
        let lines = lines.map(|(index, (time, event))| format!("{index:6} {:>10.3}s {event}", time.as_secs_f64()));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// The events around `at`, and those before it that concern the same rows.
    pub fn tell(&self, at: usize, about: &[SeqNumber]) -> String {
        let mut lines = Vec::new();
        for (index, (time, event)) in self.events.iter().enumerate().take(at + 3) {
            let near = index + 12 > at;
            let concerned = about.iter().any(|seq| event.concerns(*seq));
            let about_all = !matches!(
                event,
                Event::Inserted(_)
                    | Event::Committed(_)
                    | Event::RolledBack(_)
                    | Event::Sent { .. }
                    | Event::Visible { .. }
                    | Event::Answered { .. }
                    | Event::Marked { .. }
                    | Event::Failed { .. }
                    | Event::Probed { .. }
                    | Event::Renewed(_)
            );
            if near || concerned || about_all {
                lines.push(format!("{index:6} {:>10.3}s {event}", time.as_secs_f64()));
            }
        }
        let left_out = lines.len().saturating_sub(80);
        lines.drain(..left_out);
        lines.join("\n")
    }
}

impl Event {
    fn concerns(&self, row: SeqNumber) -> bool {
        match self {
            Self::Inserted(seq)
            | Self::Committed(seq)
            | Self::RolledBack(seq)
            | Self::Retried(seq)
            | Self::Discarded(seq)
            | Self::Stuck(seq)
            | Self::Visible { seq, .. }
            | Self::Marked { seq, .. }
            | Self::Failed { seq, .. } => *seq == row,
            Self::Sent { messages, .. } => messages.iter().any(|message| message.seq == row),
            Self::Answered { replies, .. } => replies.iter().any(|(seq, _)| *seq == row),
            Self::Probed { .. }
            | Self::Renewed(_)
            | Self::Lane { .. }
            | Self::Started(..)
            | Self::Crashed(_)
            | Self::Stopping(_)
            | Self::Ended(..)
            | Self::Weather(_) => false,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent {
                process,
                transport,
                batch,
                messages,
            } => {
                write!(f, "Sent by {process} to {transport}, batch {batch}:")?;
                for message in messages {
                    let owned = if message.owned { "" } else { ", not owned" };
                    write!(
                        f,
                        " {} (attempt {}, lane {}{owned})",
                        message.seq, message.attempt, message.lane
                    )?;
                }
                Ok(())
            }
            Self::Inserted(_)
            | Self::Committed(_)
            | Self::RolledBack(_)
            | Self::Retried(_)
            | Self::Discarded(_)
            | Self::Stuck(_)
            | Self::Visible { .. }
            | Self::Answered { .. }
            | Self::Probed { .. }
            | Self::Marked { .. }
            | Self::Failed { .. }
            | Self::Renewed(_)
            | Self::Lane { .. }
            | Self::Started(..)
            | Self::Crashed(_)
            | Self::Stopping(_)
            | Self::Ended(..)
            | Self::Weather(_) => write!(f, "{self:?}"),
        }
    }
}
