//! Configuration: one TOML file, the environment over it, validated once.
//!
//! `raw` is what the file says, `source` reads it, `check`, `relay`, `routing` and `http` turn it into [`Config`], in which nothing is left
//! to parse. `kinds` lists the kinds of transports.
//! Every mistake is one line that names the key (or the environment variable), the value and what would be accepted;
//! the first one found is reported. Secrets are [`SecretString`]s: no `Debug` shows them.
//!
//! It knows the transports' sections by what each can be asked and the domain's routes, nothing of the engine. A reload is a second
//! [`load`]; what may change at run time is for the caller to decide. [`Fingerprint`] tells it which transports did.

mod bounds;
mod check;
mod fingerprint;
mod http;
mod kinds;
mod machine;
mod outboxes;
mod raw;
mod relay;
mod routing;
mod source;
mod units;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

pub use fingerprint::Fingerprint;
pub use http::http_token;
pub use kinds::TransportConfig;

use crate::route::{Routes, Unrouted};
use crate::store::postgres::link::mapping::{Column, State};
use crate::telemetry::log::{Format, Level};
use crate::telemetry::trace::Endpoint;

/// Where the file is when `--config` does not say.
pub const DEFAULT_PATH: &str = "/etc/outboxd/outboxd.toml";

/// Reads and validates. `env` is the process's environment (`std::env::vars_os()`).
///
/// A missing file is an error, unless `path` is [`DEFAULT_PATH`] and the environment sets `database.url`.
///
/// # Errors
/// One line naming the key or variable, the value and what is accepted.
pub fn load(path: &Path, env: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Config, ConfigError> {
    let variables = source::Variables::pick(env)?;
    finish(source::read(path, &variables)?, &variables)
}

/// As [`load`], of a file's text: `path` only says where relative `*_file` paths begin.
///
/// # Errors
/// As [`load`].
pub fn parse(
    text: &str,
    path: &Path,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Config, ConfigError> {
    let variables = source::Variables::pick(env)?;
    finish(source::parse(text, path, &variables)?, &variables)
}

fn finish(raw: raw::Raw, variables: &source::Variables) -> Result<Config, ConfigError> {
    check::check(raw).map_err(|error| match error {
        ConfigError::Value { key, problem } => match variables.name_of(&key) {
            Some(name) => ConfigError::Value {
                key: name.to_owned(),
                problem,
            },
            None => ConfigError::Value { key, problem },
        },
        ConfigError::Read { .. } | ConfigError::Transport(_) => error,
    })
}

/// What is wrong with the configuration, in one line.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that cannot be read.
    #[error("{what}: cannot read {}: {source}", path.display())]
    Read {
        /// The key that names it.
        what: String,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A key that is unknown, missing or has a value that is not accepted.
    #[error("{key}: {problem}")]
    Value {
        /// The key, or the environment variable that sets it.
        key: String,
        /// What is wrong and what is accepted.
        problem: String,
    },
    /// What a transport says of its own section; begins with the key.
    #[error("{0}")]
    Transport(String),
}

/// Everything `outboxd` can be told, validated.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[database]`
    pub database: Database,
    /// `[outbox]`; the first of `[[outboxes]]` where there are several, and the one that is meant in a part of [`Config::parts`].
    pub outbox: Outbox,
    /// `[[outboxes]]` with the routes of each, in the order written; empty: there is only `outbox`.
    pub outboxes: Vec<Member>,
    /// `[relay]`
    pub relay: Relay,
    /// `[lease]`
    pub lease: Lease,
    /// `[transports]`, ordered by name; at least one.
    pub transports: Vec<Transport>,
    /// `[[routes]]` of `outbox` in the order written; at least one (without any: `*` to the only transport).
    pub routes: Routes,
    /// `[retention]`
    pub retention: Retention,
    /// `[http]`
    pub http: Http,
    /// `[log]`
    pub log: Log,
    /// `[trace]`
    pub trace: Trace,
}

/// `[database]`
#[derive(Clone, Debug)]
pub struct Database {
    /// libpq URL; may hold a password.
    pub url: SecretString,
    /// Where to LISTEN when `url` goes through a pooler; may hold a password.
    pub listen_url: Option<SecretString>,
    /// Connections at most, the one that listens not counted: 2..=100.
    pub pool_size: usize,
    /// Use named prepared statements.
    pub prepared_statements: bool,
}

/// What becomes of a row once it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRelayed {
    /// `relayed_at` is set; retention deletes it later.
    Mark,
    /// It is deleted, and cannot be replayed.
    Delete,
}

