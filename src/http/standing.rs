//! How the outbox stands: `/api/v1/status`, looked up in the database, and `/api/v1/summary`, from memory.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State as Extract;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::State;
use super::answer::{self, Refusal};
use super::desk::LIMIT;
use super::failed::query;
use crate::backlog::{HeldKey, PausedTopic, Pending};
use crate::store::StoreError;
use crate::store::postgres::desk::paused::PausedDestination;
use crate::store::postgres::desk::rules::Rules;
use crate::store::postgres::desk::status::{self, StuckMessage};
use crate::telemetry::health::{Away, Facts, Reason};
use crate::telemetry::history::{INTERVAL, RouteRate, Sample};

/// Paused destinations named in an answer.
const PAUSED_MAX: usize = 100;
/// Stuck messages named in an answer, where this instance alone knows.
const STUCK_MAX: usize = 20;
/// Who has how many lanes is a quick question: the summary does not wait longer for it.
const INSTANCES_LIMIT: Duration = Duration::from_millis(600);

/// What `outboxd status --json` prints, and the destinations this daemon paused.
pub(super) async fn status(Extract(state): Extract<State>) -> Result<Response, Refusal> {
    let paused = paused(&state.telemetry.health.facts());
    let look = |outbox: super::Outbox| async move {
        let rules = Rules {
            of: &*outbox.rule_of,
            any_paused: (outbox.any_paused)(),
        };
        let mut status = status::status(&outbox.database, &outbox.names, rules).await?;
        status.paused_destinations = paused;
        Ok::<_, StoreError>(serde_json::to_string(&status).expect("a status is JSON"))
    };
    let found = state.desk()?.ask_once("status", LIMIT, look).await?;
    Ok(answer::raw(found.to_string()))
}

fn paused(facts: &Facts) -> Vec<PausedDestination> {
    let told = |((transport, destination), paused): (&(String, String), &crate::telemetry::health::Paused)| {
        PausedDestination {
            transport: transport.clone(),
            destination: destination.clone(),
            error: paused.error.clone(),
            since_seconds: paused.since.elapsed().as_secs_f64(),
        }
    };
    facts.paused.iter().take(PAUSED_MAX).map(told).collect()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Since {
    /// The last sample the asker has.
    #[serde(default)]
    after: u64,
}

/// All the dashboard draws. See `openapi.json` for each part.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    run: f64,
    now: f64,
    instance: &'a str,
    version: &'static str,
    token_configured: bool,
    ready: bool,
    reasons: Vec<Reason>,
    database: Option<Outage>,
    lock: Option<Lasting>,
    commit_order: Option<Lasting>,
    lanes: Option<Lanes>,
    in_flight: usize,
    backlog: Option<Counted>,
    paused_total: usize,
    paused_destinations: Vec<PausedDestination>,
    held_keys: &'a [HeldKey],
    paused_topics: &'a [PausedTopic],
    stuck_count: u64,
    stuck: Vec<StuckMessage>,
    instances: Option<Box<RawValue>>,
    routes: Vec<RouteRate>,
    interval_seconds: f64,
    samples: Vec<Sample>,
}

/// The database does not do what it is asked.
#[derive(Debug, Serialize)]
struct Outage {
    about: &'static str,
    title: &'static str,
    what: String,
    todo: &'static str,
    for_seconds: f64,
}

/// Something that lasts: waiting for a lock, or for a transaction.
#[derive(Debug, Serialize)]
struct Lasting {
    what: String,
    for_seconds: f64,
}

#[derive(Debug, Serialize)]
struct Lanes {
    held: usize,
    of: usize,
}

/// What upkeep found, and how long ago.
#[derive(Debug, Serialize)]
struct Counted {
    age_seconds: f64,
    #[serde(flatten)]
    pending: Pending,
    failed: u64,
    oldest_due_age_seconds: Option<f64>,
}

fn outage(away: &Away) -> Outage {
    Outage {
        about: away.about.as_str(),
        title: away.about.what(),
        what: away.error.clone(),
        todo: away.todo,
        for_seconds: away.since.elapsed().as_secs_f64(),
    }
}

