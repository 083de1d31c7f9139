//! One of five outboxes in a daemon: what the others cost it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::drain::warm;
use crate::scene::{Scene, Set, number};
use crate::steady::latencies;
use crate::support::broker::Kind;
use crate::support::eventually;

const TOPICS: [&str; 4] = ["orders", "big", "letters", "small"];
const NAMES: [&str; 4] = ["orders", "big", "letters", "small"];
const CONFIG: &str = "
[[outboxes]]
name = \"orders\"
[[outboxes]]
name = \"big\"
schema = \"big\"
[[outboxes]]
name = \"gone\"
schema = \"gone\"
[[outboxes]]
name = \"letters\"
table = \"letters\"
[outboxes.columns]
key = \"\"
[[outboxes]]
name = \"small\"
schema = \"small\"
";
const SQL: &str = "create schema big; create schema small;
create table letters (id uuid primary key default gen_random_uuid(), topic text not null, payload jsonb not null,
  relayed_at timestamptz, failed_at timestamptz, inserted_at timestamptz not null default now());
create index on letters (inserted_at) where relayed_at is null";

/// `backlog` rows wait in one of them; a few arrive in the others all the time.
pub(crate) async fn outboxes(backlog: usize, (rate, seconds): (usize, usize), kind: Kind, config: &str) -> Value {
    println!("outboxes: {rate} single-row transactions/s for {seconds} s to {kind:?}, alone and as one of five");
    let broker = warm(kind).await;
    let alone = {
        let scene = Scene::new(Set::one(&broker, config)).await;
        let figures = latencies(&scene, rate, seconds).await;
        scene.end().await;
        figures
    };
    let together = format!("{config}{CONFIG}");
    let mut scene = Scene::several(&broker, &TOPICS, &together, SQL, &NAMES).await;
    let rows = format!(
        "insert into big.outbox_messages (topic, key, payload)
         select 'big', 'k' || g % 1000, jsonb_build_object('n', g, 'pad', repeat('x', 400)) from generate_series(1, {backlog}) g"
    );
    scene.session.run(&rows).await;
    scene.session.run("vacuum analyze big.outbox_messages").await;
    scene.launch();
    scene.warm_up().await;
    let others = "insert into letters (topic, payload) select 'letters', '1' from generate_series(1, 1000);
        insert into small.outbox_messages (topic, payload) select 'small', '1' from generate_series(1, 1000)";
    scene.session.run(others).await;
    let begun = std::time::Instant::now();
    let figures = latencies(&scene, rate, seconds).await;
    let left = "select count(*) from big.outbox_messages where relayed_at is null";
    let done = backlog as i64 - scene.session.count(left).await;
    let drained = done as f64 / begun.elapsed().as_secs_f64();
    let connections = "select count(*) from pg_stat_activity where application_name like 'outboxd/%'";
    let connections = scene.session.count(connections).await;
    let ratio = number(&figures, "p99_ms") / number(&alone, "p99_ms");
    println!(
        "  p99 {ratio:.2} times as long as alone, while the backlog moved at {drained:.0} rows/s; {connections} connections"
    );
    eventually("the backlog is relayed", Duration::from_secs(600), || async {
        (scene.session.count(left).await == 0).then_some(())
    })
    .await;
    json!({ "outboxes": { "alone": alone, "together": figures, "p99_ratio": ratio, "backlog_rows_per_second": drained,
                          "connections": connections } })
}
