//! Who may import whom, and which crates live in which folder.

use std::collections::BTreeSet;

use super::source::{Findings, Source, inside_the_crate, is_within, paths};

/// Who may import whom inside the crate: a module's path prefix, and the prefixes it may name. The longest matching
/// prefix rules; a module may always name itself and what is below it. `main` and `daemon` compose everything.
pub const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("message", &[]),
    ("backoff", &[]),
    ("backlog", &[]),
    ("finding", &[]),
    ("lock", &[]),
    ("stuck", &[]),
    ("trouble", &[]),
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
            "store::postgres::link",
            "store::postgres::schema",
            "store::postgres::outbox",
        ],
    ),
    ("transport", &["message", "delivery", "finding"]),
    ("transport::kafka", &["transport", "message", "delivery", "finding"]),
    ("transport::nats", &["transport", "message", "delivery", "finding"]),
    ("transport::redis", &["transport", "message", "delivery", "finding"]),
    ("transport::stdout", &["transport", "message", "delivery"]),
    (
        "relay",
        &[
            "store",
            "transport",
            "delivery",
            "route",
            "message",
            "stuck",
            "telemetry",
        ],
    ),
    (
        "config",
        &[
            "transport::kafka::config",
            "transport::nats::config",
            "transport::redis::config",
            "transport::stdout::config",
            "delivery",
            "backoff",
            "route",
            // What a URL, a column and a log level may be is said where they are used.
            "store::postgres::link::connect",
            "store::postgres::link::sql",
            "telemetry::log",
            "telemetry::trace",
        ],
    ),
    (
        "telemetry",
        &["delivery", "message", "route", "stuck", "trouble", "backlog", "lock"],
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
            "message",
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
const PORTS_END_AT: &[&str] = &[
    "store::postgres",
    "transport::kafka",
    "transport::nats",
    "transport::redis",
    "transport::stdout",
];

/// Modules that know no runtime: plain functions over plain values.
const PURE: &[&str] = &[
    "backlog", "message", "delivery", "backoff", "finding", "lock", "route", "stuck", "trouble",
];

/// Crates that only one folder may name.
const CRATE_HOMES: &[(&str, &[&str])] = &[
    ("tokio_postgres", &["store::postgres"]),
    ("deadpool_postgres", &["store::postgres"]),
    ("tokio_postgres_rustls", &["store::postgres"]),
    ("postgres_types", &["store::postgres"]),
    ("rdkafka", &["transport::kafka"]),
    ("async_nats", &["transport::nats"]),
    ("redis", &["transport::redis"]),
    ("axum", &["http"]),
    ("clap", &["cli", "main"]),
    ("anyhow", &["cli", "daemon", "main"]),
    ("prometheus_client", &["telemetry"]),
    ("prost", &["telemetry"]),
    ("hyper", &["telemetry", "http"]),
];

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
    if is_within(target, home) && !home.is_empty() {
        // A port must not know its adapters, though they lie below it.
        let adapter = PORTS_END_AT
            .iter()
            .find(|end| is_within(target, end) && !is_within(module, end));
        return adapter.map_or(Ok(None), |adapter| {
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
    let adapter = PORTS_END_AT
        .iter()
        .find(|end| is_within(target, end) && !is_within(named, end));
    match adapter {
        Some(adapter) if *named != "*" => Err(format!("{module} may import {named}, but not the adapter {adapter}")),
        Some(_) | None => Ok(Some((*home, *named))),
    }
}

fn forbidden_crate(module: &str, root: &str) -> Option<String> {
    if PURE.iter().any(|pure| is_within(module, pure)) && root == "tokio" {
        return Some(format!("{module} is pure and names tokio"));
    }
    let (_, homes) = CRATE_HOMES.iter().find(|(name, _)| *name == root)?;
    let at_home = homes.iter().any(|home| is_within(module, home)) || inner_module_is_meant(module, root);
    (!at_home).then(|| format!("{module} names the crate {root}, whose home is {}", homes.join(" or ")))
}

/// `transport/mod.rs` and others say `redis::...` of our own module of that name.
fn inner_module_is_meant(module: &str, root: &str) -> bool {
    root == "redis" && (module == "transport" || is_within(module, "config") || is_within(module, "daemon"))
}
