//! How fast, and how quiet: whatever the statistics say, however many rows are relayed already.

use std::time::{Duration, Instant};

use super::phoenix::{CONFIG, DDL, TABLE};
use super::scene::Scene;
use crate::support::{alone, throughout};

const PENDING: &str = "select count(*) from outbox_messages where relayed_at is null";

fn rows(count: u32, relayed: &str) -> String {
    format!(
        "insert into outbox_messages (id, topic, payload, inserted_at, updated_at, relayed_at)
         select gen_random_uuid(), 'orders', '{{\"n\": 1}}', clock_timestamp() at time zone 'utc', now() at time zone 'utc', {relayed}
         from generate_series(1, {count})"
    )
}

/// The planner knows of no pending row, there or here, when 50,000 come.
#[tokio::test]
async fn statistics_of_an_empty_table_slow_nothing_down() {
    let _guard = alone().await;
    let ddl = format!("{DDL} alter table outbox_messages set (autovacuum_enabled = off);");
    let scene = Scene::new(TABLE, &ddl, CONFIG, &["orders"]).await;
    let session = &scene.session;
    session
        .run("alter table outboxd_rows_outbox_messages set (autovacuum_enabled = off)")
        .await;
    session.run(&rows(100_000, "now() at time zone 'utc'")).await;
    session
        .run("analyze outbox_messages; analyze outboxd_rows_outbox_messages")
        .await;
    let _daemon = scene.site.start().await;
    let began = Instant::now();
    session.run(&rows(50_000, "null")).await;
    let inserted = began.elapsed();
    scene.counts(PENDING, 0).await;
    let took = began.elapsed();
    println!("50,000 rows inserted in {inserted:?}, relayed after {took:?}");
    assert!(took < Duration::from_secs(40), "{took:?}");
}

/// Processor time of a process and its children so far, in hundredths of a second.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<u64> = after
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0))
        .collect();
    fields.get(11..13).map_or(0, |times| times.iter().sum())
}

/// An idle table with relayed rows costs next to nothing, in the daemon and in the server.
#[tokio::test]
async fn an_idle_table_costs_next_to_nothing() {
    let _guard = alone().await;
    let scene = Scene::new(TABLE, DDL, CONFIG, &["orders"]).await;
    scene.session.run(&rows(200_000, "now() at time zone 'utc'")).await;
    scene.session.run("vacuum analyze outbox_messages").await;
    let daemon = scene.site.start().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let sessions =
        "select pid from pg_stat_activity where application_name like 'outboxd/%' and datname = current_database()";
    let rows = scene.session.query(sessions, &[]).await.unwrap();
    let mut all: Vec<u32> = rows.iter().map(|row| row.get::<_, i32>(0).unsigned_abs()).collect();
    all.push(daemon.pid());
    let used = |all: &[u32]| all.iter().map(|pid| ticks(*pid)).sum::<u64>();
    let before = used(&all);
    let span = Duration::from_secs(15);
    tokio::time::sleep(span).await;
    let share = (used(&all) - before) as f64 / 100.0 / span.as_secs_f64();
    println!(
        "an idle table costs {:.2} % of a core, daemon and server, in this build",
        share * 100.0
    );
    assert!(share < 0.06, "{share}");
}

/// Somebody's snapshot keeps rows from being forgotten that were marked since: the full look passes them, which comes every two seconds
/// at most, and no other.
#[tokio::test]
async fn a_held_snapshot_costs_frequent_looks_nothing() {
    const ROWS: i64 = 5_000;
    let _guard = alone().await;
    let ddl = format!("{DDL} alter table outbox_messages set (autovacuum_enabled = off);");
    let scene = Scene::new(TABLE, &ddl, CONFIG, &["orders"]).await;
    let session = &scene.session;
    let holder = scene.database.connect().await;
    holder
        .run("begin isolation level repeatable read; select count(*) from outbox_messages")
        .await;
    // Longer ago than any look back goes.
    session
        .run(&format!(
            "insert into outbox_messages (id, topic, payload, inserted_at, updated_at)
             select gen_random_uuid(), 'orders', '{{}}', t, t
             from (select now() at time zone 'utc' - interval '1 hour' as t) t, generate_series(1, {ROWS});
             update outbox_messages set relayed_at = now() at time zone 'utc'; analyze outbox_messages"
        ))
        .await;
    let daemon = scene.site.start().await;
    let read = "select sum(idx_tup_read)::bigint from pg_stat_user_indexes where relname = 'outbox_messages'";
    let began = Instant::now();
    let before = session.count(read).await;
    throughout("it looks", Duration::from_secs(8), || async { true }).await;
    let passed = session.count(read).await - before;
    let looks = i64::try_from(began.elapsed().as_secs()).unwrap() / 2 + 2;
    println!(
        "{passed} entries of the index passed in {:?}, {looks} full looks at most",
        began.elapsed()
    );
    assert!(
        passed < looks * 2 * ROWS + ROWS,
        "{passed} entries in {looks} full looks"
    );
    holder.run("commit").await;
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}
