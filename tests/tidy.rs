//! The house rules a reviewer would otherwise have to remember, read off `src/`: who may import whom, which crates live
//! in which folder, where SQL lives, how long files and functions are, and what must not be left behind.
//!
//! Sources are parsed, not searched: text in comments and code under `#[cfg(test)]` are told apart. Each rule has a test
//! of its own that shows it both ways.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;
use syn::spanned::Spanned;
use syn::visit::Visit;

const FILE_LINES_MAX: usize = 400;
const FUNCTION_LINES_MAX: usize = 70;

/// The kinds of transports: the folders below `src/transport/`. In the lists below, `transport::*` is each of them.
static KINDS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let transports = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/transport");
    let entries = std::fs::read_dir(transports).expect("src/transport is readable");
    let folders = entries.flatten().filter(|entry| entry.path().is_dir());
    folders
        .map(|folder| folder.file_name().to_string_lossy().into_owned())
        .collect()
});

/// Who may import whom inside the crate: a module's path prefix, and the prefixes it may name. The longest matching
/// prefix rules; a module may always name itself and what is below it. `main` and `cli` compose everything.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("message", &[]),
    ("backoff", &[]),
    ("finding", &[]),
    ("stuck", &[]),
    ("trouble", &[]),
    ("delivery", &["message", "backoff"]),
    ("route", &["delivery", "backoff", "message"]),
    ("store", &["message", "delivery", "stuck"]),
    // Four rooms: `link` knows none of the others, `desk` knows all.
    ("store::postgres::link", &["store", "trouble"]),
    (
        "store::postgres::schema",
        &["store", "finding", "store::postgres::link"],
    ),
    (
        "store::postgres::outbox",
        &["store", "message", "delivery", "stuck", "store::postgres::link"],
    ),
    (
        "store::postgres::desk",
        &[
            "store",
            "message",
            "delivery",
            "finding",
            "stuck",
            "store::postgres::link",
            "store::postgres::schema",
            "store::postgres::outbox",
        ],
    ),
    ("transport", &["message", "delivery", "finding"]),
    ("transport::*", &["transport", "message", "delivery", "finding"]),
    (
        "relay",
        &[
            "store",
            "transport",
            "delivery",
            "backoff",
            "route",
            "message",
            "stuck",
            "telemetry",
        ],
    ),
    (
        "config",
        &[
            "transport::*::config",
            "transport::settings",
            "delivery",
            "backoff",
            "route",
            "message",
            // What a URL, a column and a log level may be is said where they are used.
            "store::postgres::link::connect",
            "store::postgres::link::sql",
            "telemetry::log",
            "telemetry::trace",
        ],
    ),
    ("telemetry", &["delivery", "message", "route", "stuck", "trouble"]),
    (
        "http",
        &[
            "config",
            "telemetry",
            "relay",
            "store",
            "message",
            "delivery",
            "stuck",
            "trouble",
            // What people ask the database is one thing, asked by the command line and over HTTP.
            "store::postgres::desk",
            "store::postgres::link",
        ],
    ),
    ("testing", &["store", "transport", "delivery", "message", "stuck"]),
    ("cli", &["*"]),
    ("main", &["*"]),
];

/// What a module that may import a port must still not reach through it.
const PORTS_END_AT: &[&str] = &["store::postgres", "transport::*"];

/// Modules that know no runtime: plain functions over plain values.
const PURE: &[&str] = &["message", "delivery", "backoff", "finding", "route", "stuck", "trouble"];

/// Where a text that begins like SQL is advice for a person, never run.
const ADVICE: &[&str] = &["store::postgres::desk::doctor"];

