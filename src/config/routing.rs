//! Transports and routes: which kinds, which names, who goes where.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use super::check::{MAX_ATTEMPTS, choice, show, within, wrong};
use super::{ConfigError, Fingerprint, RouteDefaults, Transport, TransportConfig, raw, relay};
use crate::delivery::Order;
use crate::route::{Limits, Route, RouteSpec, Routes};

type RawTransports = BTreeMap<String, raw::Transport>;

pub(super) fn transports(
    raw: RawTransports,
    fingerprints: &BTreeMap<String, Fingerprint>,
    ttl: Option<Duration>,
) -> Result<Vec<Transport>, ConfigError> {
    if raw.is_empty() {
        return Err(wrong(
            "transports",
            "none is configured: add a section such as [transports.main.nats]",
        ));
    }
    let mut transports = Vec::with_capacity(raw.len());
    for (name, kinds) in raw {
        let key = format!("transports.{name}");
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
        if name.is_empty() || !name.bytes().all(fits) {
            return Err(wrong(key, "a name is lower-case letters, digits, '_' and '-'"));
        }
        let mut config = kind(&key, kinds)?;
        if let Some(ttl) = ttl {
            config.fit_default_ack_timeout(ttl);
        }
        if let Err(line) = config.validate(&name) {
            return Err(ConfigError::Transport(line));
        }
        if let (Some(timeout), Some(ttl)) = (config.ack_timeout(), ttl)
            && timeout >= ttl
        {
            let key = format!("{key}.{}.ack_timeout", config.kind());
            let problem = format!(
                "{} is not below lease.ttl ({}): lower it or raise lease.ttl",
                show(timeout),
                show(ttl)
            );
            return Err(wrong(key, problem));
        }
        transports.push(Transport {
            fingerprint: fingerprints.get(&name).copied().unwrap_or_default(),
            name: name.into(),
            config,
        });
    }
    Ok(transports)
}

fn kind(key: &str, raw: raw::Transport) -> Result<TransportConfig, ConfigError> {
    let mut found = Vec::new();
    #[cfg(feature = "nats")]
    found.extend(raw.nats.map(|config| TransportConfig::Nats(Box::new(config))));
    #[cfg(not(feature = "nats"))]
    not_built(key, "nats", raw.nats.is_some())?;
    #[cfg(feature = "kafka")]
    found.extend(raw.kafka.map(|config| TransportConfig::Kafka(Box::new(config))));
    #[cfg(not(feature = "kafka"))]
    not_built(key, "kafka", raw.kafka.is_some())?;
    #[cfg(feature = "redis")]
    found.extend(raw.redis.map(|config| TransportConfig::Redis(Box::new(config))));
    #[cfg(not(feature = "redis"))]
    not_built(key, "redis", raw.redis.is_some())?;
    found.extend(raw.stdout.map(|config| TransportConfig::Stdout(Box::new(config))));
    let kinds: Vec<&str> = found.iter().map(TransportConfig::kind).collect();
    match (kinds.as_slice(), found.pop()) {
        ([_], Some(config)) => Ok(config),
        ([], _) => Err(wrong(
            key,
            format!("has no kind: write the section as [{key}.nats], .kafka, .redis or .stdout"),
        )),
        (several, _) => Err(wrong(
            key,
            format!(
                "has several kinds ({}): give each a name of its own",
                several.join(", ")
            ),
        )),
    }
}

#[cfg(not(all(feature = "nats", feature = "kafka", feature = "redis")))]
fn not_built(key: &str, kind: &str, given: bool) -> Result<(), ConfigError> {
    if given {
        let problem = format!("this binary was built without {kind}: build it with --features {kind}");
        return Err(wrong(format!("{key}.{kind}"), problem));
    }
    Ok(())
}

