//! From what the file says to a [`Config`]: relations between keys, and the sections that have no file of their own.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::bounds::{at_least, choice, within, wrong};
use super::machine::{host_name, read_secret};
use super::raw::{self, Raw};
use super::units::Span;
use super::{Config, ConfigError, Database, Lease, Log, OnRelayed, Outbox, Retention, Trace, http, relay, routing};
use crate::store::postgres::link::connect::parse_url;
use crate::store::postgres::link::mapping::{Column, State};
use crate::store::postgres::link::sql::COLUMNS;
use crate::telemetry::log::{Format, Level};
use crate::telemetry::trace::Endpoint;

pub(super) fn check(raw: Raw) -> Result<Config, ConfigError> {
    let defaults = relay::route_defaults(&raw.relay, &raw.outbox)?;
    let ttl = match raw.lease.ttl {
        Some(ttl) => Some(at_least("lease.ttl", ttl, Duration::from_secs(1))?),
        None => None,
    };
    let transports = routing::transports(raw.transports, &raw.fingerprints, ttl)?;
    let ttl = ttl.unwrap_or_else(|| relay::default_ttl(&transports));
    let lease = lease(raw.lease.instance, ttl)?;
    let routes = routing::routes(raw.routes, &transports, defaults)?;
    Ok(Config {
        database: database(raw.database)?,
        outbox: outbox(raw.outbox)?,
        relay: relay::relay(&raw.relay)?,
        lease,
        transports,
        routes,
        retention: Retention {
            relayed: unless_zero(raw.retention.relayed.unwrap_or(raw::RELAYED)),
            relayed_is_set: raw.retention.relayed.is_some(),
            failed: unless_zero(raw.retention.failed),
        },
        http: http::http(raw.http)?,
        log: log(&raw.log)?,
        trace: trace(raw.trace)?,
    })
}

fn unless_zero(span: Span) -> Option<Duration> {
    (!span.0.is_zero()).then_some(span.0)
}

/// The value, or the content of the file its twin names, without the line end.
fn secret(key: &str, value: Option<SecretString>, file: Option<PathBuf>) -> Result<Option<SecretString>, ConfigError> {
    let file_key = format!("{key}_file");
    match (value, file) {
        (Some(_), Some(_)) => Err(wrong(file_key, format!("{key} is set too: keep one of them"))),
        (Some(value), None) if value.expose_secret().trim().is_empty() => Ok(None),
        (Some(value), None) => Ok(Some(value)),
        (None, Some(path)) => read_secret(&file_key, &path).map(Some),
        (None, None) => Ok(None),
    }
}

fn database(raw: raw::Database) -> Result<Database, ConfigError> {
    let url = secret("database.url", raw.url, raw.url_file)?.ok_or_else(|| {
        wrong(
            "database.url",
            "is required: postgres://user@host:5432/database, or url_file with a file that holds it",
        )
    })?;
    let listen_url = secret("database.listen_url", raw.listen_url, raw.listen_url_file)?;
    for (key, url) in [
        ("database.url", Some(&url)),
        ("database.listen_url", listen_url.as_ref()),
    ] {
        if let Some(url) = url {
            parse_url(url.expose_secret()).map_err(|problem| wrong(key, problem))?;
        }
    }
    Ok(Database {
        url,
        listen_url,
        pool_size: within("database.pool_size", raw.pool_size, 2..=100)?,
        prepared_statements: raw.prepared_statements,
    })
}