/// Crates that only one folder may name. A transport's are those of the feature of its name, by `Cargo.toml`.
const CRATE_HOMES: &[(&str, &[&str])] = &[
    ("tokio_postgres", &["store::postgres"]),
    ("deadpool_postgres", &["store::postgres"]),
    ("tokio_postgres_rustls", &["store::postgres"]),
    ("postgres_types", &["store::postgres"]),
    ("axum", &["http"]),
    ("clap", &["cli", "main"]),
    ("anyhow", &["cli", "main"]),
    ("prometheus_client", &["telemetry"]),
    ("prost", &["telemetry"]),
    ("hyper", &["telemetry", "http"]),
];

/// The home of a crate, if it has one.
fn home_of(name: &str) -> Option<Vec<String>> {
    if let Some((_, homes)) = CRATE_HOMES.iter().find(|(known, _)| *known == name) {
        return Some(homes.iter().map(ToString::to_string).collect());
    }
    let manifest = include_str!("../Cargo.toml");
    let dependency = format!("\"dep:{}\"", name.replace('_', "-"));
    let is_home = |kind: &&String| {
        let feature = format!("{kind} = [");
        let line = manifest.lines().find(|line| line.starts_with(&feature));
        line.is_some_and(|line| line.contains(&dependency))
    };
    KINDS
        .iter()
        .find(is_home)
        .map(|kind| vec![format!("transport::{kind}")])
}

/// One source file, ready to be judged.
struct Source {
    /// Where it is, from the package's directory.
    path: String,
    /// Its module: `store::postgres::link::way`; `main` and `lib` for the roots.
    module: String,
    text: String,
    /// Everything outside `#[cfg(test)]`.
    items: syn::File,
}

