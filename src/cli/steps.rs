//! What verbs that work in steps have in common: a bar on standard error, and an end between two steps when asked for one.

use std::io::{self, IsTerminal};

use futures_util::FutureExt;
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Ctrl-C and SIGTERM, caught: they end the work, not the process in the middle of a step.
pub(super) struct Interrupt {
    interrupt: Signal,
    terminate: Signal,
    asked: bool,
}

impl Interrupt {
    /// From now on.
    pub(super) fn catch() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            asked: false,
        })
    }

    /// Whether an end was asked for. Asked between two steps.
    pub(super) fn came(&mut self) -> bool {
        self.asked = self.asked || self.wait().now_or_never().is_some();
        self.asked
    }

    /// Waits until one is asked for.
    pub(super) async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Does a step to its end although an end of the work is asked for; the second time gives the step up.
    pub(super) async fn step<T>(&mut self, work: impl Future<Output = T>) -> anyhow::Result<T> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                () = self.wait() => {
                    anyhow::ensure!(!self.asked, "stopped at once: the database ends the step under way by itself");
                    self.asked = true;
                }
            }
        }
    }
}

/// A bar over so many rows, for work of more than one step that a person watches.
pub(super) fn bar_of_rows(total: usize, step: usize) -> ProgressBar {
    bar(
        total as u64,
        total > step,
        "{bar:40} {human_pos} of {human_len}, {eta} left",
    )
}

/// A bar over a stretch of the outbox, whose rows nobody has counted.
pub(super) fn bar_of_stretch(length: u64) -> ProgressBar {
    bar(length, length > 10_000, "{bar:40} {percent}% of the outbox, {eta} left")
}

fn bar(length: u64, worth_it: bool, template: &str) -> ProgressBar {
    if !worth_it || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(template).expect("the template is right");
    ProgressBar::new(length)
        .with_style(style)
        .with_finish(ProgressFinish::AndClear)
}
