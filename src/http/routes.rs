//! The routes and what stands before them: the limits of time and size, and, but for the probes, the check of `Host`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State as Extract};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use serde_json::json;

use super::answer::{self, NO_STORE, Refusal};
use super::{Site, State, failed, messages, page, site, standing};
use crate::telemetry::metrics::CONTENT_TYPE;

/// No answer takes longer. Most come from memory; questions to the database have a shorter limit of their own.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// No body is longer.
const BODY_MAX: usize = 1 << 20;

const OPENAPI: &str = include_str!("openapi.json");

type Routes<S, const N: usize> = [(&'static str, MethodRouter<S>); N];

/// What load balancers and Prometheus ask, by whatever name they have for us: it changes nothing and holds no secret.
fn probes() -> Routes<Site, 3> {
    [
        ("/livez", get(livez)),
        ("/readyz", get(readyz)),
        ("/metrics", get(metrics)),
    ]
}

/// What is about all outboxes, and asked by people.
fn shared() -> Routes<Site, 1> {
    [("/api/v1/outboxes", get(site::outboxes))]
}

/// What people ask of one outbox, and no page of another site through their browser.
fn guarded() -> Routes<State, 14> {
    [
        ("/", get(page::html)),
        ("/dashboard.css", get(page::css)),
        ("/dashboard.js", get(page::js)),
        ("/dashboard_charts.js", get(page::charts)),
        ("/dashboard_failed.js", get(page::failed)),
        ("/dashboard_dom.js", get(page::dom)),
        ("/api/v1/openapi.json", get(openapi)),
        ("/api/v1/status", get(standing::status)),
        ("/api/v1/summary", get(standing::summary)),
        ("/api/v1/messages/{seq}", get(messages::why)),
        ("/api/v1/failed", get(failed::list)),
        ("/api/v1/failed/{id}", get(failed::one)),
        ("/api/v1/failed/retry", post(failed::retry)),
        ("/api/v1/failed/discard", post(failed::discard)),
    ]
}

/// Every path of the server, as OpenAPI writes them: a test holds `openapi.json` against them.
#[must_use]
pub fn paths() -> Vec<&'static str> {
    let of_all = probes().into_iter().chain(shared()).map(|(path, _)| path);
    of_all.chain(guarded().into_iter().map(|(path, _)| path)).collect()
}

fn of<S: Clone + Send + Sync + 'static>(
    routes: impl IntoIterator<Item = (&'static str, MethodRouter<S>)>,
) -> Router<S> {
    routes
        .into_iter()
        .fold(Router::new(), |router, (path, methods)| router.route(path, methods))
        .method_not_allowed_fallback(method_not_allowed)
}

/// The server without its socket.
pub fn router(site: impl Into<Site>) -> Router {
    let site = site.into();
    let one = |state: &State| of(guarded()).fallback(not_found).with_state(state.clone());
    let routers: Arc<[Router]> = site.states.iter().map(one).collect();
    let (names, also) = (site.names().map(<[String]>::to_vec), site.clone());
    let dispatch = move |request: Request| site::dispatch(also.clone(), Arc::clone(&routers), request);
    of(shared())
        .fallback(dispatch)
        .layer(middleware::from_fn_with_state(names, check_host))
        .merge(of(probes()))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(middleware::from_fn(limit_time))
        .layer(middleware::from_fn(page::harden))
        .with_state(site)
}

async fn livez() -> Response {
    answer::json(StatusCode::OK, &json!({"status": "live"}))
}

async fn readyz(Extract(site): Extract<Site>) -> Response {
    match site.fleet.readiness(site.ready_max_age()) {
        Ok(()) => answer::json(StatusCode::OK, &json!({"status": "ready"})),
        Err(reasons) => answer::json(
            StatusCode::SERVICE_UNAVAILABLE,
            &json!({"status": "unready", "reasons": reasons}),
        ),
    }
}

async fn metrics(Extract(site): Extract<Site>) -> Response {
    let kind = HeaderValue::from_static(CONTENT_TYPE);
    (
        [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, NO_STORE)],
        site.fleet.encode_metrics(),
    )
        .into_response()
}

async fn openapi() -> Response {
    answer::raw(OPENAPI.to_owned())
}

async fn not_found(uri: Uri) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, format!("there is nothing at {}", uri.path()))
}

async fn method_not_allowed(method: Method, uri: Uri) -> Refusal {
    let error = format!("{} does not take {method}", uri.path());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, error)
}

async fn limit_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_elapsed) => Refusal::new(StatusCode::GATEWAY_TIMEOUT, "no answer in time").into_response(),
    }
}

async fn check_host(Extract(names): Extract<Option<Vec<String>>>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).map(HeaderValue::as_bytes);
    match (&names, host) {
        (Some(names), Some(host)) if !is_ours(host, names) => {
            let hint = "this Host is not one of ours: use an IP address, localhost or the name in http.listen, \
                        or add it to http.hosts";
            Refusal::new(StatusCode::MISDIRECTED_REQUEST, hint).into_response()
        }
        (Some(_) | None, Some(_) | None) => next.run(request).await,
    }
}

/// A browser sends the name the page used. An address is no name anybody can make point here; of names only ours count.
fn is_ours(host: &[u8], names: &[String]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else {
        return false;
    };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.parse::<IpAddr>().is_ok() || (!name.is_empty() && names.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_our_own_names_are_hosts() {
        let names = ["db1.internal".to_owned()];
        for ours in [
            "127.0.0.1",
            "127.0.0.1:7117",
            "[::1]:7117",
            "localhost:1",
            "LOCALHOST.",
            "10.0.0.5:80",
            "db1.internal:7117",
        ] {
            assert!(is_ours(ours.as_bytes(), &names), "{ours}");
        }
        for theirs in [
            "evil.example",
            "evil.example:7117",
            "",
            ":7117",
            "db1.internal.evil.example",
            "127.0.0.1.evil.example",
        ] {
            assert!(!is_ours(theirs.as_bytes(), &names), "{theirs}");
        }
        assert!(!is_ours(b"\xff", &names));
    }
}
