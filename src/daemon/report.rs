//! Beside the relay: what the backlog looks like, for metrics and health; what the log is told of what lasts and of what was
//! done; and what systemd is told.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::route::Routes;
use crate::store::StoreError;
use crate::store::postgres::desk::status;
use crate::store::postgres::link::database::Database;
use crate::store::postgres::link::sql::Names;
use crate::store::postgres::outbox::{PostgresStore, transactions};
use crate::stuck::StuckRow;
use crate::telemetry::fleet::Fleet;
use crate::telemetry::summary::{self, Summary};
use crate::telemetry::{Telemetry, systemd};

use super::settings;

/// The backlog is counted this often, and less often where counting is dear.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Counting takes at most this part of the time.
const LOOK_SHARE: u32 = 50;
const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(30);
/// Up to here the backlog is counted exactly: counting looks at each row, while all of it is being relayed.
const EXACT: i64 = 100_000;
/// How often systemd hears from us, without a watchdog.
const TELL_INTERVAL: Duration = Duration::from_secs(5);
/// How often to see whether something is to be said again.
const LOG_INTERVAL: Duration = Duration::from_secs(5);
/// How often to say again that the backlog is not counted.
const SAY_AGAIN: Duration = Duration::from_secs(60);
/// How often to see whether stuck messages have changed, and how often they are written down again while there are some.
const STUCK_LOOK: Duration = Duration::from_secs(1);
const STUCK_AGAIN: Duration = Duration::from_secs(10);
/// While starting: how often to see whether start-up is over.
const START_INTERVAL: Duration = Duration::from_millis(20);

/// The outbox that is looked at, and the routes in force.
pub(super) struct Watched {
    pub(super) database: Database,
    pub(super) names: Names,
    pub(super) routes: watch::Receiver<Arc<Routes>>,
}

/// What metrics and log are told of one outbox, until stopped.
pub(super) async fn report_standing(watched: Watched, telemetry: Telemetry, stop: CancellationToken) {
    let look = look_again_and_again(&watched, &telemetry);
    let mut summary = Summary::new(summary::INTERVAL, Instant::now());
    tokio::select! {
        () = stop.cancelled() => {}
        () = look => {}
        () = log(&telemetry, &mut summary) => {}
    }
    if let Some(done) = summary.rest(Instant::now(), telemetry.metrics.totals()) {
        telemetry.summary(done);
    }
}

async fn log(telemetry: &Telemetry, summary: &mut Summary) {
    loop {
        tokio::time::sleep(LOG_INTERVAL).await;
        telemetry.remind();
        if let Some(done) = summary.due(Instant::now(), telemetry.metrics.totals()) {
            telemetry.summary(done);
        }
    }
}

async fn look_again_and_again(watched: &Watched, telemetry: &Telemetry) {
    let (database, names) = (&watched.database, &watched.names);
    let mut uncounted = Uncounted::default();
    loop {
        let started = Instant::now();
        let routes = Arc::clone(&watched.routes.borrow());
        let rule_of = |topic: &str| settings::rule_of(&routes, topic);
        let rules = settings::rules(&routes, &rule_of);
        let looked = async {
            let found = status::backlog(database, names, rules, EXACT).await?;
            Ok((found, transactions::oldest(database, names).await?))
        };
        let cost = match looked.await {
            Ok((found, open_for)) => {
                uncounted = Uncounted::default();
                telemetry.backlog(found);
                let open_for = Duration::try_from_secs_f64(open_for).unwrap_or_default();
                telemetry.metrics.table.oldest_transaction(open_for);
                started.elapsed()
            }
            // How long nobody answered says nothing about what an answer costs.
            Err(error @ (StoreError::Unavailable(_) | StoreError::Misconfigured(_))) => {
                uncounted.say(telemetry, &error);
                Duration::ZERO
            }
        };
        tokio::time::sleep((cost * LOOK_SHARE).clamp(LOOK_INTERVAL, LOOK_INTERVAL_MAX)).await;
    }
}

/// How long the backlog has not been counted, and when the log was told.
#[derive(Default)]
struct Uncounted {
    since: Option<Instant>,
    said: Option<Instant>,
}

impl Uncounted {
    /// Says so at once and then every minute: metrics and status line show what was counted last. While the database is away that
    /// is said already.
    fn say(&mut self, telemetry: &Telemetry, error: &StoreError) {
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        if telemetry.health.facts().database_error.is_some() || self.said.is_some_and(|said| now - said < SAY_AGAIN) {
            tracing::debug!(%error, "the backlog could not be counted");
            return;
        }
        self.said = Some(now);
        let error = crate::telemetry::health::chain(error);
        let seconds = (now - since).as_secs();
        tracing::warn!(
            error,
            seconds,
            "the backlog could not be counted: metrics and status show what was counted last"
        );
    }
}

/// Writes the messages that are stuck into this instance's row: when they change, again and again while there are some, and
/// once at the start, where a predecessor's may stand.
pub(super) async fn report_stuck(store: Arc<PostgresStore>, telemetry: Telemetry, stop: CancellationToken) {
    let mut written: Option<(Instant, (Vec<StuckRow>, usize))> = None;
    let told = |rows: &[StuckRow], count: usize| -> (Vec<StuckRow>, usize) {
        let timeless = |row: &StuckRow| StuckRow {
            seconds: 0,
            ..row.clone()
        };
        (rows.iter().map(timeless).collect(), count)
    };
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(STUCK_LOOK) => {}
        }
        let facts = telemetry.health.facts();
        let (rows, count) = (facts.stuck_rows(Instant::now()), facts.stuck_total());
        let stands = written.as_ref().is_some_and(|(at, before)| {
            *before == told(&rows, count) && (rows.is_empty() || at.elapsed() < STUCK_AGAIN)
        });
        if stands {
            continue;
        }
        let reported = tokio::select! {
            () = stop.cancelled() => return,
            reported = store.report_stuck(&rows, count) => reported,
        };
        match reported {
            Ok(true) => written = Some((Instant::now(), told(&rows, count))),
            // Not registered yet.
            Ok(false) => {}
            Err(error @ (StoreError::Unavailable(_) | StoreError::Misconfigured(_))) => {
                tracing::debug!(%error, "stuck messages could not be written down");
                // The connection is others' too: a lock that somebody keeps must not keep it.
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(STUCK_AGAIN) => {}
                }
            }
        }
    }
}

/// READY=1 once the lanes are held or others hold them; then the watchdog, as long as there is no unexplained standstill.
pub(super) async fn tell(fleet: &Fleet) {
    let mut said = String::new();
    while !fleet.has_started() {
        let line = fleet.status_line();
        if line != said {
            systemd::status(&line);
            said = line;
        }
        tokio::time::sleep(START_INTERVAL).await;
    }
    systemd::ready();
    let interval = systemd::watchdog_interval().unwrap_or(TELL_INTERVAL).min(TELL_INTERVAL);
    loop {
        systemd::status(&fleet.status_line());
        if fleet.watchdog_ok() {
            systemd::watchdog();
        }
        tokio::time::sleep(interval).await;
    }
}
