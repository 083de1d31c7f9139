//! Three brokers, one of which dies: the stream or the partitions get another leader, and relaying goes on with the
//! messages nobody acknowledged, each key in order.

use std::time::{Duration, Instant};

use crate::support::clusters::{KafkaCluster, NatsCluster};
use crate::support::postgres::{Cluster, Session};
use crate::support::scene::{Place, Scene, TOPIC};
use crate::support::{eventually, throughout, together};

/// A failed send would end the row: nothing of this may count.
const ONE_ATTEMPT: &str = "[relay]\nmax_attempts = 1\nmax_in_flight = 2000\n";
const FAILED: &str = "select count(*) from outbox_messages where failed_at is not null or attempt > 1";

async fn untouched(session: &Session, span: Duration) {
    throughout("no attempt is counted", span, || async {
        session.count(FAILED).await == 0
    })
    .await;
}

#[tokio::test]
async fn a_jetstream_leader_dies_under_load() {
    let _guard = together().await;
    let cluster = NatsCluster::start().await;
    cluster.prepare(&[TOPIC]).await;
    let database = Cluster::shared().database().await;
    let scene = Scene::to(Place::Nats(cluster), database, None, ONE_ATTEMPT).await;
    let Place::Nats(cluster) = &scene.place else {
        unreachable!("set above")
    };
    let session = scene.database.connect().await;
    let started = Instant::now();
    let mut slowest = Duration::ZERO;
    for _ in 0..2 {
        scene.writing.write_more(1_000).await;
        let leader = cluster.leader().await;
        cluster.kill(leader);
        let died = Instant::now();
        scene.relays_new_rows(&session, Duration::from_secs(30)).await;
        slowest = slowest.max(died.elapsed());
        scene.writing.write_more(500).await;
        cluster.bring_up(leader);
        scene.relays_new_rows(&session, Duration::from_secs(30)).await;
    }
    println!("relaying again at most {slowest:.1?} after the stream's leader died");
    scene.judge("two leaders of a JetStream cluster killed").await;
    println!("all in {:.1?}", started.elapsed());
}

/// Two of three dead: nothing can be acknowledged, and everything waits. Then one comes back.
#[tokio::test]
async fn a_jetstream_cluster_without_a_majority_is_an_outage() {
    let _guard = together().await;
    let cluster = NatsCluster::start().await;
    cluster.prepare(&[TOPIC]).await;
    let database = Cluster::shared().database().await;
    let scene = Scene::to(Place::Nats(cluster), database, None, ONE_ATTEMPT).await;
    let Place::Nats(cluster) = &scene.place else {
        unreachable!("set above")
    };
    let session = scene.database.connect().await;
    cluster.kill(0);
    cluster.kill(1);
    scene.writing.write_more(500).await;
    untouched(&session, Duration::from_secs(8)).await;
    cluster.bring_up(0);
    cluster.bring_up(1);
    let back = scene.relays_new_rows(&session, Duration::from_secs(40)).await;
    println!("relaying {back:.1?} after the majority was back");
    scene.judge("a JetStream cluster without a majority").await;
}

/// One start of three JVMs serves it all: a leader dies; the two that are left are fewer than the topic wants; two of three
/// are dead; one comes back.
#[tokio::test]
#[ignore = "three JVMs and a minute: cargo test --features testing --test outboxd -- --ignored kafka_leaders"]
async fn kafka_leaders_die_under_load() {
    let _guard = together().await;
    let started = Instant::now();
    let cluster = KafkaCluster::start();
    cluster.prepare(TOPIC).await;
    println!("three Kafka nodes in {:.1?}", started.elapsed());
    let database = Cluster::shared().database().await;
    let scene = Scene::to(Place::Kafka(cluster), database, None, ONE_ATTEMPT).await;
    let Place::Kafka(cluster) = &scene.place else {
        unreachable!("set above")
    };
    let session = scene.database.connect().await;
    scene.writing.write_more(500).await;
    let leader = cluster.leader(TOPIC).await;
    cluster.kill(leader);
    let died = Instant::now();
    scene.relays_new_rows(&session, Duration::from_secs(30)).await;
    println!(
        "relaying again {:.1?} after the leader of partition 0 died",
        died.elapsed()
    );
    cluster.want_in_sync(TOPIC, 3).await;
    eventually("the topic is paused", Duration::from_secs(30), || async {
        let metrics = scene.daemon.metrics().await;
        let paused = |(name, value): (&String, &f64)| name.starts_with("outboxd_destination_paused") && *value == 1.0;
        metrics.iter().any(paused).then_some(())
    })
    .await;
    assert_eq!(session.count(FAILED).await, 0, "no attempt is counted");
    cluster.want_in_sync(TOPIC, 2).await;
    let back = scene.relays_new_rows(&session, Duration::from_secs(30)).await;
    println!("relaying {back:.1?} after two replicas were enough");
    let second = cluster.leader(TOPIC).await;
    cluster.kill(second);
    scene.writing.write_more(500).await;
    untouched(&session, Duration::from_secs(4)).await;
    cluster.launch(leader);
    let back = scene.relays_new_rows(&session, Duration::from_secs(60)).await;
    println!("relaying {back:.1?} after the second of three was started again");
    scene.judge("leaders of a Kafka cluster killed").await;
    println!("all in {:.1?}", started.elapsed());
}
