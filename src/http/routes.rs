//! The routes and what stands before all of them: the time limit and the check of `Host`.
//!
//! `/api/v1/...` and the dashboard are added to [`router`], behind the same two.

use std::net::IpAddr;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::{Request, State as Extract};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};

use super::State;
use crate::telemetry::metrics::CONTENT_TYPE;

/// No answer takes longer; nothing here waits for the database.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn router(state: State) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(state.clone(), check_host))
        .layer(middleware::from_fn(limit_time))
        .with_state(state)
}

async fn livez() -> Response {
    answer(StatusCode::OK, json!({"status": "live"}))
}

async fn readyz(Extract(state): Extract<State>) -> Response {
    match state.telemetry.health.readiness(state.ready_max_age) {
        Ok(()) => answer(StatusCode::OK, json!({"status": "ready"})),
        Err(reasons) => answer(
            StatusCode::SERVICE_UNAVAILABLE,
            json!({"status": "unready", "reasons": reasons}),
        ),
    }
}

async fn metrics(Extract(state): Extract<State>) -> Response {
    let kind = HeaderValue::from_static(CONTENT_TYPE);
    (
        [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, NO_STORE)],
        state.telemetry.encode_metrics(),
    )
        .into_response()
}

async fn not_found(uri: Uri) -> Response {
    refuse(StatusCode::NOT_FOUND, &format!("there is nothing at {}", uri.path()))
}

async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    refuse(
        StatusCode::METHOD_NOT_ALLOWED,
        &format!("{} does not take {method}", uri.path()),
    )
}

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

fn answer(status: StatusCode, body: Value) -> Response {
    (status, [(header::CACHE_CONTROL, NO_STORE)], Json(body)).into_response()
}

fn refuse(status: StatusCode, error: &str) -> Response {
    answer(status, json!({"error": error}))
}

async fn limit_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_elapsed) => refuse(StatusCode::GATEWAY_TIMEOUT, "no answer in time"),
    }
}

async fn check_host(Extract(state): Extract<State>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).map(HeaderValue::as_bytes);
    match (&state.names, host) {
        (Some(names), Some(host)) if !is_ours(host, names) => {
            let hint = "this Host is not one of ours: use an IP address, localhost or the name in http.listen";
            refuse(StatusCode::MISDIRECTED_REQUEST, hint)
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
