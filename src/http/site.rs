//! Several outboxes behind one server: which one a request is about.
//!
//! `?outbox=NAME` says so, on every path of the API. It is taken off the request, and whoever answers knows one outbox only, as if it
//! were alone. Where there is only one, nobody has to say.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State as Extract};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tower::ServiceExt;

use super::answer::{self, Refusal};
use super::{State, Token};
use crate::telemetry::fleet::{Fleet, Seen};

/// What is about a single outbox stands below.
const API: &str = "/api/v1/";
/// The name of the parameter.
const PARAMETER: &str = "outbox=";

/// What the server reads.
#[derive(Clone, Debug)]
pub struct Site {
    /// What all outboxes report.
    pub fleet: Fleet,
    /// `http.token_file`.
    pub token: Token,
    /// By outbox; at least one.
    pub(super) states: Arc<[State]>,
}

impl Site {
    /// For these outboxes, at least one.
    #[must_use]
    pub fn new(fleet: Fleet, states: Vec<State>, token: Token) -> Self {
        Self {
            fleet,
            token,
            states: states.into(),
        }
    }

    fn first(&self) -> &State {
        &self.states[0]
    }

    /// `http.ready_max_age`.
    pub(super) fn ready_max_age(&self) -> Duration {
        self.first().ready_max_age
    }

    /// `Host` headers accepted beyond addresses and `localhost`.
    pub(super) fn names(&self) -> Option<&[String]> {
        self.first().names.as_deref()
    }
}

impl From<State> for Site {
    fn from(state: State) -> Self {
        let seen = Seen {
            name: state.outbox.clone(),
            telemetry: state.telemetry.clone(),
        };
        Self::new(Fleet::new(vec![seen]), vec![state.clone()], state.token)
    }
}

/// One of `/api/v1/outboxes`.
#[derive(Serialize)]
struct Listed<'a> {
    outbox: Option<&'a str>,
    ready: bool,
    status: String,
}

impl<'a> Listed<'a> {
    fn of(seen: &'a Seen, max_age: Duration) -> Self {
        Self {
            outbox: seen.name.as_deref(),
            ready: seen.telemetry.health.readiness(max_age).is_ok(),
            status: seen.telemetry.status_line(),
        }
    }
}

/// Every outbox of this process, and how it stands in one line.
pub(super) async fn outboxes(Extract(site): Extract<Site>) -> Response {
    let max_age = site.ready_max_age();
    let list: Vec<Listed<'_>> = site.fleet.iter().map(|seen| Listed::of(seen, max_age)).collect();
    answer::json(StatusCode::OK, &list)
}

/// Hands a request to the outbox it is about; `routers` are those of the outboxes, in their order.
pub(super) async fn dispatch(site: Site, routers: Arc<[Router]>, mut request: Request) -> Response {
    let uri = request.uri();
    let (asked, query) = taken(uri.query().unwrap_or_default());
    let chosen = match choose(&site, asked, uri.path()) {
        Ok(chosen) => chosen,
        Err(refusal) => return refusal.into_response(),
    };
    if asked.is_some() {
        let separator = if query.is_empty() { "" } else { "?" };
        match format!("{}{separator}{query}", uri.path()).parse::<Uri>() {
            Ok(uri) => *request.uri_mut() = uri,
            Err(error) => return Refusal::bad(error.to_string()).into_response(),
        }
    }
    match routers[chosen].clone().oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// The outbox a query asks for, and the query without that.
fn taken(query: &str) -> (Option<&str>, String) {
    let (mut asked, mut rest) = (None, Vec::new());
    for pair in query.split('&') {
        match pair.strip_prefix(PARAMETER) {
            Some(name) if asked.is_none() => asked = Some(name),
            _ => rest.push(pair),
        }
    }
    (asked, rest.join("&"))
}

fn choose(site: &Site, asked: Option<&str>, path: &str) -> Result<usize, Refusal> {
    let named = |name: &str| {
        site.states
            .iter()
            .position(|state| state.outbox.as_deref() == Some(name))
    };
    let names = || {
        let names = site.states.iter().filter_map(|state| state.outbox.as_deref());
        names.collect::<Vec<_>>().join(", ")
    };
    let is_about_one = path.starts_with(API) && path != "/api/v1/openapi.json";
    match asked {
        Some(name) => named(name).ok_or_else(|| {
            let text = match names() {
                none if none.is_empty() => "outbox: the only outbox has no name: leave it out".to_owned(),
                names => format!("outbox: {name:?} is none of this daemon's: {names}"),
            };
            Refusal::bad(text)
        }),
        None if site.states.len() > 1 && is_about_one => Err(Refusal::bad(format!(
            "outbox: which one? add ?outbox=NAME with one of {}",
            names()
        ))),
        None => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outbox_is_taken_off_the_query() {
        assert_eq!(taken("outbox=orders"), (Some("orders"), String::new()));
        assert_eq!(taken("after=7&outbox=a&limit=2"), (Some("a"), "after=7&limit=2".into()));
        assert_eq!(taken("after=7"), (None, "after=7".into()));
        assert_eq!(taken(""), (None, String::new()));
        assert_eq!(
            taken("outbox=a&outbox=b"),
            (Some("a"), "outbox=b".into()),
            "refused by whoever answers"
        );
    }
}
