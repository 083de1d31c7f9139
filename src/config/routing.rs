//! Transports and routes: which kinds, which names, who goes where.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use super::bounds::{MAX_ATTEMPTS, choice, show, within, wrong};
use super::kinds::Sections;
use super::{ConfigError, Fingerprint, RouteDefaults, Transport, raw, relay};
use crate::delivery::Order;
use crate::route::{Limits, Route, RouteSpec, Routes};

type RawTransports = BTreeMap<String, Sections>;

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
        let mut config = kinds.only(&key)?;
        // A lease shorter than the default shortens it.
        if let (Some(ttl), Some(timeout)) = (ttl, config.settings_mut().default_ack_timeout())
            && *timeout >= ttl
        {
            *timeout = ttl * 2 / 3;
        }
        let settings = config.settings();
        if let Err(error) = settings.validate(&name) {
            return Err(ConfigError::Transport(error.to_string()));
        }
        if let (Some(timeout), Some(ttl)) = (settings.ack_timeout(), ttl)
            && timeout >= ttl
        {
            let key = format!("{key}.{}.ack_timeout", settings.kind());
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

/// `[[routes]]` as they are written, or the one there is without.
pub(super) fn written(raw: Vec<raw::Route>, transports: &[Transport]) -> Result<Vec<raw::Route>, ConfigError> {
    if !raw.is_empty() {
        return Ok(raw);
    }
    if transports.len() > 1 {
        let problem = format!("needed to choose among {} transports: add [[routes]]", transports.len());
        return Err(wrong("routes", problem));
    }
    Ok(vec![raw::Route {
        topic: Some("*".to_owned()),
        ..raw::Route::default()
    }])
}

/// Those of `raw` that are for `outbox`: all that name none, or this one.
pub(super) fn routes(
    raw: &[raw::Route],
    outbox: (&str, bool),
    transports: &[Transport],
    defaults: RouteDefaults,
) -> Result<Routes, ConfigError> {
    let (name, commit_order) = outbox;
    let mut routes = Vec::with_capacity(raw.len());
    for (index, raw) in raw.iter().enumerate() {
        if raw.outbox.as_ref().is_none_or(|outbox| outbox == name) {
            let key = format!("routes[{index}]");
            routes.push(route(&key, raw, commit_order, transports, defaults)?);
        }
    }
    Ok(Routes::new(routes))
}

fn route(
    key: &str,
    raw: &raw::Route,
    commit_order: bool,
    transports: &[Transport],
    defaults: RouteDefaults,
) -> Result<Route, ConfigError> {
    let sub = |name: &str| format!("{key}.{name}");
    let (limits, backoff) = (limits_of(key, raw)?, relay::backoff(key, raw, defaults)?);
    let topic = raw
        .topic
        .as_deref()
        .ok_or_else(|| wrong(sub("topic"), "is required: a glob over topics such as \"orders.*\""))?;
    let orders = [("key", Order::Key), ("strict", Order::Strict), ("none", Order::None)];
    let max_attempts = match raw.max_attempts {
        Some(number) => within(&sub("max_attempts"), number, 1..=MAX_ATTEMPTS)?,
        None => defaults.max_attempts,
    };
    let transport = transport_index(&sub("transport"), raw.transport.as_deref(), transports)?;
    let settings = transports[transport].config.settings();
    let spec = RouteSpec {
        topic,
        transport,
        destination: raw.destination.as_deref().unwrap_or("{topic}"),
        order: choice(&sub("order"), raw.order.as_deref().unwrap_or("key"), &orders)?,
        max_attempts,
        backoff,
        commit_order: raw.commit_order.unwrap_or(commit_order),
        limits,
        prefix: settings.prefix(),
        reserved: settings.reserved(),
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
