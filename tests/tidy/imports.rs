//! Who may import whom, and which crates live in which folder.

use std::collections::BTreeSet;

use super::source::{Findings, KINDS, Source, inside_the_crate, is_within, paths};

/// Who may import whom inside the crate: a module's path prefix, and the prefixes it may name. The longest matching
/// prefix rules; a module may always name itself and what is below it. `main` and `daemon` compose everything.
pub const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("message", &[]),
    ("backoff", &[]),
    ("backlog", &[]),
    ("finding", &[]),
    ("lock", &[]),
    ("repeat", &["lock"]),
    ("stuck", &[]),
    ("trouble", &[]),
    ("whereabouts", &["message"]),
    ("delivery", &["backoff"]),
    ("route", &["delivery", "backoff"]),
    ("store", &["message", "delivery", "stuck"]),
    // Four rooms: `link` knows none of the others, `desk` knows all.
    ("store::postgres::link", &["store", "trouble", "lock"]),
    (
        "store::postgres::schema",
        &["store", "finding", "store::postgres::link"],
    ),
    (
        "store::postgres::outbox",
        &["store", "message", "delivery", "stuck", "lock", "store::postgres::link"],
    ),
    (
        "store::postgres::desk",
        &[
            "store",
            "message",
            "delivery",
            "backlog",
            "finding",
            "stuck",
            "whereabouts",
            "store::postgres::link",
            "store::postgres::schema",
            "store::postgres::outbox",
        ],
    ),
    ("transport", &["message", "delivery", "finding", "lock"]),
    (
        "transport::*",
        &["transport", "message", "delivery", "finding", "lock", "repeat"],
    ),
    (
        "relay",
        &[
            "store",
            "transport",
            "delivery",
            "route",
            "message",
            "repeat",
            "stuck",
            "telemetry",
            "whereabouts",
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
            // What a URL, a column and a log level may be is said where they are used.
            "store::postgres::link::connect",
            "store::postgres::link::mapping",
            "store::postgres::link::sql",
            "telemetry::log",
            "telemetry::trace",
        ],
    ),
    (
        "telemetry",
        &[
            "delivery", "message", "route", "stuck", "trouble", "backlog", "lock", "repeat",
        ],
    ),
    (
        "http",
        &[
            "config",
            "telemetry",
            "store",
            "message",
            "backlog",
            "lock",
            // What people ask the database is one thing, asked by the command line and over HTTP.
            "store::postgres::desk",
            "store::postgres::link::about",
            "store::postgres::link::classify",
            "store::postgres::link::database",
            "store::postgres::link::sql",
        ],
    ),
    (
        "testing",
        &["store", "transport", "delivery", "message", "stuck", "lock"],
    ),
    // Arguments, printing and exit codes; the relay and the brokers are the daemon's.
    (
        "cli",
        &[
            "backlog",
            "config",
            "daemon",
            "finding",
            "route",
            "store",
            "store::postgres::desk",
            "store::postgres::link",
            "store::postgres::schema",
            "telemetry::escape",
            "transport",
        ],
    ),
    ("daemon", &["*"]),
    ("main", &["*"]),
];

/// What a module that may import a port must still not reach through it.
const PORTS_END_AT: &[&str] = &["store::postgres", "transport::*"];

/// Modules that know no runtime: plain functions over plain values.
const PURE: &[&str] = &[
    "backlog",
    "message",
    "delivery",
    "backoff",
    "finding",
    "lock",
    "repeat",
    "route",
    "stuck",
    "trouble",
    "whereabouts",
];

/// Crates that only one folder may name. A transport's are those of the feature of its name, by `Cargo.toml`.
const CRATE_HOMES: &[(&str, &[&str])] = &[
    ("tokio_postgres", &["store::postgres"]),
    ("deadpool_postgres", &["store::postgres"]),
    ("tokio_postgres_rustls", &["store::postgres"]),
    ("postgres_types", &["store::postgres"]),
    ("axum", &["http"]),
    ("clap", &["cli", "main"]),
    ("anyhow", &["cli", "daemon", "main"]),
    ("prometheus_client", &["telemetry"]),
    ("prost", &["telemetry"]),
    ("hyper", &["telemetry", "http"]),
];

/// The home of a crate, if it has one.
fn home_of(name: &str) -> Option<Vec<String>> {
    if let Some((_, homes)) = CRATE_HOMES.iter().find(|(known, _)| *known == name) {
        return Some(homes.iter().map(ToString::to_string).collect());
    }
    let manifest = include_str!("../../Cargo.toml");
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

pub fn imports(source: &Source) -> Findings {
    let mut seen = BTreeSet::new();
    for (path, line) in paths(source.tokens()) {
        let complaint = match inside_the_crate(&path, &source.module) {
            Some(target) => edge(&source.module, &target).err(),
            None => forbidden_crate(&source.module, &path[0]),
        };
        if let Some(what) = complaint {
            seen.insert((line, what));
        }
    }
    seen.into_iter().collect()
}

/// A line of [`MAY_IMPORT`] and one of what it allows.
pub type Permission = (&'static str, &'static str);

/// Permissions nobody needs any more.
pub fn stale(sources: &[Source]) -> Vec<String> {
    let mut used: BTreeSet<Permission> = BTreeSet::new();
    for source in sources {
        let targets = source.names().into_iter();
        used.extend(targets.filter_map(|(target, _)| edge(&source.module, &target).ok().flatten()));
    }
    let all = MAY_IMPORT
        .iter()
        .flat_map(|(home, allowed)| allowed.iter().map(|named| (*home, *named)));
    all.filter(|permission| !used.contains(permission))
        .map(|(home, named)| format!("MAY_IMPORT: {home} imports nothing of {named}"))
        .collect()
}

/// Whether `module` may name `target`, and by which permission; `None`: it needs none.
fn edge(module: &str, target: &str) -> Result<Option<Permission>, String> {
    if module == "lib" || target.is_empty() {
        return Ok(None);
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
        return foreign.map_or(Ok(None), |adapter| {
            Err(format!("{module} is a port and names its adapter {adapter}"))
        });
    }
    let named = allowed
        .iter()
        .filter(|prefix| **prefix == "*" || is_within(target, prefix))
        .max_by_key(|prefix| prefix.len());
    let Some(named) = named else {
        return Err(format!("{module} must not import {target}"));
    };
    match adapter {
        Some(adapter) if *named != "*" && !PORTS_END_AT.iter().any(|end| is_within_pattern(named, end)) => {
            Err(format!("{module} may import {named}, but not the adapter {adapter}"))
        }
        Some(_) | None => Ok(Some((*home, *named))),
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

/// `transport/mod.rs` and others say `redis::...` of our own module of that name.
fn inner_module_is_meant(module: &str, root: &str) -> bool {
    KINDS.iter().any(|kind| kind == root)
        && (module == "transport" || is_within(module, "config") || is_within(module, "daemon"))
}