impl TransportConfig {
    /// The kind's name, as in the file: `nats`, `kafka`, `redis`, `stdout`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            #[cfg(feature = "nats")]
            Self::Nats(_) => "nats",
            #[cfg(feature = "kafka")]
            Self::Kafka(_) => "kafka",
            #[cfg(feature = "redis")]
            Self::Redis(_) => "redis",
            Self::Stdout(_) => "stdout",
        }
    }

    /// A lease shorter than the default `ack_timeout` shortens it; only a value that was asked for can contradict the lease.
    fn fit_default_ack_timeout(&mut self, ttl: Duration) {
        let (timeout, default): (&mut Duration, Duration) = match self {
            #[cfg(feature = "nats")]
            Self::Nats(config) => (
                &mut config.ack_timeout,
                crate::transport::nats::config::default_ack_timeout(),
            ),
            #[cfg(feature = "kafka")]
            Self::Kafka(config) => (
                &mut config.ack_timeout,
                crate::transport::kafka::config::default_ack_timeout(),
            ),
            #[cfg(feature = "redis")]
            Self::Redis(config) => (
                &mut config.ack_timeout,
                crate::transport::redis::config::default_ack_timeout(),
            ),
            Self::Stdout(_) => return,
        };
        if *timeout == default && *timeout >= ttl {
            *timeout = ttl * 2 / 3;
        }
    }

    /// How long one publish may take at most; `None`: it waits for nobody.
    #[must_use]
    pub fn ack_timeout(&self) -> Option<Duration> {
        match self {
            #[cfg(feature = "nats")]
            Self::Nats(config) => Some(config.ack_timeout),
            #[cfg(feature = "kafka")]
            Self::Kafka(config) => Some(config.ack_timeout),
            #[cfg(feature = "redis")]
            Self::Redis(config) => Some(config.ack_timeout),
            Self::Stdout(_) => None,
        }
    }

    /// What stands before every destination.
    fn prefix(&self) -> &str {
        match self {
            #[cfg(feature = "redis")]
            Self::Redis(config) => &config.prefix,
            #[cfg(feature = "nats")]
            Self::Nats(_) => "",
            #[cfg(feature = "kafka")]
            Self::Kafka(_) => "",
            Self::Stdout(_) => "",
        }
    }

    /// Beginnings of destinations that are the broker's own.
    fn reserved(&self) -> &'static [&'static str] {
        match self {
            #[cfg(feature = "nats")]
            Self::Nats(_) => &["$", "_INBOX."],
            #[cfg(feature = "kafka")]
            Self::Kafka(_) => &["__"],
            #[cfg(feature = "redis")]
            Self::Redis(_) => &[],
            Self::Stdout(_) => &[],
        }
    }

    fn validate(&self, name: &str) -> Result<(), String> {
        match self {
            #[cfg(feature = "nats")]
            Self::Nats(config) => config.validate(name).map_err(|error| error.to_string()),
            #[cfg(feature = "kafka")]
            Self::Kafka(config) => config.validate(name).map_err(|error| error.to_string()),
            #[cfg(feature = "redis")]
            Self::Redis(config) => config.validate(name).map_err(|error| error.to_string()),
            Self::Stdout(config) => config.validate(name).map_err(|error| error.to_string()),
        }
    }
}

pub(super) fn routes(
    raw: Vec<raw::Route>,
    transports: &[Transport],
    defaults: RouteDefaults,
) -> Result<Routes, ConfigError> {
    let raw = if raw.is_empty() {
        if transports.len() > 1 {
            let problem = format!("needed to choose among {} transports: add [[routes]]", transports.len());
            return Err(wrong("routes", problem));
        }
        vec![raw::Route {
            topic: Some("*".to_owned()),
            ..raw::Route::default()
        }]
    } else {
        raw
    };
    let mut routes = Vec::with_capacity(raw.len());
    for (index, raw) in raw.into_iter().enumerate() {
        let key = format!("routes[{index}]");
        routes.push(route(&key, raw, transports, defaults)?);
    }
    Ok(Routes::new(routes))
}

fn route(key: &str, raw: raw::Route, transports: &[Transport], defaults: RouteDefaults) -> Result<Route, ConfigError> {
    let sub = |name: &str| format!("{key}.{name}");
    let (limits, backoff) = (limits_of(key, &raw)?, relay::backoff(key, &raw, defaults)?);
    let topic = raw
        .topic
        .ok_or_else(|| wrong(sub("topic"), "is required: a glob over topics such as \"orders.*\""))?;
    let orders = [("key", Order::Key), ("strict", Order::Strict), ("none", Order::None)];
    let max_attempts = match raw.max_attempts {
        Some(number) => within(&sub("max_attempts"), number, 1..=MAX_ATTEMPTS)?,
        None => defaults.max_attempts,
    };
    let transport = transport_index(&sub("transport"), raw.transport.as_deref(), transports)?;
    let config = &transports[transport].config;
    let spec = RouteSpec {
        topic: &topic,
        transport,
        destination: raw.destination.as_deref().unwrap_or("{topic}"),
        order: choice(&sub("order"), raw.order.as_deref().unwrap_or("key"), &orders)?,
        max_attempts,
        backoff,
        commit_order: raw.commit_order.unwrap_or(defaults.commit_order),
        limits,
        prefix: config.prefix(),
        reserved: config.reserved(),
    };
    Route::new(&spec).map_err(|problem| match problem.split_once(": ") {
        Some((name, problem)) => wrong(sub(name), problem.to_owned()),
        None => wrong(key, problem),
    })
}

fn transport_index(key: &str, name: Option<&str>, transports: &[Transport]) -> Result<usize, ConfigError> {
    let names = || {
        transports
            .iter()
            .map(|transport| &*transport.name)
            .collect::<Vec<_>>()
            .join(", ")
    };
    match name {
        Some(name) => transports
            .iter()
            .position(|transport| &*transport.name == name)
            .ok_or_else(|| wrong(key, format!("{name:?} is not configured; transports: {}", names()))),
        None if transports.len() == 1 => Ok(0),
        None => Err(wrong(
            key,
            format!("is required, as there are several: one of {}", names()),
        )),
    }
}

fn limits_of(key: &str, raw: &raw::Route) -> Result<Limits, ConfigError> {
    let max_in_flight = match raw.max_in_flight {
        Some(number) => Some(within(&format!("{key}.max_in_flight"), number, 1..=10_000_000)?),
        None => None,
    };
    let rate = match raw.rate {
        Some(number) => NonZeroU32::new(within(&format!("{key}.rate"), number, 1..=100_000_000)?),
        None => None,
    };
    Ok(Limits {
        max_in_flight,
        rate,
        paused: raw.paused,
    })
}
