//! A source file, parsed: what is code, what is under test, and which paths it names.

use std::path::Path;
use std::sync::LazyLock;

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;

/// Lines, and what is wrong there.
pub type Findings = Vec<(usize, String)>;

/// The kinds of transports: the folders below `src/transport/`. In the lists, `transport::*` is each of them.
pub static KINDS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let transports = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/transport");
    let entries = std::fs::read_dir(transports).expect("src/transport is readable");
    let folders = entries.flatten().filter(|entry| entry.path().is_dir());
    folders
        .map(|folder| folder.file_name().to_string_lossy().into_owned())
        .collect()
});

/// One source file, ready to be judged.
pub struct Source {
    /// Where it is, from the package's directory.
    pub path: String,
    /// Its module: `store::postgres::link::way`; `main` and `lib` for the roots.
    pub module: String,
    pub text: String,
    /// Everything outside `#[cfg(test)]`.
    pub items: syn::File,
}

impl Source {
    pub fn parse(path: &str, text: &str) -> Result<Self, String> {
        let mut items = syn::parse_file(text).map_err(|error| format!("{path}: does not parse: {error}"))?;
        // `#[cfg(test)] mod tests;` stands in another file.
        if is_test(&items.attrs) || module_of(path).split("::").any(|segment| segment == "tests") {
            items.items.clear();
        }
        remove_tests(&mut items.items);
        Ok(Self {
            path: path.to_owned(),
            module: module_of(path),
            text: text.to_owned(),
            items,
        })
    }

    pub fn tokens(&self) -> TokenStream {
        self.items.to_token_stream()
    }

    /// Every literal outside documentation, without its quotes, and the line it begins on.
    pub fn literals(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        collect_literals(self.tokens(), &mut found);
        found
    }

    /// Every path of a `use` at the top of the file, as it is written there.
    pub fn imports(&self) -> Vec<Vec<String>> {
        let uses = self.items.items.iter().filter(|item| matches!(item, syn::Item::Use(_)));
        let named = uses.flat_map(|item| paths(item.to_token_stream()));
        named.map(|(path, _)| path).collect()
    }

    /// Every path this file names inside the crate, from the crate's root, and the line it stands on.
    pub fn names(&self) -> Vec<(String, usize)> {
        let named = paths(self.tokens()).into_iter();
        named
            .filter_map(|(path, line)| Some((inside_the_crate(&path, &self.module)?, line)))
            .collect()
    }
}

pub fn module_of(path: &str) -> String {
    let inside = path.trim_start_matches("src/").trim_end_matches(".rs");
    let inside = inside.strip_suffix("/mod").unwrap_or(inside);
    inside.replace('/', "::")
}

pub fn is_within(module: &str, prefix: &str) -> bool {
    if prefix.contains('*') {
        return KINDS.iter().any(|kind| is_within(module, &prefix.replace('*', kind)));
    }
    module
        .strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// `#[cfg(test)]`, `#[cfg(all(test, ..))]` or `#[test]`.
pub fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let tokens = attribute.meta.to_token_stream().to_string();
        tokens == "test"
            || (tokens.starts_with("cfg") && tokens.contains("test") && !tokens.contains("feature"))
                && !tokens.contains("not")
    })
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "syn's enum, not ours; the other kinds are never under cfg(test)"
)]
pub fn attributes_of(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "syn's enum, not ours; only these two contain items"
)]
fn remove_tests(items: &mut Vec<syn::Item>) {
    items.retain(|item| !is_test(attributes_of(item)));
    for item in items {
        match item {
            syn::Item::Mod(module) => {
                if let Some((_, inner)) = &mut module.content {
                    remove_tests(inner);
                }
            }
            syn::Item::Impl(block) => block.items.retain(|item| match item {
                syn::ImplItem::Fn(function) => !is_test(&function.attrs),
                _ => true,
            }),
            _ => {}
        }
    }
}

fn collect_literals(tokens: TokenStream, found: &mut Vec<(usize, String)>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Group(group) => collect_literals(group.stream(), found),
            TokenTree::Literal(literal) if !is_doc(&tokens, at) => {
                let text = literal.to_string();
                let text = text
                    .trim_start_matches(['b', 'r', '#', '"'])
                    .trim_end_matches(['"', '#']);
                found.push((literal.span().start().line, text.to_owned()));
            }
            TokenTree::Literal(_) | TokenTree::Ident(_) | TokenTree::Punct(_) => {}
        }
    }
}

/// The literal is a doc comment: `doc = "..."`.
fn is_doc(tokens: &[TokenTree], at: usize) -> bool {
    at == 2 && matches!(&tokens[0], TokenTree::Ident(name) if name == "doc")
}

/// A path as written in code: its segments and the line it begins on.
pub type Named = (Vec<String>, usize);

/// Every path in a stream of tokens, with the groups of `use a::{b, c::d}` spread out. Reads macro bodies too.
pub fn paths(tokens: TokenStream) -> Vec<Named> {
    let mut found = Vec::new();
    collect_paths(tokens, &[], &mut found);
    found
}

fn collect_paths(tokens: TokenStream, prefix: &[String], found: &mut Vec<Named>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Ident(first) => {
                let mut path = prefix.to_vec();
                path.push(first.to_string());
                let line = first.span().start().line;
                at += 1;
                let mut spread = false;
                while is_path_separator(&tokens, at) {
                    match tokens.get(at + 2) {
                        Some(TokenTree::Ident(next)) => {
                            path.push(next.to_string());
                            at += 3;
                        }
                        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                            collect_paths(group.stream(), &path, found);
                            spread = true;
                            at += 3;
                        }
                        _ => break,
                    }
                }
                if !spread && (path.len() > 1 || !prefix.is_empty()) {
                    found.push((path, line));
                }
                if is_path_separator(&tokens, at) {
                    at += 2;
                }
            }
            TokenTree::Group(group) => {
                collect_paths(group.stream(), &[], found);
                at += 1;
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => at += 1,
        }
    }
}

fn is_path_separator(tokens: &[TokenTree], at: usize) -> bool {
    let is_colon = |index: usize| matches!(tokens.get(index), Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
    is_colon(at) && is_colon(at + 1)
}

/// The path inside this crate a written path means, if it means one: `crate::a::b`, `self::b`, `super::super::c`.
pub fn inside_the_crate(path: &[String], module: &str) -> Option<String> {
    let mut base: Vec<&str> = module.split("::").filter(|part| *part != "lib").collect();
    let mut rest = path;
    match path.first()?.as_str() {
        "crate" | "outboxd" => {
            base.clear();
            rest = &path[1..];
        }
        "self" => rest = &path[1..],
        "super" => {
            while rest.first().is_some_and(|part| part == "super") {
                base.pop();
                rest = &rest[1..];
            }
        }
        _ => return None,
    }
    base.extend(rest.iter().map(String::as_str));
    Some(base.join("::"))
}