/// `[outbox]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbox {
    /// What people, metrics and log call it; `None`: it is the only one, and nobody has named it.
    pub name: Option<Arc<str>>,
    /// Schema of all tables.
    pub schema: String,
    /// The messages table.
    pub table: String,
    /// What becomes of relayed rows.
    pub on_relayed: OnRelayed,
    /// Shares of the work: 1..=1024, fixed per table.
    pub lanes: u16,
    /// What stands for our columns, by our names. Only those that differ from their default.
    pub columns: Vec<(String, Column)>,
    /// How a table that is not ours says how its rows stand.
    pub state: State,
}

/// One of several outboxes.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its section.
    pub outbox: Outbox,
    /// Those of `[[routes]]` that are for it.
    pub routes: Routes,
}

/// `[relay]`
#[derive(Clone, Debug)]
pub struct Relay {
    /// Rows of one fetch: 1..=100,000.
    pub batch_size: usize,
    /// Messages in memory at most, `batch_size` or more; also the bound on duplicates per crash.
    pub max_in_flight: usize,
    /// Bytes in memory at most, of messages.
    pub max_in_flight_bytes: usize,
    /// Shortest time between two polls of an idle table.
    pub poll_interval_min: Duration,
    /// Longest time between two polls of an idle table.
    pub poll_interval_max: Duration,
    /// LISTEN for the wake trigger's notifications.
    pub notify: bool,
    /// Wait for the WAL flush of each mark.
    pub durable_marks: bool,
    /// A failed send counts whatever the reason.
    pub count_outages: bool,
    /// What becomes of a message that no route matches.
    pub unrouted: Unrouted,
    /// How long a clean stop may take.
    pub shutdown_timeout: Duration,
}

/// `[lease]`
#[derive(Clone, Debug)]
pub struct Lease {
    /// How long an instance may stay silent before its lanes are taken: 1 s or more, longer than any `ack_timeout`.
    pub ttl: Duration,
    /// This instance's name, unique among all; the host name by default. Letters, digits, `.`, `_`, `-`.
    pub instance: String,
    /// `/etc/machine-id`, empty where there is none: the same instance name on the same machine is the same instance.
    pub machine: String,
}

/// One `[transports.<name>.<kind>]`.
#[derive(Clone, Debug)]
pub struct Transport {
    /// Lower-case letters, digits, `_`, `-`. A metric label.
    pub name: Arc<str>,
    /// Kind and settings.
    pub config: TransportConfig,
    /// Of what the section says.
    pub fingerprint: Fingerprint,
}

/// `[retention]`: how long settled rows stay; `None`: for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Relayed rows.
    pub relayed: Option<Duration>,
    /// The file or the environment says so. A default deletes nothing from a table that `migrate` did not make.
    pub relayed_is_set: bool,
    /// Failed rows.
    pub failed: Option<Duration>,
}

/// Where the HTTP server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// Nowhere.
    Off,
    /// A TCP address.
    Tcp {
        /// Host name or IP address, without brackets.
        host: String,
        /// Port; 0 takes a free one.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

/// `[http]`
#[derive(Clone, Debug)]
pub struct Http {
    /// Where to listen.
    pub listen: Listen,
    /// Names accepted in `Host`, in lower case, besides IP addresses, `localhost` and those of `listen` and the machine.
    pub hosts: Vec<String>,
    /// Readiness fails when a due row waits longer than this without progress.
    pub ready_max_age: Duration,
    /// The token every action that changes something needs; `None`: such actions are refused.
    pub token: Option<SecretString>,
    /// Where it was read from, and is read from again on SIGHUP.
    pub token_file: Option<PathBuf>,
    /// What this machine is called: a `Host` accepted besides the one in `listen`.
    pub host_name: String,
}

/// `[log]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// Least severe level written.
    pub level: Level,
    /// How lines look.
    pub format: Format,
}

/// `[trace]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// OTLP over HTTP; `None`: no traces.
    pub otlp_endpoint: Option<Endpoint>,
    /// A message without `traceparent` begins a trace of its own.
    pub start_new: bool,
}

/// `relay.max_attempts`, `relay.backoff_*`: what a route has that does not say otherwise.
#[derive(Clone, Copy, Debug)]
struct RouteDefaults {
    max_attempts: i32,
    /// As far as they are written.
    backoff: (Option<Duration>, Option<Duration>),
    backoff_factor: u32,
}
