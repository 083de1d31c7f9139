//! Where a message goes: the first route whose glob matches its topic decides transport, destination, order and limits.
//!
//! Pure. Knows topics and keys, not what a transport is made of.

use std::num::NonZeroU32;
use std::sync::Arc;

use globset::{Glob, GlobSet};

use crate::backoff::Backoff;
use crate::delivery::Order;

/// What a route may send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Messages in flight at most; `None`: as many as the window takes.
    pub max_in_flight: Option<usize>,
    /// Messages a second at most, by each instance; `None`: no limit.
    pub rate: Option<NonZeroU32>,
    /// Nothing: its rows wait in the database until a start or reload without this.
    pub paused: bool,
}

/// One validated route.
#[derive(Clone, Debug)]
pub struct Route {
    /// The glob as written: a metric label and part of messages.
    pub pattern: Arc<str>,
    /// Index of the transport in configuration order.
    pub transport: usize,
    /// What happens to a key's later messages when one fails.
    pub order: Order,
    /// Attempts allowed where the row says nothing.
    pub max_attempts: i32,
    /// Delays between attempts.
    pub backoff: Backoff,
    /// Nothing is sent while an earlier number may still be committed.
    pub commit_order: bool,
    /// What it may send.
    pub limits: Limits,
    /// Of one glob: unlike a matcher it says so when the pattern is too large for it.
    matcher: GlobSet,
    destination: Template,
    reserved: &'static [&'static str],
}

/// Why a message has no destination: the row is rejected with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Unroutable {
    /// `no_route` or `reserved_destination`.
    pub code: &'static str,
    /// In words.
    pub reason: String,
    /// No route matches: a matter of the configuration, not of the row.
    pub is_missing: bool,
}

/// What becomes of a message that no route matches. `relay.unrouted`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Unrouted {
    /// It waits until there is a route.
    #[default]
    Wait,
    /// It is set aside as failed.
    Fail,
}

/// What [`Routes::resolve`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Index into [`Routes::get`].
    pub route: usize,
    /// Kafka topic, NATS subject, Redis stream.
    pub destination: Arc<str>,
}

/// A destination template: text with `{topic}` and `{key}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Topic,
    Key,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// An empty template, an unknown placeholder or an unclosed brace, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            if open > 0 {
                parts.push(Part::Text(rest[..open].to_owned()));
            }
            let close = rest[open..]
                .find('}')
                .ok_or_else(|| format!("{text:?} has an unclosed brace"))?
                + open;
            parts.push(match &rest[open + 1..close] {
                "topic" => Part::Topic,
                "key" => Part::Key,
                other => {
                    return Err(format!(
                        "{text:?} names {{{}}}: only {{topic}} and {{key}} are known",
                        other.escape_debug()
                    ));
                }
            });
            rest = &rest[close + 1..];
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        if parts.is_empty() {
            Err("the template is empty".to_owned())
        } else {
            Ok(Self(parts))
        }
    }

    /// With `prefix` before all of it.
    fn prefixed(mut self, prefix: &str) -> Self {
        if !prefix.is_empty() {
            self.0.insert(0, Part::Text(prefix.to_owned()));
        }
        self
    }

    /// What every destination begins with.
    fn head(&self) -> &str {
        match self.0.first() {
            Some(Part::Text(text)) => text,
            Some(Part::Topic | Part::Key) | None => "",
        }
    }

    /// The destination of a message of this topic and key.
    ///
    /// # Errors
    /// There is nothing to put in, in words: the row is rejected with it.
    pub fn fill(&self, topic: &Arc<str>, key: Option<&str>) -> Result<Arc<str>, String> {
        if let [Part::Topic] = self.0.as_slice() {
            return Ok(Arc::clone(topic));
        }
        let mut filled = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Topic => filled.push_str(topic),
                Part::Key => match key {
                    Some(key) => filled.push_str(key),
                    None => return Err("the route's destination names {key}, and the row has none".to_owned()),
                },
            }
        }
        if filled.is_empty() {
            Err("the route's destination is empty for this row".to_owned())
        } else {
            Ok(filled.into())
        }
    }
}

/// What a [`Route`] is made from.
#[derive(Clone, Debug)]
pub struct RouteSpec<'a> {
    /// Glob over topics: `*`, `?`, `[..]`, `{a,b}`; `*` crosses dots and slashes.
    pub topic: &'a str,
    /// Index of the transport.
    pub transport: usize,
    /// Destination template.
    pub destination: &'a str,
    /// Order policy.
    pub order: Order,
    /// Attempts allowed.
    pub max_attempts: i32,
    /// Delays.
    pub backoff: Backoff,
    /// Whether to wait for earlier numbers.
    pub commit_order: bool,
    /// What it may send.
    pub limits: Limits,
    /// What its transport puts before every destination.
    pub prefix: &'a str,
    /// Beginnings of destinations that are the broker's own: no row may choose one.
    pub reserved: &'static [&'static str],
}

