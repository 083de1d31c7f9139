//! What two configurations have different: for the relay, and for the next start.
//!
//! Every key is taken apart here, so that one that is added does not compile until it is decided what a reload does with it.

use std::sync::Arc;

use crate::config::{self, Config, Database, Http, Lease, Log, Outbox, Relay, Retention, Trace};
use crate::route::Route;

use crate::daemon::settings::Usage;

/// What is to be handed to the relay, in words: `routes`, `transports main`, keys.
pub(super) fn for_the_relay(running: &Config, new: &Config) -> Vec<String> {
    let mut news = Vec::new();
    if !same_routes(running, new) {
        news.push("routes".to_owned());
    }
    let transports = transports(running, new);
    if !transports.is_empty() {
        let plural = if transports.len() > 1 { "s" } else { "" };
        news.push(format!("transport{plural} {}", transports.join(" and ")));
    }
    let (running, new) = (&running.relay, &new.relay);
    for (key, changed) in [
        ("relay.batch_size", running.batch_size != new.batch_size),
        ("relay.max_in_flight", running.max_in_flight != new.max_in_flight),
        (
            "relay.max_in_flight_bytes",
            running.max_in_flight_bytes != new.max_in_flight_bytes,
        ),
        ("relay.unrouted", running.unrouted != new.unrouted),
    ] {
        if changed {
            news.push(key.to_owned());
        }
    }
    news
}

/// Whether they say the same, for each outbox, and to the same transports by name.
fn same_routes(running: &Config, new: &Config) -> bool {
    fn named(config: &Config) -> Vec<Vec<(Arc<str>, Route)>> {
        let named = |route: &Route| {
            let name = Arc::clone(&config.transports[route.transport].name);
            let mut route = route.clone();
            route.transport = 0;
            (name, route)
        };
        let parts = config.parts();
        parts
            .iter()
            .map(|part| part.routes.iter().map(named).collect())
            .collect()
    }
    named(running) == named(new)
}

/// A reload neither adds an outbox nor takes one away.
pub(super) fn same_outboxes(running: &Config, new: &Config) -> Result<(), Usage> {
    let several = !running.outboxes.is_empty() || !new.outboxes.is_empty();
    let (before, after) = (running.outbox_names(), new.outbox_names());
    if several && before != after {
        return Err(Usage(format!(
            "outboxes: they are {} until the next start: restart for others, or another order",
            before.join(", ")
        )));
    }
    Ok(())
}

/// Those that are new, are gone, or whose section says something else.
fn transports(running: &Config, new: &Config) -> Vec<String> {
    let says = |config: &Config, name: &str| {
        let found = config.transports.iter().find(|one| *one.name == *name);
        found.map(|one| one.fingerprint)
    };
    let names = running.transports.iter().chain(&new.transports).map(|one| &one.name);
    let mut changed: Vec<String> = names
        .filter(|name| says(running, name) != says(new, name))
        .map(ToString::to_string)
        .collect();
    changed.sort();
    changed.dedup();
    changed
}

/// A publish must be over before the lease that runs could end.
pub(super) fn fit_the_lease(running: &Config, new: &Config) -> Result<(), Usage> {
    let changed = transports(running, new);
    let ttl = running.lease.ttl;
    for config::Transport { name, config, .. } in &new.transports {
        let Some(timeout) = config.settings().ack_timeout().filter(|timeout| *timeout >= ttl) else {
            continue;
        };
        if changed.iter().any(|changed| **changed == **name) {
            let show = humantime::format_duration;
            return Err(Usage(format!(
                "transports.{name}.{}.ack_timeout: {} is not below lease.ttl, which is {} until the next start: lower it or restart",
                config.settings().kind(),
                show(timeout),
                show(ttl)
            )));
        }
    }
    Ok(())
}

/// Puts everything of `new` into `running` that a reload takes up.
pub(super) fn take_over(running: &mut Config, new: Config) {
    running.transports = new.transports;
    for (member, new) in running.outboxes.iter_mut().zip(new.outboxes) {
        member.routes = new.routes;
    }
    running.routes = new.routes;
    running.relay.batch_size = new.relay.batch_size;
    running.relay.max_in_flight = new.relay.max_in_flight;
    running.relay.max_in_flight_bytes = new.relay.max_in_flight_bytes;
    running.relay.unrouted = new.relay.unrouted;
    running.log.level = new.log.level;
}

/// The names of the `later` keys of a section whose values differ. Its other keys are to be named too.
macro_rules! changed {
    ($type:ident, $section:ident, $running:expr, $new:expr, later: [$($later:ident),*], others: [$($other:ident),*]) => {{
        let $type { $($later,)* $($other: _),* } = &$new.$section;
        [$((concat!(stringify!($section), ".", stringify!($later)), $running.$section.$later != *$later)),*]
            .into_iter()
            .filter_map(|(key, changed)| changed.then_some(key))
    }};
}