impl Source {
    fn parse(path: &str, text: &str) -> Result<Self, String> {
        let mut items = syn::parse_file(text).map_err(|error| format!("{path}: does not parse: {error}"))?;
        if is_test(&items.attrs) {
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

    fn tokens(&self) -> TokenStream {
        self.items.to_token_stream()
    }

    /// Every finding, one line each: `path:line: what is wrong`.
    fn findings(&self) -> Vec<String> {
        let mut all = Vec::new();
        for rule in [imports, lengths, tokens_that_must_not_be, left_behind] {
            all.extend(
                rule(self)
                    .into_iter()
                    .map(|(line, what)| format!("{}:{line}: {what}", self.path)),
            );
        }
        all
    }
}

type Findings = Vec<(usize, String)>;

fn module_of(path: &str) -> String {
    let inside = path.trim_start_matches("src/").trim_end_matches(".rs");
    let inside = inside.strip_suffix("/mod").unwrap_or(inside);
    inside.replace('/', "::")
}

fn is_within(module: &str, prefix: &str) -> bool {
    if prefix.contains('*') {
        return KINDS.iter().any(|kind| is_within(module, &prefix.replace('*', kind)));
    }
    module
        .strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// `#[cfg(test)]`, `#[cfg(all(test, ..))]` or `#[test]`.
fn is_test(attributes: &[syn::Attribute]) -> bool {
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
fn attributes_of(item: &syn::Item) -> &[syn::Attribute] {
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

/// A path as written in code: its segments and the line it begins on.
type Named = (Vec<String>, usize);

/// Every path in a stream of tokens, with the groups of `use a::{b, c::d}` spread out. Reads macro bodies too.
fn paths(tokens: TokenStream) -> Vec<Named> {
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
fn inside_the_crate(path: &[String], module: &str) -> Option<String> {
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

fn imports(source: &Source) -> Findings {
    let mut seen = BTreeSet::new();
    for (path, line) in paths(source.tokens()) {
        let complaint = match inside_the_crate(&path, &source.module) {
            Some(target) => forbidden_edge(&source.module, &target),
            None => forbidden_crate(&source.module, &path[0]),
        };
        if let Some(what) = complaint {
            seen.insert((line, what));
        }
    }
    seen.into_iter().collect()
}

fn forbidden_edge(module: &str, target: &str) -> Option<String> {
    if module == "lib" || target.is_empty() {
        return None;
    }
    let (home, allowed) = MAY_IMPORT
        .iter()
        .filter(|(prefix, _)| is_within(module, prefix))
        .max_by_key(|(prefix, _)| prefix.len())
        .unwrap_or(&("", &[]));
    let adapter = adapter_of(target);
    if is_within_its_own(module, target, home) {
        // A port must not know its adapters, though they lie below it.
        let foreign = adapter.filter(|adapter| !is_within(module, adapter));
        return foreign.map(|adapter| format!("{module} is a port and names its adapter {adapter}"));
    }
    let named = allowed
        .iter()
        .filter(|prefix| **prefix == "*" || is_within(target, prefix))
        .max_by_key(|p| p.len());
    let Some(named) = named else {
        return Some(format!("{module} must not import {target}"));
    };
    match adapter {
        Some(adapter) if *named != "*" && !PORTS_END_AT.iter().any(|end| is_within_pattern(named, end)) => {
            Some(format!("{module} may import {named}, but not the adapter {adapter}"))
        }
        _ => None,
    }
}

/// Whether `module` names something of its own house, which the entry `home` rules.
fn is_within_its_own(module: &str, target: &str, home: &str) -> bool {
    match adapter_of(module).filter(|_| home.contains('*')) {
        Some(adapter) => is_within(target, &adapter),
        None => is_within(target, home) && !home.is_empty(),
    }
}

/// Whether the entry `pattern` of a list is about something inside of `end`.
fn is_within_pattern(pattern: &str, end: &str) -> bool {
    pattern
        .strip_prefix(end)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The adapter that `module` is of: `transport::nats` for what is in that folder.
fn adapter_of(module: &str) -> Option<String> {
    let end = PORTS_END_AT.iter().find(|end| is_within(module, end))?;
    let segments: Vec<&str> = module.split("::").take(end.split("::").count()).collect();
    Some(segments.join("::"))
}

fn forbidden_crate(module: &str, root: &str) -> Option<String> {
    if PURE.iter().any(|pure| is_within(module, pure)) && root == "tokio" {
        return Some(format!("{module} is pure and names tokio"));
    }
    let homes = home_of(root)?;
    let at_home = homes.iter().any(|home| is_within(module, home)) || inner_module_is_meant(module, root);
    (!at_home).then(|| format!("{module} names the crate {root}, whose home is {}", homes.join(" or ")))
}

/// `transport/mod.rs` and `config` say `redis::...` of our own module of that name.
fn inner_module_is_meant(module: &str, root: &str) -> bool {
    KINDS.iter().any(|kind| kind == root)
        && (module == "transport" || is_within(module, "config") || is_within(module, "cli"))
}

struct Functions(Findings);

impl Functions {
    fn judge(&mut self, name: &syn::Ident, whole: impl Spanned) {
        let span = whole.span();
        let lines = span.end().line - span.start().line + 1;
        if lines > FUNCTION_LINES_MAX {
            let what = format!("function {name} has {lines} lines, {FUNCTION_LINES_MAX} at most");
            self.0.push((span.start().line, what));
        }
    }
}

impl<'a> Visit<'a> for Functions {
    fn visit_item_fn(&mut self, function: &'a syn::ItemFn) {
        self.judge(&function.sig.ident, &function.block);
        syn::visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'a syn::ImplItemFn) {
        self.judge(&function.sig.ident, &function.block);
        syn::visit::visit_impl_item_fn(self, function);
    }
}

fn lengths(source: &Source) -> Findings {
    let mut functions = Functions(Vec::new());
    functions.visit_file(&source.items);
    let mut found = functions.0;
    let lines = source.text.lines().count() - test_lines(&source.text);
    if lines > FILE_LINES_MAX {
        found.push((1, format!("{lines} lines outside tests, {FILE_LINES_MAX} at most")));
    }
    found
}

/// Lines of the top-level items under `#[cfg(test)]`.
fn test_lines(text: &str) -> usize {
    let Ok(file) = syn::parse_file(text) else { return 0 };
    if is_test(&file.attrs) {
        return text.lines().count();
    }
    let tests = file.items.iter().filter(|item| is_test(attributes_of(item)));
    tests
        .map(|item| item.span().end().line - item.span().start().line + 1)
        .sum()
}

fn tokens_that_must_not_be(source: &Source) -> Findings {
    let mut found = Vec::new();
    walk(source.tokens(), &mut found);
    if ADVICE.iter().any(|module| is_within(&source.module, module)) {
        found.retain(|(_, what)| !what.starts_with("SQL in a string"));
    }
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
            TokenTree::Literal(literal) if !is_doc(&tokens, at) => {
                if let Some(what) = suspicious_text(&literal.to_string()) {
                    found.push((line, what));
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

/// The literal is a doc comment: `doc = "..."`.
fn is_doc(tokens: &[TokenTree], at: usize) -> bool {
    at == 2 && matches!(&tokens[0], TokenTree::Ident(name) if name == "doc")
}

/// Beginnings of SQL statements, with what must follow somewhere behind.
const SQL: &[(&str, &[&str])] = &[
    ("select ", &[" from ", "(", "select 1"]),
    ("insert into ", &[""]),
    ("update ", &[" set "]),
    ("delete from ", &[""]),
    ("create table ", &[""]),
    ("create index ", &[""]),
    ("alter table ", &[""]),
    ("with ", &[" as ("]),
    ("listen ", &[""]),
    ("notify ", &[""]),
];

fn suspicious_text(literal: &str) -> Option<String> {
    let text = literal
        .trim_start_matches(['b', 'r', '#', '"'])
        .trim_end_matches(['"', '#']);
    let flat = text.replace("\\n", " ");
    let flat = flat.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    let is_sql = |start: &str, then: &[&str]| flat.starts_with(start) && then.iter().any(|part| flat.contains(part));
    if let Some((verb, _)) = SQL.iter().find(|(start, then)| is_sql(start, then)) {
        return Some(format!("SQL in a string ({}): it belongs into sql/", verb.trim()));
    }
    let machine = ["/home/", "/root/", "/Users/", "/work/"]
        .iter()
        .find(|path| text.contains(*path))?;
    Some(format!("a machine's path in a string: {machine}"))
}

/// Reminders nobody will read again, comments included.
fn left_behind(source: &Source) -> Findings {
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

fn rust_files(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("src is readable").flatten() {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn the_source_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    rust_files(&root.join("src"), &mut files);
    assert!(files.len() > 10, "src/ was not found");
    files.sort();
    let mut findings = Vec::new();
    for file in files {
        let path = file
            .strip_prefix(root)
            .expect("below the package")
            .to_string_lossy()
            .into_owned();
        match Source::parse(&path, &std::fs::read_to_string(&file).expect("readable")) {
            Ok(source) => findings.extend(source.findings()),
            Err(error) => findings.push(error),
        }
    }
    assert!(
        findings.is_empty(),
        "{} findings:\n{}",
        findings.len(),
        findings.join("\n")
    );
}

/// Each statement's file says, in comments at its top, what a reader must know before changing it.
#[test]
fn every_statement_has_a_header() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql");
    let Ok(entries) = std::fs::read_dir(&dir) else { return };
    let mut without = Vec::new();
    for entry in entries
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|ext| ext == "sql"))
    {
        let text = std::fs::read_to_string(entry.path()).expect("readable");
        if !text.starts_with("--") {
            without.push(entry.file_name());
        }
    }
    assert!(without.is_empty(), "statements without a header comment: {without:?}");
}

mod the_checker_itself {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<String> {
        Source::parse(path, text).expect("the snippet parses").findings()
    }

    #[track_caller]
    fn assert_clean(path: &str, text: &str) {
        assert_eq!(findings(path, text), Vec::<String>::new());
    }

    #[track_caller]
    fn assert_finds(path: &str, text: &str, words: &str) {
        let found = findings(path, text);
        assert!(
            found.len() == 1 && found[0].contains(words),
            "expected one finding with {words:?}, got {found:?}"
        );
    }

    #[test]
    fn edges() {
        assert_clean(
            "src/relay/source.rs",
            "use crate::store::{Room, Store}; use crate::transport::Transport;",
        );
        assert_clean("src/relay/lane.rs", "use super::settler::Settler;");
        assert_clean(
            "src/store/postgres/outbox/feed.rs",
            "use super::rows::Topics; use crate::store::StoreError; use crate::store::postgres::link::sql::Names;",
        );
        assert_clean(
            "src/cli/run.rs",
            "use crate::store::postgres::PostgresStore; use crate::transport::nats::Nats;",
        );
        assert_clean("src/config/mod.rs", "use crate::transport::kafka::config::KafkaConfig;");
        assert_finds(
            "src/relay/source.rs",
            "use crate::store::postgres::PostgresStore;",
            "not the adapter",
        );
        assert_finds(
            "src/relay/source.rs",
            "use crate::store::{Room, postgres::sql};",
            "not the adapter",
        );
        assert_finds(
            "src/relay/source.rs",
            "use crate::config::Config;",
            "must not import config",
        );
        assert_finds(
            "src/store/postgres/outbox/feed.rs",
            "use crate::relay::Relay;",
            "must not import relay",
        );
        assert_finds(
            "src/store/postgres/outbox/feed.rs",
            "use crate::config::Config;",
            "must not import config",
        );
        assert_finds(
            "src/transport/nats/mod.rs",
            "use crate::transport::kafka::x;",
            "adapter transport::kafka",
        );
        assert_finds(
            "src/transport/nats/mod.rs",
            "use super::kafka::x;",
            "adapter transport::kafka",
        );
        assert_finds(
            "src/store/mod.rs",
            "use postgres_is_fine::x; use crate::store::postgres::sql;",
            "names its adapter",
        );
        assert_finds(
            "src/config/mod.rs",
            "use crate::transport::kafka::Kafka;",
            "must not import transport::kafka::Kafka",
        );
        assert_finds("src/message.rs", "use crate::delivery::Outcome;", "must not import");
        assert_finds("src/backoff.rs", "fn f() { crate::message::x() }", "must not import");
        assert_finds(
            "src/delivery.rs",
            "fn f() { assert!(crate::route::x()) }",
            "must not import",
        );
    }

    #[test]
    fn every_folder_of_transport_is_a_kind() {
        assert!(KINDS.len() > 3, "{KINDS:?}");
        for kind in KINDS.iter() {
            let (inside, other) = (format!("src/transport/{kind}/x.rs"), format!("transport::{kind}"));
            assert_clean(&inside, "use super::y; use crate::transport::chain::Ledger;");
            assert_finds(&inside, "use crate::relay::Relay;", "must not import relay");
            assert_finds(&inside, "use crate::config::Config;", "must not import config");
            assert_finds(
                "src/transport/x.rs",
                &format!("use super::{kind}::y;"),
                &format!("a port and names its adapter {other}"),
            );
            assert_clean("src/config/x.rs", &format!("use crate::{other}::config::X;"));
            assert_finds("src/config/x.rs", &format!("use crate::{other}::X;"), "must not import");
        }
        assert_finds(
            "src/transport/kafka/x.rs",
            "use percent_encoding::y;",
            "whose home is transport::nats",
        );
    }

    #[test]
    fn tests_may_import_anything() {
        assert_clean(
            "src/message.rs",
            "#[cfg(test)] mod tests { use crate::relay::Relay; fn f() { x.unwrap() } }",
        );
        assert_finds(
            "src/message.rs",
            "#[cfg(not(test))] mod tests { use crate::relay::Relay; }",
            "must not import",
        );
        assert_finds(
            "src/message.rs",
            "#[cfg(feature = \"testing\")] use crate::relay::Relay;",
            "must not import",
        );
    }

    #[test]
    fn crates_have_homes() {
        assert_clean("src/store/postgres/link/database.rs", "use tokio_postgres::Row;");
        assert_clean("src/transport/mod.rs", "pub mod redis;");
        assert_finds(
            "src/store/mod.rs",
            "use tokio_postgres::Row;",
            "whose home is store::postgres",
        );
        assert_finds(
            "src/relay/lane.rs",
            "use rdkafka::ClientConfig;",
            "whose home is transport::kafka",
        );
        assert_finds(
            "src/relay/lane.rs",
            "fn f() -> anyhow::Result<()> { Ok(()) }",
            "whose home is cli or main",
        );
        assert_finds(
            "src/delivery.rs",
            "async fn f() { tokio::time::sleep(d).await }",
            "is pure",
        );
        assert_clean("src/relay/lane.rs", "async fn f() { tokio::time::sleep(d).await }");
    }

    #[test]
    fn sql_lives_in_files() {
        assert_finds(
            "src/relay/lane.rs",
            "const A: &str = \"select seq from outbox_messages\";",
            "SQL in a string",
        );
        assert_finds(
            "src/relay/lane.rs",
            "const A: &str = r#\"\n  UPDATE x\n SET y = 1\"#;",
            "SQL in a string",
        );
        assert_finds(
            "src/relay/lane.rs",
            "fn f() { run(format!(\"delete from {t}\")) }",
            "SQL in a string",
        );
        assert_finds(
            "src/relay/lane.rs",
            "fn f() { run(\"listen outboxd\") }",
            "SQL in a string",
        );
        assert_clean(
            "src/relay/lane.rs",
            "/// select seq from x\nconst A: &str = \"cannot update the row: set a key\";",
        );
        assert_clean(
            "src/config/mod.rs",
            "const A: &str = \"select a transport with routes\";",
        );
        let advice = "const A: &str = \"alter table x set logged\";";
        assert_clean("src/store/postgres/desk/doctor/table.rs", advice);
        assert_finds("src/store/postgres/outbox/settle.rs", advice, "SQL in a string");
    }

    #[test]
    fn what_must_not_be_left_behind() {
        assert_finds("src/relay/lane.rs", "fn f() { x.unwrap(); }", "unwrap outside tests");
        assert_finds(
            "src/relay/lane.rs",
            "fn f() { assert!(x.unwrap()); }",
            "unwrap outside tests",
        );
        assert_clean("src/relay/lane.rs", "fn f() { x.unwrap_or(1); x.unwrap_or_default(); }");
        assert_finds(
            "src/relay/lane.rs",
            "#[allow(dead_code)] fn f() {}",
            "use expect with a reason",
        );
        assert_finds("src/relay/lane.rs", "#![allow(dead_code)]", "use expect with a reason");
        assert_clean(
            "src/relay/lane.rs",
            "#[expect(dead_code, reason = \"x\")] fn f() { allow(1) }",
        );
        assert_finds(
            "src/relay/lane.rs",
            "// TODO later\nfn f() {}",
            "do it or open an issue",
        );
        assert_finds("src/relay/lane.rs", "const A: &str = \"/home/me/x\";", "machine's path");
    }

    #[test]
    fn lengths_are_counted_without_tests() {
        let long = format!("fn f() {{\n{}}}", "    g();\n".repeat(69));
        assert_finds("src/relay/lane.rs", &long, "function f has 71 lines");
        let fits = format!("fn f() {{\n{}}}", "    g();\n".repeat(68));
        assert_clean("src/relay/lane.rs", &fits);
        let file = "const A: u8 = 1;\n".repeat(401);
        assert_finds("src/relay/lane.rs", &file, "401 lines outside tests");
        let tested = format!(
            "{}#[cfg(test)]\nmod tests {{\n{}}}\n",
            "const A: u8 = 1;\n".repeat(400),
            "const B: u8 = 1;\n".repeat(99)
        );
        assert_clean("src/relay/lane.rs", &tested);
    }
}
