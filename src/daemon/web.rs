//! The daemon's HTTP server: what it may read, and the samples its dashboard draws.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::http::{self, Listener, Outbox, State};
use crate::route::Routes;
use crate::store::postgres::link::database::Database;
use crate::store::postgres::link::sql::Names;
use crate::telemetry::{Telemetry, history};

use super::settings;

/// What the server reads.
pub(super) fn state(
    config: &Config,
    (routes, recognized): (watch::Receiver<Arc<Routes>>, watch::Receiver<Names>),
    database: &Database,
    telemetry: &Telemetry,
) -> State {
    if let Some(file) = &config.http.token_file {
        warn_if_exposed(file);
    }
    let also_routes = routes.clone();
    let outbox = Outbox {
        database: database.clone(),
        names: settings::names(config),
        recognized,
        instance: config.lease.instance.clone(),
        any_paused: Arc::new(move || settings::any_paused(&also_routes.borrow())),
        rule_of: Arc::new(move |topic| settings::rule_of(&routes.borrow(), topic)),
    };
    State::new(telemetry.clone(), &config.http).with_outbox(outbox)
}

/// Until stopped.
pub(super) async fn serve(listener: Listener, state: State, stop: CancellationToken) {
    let telemetry = state.telemetry.clone();
    tokio::select! {
        () = http::serve(listener, state, async move { stop.cancelled().await }) => {}
        () = sample(&telemetry) => {}
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

fn warn_if_exposed(file: &Path) {
    let exposed = std::fs::metadata(file).is_ok_and(|found| found.permissions().mode() & 0o007 != 0);
    if exposed {
        let file = file.display();
        tracing::warn!(%file, "http.token_file can be read by everyone on this machine: chmod 640 it");
    }
}
