//! The daemon's HTTP server: what it may read, the samples its dashboard draws, and its token, which SIGHUP renews.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{self, Config};
use crate::http::{self, Listener, Outbox, State, Token};
use crate::route::Routes;
use crate::store::postgres::link::database::Database;
use crate::telemetry::{Telemetry, history};

/// What the server reads.
pub(super) fn state(
    config: &Config,
    routes: watch::Receiver<Arc<Routes>>,
    database: &Database,
    telemetry: &Telemetry,
) -> State {
    if let Some(file) = &config.http.token_file {
        warn_if_exposed(file);
    }
    let also_routes = routes.clone();
    let outbox = Outbox {
        database: database.clone(),
        names: super::names(config),
        instance: config.lease.instance.clone(),
        any_paused: Arc::new(move || super::status::any_paused(&also_routes.borrow())),
        rule_of: Arc::new(move |topic| super::status::rule_of(&routes.borrow(), topic)),
    };
    State::new(telemetry.clone(), &config.http).with_outbox(outbox)
}

/// Until stopped.
pub(super) async fn serve(listener: Listener, state: State, token_file: Option<PathBuf>, stop: CancellationToken) {
    let (telemetry, token) = (state.telemetry.clone(), state.token.clone());
    tokio::select! {
        () = http::serve(listener, state, async move { stop.cancelled().await }) => {}
        () = sample(&telemetry) => {}
        () = renew(&token, token_file.as_deref()) => {}
    }
}

async fn sample(telemetry: &Telemetry) {
    let mut ticks = tokio::time::interval(history::INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        telemetry.sample();
    }
}

/// Reads the token again on each SIGHUP.
async fn renew(token: &Token, file: Option<&Path>) {
    let (Some(file), Ok(mut hangup)) = (file, signal(SignalKind::hangup())) else {
        return std::future::pending().await;
    };
    while hangup.recv().await.is_some() {
        match config::http_token(file) {
            Ok(new) => {
                token.replace(new);
                tracing::info!("http.token_file reloaded");
            }
            Err(error) => tracing::error!(%error, "http.token_file was not reloaded: the old token stays"),
        }
    }
}

fn warn_if_exposed(file: &Path) {
    let exposed = std::fs::metadata(file).is_ok_and(|found| found.permissions().mode() & 0o007 != 0);
    if exposed {
        let file = file.display();
        tracing::warn!(%file, "http.token_file can be read by everyone on this machine: chmod 640 it");
    }
}
