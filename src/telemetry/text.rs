//! The fields of a text line: `message name=value ...`, nothing of which can pass for more than it is.
//!
//! Lines of the libraries come this way too. What a field says is escaped here and nowhere before, so that no line has to think of
//! it; the line's own end and colours are not a field's.

use std::error::Error;
use std::fmt;

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

use super::escape::Escaped;

/// Writes the fields of events and spans.
pub(super) struct TextFields;

impl<'w> FormatFields<'w> for TextFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut line = Line {
            writer,
            begun: false,
            result: Ok(()),
        };
        fields.record(&mut line);
        line.result
    }
}

struct Line<'w> {
    writer: Writer<'w>,
    begun: bool,
    result: fmt::Result,
}

impl Line<'_> {
    fn field(&mut self, name: &str, value: impl fmt::Display) -> fmt::Result {
        if std::mem::replace(&mut self.begun, true) {
            self.writer.write_char(' ')?;
        }
        if name != "message" {
            let (italic, faint, plain) = if self.writer.has_ansi_escapes() {
                ("\x1b[3m", "\x1b[2m", "\x1b[0m")
            } else {
                ("", "", "")
            };
            write!(self.writer, "{italic}{name}{plain}{faint}={plain}")?;
        }
        write!(self.writer, "{}", Escaped(value))
    }

    fn add(&mut self, name: &str, value: impl fmt::Display) {
        // What the log crate's lines say about themselves.
        if self.result.is_ok() && !name.starts_with("log.") {
            self.result = self.field(name.trim_start_matches("r#"), value);
        }
    }
}

impl Visit for Line<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.add("message", value);
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.add(field.name(), value);
        let (mut causes, mut next) = (Vec::new(), value.source());
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        if !causes.is_empty() {
            self.add(
                &format!("{}.sources", field.name()),
                format_args!("[{}]", causes.join(", ")),
            );
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field.name(), format_args!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What `say` logs in the text format.
    fn logged(colour: bool, say: impl FnOnce()) -> String {
        let log = Log::default();
        let writer = log.clone();
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            .with_ansi(colour)
            .without_time()
            .compact()
            .with_target(false)
            .fmt_fields(TextFields);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), say);
        let bytes = log.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_topic_with_a_line_feed_forges_no_line() {
        let topic = "orders\nERROR forged\u{1b}[2J\u{202e}";
        let line = logged(false, || {
            tracing::warn!(%topic, quoted = topic, debug = ?topic, seq = 7, "said {topic}");
        });
        let shown = "orders\\nERROR forged\\u{1b}[2J\\u{202e}";
        assert_eq!(
            line,
            format!(" WARN said {shown} topic={shown} quoted=\"{shown}\" debug=\"{shown}\" seq=7\n")
        );
    }

    #[test]
    fn an_error_and_its_causes_forge_no_line() {
        #[derive(Debug, thiserror::Error)]
        #[error("refused\nby the broker")]
        struct Refused(#[source] io::Error);
        let line = logged(false, || {
            let error = Refused(io::Error::other("no\rroom"));
            tracing::error!(error = &error as &dyn Error, "failed");
        });
        assert_eq!(
            line,
            "ERROR failed error=refused\\nby the broker error.sources=[no\\rroom]\n"
        );
    }

    #[test]
    fn colours_are_the_line_s_own() {
        let line = logged(true, || tracing::info!(key = "k\u{1b}[0m", "said"));
        assert!(
            line.ends_with("said \u{1b}[3mkey\u{1b}[0m\u{1b}[2m=\u{1b}[0m\"k\\u{1b}[0m\"\n"),
            "{line:?}"
        );
    }
}