impl Route {
    /// Validates a route.
    ///
    /// # Errors
    /// An invalid glob or template, in words, prefixed by the key (`topic` or `destination`).
    pub fn new(spec: &RouteSpec<'_>) -> Result<Self, String> {
        let matcher = matcher(spec.topic).map_err(|problem| format!("topic: {problem}"))?;
        Ok(Self {
            pattern: spec.topic.into(),
            transport: spec.transport,
            order: spec.order,
            max_attempts: spec.max_attempts,
            backoff: spec.backoff,
            commit_order: spec.commit_order,
            limits: spec.limits,
            matcher,
            destination: Template::parse(spec.destination)
                .map_err(|error| format!("destination: {error}"))?
                .prefixed(spec.prefix),
            reserved: spec.reserved,
        })
    }

    /// Where a message of this topic and key goes. A destination of the broker's own must stand in the route, at least the first
    /// two of its tokens: who may insert a row must not speak to the broker's own interfaces.
    fn destination_of(&self, topic: &Arc<str>, key: Option<&str>) -> Result<Arc<str>, Unroutable> {
        let filled = self.destination.fill(topic, key).map_err(|reason| Unroutable {
            code: "no_route",
            reason,
            is_missing: false,
        })?;
        let reserved = self.reserved.iter().find(|beginning| filled.starts_with(**beginning));
        let Some(beginning) = reserved else {
            return Ok(filled);
        };
        let is_named =
            self.destination.head().matches('.').count() >= 2 || self.known_destination().as_ref() == Some(&filled);
        if is_named {
            return Ok(filled);
        }
        let reason = format!(
            "destinations that begin with {beginning:?} are the broker's own: {filled:?} must stand in a route's destination to be sent to"
        );
        Err(Unroutable {
            code: "reserved_destination",
            reason,
            is_missing: false,
        })
    }
}

impl Route {
    /// Where all of its messages go, as far as that is known without one: a destination without placeholders, or the one of a
    /// pattern that is a topic's name.
    #[must_use]
    pub fn known_destination(&self) -> Option<Arc<str>> {
        let is_name = !self.pattern.contains(['*', '?', '[', ']', '{', '}', '\\']);
        let is_fixed = self.destination.0.iter().all(|part| matches!(part, Part::Text(_)));
        let known = is_name || is_fixed;
        known.then(|| self.destination.fill(&self.pattern, None).ok()).flatten()
    }
}

impl Route {
    /// Whether messages of one topic may go to several places.
    #[must_use]
    pub fn names_the_key(&self) -> bool {
        self.destination.0.contains(&Part::Key)
    }

    /// Whether some message of it may go to `destination`, as far as that is known without one.
    #[must_use]
    pub fn may_lead_to(&self, destination: &str) -> bool {
        self.known_destination().is_none_or(|known| *known == *destination)
    }
}

/// The matcher is the pattern's.
impl PartialEq for Route {
    fn eq(&self, other: &Self) -> bool {
        let Self {
            pattern,
            transport,
            order,
            max_attempts,
            backoff,
            commit_order,
            limits,
            matcher: _,
            destination,
            reserved,
        } = self;
        (pattern, transport, order, max_attempts, backoff)
            == (
                &other.pattern,
                &other.transport,
                &other.order,
                &other.max_attempts,
                &other.backoff,
            )
            && (commit_order, limits, destination, reserved)
                == (&other.commit_order, &other.limits, &other.destination, &other.reserved)
    }
}

/// More braces than this in one another: nobody means that, and reading them takes stack.
const BRACES_MAX: usize = 32;

