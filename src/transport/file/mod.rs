//! A file of JSON Lines that is appended to: for archives, and for trying things out.
//!
//! A message is one line, as `stdout` prints it; a batch is one write at the end, acknowledged once the disk has it
//! (`fdatasync`; for a new file the directory's entry too). The file is opened for each batch: one that was renamed (logrotate)
//! or deleted is made anew without anybody being told, and what was wrong with it is over as soon as it opens.
//!
//! While a batch is written the file is locked (`flock`): lines of several processes never mix, and where a write ends half-way
//! (disk full) its beginning is taken back. What a crash left of a line is ended before the next one, and stays a line of its own.
//!
//! Nothing about one message can make a write fail: whatever goes wrong is an outage of the whole file. A disk that does not
//! answer holds one thread, and batches behind it are `Unavailable` until it does.

pub mod config;

mod classify;

use std::fs::{File as Handle, OpenOptions};
use std::io::{Error, ErrorKind, Result as IoResult, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use async_trait::async_trait;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::classify::{classify, known};
use self::config::{FileConfig, default_ack_timeout};
use super::lines::Lines;
use super::settings::{Section, Settings};
use super::{ConnectError, Envelope, Probe, Transport, Use};
use crate::delivery::{Failure, Outcome};
use crate::finding::Finding;

/// Nothing comes back within `ack_timeout`.
const SILENT: &str = "its disk does not answer, or who holds a lock on it does not let go";

/// The file transport. See the module.
#[derive(Debug)]
pub struct File {
    config: FileConfig,
    /// Whose turn it is to write.
    turns: Arc<Mutex<()>>,
    /// Cancelled when the lease is lost.
    tenure: ArcSwap<CancellationToken>,
    /// Why the latest write found no room, where it did not.
    full: ArcSwapOption<Failure>,
}

#[async_trait]
impl Settings for FileConfig {
    fn kind(&self) -> &'static str {
        "file"
    }

    fn validate(&self, name: &str) -> Result<(), ConnectError> {
        let section = Section { name, kind: "file" };
        // What it would be relative to is one directory for the service and another for who tries things out.
        if !self.path.is_absolute() || self.path.file_name().is_none() {
            return Err(section.wrong("path", format!("{:?} is not the whole path of a file", self.path)));
        }
        if self.ack_timeout < Duration::from_millis(10) {
            return Err(section.wrong("ack_timeout", "must be at least 10ms"));
        }
        Ok(())
    }

    fn ack_timeout(&self) -> Option<Duration> {
        Some(self.ack_timeout)
    }

    fn default_ack_timeout(&mut self) -> Option<&mut Duration> {
        Some(&mut self.ack_timeout).filter(|timeout| **timeout == default_ack_timeout())
    }

    async fn connect(&self, _name: &str) -> Result<Arc<dyn Transport>, ConnectError> {
        Ok(Arc::new(File::new(self)))
    }
}

impl File {
    /// A transport for `config`. A place that cannot be written to is waited for.
    #[must_use]
    pub fn new(config: &FileConfig) -> Self {
        Self {
            config: config.clone(),
            turns: Arc::default(),
            tenure: ArcSwap::default(),
            full: ArcSwapOption::default(),
        }
    }

    /// Appends `text` and waits for the disk; without any, finds out whether that could be done now.
    async fn append(&self, text: Vec<u8>) -> Result<(), Failure> {
        let unwanted = self.tenure.load().child_token();
        // Whoever stops waiting does not want it written any more.
        let _while_awaited = unwanted.clone().drop_guard();
        let turn = timeout(self.config.ack_timeout, Arc::clone(&self.turns).lock_owned()).await;
        let turn = turn.map_err(|_| self.failure(&Error::new(ErrorKind::WouldBlock, SILENT)))?;
        self.ask(move |path| append(path, &text, turn, &unwanted)).await
    }

    /// What the disk says to `question`.
    async fn ask(&self, question: impl FnOnce(&Path) -> IoResult<()> + Send + 'static) -> Result<(), Failure> {
        let path = self.config.path.clone();
        let answer = tokio::task::spawn_blocking(move || question(&path));
        let answer = match timeout(self.config.ack_timeout, answer).await {
            Err(_) => Err(Error::new(ErrorKind::TimedOut, SILENT)),
            Ok(answer) => answer.expect("a question does not panic"),
        };
        answer.map_err(|error| self.failure(&error))
    }

