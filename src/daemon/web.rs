//! The daemon's HTTP server: what it may read, and the samples its dashboard draws.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::http::{self, Listener, Outbox, Site, State, Token};
use crate::telemetry::fleet::Fleet;
use crate::telemetry::history;

use super::settings;
use super::tenant::Tenant;

/// What the server reads.
pub(super) fn site(config: &Config, tenants: &[Tenant], fleet: &Fleet) -> Site {
    if let Some(file) = &config.http.token_file {
        warn_if_exposed(file);
    }
    let token = Token::new(config.http.token.clone());
    let states = tenants.iter().map(|tenant| state(config, tenant, &token)).collect();
    Site::new(fleet.clone(), states, token)
}

fn state(config: &Config, tenant: &Tenant, token: &Token) -> State {
    let (routes, also_routes) = (tenant.routes(), tenant.routes());
    let outbox = Outbox {
        database: tenant.database.clone(),
        names: settings::names(&tenant.config),
        recognized: tenant.recognized.subscribe(),
        instance: config.lease.instance.clone(),
        any_paused: Arc::new(move || settings::any_paused(&also_routes.borrow())),
        rule_of: Arc::new(move |topic| settings::rule_of(&routes.borrow(), topic)),
    };
    let mut state = State::new(tenant.telemetry.clone(), &config.http).with_outbox(outbox);
    state.token = token.clone();
    state.outbox = tenant.config.outbox.name.clone();
    state
}

/// Until stopped.
pub(super) async fn serve(listener: Listener, site: Site, stop: CancellationToken) {
    let fleet = site.fleet.clone();
    tokio::select! {
        () = http::serve(listener, site, async move { stop.cancelled().await }) => {}
        () = sample(&fleet) => {}
    }
}

async fn sample(fleet: &Fleet) {
    let mut ticks = tokio::time::interval(history::INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        fleet.iter().for_each(|seen| seen.telemetry.sample());
    }
}

fn warn_if_exposed(file: &Path) {
    let exposed = std::fs::metadata(file).is_ok_and(|found| found.permissions().mode() & 0o007 != 0);
    if exposed {
        let file = file.display();
        tracing::warn!(%file, "http.token_file can be read by everyone on this machine: chmod 640 it");
    }
}
