//! Where SQL stands: in `sql/`, with a header a reader can trust, and not in strings.

use super::source::{Findings, Source, is_within};

/// Where a text that reads like SQL is advice for a person, never run.
const ADVICE: &[&str] = &["store::postgres::desk::doctor"];

/// Strings that hold SQL, wherever in them a statement begins: at the start, behind a comment, in parentheses, in the middle.
pub fn sql_in_strings(source: &Source) -> Findings {
    if ADVICE.iter().any(|module| is_within(&source.module, module)) {
        return Vec::new();
    }
    let found = source.literals().into_iter().filter_map(|(line, text)| {
        let verb = statement(&text)?;
        Some((line, format!("SQL in a string ({verb}): it belongs into sql/")))
    });
    found.collect()
}

/// The verb of the first statement in `text`.
fn statement(text: &str) -> Option<&'static str> {
    let text = text.replace("\\n", "\n").replace("\\\n", "\n").to_lowercase();
    let code: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("--"))
        .collect();
    let spaced = code
        .join(" ")
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace(';', " ; ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    (0..words.len()).find_map(|at| {
        let begins = at == 0 || matches!(words[at - 1], "(" | ";");
        verb(&words[at..], begins)
    })
}

/// The verb `words` begin with, if they are a statement. In the middle of a sentence less is one: "select a transport", "listen on".
fn verb(words: &[&str], begins: bool) -> Option<&'static str> {
    let word = |at: usize| words.get(at).copied().unwrap_or_default();
    let follows = |wanted: &str| words[1..].contains(&wanted);
    match word(0) {
        "select" => (follows("from") || (begins && (follows("(") || word(1) == "1"))).then_some("select"),
        "insert" => (word(1) == "into").then_some("insert into"),
        "update" => (is_name(word(1)) && word(2) == "set"
            || is_name(word(1)) && is_name(word(2)) && word(3) == "set"
            || begins && follows("set"))
        .then_some("update"),
        "delete" => (word(1) == "from").then_some("delete from"),
        "create" => ["table", "index"].contains(&word(1)).then_some("create"),
        "alter" => (word(1) == "table").then_some("alter table"),
        "with" => (word(2) == "as" && word(3) == "(").then_some("with"),
        "listen" => begins.then_some("listen"),
        "notify" => begins.then_some("notify"),
        _ => None,
    }
}

/// Of a table, or an alias.
fn is_name(word: &str) -> bool {
    word.chars().all(|c| c.is_alphanumeric() || "_.{}\"\\".contains(c))
}
