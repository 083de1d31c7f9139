//! Standard output: one JSON object a line, for trying things out and for pipes.
//!
//! Lines are written and flushed a batch at a time, in the batch's order; a line is acknowledged once the flush succeeded. A
//! closed or broken pipe is `Unavailable`: a batch that failed may have been written in part. A reader that stops reading blocks
//! the pipe; after five seconds the batch is `TimedOut`, and `Unavailable` is what later ones get until the pipe moves again.

pub mod config;

mod classify;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;

pub use classify::classify;

use self::config::StdoutConfig;
use super::lines::Lines;
use super::settings::Settings;
use super::{ConnectError, Envelope, Probe, Transport};
use crate::delivery::{Failure, FailureClass, Outcome};

/// How long a blocked reader is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

type Sink = Box<dyn Write + Send>;

/// The standard output transport. See the module.
pub struct Stdout {
    sink: Arc<Mutex<Sink>>,
}

impl std::fmt::Debug for Stdout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stdout").finish_non_exhaustive()
    }
}

#[async_trait]
impl Settings for StdoutConfig {
    fn kind(&self) -> &'static str {
        "stdout"
    }

    fn validate(&self, _name: &str) -> Result<(), ConnectError> {
        Ok(())
    }

    async fn connect(&self, _name: &str) -> Result<Arc<dyn Transport>, ConnectError> {
        Ok(Arc::new(Stdout::to(Box::new(std::io::stdout()))))
    }
}

impl Stdout {
    /// A transport to anything that can be written to.
    #[must_use]
    pub fn to(sink: Sink) -> Self {
        Self {
            sink: Arc::new(Mutex::new(sink)),
        }
    }
}

#[async_trait]
impl Transport for Stdout {
    async fn publish(&self, batch: &[Envelope]) -> Vec<Outcome> {
        let mut lines = Lines::of(batch);
        let text = std::mem::take(&mut lines.text);
        let blocked = |class| Failure::new(class, "BLOCKED", "nobody reads standard output");
        let result = match tokio::time::timeout(PATIENCE, Arc::clone(&self.sink).lock_owned()).await {
            Err(_) => Err(blocked(FailureClass::Unavailable)),
            Ok(mut sink) => {
                let write = tokio::task::spawn_blocking(move || sink.write_all(&text).and_then(|()| sink.flush()));
                match tokio::time::timeout(PATIENCE, write).await {
                    Err(_) => Err(blocked(FailureClass::TimedOut)),
                    Ok(written) => written.expect("writing does not panic").map_err(|error| {
                        Failure::new(
                            classify(error.kind()),
                            format!("{:?}", error.kind()),
                            format!("cannot write to standard output: {error}"),
                        )
                    }),
                }
            }
        };
        lines.answered(&result)
    }

    async fn probe(&self, _destination: &str) -> Result<Probe, Failure> {
        match self.sink.try_lock() {
            Ok(mut sink) => sink.flush().map(|()| Probe::Ready).map_err(|error| {
                Failure::new(
                    classify(error.kind()),
                    format!("{:?}", error.kind()),
                    format!("cannot write to standard output: {error}"),
                )
            }),
            Err(_) => Err(Failure::new(
                FailureClass::Unavailable,
                "BLOCKED",
                "nobody reads standard output",
            )),
        }
    }

    async fn close(&self) {}
}
