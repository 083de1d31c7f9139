//! Text from outside, as a log or a terminal may show it.
//!
//! A topic, a key or a broker's answer holds whatever somebody wrote: a line feed would begin a line of its own, an escape
//! sequence reach the terminal, a bidi control turn the rest of the line around. [`Escaped`] writes each such character as Rust
//! does (`\n`, `\u{1b}`), and touches nothing else: what is escaped already stays as it is. In JSON the same characters stand in
//! strings only, where [`json`] writes them as JSON does.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::io;

use tracing_subscriber::fmt::MakeWriter;

/// Whether `c` says something to whoever shows the text, instead of being shown: a control character (C0, DEL, C1), a line or
/// paragraph separator, a bidi control (Unicode Standard Annex 9, section 2).
fn steers(c: char) -> bool {
    let bidi = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || bidi || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Shows a value so that nothing in it steers a log or a terminal.
pub(crate) struct Escaped<T>(pub(crate) T);

impl<T: fmt::Display> fmt::Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

impl<T: fmt::Debug> fmt::Debug for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{:?}", self.0)
    }
}

struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        replace(text, self.0, |c, f| write!(f, "{}", c.escape_default()))
    }
}

/// Writes `text`, each character that steers by `escape`.
fn replace<W: Write>(text: &str, out: &mut W, escape: impl Fn(char, &mut W) -> fmt::Result) -> fmt::Result {
    text.split_inclusive(steers)
        .try_for_each(|part| match part.chars().next_back() {
            Some(last) if steers(last) => {
                out.write_str(&part[..part.len() - last.len_utf8()])?;
                escape(last, out)
            }
            Some(_) | None => out.write_str(part),
        })
}

/// JSON with such characters escaped. Its own white space apart they stand in strings only, and four digits name each.
pub(crate) fn json(text: &str) -> Cow<'_, str> {
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    replace(text, &mut escaped, |c, out| match c {
        '\n' | '\t' => out.write_char(c),
        '\r' => out.write_char(' '),
        _ => write!(out, "\\u{:04x}", u32::from(c)),
    })
    .expect("a string takes any text");
    Cow::Owned(escaped)
}

/// Writes lines of JSON to standard error, escaped.
pub(super) struct JsonLines;

impl<'a> MakeWriter<'a> for JsonLines {
    type Writer = JsonLine<io::Stderr>;

    fn make_writer(&'a self) -> Self::Writer {
        JsonLine(io::stderr())
    }
}

/// Is handed whole lines.
pub(super) struct JsonLine<W>(W);

impl<W: io::Write> io::Write for JsonLine<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match std::str::from_utf8(line) {
            Ok(text) => self.0.write_all(json(text).as_bytes())?,
            Err(_) => self.0.write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each kind.
    const STEERING: &str =
        "\0\u{8}\t\n\r\u{1b}\u{7f}\u{85}\u{9b}\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202e}\u{2066}\u{2069}";

    #[test]
    fn a_topic_with_a_line_feed_forges_no_line() {
        let topic = "orders\n2026-01-01T00:00:00Z ERROR forged";
        assert_eq!(Escaped(topic).to_string(), "orders\\n2026-01-01T00:00:00Z ERROR forged");
        for c in STEERING.chars() {
            let shown = Escaped(format_args!("a{c}b")).to_string();
            assert!(!shown.contains(steers), "{c:?} in {shown:?}");
            assert_eq!(shown, format!("a{}b", c.escape_default()));
        }
    }

    #[test]
    fn what_is_no_control_stays_as_it_is() {
        for text in ["", "é ß 漢字 👩‍🚀 שלום", "a\\nb \\u{1b}", "\"quoted\" = %x"] {
            assert_eq!(Escaped(text).to_string(), text);
            assert_eq!(json(text), text);
        }
        let debug = format!("{:?}", Escaped("a\n\u{202e}"));
        assert_eq!(debug, format!("{:?}", "a\n\u{202e}"), "it is not escaped twice");
    }

    #[test]
    fn escaped_json_says_the_same() {
        let value = serde_json::json!({ "topic": STEERING, "n": [1.5, "é"] });
        let text = format!("{value}\n");
        let shown = json(&text);
        assert!(!shown.trim_end().contains(steers), "{shown:?}");
        assert!(shown.ends_with("}\n"), "{shown:?}");
        assert_eq!(
            json("{\r\n\t\"a\": 1}"),
            "{ \n\t\"a\": 1}",
            "its own white space stays white space"
        );
        let read: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(read, value);
        let mut written = Vec::new();
        io::Write::write_all(&mut JsonLine(&mut written), text.as_bytes()).unwrap();
        assert_eq!(written, shown.as_bytes());
    }
}