fn matcher(pattern: &str) -> Result<GlobSet, String> {
    let mut open = 0_usize;
    for byte in pattern.bytes() {
        match byte {
            b'{' => open += 1,
            b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        if open > BRACES_MAX {
            return Err(format!("more than {BRACES_MAX} braces in one another"));
        }
    }
    let glob = Glob::new(pattern).map_err(|error| error.kind().to_string().replace(char::is_control, "?"))?;
    GlobSet::builder()
        .add(glob)
        .build()
        .map_err(|error| format!("too large: {}", error.kind()))
}

/// All routes, in the order written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routes(Vec<Route>);

impl Routes {
    /// First match wins, so the order counts.
    #[must_use]
    pub fn new(routes: Vec<Route>) -> Self {
        Self(routes)
    }

    /// The route at `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> &Route {
        &self.0[index]
    }

    /// Every route.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.0.iter()
    }

    /// Whether failed rows hold their key on some route.
    #[must_use]
    pub fn any_strict(&self) -> bool {
        self.0.iter().any(|route| route.order == Order::Strict)
    }

    /// The index of the first route that matches `topic`.
    #[must_use]
    pub fn find(&self, topic: &str) -> Option<usize> {
        self.0.iter().position(|route| route.matcher.is_match(topic))
    }

    /// Route and destination of a message.
    ///
    /// # Errors
    /// Why there is none: the row is rejected with it.
    pub fn resolve(&self, topic: &Arc<str>, key: Option<&str>) -> Result<Resolved, Unroutable> {
        let route = self.find(topic).ok_or_else(|| Unroutable {
            code: "no_route",
            reason: format!("no route matches topic {topic:?}"),
            is_missing: true,
        })?;
        let destination = self.0[route].destination_of(topic, key)?;
        Ok(Resolved { route, destination })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn route(topic: &str, transport: usize, destination: &str) -> Result<Route, String> {
        let backoff = Backoff {
            min: Duration::from_secs(1),
            max: Duration::from_secs(2),
            factor: 2,
        };
        Route::new(&RouteSpec {
            topic,
            transport,
            destination,
            order: Order::Key,
            max_attempts: 5,
            backoff,
            commit_order: false,
            limits: Limits::default(),
            prefix: "",
            reserved: &["$", "_INBOX."],
        })
    }

    #[test]
    fn no_row_chooses_a_destination_of_the_brokers_own() {
        let to = |pattern: &str, destination: &str, topic: &str| {
            let routes = Routes::new(vec![route(pattern, 0, destination).unwrap()]);
            routes.resolve(&topic.into(), Some("key.$JS")).map_err(|none| none.code)
        };
        for (pattern, destination, topic) in [
            ("*", "{topic}", "$JS.API.STREAM.DELETE.ORDERS"),
            ("*", "{topic}", "_INBOX.a.1"),
            ("*", "${topic}", "JS.API.STREAM.DELETE.ORDERS"),
            ("*", "$JS.{topic}", "API.STREAM.DELETE.ORDERS"),
            ("$*", "{topic}", "$SYS.REQ.SERVER.PING"),
            ("*", "{topic}.{key}", "$KV"),
        ] {
            assert_eq!(
                to(pattern, destination, topic),
                Err("reserved_destination"),
                "{destination} {topic}"
            );
        }
        for (pattern, destination, topic) in [
            ("*", "{topic}", "orders.$JS.API"),
            ("*", "{topic}", "_INBOXES.a"),
            ("*", "orders.{topic}", "$JS.API"),
            ("*", "$KV.carts.{topic}", "a"),
            ("*", "$JS.API.STREAM.PURGE.ORDERS", "a"),
            ("$JS.ACK.x", "{topic}", "$JS.ACK.x"),
        ] {
            assert!(to(pattern, destination, topic).is_ok(), "{destination} {topic}");
        }
    }

    #[test]
    fn a_prefix_stands_before_every_destination() {
        let spec = |prefix| RouteSpec {
            topic: "*",
            transport: 0,
            destination: "{topic}",
            order: Order::Key,
            max_attempts: 5,
            backoff: Backoff {
                min: Duration::from_secs(1),
                max: Duration::from_secs(2),
                factor: 2,
            },
            commit_order: false,
            limits: Limits::default(),
            prefix,
            reserved: &[],
        };
        let routes = Routes::new(vec![Route::new(&spec("outbox:")).unwrap()]);
        assert_eq!(
            &*routes.resolve(&"orders".into(), None).unwrap().destination,
            "outbox:orders"
        );
    }

    #[test]
    fn the_first_match_wins() {
        let routes = Routes::new(vec![
            route("orders.*", 1, "{topic}").unwrap(),
            route("*", 0, "all-{topic}.{key}").unwrap(),
        ]);
        let orders = routes.resolve(&"orders.eu.paid".into(), None).unwrap();
        assert_eq!((orders.route, &*orders.destination), (0, "orders.eu.paid"));
        let other = routes.resolve(&"users".into(), Some("7")).unwrap();
        assert_eq!((other.route, &*other.destination), (1, "all-users.7"));
    }

    #[test]
    fn a_destination_is_known_where_no_message_decides_it() {
        let known = |topic: &str, destination: &str| route(topic, 0, destination).unwrap().known_destination();
        assert_eq!(known("orders", "eu.{topic}").as_deref(), Some("eu.orders"));
        assert_eq!(known("orders.*", "all").as_deref(), Some("all"));
        assert_eq!(known("orders.*", "{topic}"), None);
        assert_eq!(known("orders", "{key}"), None);
    }

    #[test]
    fn no_route_and_no_key_are_said() {
        let routes = Routes::new(vec![route("a", 0, "{key}").unwrap()]);
        assert_eq!(
            routes.resolve(&"b".into(), None).unwrap_err().reason,
            "no route matches topic \"b\""
        );
        assert!(routes.resolve(&"a".into(), None).unwrap_err().reason.contains("{key}"));
        assert!(
            routes
                .resolve(&"a".into(), Some(""))
                .unwrap_err()
                .reason
                .contains("empty")
        );
    }

    #[test]
    fn bad_globs_and_templates_name_the_key() {
        assert!(route("[", 0, "x").unwrap_err().starts_with("topic: "));
        for bad in ["{nope}", "{topic", ""] {
            assert!(route("*", 0, bad).unwrap_err().starts_with("destination: "), "{bad}");
        }
    }
}
