//! Logs: lines on standard error, one per thing that happened, handled or worth a person's look.
//!
//! Under systemd (or any pipe) they are JSON, on a terminal text. In both, what a field says cannot begin a line or steer a
//! terminal.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use super::escape::JsonLines;
use super::text::TextFields;

/// Least severe level written. `log.level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something is broken and needs a person.
    Error,
    /// Something is off and may mend itself.
    Warn,
    /// What an operator wants to read on a good day.
    Info,
    /// Decisions of the relay.
    Debug,
    /// Everything, libraries included.
    Trace,
}

impl Level {
    /// Our own lines from this level on; the libraries' from `warn` on, except at `trace`.
    fn filter(self) -> EnvFilter {
        let (ours, theirs) = match self {
            Self::Error => (LevelFilter::ERROR, LevelFilter::ERROR),
            Self::Warn => (LevelFilter::WARN, LevelFilter::WARN),
            Self::Info => (LevelFilter::INFO, LevelFilter::WARN),
            Self::Debug => (LevelFilter::DEBUG, LevelFilter::WARN),
            Self::Trace => (LevelFilter::TRACE, LevelFilter::TRACE),
        };
        // The database's driver logs statements with their parameters, and what triggers say (RAISE NOTICE); that of NATS logs the
        // headers of each message.
        let nats = theirs.min(LevelFilter::INFO);
        EnvFilter::new(format!("{theirs},tokio_postgres=off,async_nats={nats},outboxd={ours}"))
    }
}

/// How lines look. `log.format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Format {
    /// `Auto` resolved: JSON when systemd collects the lines or nobody reads them on a terminal.
    #[must_use]
    pub fn is_json(self, terminal: bool, journal: bool) -> bool {
        match self {
            Self::Auto => journal || !terminal,
            Self::Text => false,
            Self::Json => true,
        }
    }
}

/// Changes the level of a running process (reload).
#[derive(Clone, Debug)]
pub struct LevelHandle(reload::Handle<EnvFilter, Registry>);

impl LevelHandle {
    /// From now on, lines from `level` on are written.
    pub fn set(&self, level: Level) {
        if let Err(error) = self.0.reload(level.filter()) {
            tracing::warn!(%error, "the log level could not be changed");
        }
    }
}

/// Starts logging to standard error, for the whole process. `NO_COLOR` and `TERM=dumb` are honoured.
///
/// # Errors
/// When the process logs already.
pub fn start(level: Level, format: Format) -> Result<LevelHandle, TryInitError> {
    let terminal = std::io::stderr().is_terminal();
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let colour = terminal && !console::is_dumb() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (filter, handle) = reload::Layer::new(level.filter());
    let lines = if format.is_json(terminal, journal) {
        fmt::layer()
            .with_writer(JsonLines)
            .json()
            .flatten_event(true)
            // The outbox, where it has a name.
            .with_current_span(true)
            .with_span_list(false)
            .boxed()
    } else {
        fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(colour)
            .compact()
            .with_target(false)
            .fmt_fields(TextFields)
            .boxed()
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init()?;
    Ok(LevelHandle(handle))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_means_text_only_where_a_person_reads() {
        assert!(!Format::Auto.is_json(true, false));
        assert!(Format::Auto.is_json(true, true));
        assert!(Format::Auto.is_json(false, false));
        assert!(!Format::Text.is_json(false, true));
        assert!(Format::Json.is_json(true, false));
    }
}
