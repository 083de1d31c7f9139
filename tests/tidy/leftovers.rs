//! What must not be left behind: `unwrap`, `allow`, reminders, a machine's paths.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::source::{Findings, Source};

pub fn tokens_that_must_not_be(source: &Source) -> Findings {
    let mut found = Vec::new();
    walk(source.tokens(), &mut found);
    found
}

fn walk(tokens: TokenStream, found: &mut Findings) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        let line = token.span().start().line;
        match token {
            TokenTree::Group(group) => {
                if is_allow_attribute(&tokens[..at], group) {
                    found.push((line, "allow: use expect with a reason".to_owned()));
                }
                walk(group.stream(), found);
            }
            TokenTree::Ident(name) => {
                let after_dot = at > 0 && matches!(&tokens[at - 1], TokenTree::Punct(punct) if punct.as_char() == '.');
                if name == "unwrap" && after_dot {
                    found.push((line, "unwrap outside tests: expect(\"<the invariant>\")".to_owned()));
                }
            }
            TokenTree::Literal(_) | TokenTree::Punct(_) => {}
        }
    }
}

/// `#[allow(..)]` or `#![allow(..)]`: `group` is the brackets, `before` what stands in front of them.
fn is_allow_attribute(before: &[TokenTree], group: &proc_macro2::Group) -> bool {
    let is_punct = |token: Option<&TokenTree>, wanted: char| matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted);
    let last = before.last();
    let is_attribute = is_punct(last, '#') || (is_punct(last, '!') && is_punct(before.iter().nth_back(1), '#'));
    let first = group.stream().into_iter().next();
    is_attribute
        && group.delimiter() == Delimiter::Bracket
        && matches!(first, Some(TokenTree::Ident(name)) if name == "allow")
}

pub fn machine_paths(source: &Source) -> Findings {
    let found = source.literals().into_iter().filter_map(|(line, text)| {
        let roots = ["/home/", "/root/", "/Users/", "/work/"];
        let machine = roots.iter().find(|path| text.contains(*path))?;
        Some((line, format!("a machine's path in a string: {machine}")))
    });
    found.collect()
}

/// Reminders nobody will read again, comments included.
pub fn reminders(source: &Source) -> Findings {
    let mut found = Vec::new();
    for (number, line) in source.text.lines().enumerate() {
        for mark in ["TODO", "FIXME", "XXX", "HACK"] {
            if line.split(|c: char| !c.is_alphanumeric()).any(|word| word == mark) {
                found.push((number + 1, format!("{mark}: do it or open an issue")));
            }
        }
    }
    found
}
