//! Names and texts as SQL takes them.

use sha2::{Digest, Sha256};

/// A statement file without its comment lines.
pub(crate) fn code(file: &str) -> String {
    let lines: Vec<&str> = file
        .lines()
        .filter(|line| !line.trim_start().starts_with("--"))
        .collect();
    lines.join("\n")
}

/// A version without its last number: those alike share an outbox.
pub(crate) fn kind(version: &str) -> &str {
    version.rsplit_once('.').map_or("", |(kind, _)| kind)
}

/// The beginning of `text`, at most `length` bytes of it.
pub(super) fn cut(text: &str, length: usize) -> &str {
    let mut end = text.len().min(length);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Eight digits that tell long names apart.
pub(super) fn digest(text: &str) -> String {
    hex(&Sha256::digest(text)[..4])
}

/// `bytes` in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Quotes an identifier for SQL.
#[must_use]
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a string literal for SQL (standard_conforming_strings, PostgreSQL's default since 9.1).
#[must_use]
pub fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