fn lasting(known: Option<&(Instant, String)>) -> Option<Lasting> {
    known.map(|(since, what)| Lasting {
        what: what.clone(),
        for_seconds: since.elapsed().as_secs_f64(),
    })
}

/// Everything this daemon knows, without the database but for a small question every other second; while that is not
/// answered, with its last answer.
pub(super) async fn summary(Extract(state): Extract<State>, uri: Uri) -> Result<Response, Refusal> {
    let Since { after } = query(&uri)?;
    let instances = instances(&state).await;
    let (stuck_count, stuck) = stuck(&state).await;
    let (health, history) = (&state.telemetry.health, &state.telemetry.history);
    let facts = health.facts();
    let readiness = health.readiness(state.ready_max_age);
    let counted = facts.backlog.as_ref().map(|(looked, found)| Counted {
        age_seconds: looked.elapsed().as_secs_f64(),
        pending: found.pending,
        failed: found.failed,
        oldest_due_age_seconds: found.oldest_due_age().map(|age| age.as_secs_f64()),
    });
    let backlog = facts
        .backlog
        .as_ref()
        .map(|(_, backlog)| Arc::clone(backlog))
        .unwrap_or_default();
    let summary = Summary {
        run: history.started(),
        now: jiff::Timestamp::now().as_duration().as_secs_f64(),
        instance: &state.instance,
        version: env!("CARGO_PKG_VERSION"),
        token_configured: state.token.is_configured(),
        ready: readiness.is_ok(),
        reasons: readiness.err().unwrap_or_default(),
        database: facts.database_error.as_ref().map(outage),
        lock: facts.locked(Instant::now()).map(|locked| Lasting {
            what: locked.lock.to_string(),
            for_seconds: locked.since.elapsed().as_secs_f64(),
        }),
        commit_order: lasting(facts.commits.as_ref()),
        lanes: facts.lanes.map(|(held, of)| Lanes { held, of }),
        in_flight: state.telemetry.metrics.in_flight(),
        backlog: counted,
        paused_total: facts.paused.len(),
        paused_destinations: paused(&facts),
        held_keys: &backlog.held_keys,
        paused_topics: &backlog.paused_topics,
        stuck_count,
        stuck,
        instances,
        routes: history.rates(),
        interval_seconds: INTERVAL.as_secs_f64(),
        samples: history.samples(after),
    };
    Ok(answer::json(StatusCode::OK, &summary))
}

async fn instances(state: &State) -> Option<Box<RawValue>> {
    const NAME: &str = "instances";
    let desk = state.desk().ok()?;
    let look = |outbox: super::Outbox| async move {
        let found = status::instances(&outbox.database, &outbox.names).await?;
        Ok::<_, StoreError>(serde_json::to_string(&found).expect("instances are JSON"))
    };
    let found = desk
        .ask_once(NAME, INSTANCES_LIMIT, look)
        .await
        .ok()
        .or_else(|| desk.last(NAME))?;
    RawValue::from_string(found.to_string()).ok()
}

/// What all instances have written down, as it was last answered; before that, what this one knows.
async fn stuck(state: &State) -> (u64, Vec<StuckMessage>) {
    const NAME: &str = "stuck";
    let look = |outbox: super::Outbox| async move {
        let found = status::stuck(&outbox.database, &outbox.names).await?;
        Ok::<_, StoreError>(serde_json::to_string(&(found.count, found.named)).expect("rows are JSON"))
    };
    if let Ok(desk) = state.desk()
        && let Some(found) = desk
            .ask_once(NAME, INSTANCES_LIMIT, look)
            .await
            .ok()
            .or_else(|| desk.last(NAME))
        && let Ok(found) = serde_json::from_str(&found)
    {
        return found;
    }
    let facts = state.telemetry.health.facts();
    let rows = facts.stuck_rows(Instant::now());
    let instance = |row| StuckMessage {
        row,
        instance: state.instance.to_string(),
    };
    (
        facts.stuck_total() as u64,
        rows.into_iter().take(STUCK_MAX).map(instance).collect(),
    )
}
