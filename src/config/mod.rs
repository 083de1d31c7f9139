//! A stand-in until the real configuration is merged: reads just what the operator's commands need.

use std::ffi::OsString;
use std::path::Path;

use secrecy::SecretString;
use serde::Deserialize;

use crate::route::Routes;

/// Where the file is when `--config` does not say.
pub const DEFAULT_PATH: &str = "/etc/outboxd/outboxd.toml";

/// What is wrong, in one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

/// Everything needed.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[database]`
    pub database: Database,
    /// `[outbox]`
    pub outbox: Outbox,
    /// `[[routes]]`
    pub routes: Routes,
    /// `[lease]`
    pub lease: Lease,
    /// `[transports]`
    pub transports: Vec<()>,
}

/// `[database]`
#[derive(Clone, Debug)]
pub struct Database {
    /// libpq URL.
    pub url: SecretString,
    /// Connections.
    pub pool_size: usize,
    /// Named prepared statements.
    pub prepared_statements: bool,
}

/// `[outbox]`
#[derive(Clone, Debug)]
pub struct Outbox {
    /// Schema.
    pub schema: String,
    /// Table.
    pub table: String,
    /// Lanes.
    pub lanes: u16,
    /// Renamed columns.
    pub columns: Vec<(String, String)>,
}

/// `[lease]`
#[derive(Clone, Debug)]
pub struct Lease {
    /// Name of this instance.
    pub instance: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    database: RawDatabase,
    #[serde(default)]
    outbox: RawOutbox,
    transports: Option<serde_json::Value>,
    routes: Option<serde_json::Value>,
    relay: Option<serde_json::Value>,
    lease: Option<serde_json::Value>,
    http: Option<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDatabase {
    url: String,
    pool_size: Option<usize>,
    prepared_statements: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawOutbox {
    schema: Option<String>,
    table: Option<String>,
    lanes: Option<u16>,
    on_relayed: Option<String>,
    #[serde(default)]
    columns: std::collections::BTreeMap<String, String>,
}

/// Reads and validates.
///
/// # Errors
/// One line.
pub fn load(path: &Path, env: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Config, ConfigError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if path == Path::new(DEFAULT_PATH) && error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => {
            return Err(ConfigError(format!(
                "--config: cannot read {}: {error}",
                path.display()
            )));
        }
    };
    let env = env
        .into_iter()
        .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
        .collect();
    let environment = config::Environment::with_prefix("OUTBOXD")
        .prefix_separator("__")
        .separator("__")
        .source(Some(env));
    let raw: Raw = config::Config::builder()
        .add_source(config::File::from_str(&text, config::FileFormat::Toml))
        .add_source(environment)
        .build()
        .and_then(config::Config::try_deserialize)
        .map_err(|error| ConfigError(error.to_string()))?;
    drop((
        raw.transports,
        raw.routes,
        raw.relay,
        raw.lease,
        raw.http,
        raw.outbox.on_relayed,
    ));
    Ok(Config {
        database: Database {
            url: raw.database.url.into(),
            pool_size: raw.database.pool_size.unwrap_or(4),
            prepared_statements: raw.database.prepared_statements.unwrap_or(true),
        },
        outbox: Outbox {
            schema: raw.outbox.schema.unwrap_or_else(|| "public".into()),
            table: raw.outbox.table.unwrap_or_else(|| "outbox_messages".into()),
            lanes: raw.outbox.lanes.unwrap_or(64),
            columns: raw.outbox.columns.into_iter().collect(),
        },
        routes: Routes::new(vec![
            crate::route::Route::new(&crate::route::RouteSpec {
                topic: "*",
                transport: 0,
                destination: "{topic}",
                order: crate::delivery::Order::Key,
                max_attempts: 5,
                backoff: crate::backoff::Backoff {
                    min: std::time::Duration::from_secs(1),
                    max: std::time::Duration::from_secs(300),
                },
            })
            .expect("the default route is right"),
        ]),
        lease: Lease {
            instance: "test".into(),
        },
        transports: Vec::new(),
    })
}
