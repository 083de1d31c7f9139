//! From what the file says to a [`Config`]: relations between keys, and the sections that have no file of their own.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::bounds::{at_least, choice, within, wrong};
use super::machine::{host_name, read_secret};
use super::raw::{self, Raw};
use super::units::Span;
use super::{Config, ConfigError, Database, Lease, Log, Member, Retention, Trace, http, outboxes, relay, routing};
use crate::store::postgres::link::connect::parse_url;
use crate::telemetry::log::{Format, Level};
use crate::telemetry::trace::Endpoint;

pub(super) fn check(raw: Raw) -> Result<Config, ConfigError> {
    let defaults = relay::route_defaults(&raw.relay)?;
    let ttl = match raw.lease.ttl {
        Some(ttl) => Some(at_least("lease.ttl", ttl, Duration::from_secs(1))?),
        None => None,
    };
    let transports = routing::transports(raw.transports, &raw.fingerprints, ttl)?;
    let ttl = ttl.unwrap_or_else(|| relay::default_ttl(&transports));
    let lease = lease(raw.lease.instance, ttl)?;
    let written = routing::written(raw.routes, &transports)?;
    let members = outboxes::outboxes(raw.outbox, raw.outboxes, &written, |outbox| {
        routing::routes(&written, outbox, &transports, defaults)
    })?;
    let Member { outbox, routes } = members[0].clone();
    Ok(Config {
        database: database(raw.database)?,
        outbox,
        outboxes: if members.len() > 1 { members } else { Vec::new() },
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
