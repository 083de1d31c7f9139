//! An instance whose lanes are another's writes nothing, here or there, of what it still had on its way.

use super::scene::Scene;
use crate::support::{eventually, throughout, together};
use std::time::Duration;

const DDL: &str = "create table outbox (id uuid primary key default gen_random_uuid(), topic text not null, payload jsonb not null, headers jsonb,
  attempt int not null default 1, last_error text, relayed_at timestamptz, failed_at timestamptz, inserted_at timestamptz not null default clock_timestamp());
  create index on outbox (relayed_at, inserted_at);";
const CONFIG: &str = "[outbox]\ntable = \"outbox\"\n";

#[tokio::test]
async fn an_instance_that_has_lost_its_lanes_writes_nothing() {
    let _guard = together().await;
    let scene = Scene::new("outbox", DDL, CONFIG, &["orders"]).await;
    let session = &scene.session;
    let daemon = scene.site.start().await;
    let insert = "insert into outbox (topic, payload, headers) values ('orders', '1', '{}'), ('orders', '2', '{}'),
        ('orders', '3', '{\"Nats-Expected-Last-Sequence\": \"999999999\"}')";
    session
        .run("insert into outbox (topic, payload) values ('orders', '0')")
        .await;
    scene
        .counts("select count(*) from outbox where relayed_at is not null", 1)
        .await;
    scene.broker.freeze();
    session.run(insert).await;
    eventually("they are on their way", Duration::from_secs(30), || async {
        let in_flight = daemon.metrics().await.get("outboxd_in_flight_messages").copied();
        (in_flight == Some(3.0)).then_some(())
    })
    .await;
    session
        .run(
            "begin; insert into outboxd_instances (outbox, instance, session, machine, version, lanes, expires_at)
             select outbox, 'another', gen_random_uuid(), 'elsewhere', version, lanes, now() + interval '1 hour' from outboxd_instances;
             update outboxd_lanes set owner = 'another', epoch = epoch + 1; commit",
        )
        .await;
    scene.broker.thaw();
    scene.held(3).await;
    let untouched = "select count(*) from outbox where relayed_at is null and attempt = 1 and last_error is null";
    throughout("nothing of it is written", Duration::from_secs(4), || async {
        session.count(untouched).await == 3 && session.count("select count(*) from outboxd_attempts").await == 0
    })
    .await;
    // When they are its own again, all of it is sent.
    session
        .run("update outboxd_instances set expires_at = now() where instance = 'another'")
        .await;
    scene
        .counts("select count(*) from outbox where relayed_at is null", 1)
        .await;
    scene
        .counts(
            "select count(*) from outbox where attempt > 1 and last_error is not null",
            1,
        )
        .await;
}
