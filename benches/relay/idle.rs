//! What it costs to have nothing to do, and how fast the first row is after that.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::drain::warm;
use crate::scene::{Scene, Set};
use crate::steady::{wakes, warmed};
use crate::support::broker::Kind;

/// Rows after the rest, and the time between them: more than the slowest poll.
const WAKES: usize = 20;
const PAUSE: Duration = Duration::from_secs(3);

pub(crate) async fn idle(span: Duration, rest: Duration, kind: Kind, config: &str) -> Value {
    println!("idle: {} s with an empty outbox, {kind:?}", span.as_secs());
    let broker = warm(kind).await;
    let scene = Scene::new(Set::one(&broker, config)).await;
    let mut consumer = warmed(&scene).await;
    let transactions = "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()";
    // The daemon has just started; and statistics of idle backends are flushed within a second.
    tokio::time::sleep(rest).await;
    let (before, count_before, begun) = (scene.cpu(), scene.session.count(transactions).await, Instant::now());
    tokio::time::sleep(span).await;
    let (used, seconds) = (scene.cpu().since(before), begun.elapsed().as_secs_f64());
    let count = scene.session.count(transactions).await - count_before;
    let rate = count as f64 / seconds;
    let (relay, postgres) = (100.0 * used.relay / seconds, 100.0 * used.postgres / seconds);
    let rss = scene.peak_rss();
    println!("  of a core: relay {relay:.2} %, PostgreSQL {postgres:.2} %; {rate:.1} statements/s; peak RSS {rss} MB");
    println!("  {WAKES} rows after that, one each {} s:", PAUSE.as_secs());
    let wakes = wakes(&scene, &mut consumer, WAKES, PAUSE).await;
    json!({ "idle": { "to": format!("{kind:?}"), "seconds": seconds, "relay_cpu_percent": relay, "postgres_cpu_percent": postgres,
        "statements_per_second": rate, "peak_rss_mb": rss, "wakes": wakes } })
}
