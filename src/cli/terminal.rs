//! Output for people: tables that fit, colours only on a terminal, nothing from the database that could steer it.

use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::time::Duration;

use crate::telemetry::escape::{self, Escaped};

/// Columns where standard output is no terminal.
const WIDTH: usize = 80;

/// What a text means, shown by its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Heading,
    Good,
    Bad,
    Faint,
}

/// Standard output, buffered.
pub(super) struct Out {
    writer: BufWriter<StdoutLock<'static>>,
    is_terminal: bool,
    /// It is a terminal that obeys.
    steers: bool,
    colours: bool,
    width: usize,
}

impl Out {
    pub(super) fn stdout() -> Self {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        let steers = is_terminal && !console::is_dumb();
        let colours = steers && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let width = console::Term::stdout()
            .size_checked()
            .map_or(WIDTH, |(_, columns)| usize::from(columns));
        Self {
            writer: BufWriter::new(stdout.lock()),
            is_terminal,
            steers,
            colours,
            width: width.max(40),
        }
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes)
    }

    /// A clear screen, where there is one; else an empty line.
    pub(super) fn page(&mut self) -> io::Result<()> {
        self.writer
            .write_all(if self.steers { b"\x1b[2J\x1b[H" } else { b"\n" })
    }

    pub(super) fn line(&mut self, line: impl AsRef<str>) -> io::Result<()> {
        writeln!(self.writer, "{}", line.as_ref())
    }

    /// `text` after `label`, indented and broken between words where the line ends.
    pub(super) fn paragraph(&mut self, label: &str, text: &str) -> io::Result<()> {
        const INDENT: usize = 2;
        let room = self.width.saturating_sub(INDENT + label.len());
        let mut lead = format!("{}{label}", " ".repeat(INDENT));
        for line in broken(text, room) {
            writeln!(self.writer, "{lead}{line}")?;
            lead = " ".repeat(INDENT + label.len());
        }
        Ok(())
    }

    /// As JSON, on a line.
    pub(super) fn json(&mut self, value: &impl serde::Serialize) -> io::Result<()> {
        self.json_text(value)?;
        writeln!(self.writer)
    }

    /// As JSON. A program is given what was stored as it was stored; a terminal is not steered by it.
    pub(super) fn json_text(&mut self, value: &impl serde::Serialize) -> io::Result<()> {
        if !self.is_terminal {
            return Ok(serde_json::to_writer(&mut self.writer, value)?);
        }
        let text = serde_json::to_string(value)?;
        self.writer.write_all(escape::json(&text).as_bytes())
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }

    /// Every output ends with this: dropping would hide that it did not arrive.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.flush()
    }

    pub(super) fn paint(&self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Heading => "1",
            Tone::Good => "32",
            Tone::Bad => "31",
            Tone::Faint => "2",
        };
        if self.colours {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// Rows under `heading`, each cell cut to its column. The last column takes what is left of the line.
    pub(super) fn table<const N: usize>(
        &mut self,
        heading: [&str; N],
        rows: &[[String; N]],
        caps: [usize; N],
    ) -> io::Result<()> {
        let mut widths = heading.map(str::len);
        for row in rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for (width, cap) in widths.iter_mut().zip(caps) {
            *width = (*width).min(cap);
        }
        let before: usize = widths[..N - 1].iter().map(|width| width + 2).sum();
        widths[N - 1] = self.width.saturating_sub(before).max(8);
        let heading = line(&heading.map(str::to_owned), &widths);
        let heading = self.paint(Tone::Heading, &heading);
        self.line(heading)?;
        rows.iter().try_for_each(|row| self.line(line(row, &widths)))
    }
}

fn line(cells: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        let cell = cut(cell, *width);
        line.push_str(&cell);
        line.extend(std::iter::repeat_n(' ', width + 2 - cell.chars().count()));
    }
    line.trim_end().to_owned()
}

/// `text` on one line of at most `width` characters, control characters made visible: what a broker answered must not
/// steer a terminal.
pub(super) fn cut(text: &str, width: usize) -> String {
    let visible = safe(text);
    if visible.chars().count() <= width {
        return visible;
    }
    visible.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// `text` with control characters made visible.
pub(super) fn safe(text: impl Display) -> String {
    Escaped(text).to_string()
}

/// `text` in lines of at most `width` characters, but for words longer than that.
fn broken(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) | None => lines.push(word.to_owned()),
        }
    }
    lines
}

/// "3 messages", "1 message".
pub(super) fn messages(count: u64) -> String {
    format!("{} message{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// 1234567 as "1,234,567".
pub(super) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Seconds as a person says them: the two largest units.
pub(super) fn age(seconds: f64) -> String {
    let whole = Duration::try_from_secs_f64(seconds.max(0.0))
        .unwrap_or(Duration::MAX)
        .as_secs();
    let (days, hours, minutes, seconds) = (whole / 86400, whole / 3600 % 24, whole / 60 % 60, whole % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {seconds}s"),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_ages_read_well() {
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(grouped),
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(
            [0.4, 61.0, 7265.0, 90_061.0].map(age),
            ["0s", "1m 1s", "2h 1m", "1d 1h"]
        );
        assert_eq!(messages(1), "1 message");
    }

    #[test]
    fn lines_break_between_words() {
        assert_eq!(broken("one two  three", 7), ["one two", "three"]);
        assert_eq!(broken("longer-than-that x", 5), ["longer-than-that", "x"]);
    }

    #[test]
    fn what_a_broker_says_cannot_steer_the_terminal() {
        assert_eq!(cut("a\x1b[2J\nb", 40), "a\\u{1b}[2J\\nb");
        assert_eq!(
            cut("a\u{202e}b\u{2028}c", 40),
            "a\\u{202e}b\\u{2028}c",
            "nor turn a line around"
        );
        assert_eq!(cut("abcdef", 4), "abc…");
    }
}