fn outbox(raw: raw::Outbox) -> Result<Outbox, ConfigError> {
    for (key, name) in [("outbox.schema", &raw.schema), ("outbox.table", &raw.table)] {
        identifier(key, name)?;
    }
    let mut columns = Vec::new();
    for (ours, raw::MappedColumn(theirs)) in raw.columns {
        let key = format!("outbox.columns.{ours}");
        if !COLUMNS.contains(&ours.as_str()) {
            return Err(wrong(key, format!("unknown column; known: {}", COLUMNS.join(", "))));
        }
        match &theirs {
            Column::Named(name) => identifier(&key, name)?,
            Column::Sql(sql) => fragment(&key, sql)?,
            Column::Missing if NEEDED.contains(&ours.as_str()) => {
                return Err(wrong(key, "a message needs it: a name, or { sql = \"...\" }"));
            }
            Column::Missing => {}
        }
        if matches!(theirs, Column::Sql(_)) && PLAIN.contains(&ours.as_str()) {
            return Err(wrong(key, "must be a column: say in [outbox.state] what cannot be one"));
        }
        if theirs != Column::Named(ours.clone()) {
            columns.push((ours, theirs));
        }
    }
    let state = state(raw.state)?;
    let on_relayed = [("mark", OnRelayed::Mark), ("delete", OnRelayed::Delete)];
    Ok(Outbox {
        on_relayed: choice("outbox.on_relayed", &raw.on_relayed, &on_relayed)?,
        lanes: within("outbox.lanes", raw.lanes, 1..=1024)?,
        schema: raw.schema,
        table: raw.table,
        columns,
        state,
    })
}

/// Columns without which there is no message.
const NEEDED: [&str; 3] = ["id", "topic", "payload"];
/// Columns that are written, or looked up by an index.
const PLAIN: [&str; 3] = ["id", "relayed_at", "failed_at"];

fn state(raw: raw::OutboxState) -> Result<State, ConfigError> {
    let state = State {
        pending: raw.pending,
        relayed: raw.relayed,
        retrying: raw.retrying,
        failed: raw.failed,
        retried: raw.retried,
    };
    for (name, sql) in state.all() {
        if let Some(sql) = sql {
            fragment(&format!("outbox.state.{name}"), sql)?;
        }
    }
    Ok(state)
}

/// A piece of SQL. What is wrong with it the database says; a second statement it is not.
fn fragment(key: &str, sql: &str) -> Result<(), ConfigError> {
    if sql.trim().is_empty() || sql.contains(['\0', ';']) || sql.contains("--") || sql.contains("/*") {
        return Err(wrong(
            key,
            format!("{sql:?} is no piece of one SQL statement, without comments"),
        ));
    }
    Ok(())
}

/// PostgreSQL cuts names at 63 bytes, silently.
fn identifier(key: &str, name: &str) -> Result<(), ConfigError> {
    if name.is_empty() || name.len() > 63 || name.contains('\0') {
        return Err(wrong(
            key,
            format!("{name:?} is no name of PostgreSQL: 1 to 63 bytes, written as in the catalog"),
        ));
    }
    Ok(())
}

fn lease(instance: String, ttl: Duration) -> Result<Lease, ConfigError> {
    let instance = if instance.is_empty() { host_name() } else { instance };
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if instance.is_empty() || instance.len() > 128 || !instance.bytes().all(fits) || instance.starts_with('.') {
        let problem =
            format!("{instance:?} is no instance name: letters, digits, '.', '_' and '-', not starting with '.'");
        return Err(wrong("lease.instance", problem));
    }
    let machine = std::fs::read_to_string("/etc/machine-id")
        .unwrap_or_default()
        .trim()
        .to_owned();
    Ok(Lease { ttl, instance, machine })
}

fn log(raw: &raw::Log) -> Result<Log, ConfigError> {
    let levels = [
        ("error", Level::Error),
        ("warn", Level::Warn),
        ("info", Level::Info),
        ("debug", Level::Debug),
        ("trace", Level::Trace),
    ];
    let formats = [("auto", Format::Auto), ("text", Format::Text), ("json", Format::Json)];
    Ok(Log {
        level: choice("log.level", &raw.level, &levels)?,
        format: choice("log.format", &raw.format, &formats)?,
    })
}

fn trace(raw: raw::Trace) -> Result<Trace, ConfigError> {
    let raw::Trace {
        otlp_endpoint,
        start_new,
    } = raw;
    let otlp_endpoint = match otlp_endpoint.as_str() {
        "" => None,
        text => Some(Endpoint::parse(text).map_err(|problem| wrong("trace.otlp_endpoint", problem))?),
    };
    if start_new && otlp_endpoint.is_none() {
        return Err(wrong("trace.start_new", "needs trace.otlp_endpoint"));
    }
    Ok(Trace {
        otlp_endpoint,
        start_new,
    })
}
