//! What the file says: every key with its default, nothing checked but types and spelling, no I/O.
//!
//! Every key here stands in `config.example.toml` too; a test compares both.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};

use super::Fingerprint;
use super::kinds::Sections;
use super::units::{Number, Size, Span};
use crate::store::postgres::link::mapping::Column;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Raw {
    pub(super) database: Database,
    /// `None`: not written.
    pub(super) outbox: Option<Outbox>,
    pub(super) outboxes: Vec<Outbox>,
    pub(super) relay: Relay,
    pub(super) lease: Lease,
    pub(super) transports: BTreeMap<String, Sections>,
    pub(super) routes: Vec<Route>,
    pub(super) retention: Retention,
    pub(super) http: Http,
    pub(super) log: Log,
    pub(super) trace: Trace,
    /// Of each transport's section, by its name.
    #[serde(skip)]
    pub(super) fingerprints: BTreeMap<String, Fingerprint>,
}

/// `[database]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Database {
    pub(super) url: Option<SecretString>,
    pub(super) url_file: Option<PathBuf>,
    pub(super) listen_url: Option<SecretString>,
    pub(super) listen_url_file: Option<PathBuf>,
    pub(super) pool_size: Number,
    pub(super) prepared_statements: bool,
}

/// `[outbox]`, and one of `[[outboxes]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Outbox {
    pub(super) name: String,
    pub(super) schema: String,
    pub(super) table: String,
    pub(super) on_relayed: String,
    pub(super) lanes: Number,
    pub(super) commit_order: bool,
    pub(super) columns: BTreeMap<String, MappedColumn>,
    pub(super) state: OutboxState,
}

/// `[outbox.state]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct OutboxState {
    pub(super) pending: Option<String>,
    pub(super) relayed: Option<String>,
    pub(super) retrying: Option<String>,
    pub(super) failed: Option<String>,
    pub(super) retried: Option<String>,
}

/// One of `[outbox.columns]`: a name, `""` or `{ sql = "..." }`.
#[derive(Debug)]
pub(super) struct MappedColumn(pub(super) Column);

impl<'de> Deserialize<'de> for MappedColumn {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyColumn)
    }
}

struct AnyColumn;

impl<'de> Visitor<'de> for AnyColumn {
    type Value = MappedColumn;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name, \"\" for none, or { sql = \"...\" }")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(MappedColumn(if text.is_empty() {
            Column::Missing
        } else {
            Column::Named(text.to_owned())
        }))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Expression {
            sql: String,
        }
        let expression = Expression::deserialize(MapAccessDeserializer::new(map))?;
        Ok(MappedColumn(Column::Sql(expression.sql)))
    }
}

/// `[relay]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Relay {
    /// `None`: nobody has said; see [`ROWS`].
    pub(super) batch_size: Option<Number>,
    pub(super) max_in_flight: Option<Number>,
    pub(super) max_in_flight_bytes: Size,
    /// `None`: nobody has said; see [`POLL_INTERVAL`].
    pub(super) poll_interval_min: Option<Span>,
    pub(super) poll_interval_max: Option<Span>,
    pub(super) notify: bool,
    pub(super) max_attempts: Number,
    /// `None`: nobody has said; see [`BACKOFF`].
    pub(super) backoff_min: Option<Span>,
    pub(super) backoff_max: Option<Span>,
    pub(super) backoff_factor: Number,
    pub(super) durable_marks: bool,
    pub(super) count_outages: bool,
    pub(super) unrouted: String,
    pub(super) shutdown_timeout: Span,
}

/// `[lease]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Lease {
    /// `None`: nobody has said; see [`TTL`].
    pub(super) ttl: Option<Span>,
    pub(super) instance: String,
}

/// One `[[routes]]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Route {
    pub(super) topic: Option<String>,
    pub(super) outbox: Option<String>,
    pub(super) transport: Option<String>,
    pub(super) destination: Option<String>,
    pub(super) order: Option<String>,
    pub(super) commit_order: Option<bool>,
    pub(super) max_attempts: Option<Number>,
    pub(super) backoff_min: Option<Span>,
    pub(super) backoff_max: Option<Span>,
    pub(super) backoff_factor: Option<Number>,
    pub(super) max_in_flight: Option<Number>,
    pub(super) rate: Option<Number>,
    pub(super) paused: bool,
}

/// `[retention]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Retention {
    /// `None`: nobody has said; see [`RELAYED`].
    pub(super) relayed: Option<Span>,
    pub(super) failed: Span,
}

/// `[http]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Http {
    pub(super) listen: String,
    #[serde(deserialize_with = "crate::transport::settings::list")]
    pub(super) hosts: Vec<String>,
    pub(super) ready_max_age: Span,
    pub(super) token_file: Option<PathBuf>,
}

/// `[log]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Log {
    pub(super) level: String,
    pub(super) format: String,
}

/// `[trace]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Trace {
    pub(super) otlp_endpoint: String,
    pub(super) start_new: bool,
}

/// `relay.batch_size` and `relay.max_in_flight` where nobody has said.
pub(super) const ROWS: (usize, usize) = (1000, 10_000);

/// `relay.poll_interval_min` and `relay.poll_interval_max` where nobody has said.
pub(super) const POLL_INTERVAL: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));

/// `relay.backoff_min` and `relay.backoff_max` where nobody has said.
pub(super) const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// `lease.ttl` where nobody has said.
pub(super) const TTL: Duration = Duration::from_secs(15);

/// `retention.relayed` where nobody has said.
pub(super) const RELAYED: Span = seconds(7 * 86_400);

const fn seconds(count: u64) -> Span {
    Span(Duration::from_secs(count))
}

impl Default for Database {
    fn default() -> Self {
        Self {
            url: None,
            url_file: None,
            listen_url: None,
            listen_url_file: None,
            pool_size: Number(4),
            prepared_statements: true,
        }
    }
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            name: String::new(),
            schema: "public".to_owned(),
            table: "outbox_messages".to_owned(),
            on_relayed: "mark".to_owned(),
            lanes: Number(64),
            commit_order: false,
            columns: BTreeMap::new(),
            state: OutboxState::default(),
        }
    }
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            batch_size: None,
            max_in_flight: None,
            max_in_flight_bytes: Size(64 << 20),
            poll_interval_min: None,
            poll_interval_max: None,
            notify: true,
            max_attempts: Number(5),
            backoff_min: None,
            backoff_max: None,
            backoff_factor: Number(2),
            durable_marks: false,
            count_outages: false,
            unrouted: "wait".to_owned(),
            shutdown_timeout: seconds(30),
        }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            relayed: None,
            failed: seconds(0),
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:7117".to_owned(),
            hosts: Vec::new(),
            ready_max_age: seconds(60),
            token_file: None,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: "auto".to_owned(),
        }
    }
}
