//! Logs: lines on standard error, one per thing that happened, handled or worth a person's look.
//!
//! Under systemd (or any pipe) they are JSON, on a terminal text. In both, what a field says cannot begin a line or steer a
//! terminal. [`Repeat`] keeps a condition that lasts from filling the journal.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

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
            .with_current_span(false)
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

/// Says something that keeps being true: at once the first time, then every 30 s with how often it came up meanwhile.
/// One that ends and comes back within that time is still the same: a condition that flaps fills no journal either.
/// Pure: the caller passes the time, and keeps one of these per condition.
#[derive(Clone, Copy, Debug, Default)]
pub struct Repeat {
    said: Option<Instant>,
    unsaid: u64,
    /// A reader of the log believes that it lasts.
    believed: bool,
}

/// How often a lasting condition is repeated.
pub const REPEAT_INTERVAL: Duration = Duration::from_secs(30);

impl Repeat {
    /// It came up again. `Some(n)`: say so now; it came up `n` times since it was last said (this time included).
    pub fn occurred(&mut self, now: Instant) -> Option<u64> {
        self.unsaid = self.unsaid.saturating_add(1);
        let due = self
            .said
            .is_none_or(|said| now.saturating_duration_since(said) >= REPEAT_INTERVAL);
        due.then(|| {
            self.said = Some(now);
            self.believed = true;
            std::mem::take(&mut self.unsaid)
        })
    }

    /// It is over. True when it had been said, so that its end is worth a line too.
    pub fn ended(&mut self) -> bool {
        std::mem::take(&mut self.believed)
    }
}

/// Lets so many lines of a kind through per 30 s, and counts the others. Pure, as [`Repeat`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Budget {
    from: Option<Instant>,
    said: u64,
    unsaid: u64,
}

/// Lines a [`Budget`] lets through per [`REPEAT_INTERVAL`].
pub const BUDGET: u64 = 100;

impl Budget {
    /// Whether a line may be written now.
    pub fn allows(&mut self, now: Instant) -> bool {
        self.from.get_or_insert(now);
        let allows = self.said < BUDGET;
        *(if allows { &mut self.said } else { &mut self.unsaid }) += 1;
        allows
    }

    /// To be asked now and then: how many lines were held back, once the interval is over. A new one begins with the next line.
    pub fn rest(&mut self, now: Instant) -> Option<u64> {
        let over = self
            .from
            .is_some_and(|from| now.saturating_duration_since(from) >= REPEAT_INTERVAL);
        let unsaid = over.then(|| std::mem::take(self).unsaid);
        unsaid.filter(|unsaid| *unsaid > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lasting_condition_is_said_at_once_and_then_counted() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut repeat = Repeat::default();
        assert_eq!(repeat.occurred(at(0)), Some(1));
        assert_eq!(repeat.occurred(at(1)), None);
        assert_eq!(repeat.occurred(at(29)), None);
        assert_eq!(repeat.occurred(at(30)), Some(3));
        assert_eq!(repeat.occurred(at(31)), None);
        assert!(repeat.ended());
        assert!(!repeat.ended());
        assert_eq!(repeat.occurred(at(60)), Some(2));
    }

    #[test]
    fn a_condition_that_flaps_is_one_condition() {
        let start = Instant::now();
        let mut repeat = Repeat::default();
        let mut said = (0, 0);
        for second in 0..60 {
            said.0 += u64::from(repeat.occurred(start + Duration::from_secs(second)).is_some());
            said.1 += u64::from(repeat.ended());
        }
        assert_eq!(said, (2, 2), "its beginning and its end, twice a minute");
    }

    #[test]
    fn a_flood_is_a_hundred_lines_and_a_number() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut budget = Budget::default();
        let said = (0..50_000).filter(|_| budget.allows(at(1))).count();
        assert_eq!(said as u64, BUDGET);
        assert_eq!(budget.rest(at(30)), None, "not yet");
        assert_eq!(budget.rest(at(31)), Some(49_900));
        assert!(budget.allows(at(32)));
        assert_eq!(budget.rest(at(62)), None, "nothing was held back");
    }

    #[test]
    fn auto_means_text_only_where_a_person_reads() {
        assert!(!Format::Auto.is_json(true, false));
        assert!(Format::Auto.is_json(true, true));
        assert!(Format::Auto.is_json(false, false));
        assert!(!Format::Text.is_json(false, true));
        assert!(Format::Json.is_json(true, false));
    }
}