    fn failure(&self, error: &Error) -> Failure {
        let (path, kind) = (self.config.path.display(), error.kind());
        let (is_about_room, advice) = known(kind);
        let line = format!("cannot write to {path}: {error}{advice}");
        let failure = Failure::new(classify(kind), format!("{kind:?}"), line);
        if is_about_room {
            self.full.store(Some(Arc::new(failure.clone())));
        }
        failure
    }
}

fn append(path: &Path, text: &[u8], turn: OwnedMutexGuard<()>, unwanted: &CancellationToken) -> IoResult<()> {
    let file = open_locked(path)?;
    if unwanted.is_cancelled() {
        return Err(Error::new(ErrorKind::Interrupted, "the lease was lost meanwhile"));
    }
    if text.is_empty() {
        return Ok(());
    }
    write_whole(&file, path, text)?;
    // The disk may work on several batches at once.
    file.unlock()?;
    drop(turn);
    file.sync_data()
}

fn open(path: &Path, create: bool) -> IoResult<Handle> {
    let mut options = OpenOptions::new();
    let file = options.read(true).append(true).create(create).mode(0o640).open(path)?;
    let refused = || Error::new(ErrorKind::InvalidInput, "it is no regular file");
    file.metadata()?.is_file().then_some(file).ok_or_else(refused)
}

/// The file that has this name once nobody else writes to it.
fn open_locked(path: &Path) -> IoResult<Handle> {
    loop {
        let file = open(path, true)?;
        file.lock()?;
        let (opened, named) = (file.metadata()?, std::fs::metadata(path));
        // It may have been renamed while somebody else held the lock.
        if named.is_ok_and(|named| (named.dev(), named.ino()) == (opened.dev(), opened.ino())) {
            return Ok(file);
        }
    }
}

/// Writes all of `text` at the end of `file`, or nothing as far as that can be helped.
fn write_whole(mut file: &Handle, path: &Path, text: &[u8]) -> IoResult<()> {
    let end = file.metadata()?.len();
    let mut last = [b'\n'];
    if end == 0 {
        let whole = path.canonicalize()?;
        Handle::open(whole.parent().unwrap_or(Path::new("/")))?.sync_all()?;
    } else {
        file.read_exact_at(&mut last, end - 1)?;
    }
    let ending: &[u8] = if last == [b'\n'] { b"" } else { b"\n" };
    file.write_all(&[ending, text].concat()).inspect_err(|_| {
        // Where it cannot be taken back, the next batch ends the line.
        let longer = file.metadata().is_ok_and(|now| now.len() > end);
        let _taken_back = longer.then(|| file.set_len(end));
    })
}

/// Opens the file as a batch would. A missing one is not made, lest it be root's: one of another name is, and is removed.
fn look(path: &Path) -> IoResult<()> {
    match open(path, false) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let other = path.with_file_name(format!(".{name}.check"));
            Handle::create(&other)?;
            std::fs::remove_file(&other)
        }
        opened => opened.map(drop),
    }
}

#[async_trait]
impl Transport for File {
    async fn publish(&self, batch: &[Envelope]) -> Vec<Outcome> {
        let mut lines = Lines::of(batch);
        let written = self.append(std::mem::take(&mut lines.text)).await;
        if written.is_ok() {
            self.full.store(None);
        }
        lines.answered(&written)
    }

    async fn probe(&self, _destination: &str) -> Result<Probe, Failure> {
        self.append(Vec::new()).await?;
        Ok(self
            .full
            .load_full()
            .map_or(Probe::Ready, |why| Probe::Unknown(Failure::clone(&why))))
    }

    async fn inspect(&self, _uses: &[Use]) -> Result<Vec<Finding>, Failure> {
        self.ask(look).await.map(|()| Vec::new())
    }

    fn abandon(&self) {
        self.tenure.swap(Arc::default()).cancel();
    }

    async fn close(&self) {}
}