/// Keys that have changed and take effect at the next start; URLs are not looked at.
#[rustfmt::skip]
pub(super) fn at_next_start(old: &Config, new: &Config) -> Vec<&'static str> {
    let mut keys = Vec::new();
    keys.extend(changed!(Database, database, old, new,
        later: [pool_size, prepared_statements], others: [url, listen_url]));
    if old.outboxes.is_empty() {
        keys.extend(changed!(Outbox, outbox, old, new,
            later: [name, schema, table, on_relayed, lanes, columns, state], others: []));
    } else if old.outboxes.iter().map(|one| &one.outbox).ne(new.outboxes.iter().map(|one| &one.outbox)) {
        keys.push("outboxes");
    }
    keys.extend(changed!(Relay, relay, old, new,
        later: [poll_interval_min, poll_interval_max, notify, durable_marks, count_outages, shutdown_timeout],
        others: [batch_size, max_in_flight, max_in_flight_bytes, unrouted]));
    keys.extend(changed!(Lease, lease, old, new, later: [ttl, instance], others: [machine]));
    keys.extend(changed!(Retention, retention, old, new, later: [relayed, failed], others: [relayed_is_set]));
    let (before, after) = (&old.retention, &new.retention);
    if before.relayed == after.relayed && before.relayed_is_set != after.relayed_is_set {
        // The same, but meant.
        keys.push("retention.relayed");
    }
    // The token is the server's own to read again.
    keys.extend(changed!(Http, http, old, new,
        later: [listen, hosts, ready_max_age, token_file], others: [token, host_name]));
    keys.extend(changed!(Log, log, old, new, later: [format], others: [level]));
    keys.extend(changed!(Trace, trace, old, new, later: [otlp_endpoint, start_new], others: []));
    keys
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const BASE: &str = "[transports.a.stdout]\n[transports.b.redis]\nurl = \"redis://h\"\n\
                        [[routes]]\ntopic = \"x\"\ntransport = \"b\"\n[[routes]]\ntopic = \"*\"\ntransport = \"a\"\n";

    fn config(text: &str) -> Config {
        let text = format!("[database]\nurl = \"postgres://u@h/db?sslmode=disable\"\n{text}");
        config::parse(&text, Path::new("/nowhere/outboxd.toml"), std::iter::empty()).unwrap()
    }

    fn differences(new: &str) -> (Vec<String>, Vec<&'static str>) {
        let (running, new) = (config(BASE), config(new));
        (for_the_relay(&running, &new), at_next_start(&running, &new))
    }

    #[test]
    #[cfg_attr(not(feature = "redis"), ignore = "its transports are redis")]
    fn the_same_in_other_words_is_the_same() {
        let none = (vec![], vec![]);
        assert_eq!(differences(BASE), none);
        assert_eq!(
            differences(&format!("pool_size = 4\n{BASE}[relay]\nbatch_size = 1000\n")),
            none
        );
    }

    #[test]
    #[cfg_attr(not(feature = "redis"), ignore = "its transports are redis")]
    fn what_the_relay_takes_up_is_named() {
        let told = |new: &str| {
            let (relay, later) = differences(new);
            assert_eq!(later, [""; 0]);
            relay.join(", ")
        };
        assert_eq!(told(&format!("{BASE}rate = 5\n")), "routes");
        assert_eq!(told(&BASE.replace("redis://h", "redis://i")), "transport b");
        assert_eq!(told(&format!("{BASE}[relay]\nmax_attempts = 9\n")), "routes");
        let more = format!("{BASE}[transports.aa.stdout]\n[relay]\nmax_in_flight = 5000\n");
        assert_eq!(told(&more), "transport aa, relay.max_in_flight", "an index is no name");
        assert_eq!(
            told("[transports.b.redis]\nurl = \"redis://i\"\n"),
            "routes, transports a and b"
        );
    }

    #[test]
    #[cfg_attr(not(feature = "redis"), ignore = "its transports are redis")]
    fn what_waits_for_the_next_start_is_named() {
        let (relay, later) = differences(&format!(
            "pool_size = 9\n{BASE}[outbox]\nlanes = 8\n[lease]\nttl = \"40s\"\n[http]\nlisten = \"\"\n\
             [log]\nformat = \"json\"\nlevel = \"debug\"\n[retention]\nfailed = \"1h\"\n"
        ));
        assert_eq!(relay, [""; 0]);
        assert_eq!(
            later.join(" "),
            "database.pool_size outbox.lanes lease.ttl retention.failed http.listen log.format"
        );
    }

    #[test]
    #[cfg_attr(not(feature = "redis"), ignore = "its transports are redis")]
    fn no_publish_may_outlast_the_lease_that_runs() {
        let longer = BASE.replace("\"redis://h\"", "\"redis://h\"\nack_timeout = \"5min\"");
        let (running, new) = (config(BASE), config(&format!("{longer}[lease]\nttl = \"1h\"\n")));
        let refused = fit_the_lease(&running, &new).unwrap_err().to_string();
        assert!(refused.starts_with("transports.b.redis.ack_timeout: 5m"), "{refused}");
        assert!(fit_the_lease(&new, &config(BASE)).is_ok());
    }

    #[test]
    #[cfg_attr(not(feature = "redis"), ignore = "its transports are redis")]
    fn what_was_taken_up_is_no_difference_any_more() {
        let mut running = config(BASE);
        let new = format!("pool_size = 9\n{BASE}rate = 5\n[log]\nlevel = \"debug\"\n");
        take_over(&mut running, config(&new));
        assert_eq!(for_the_relay(&running, &config(&new)), [""; 0]);
        assert_eq!(
            at_next_start(&running, &config(&new)),
            ["database.pool_size"],
            "said until it is so"
        );
        assert_eq!(running.log.level, config(&new).log.level);
    }
}
