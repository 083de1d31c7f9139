//! P7, one that lost its lease cannot write: owner and epoch are checked by the statement that writes, whatever the
//! process believes.

use std::time::Duration;

use crate::support::audit;
use crate::support::broker::{Broker, Kind};
use crate::support::chaos::judge;
use crate::support::fleet::{Fleet, TTL};
use crate::support::postgres::{Cluster, Session};
use crate::support::{eventually, together};

const LEASES_LOST: &str = "outboxd_leases_lost_total";

/// An instance is stopped with messages on their way, the broker acknowledges them, the lease ends, another instance
/// takes the lanes and sends the rows again, unacknowledged as yet. What the first one writes when it goes on would
/// match the rows: they are pending. It must not match the lanes.
#[tokio::test]
async fn stalled_owner_cannot_mark_after_lease_loss() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders"]).await;
    let database = Cluster::shared().database().await;
    let mut fleet = Fleet::new(&database, 2, &broker.section("main"));
    let session = database.connect().await;
    audit::install(&session).await.expect("the audit is installed");
    fleet.start(0).await;
    fleet.even(&session, TTL * 4).await;
    let stalled = fleet.name(0);

    broker.freeze();
    let insert = "insert into outbox_messages (topic, key, payload)
        select 'orders', 'k' || n, '{}' from generate_series(1, 300) as n";
    session.run(insert).await;
    in_flight(&fleet, 300.0).await;
    fleet.daemon(0).freeze();
    broker.thaw();
    eventually("the broker has them", Duration::from_secs(10), || async {
        (broker.held().await == 300).then_some(())
    })
    .await;
    broker.freeze();

    fleet.launch(1);
    eventually("the other instance has all lanes", TTL * 4, || async {
        let lanes = audit::lanes_of(&session, &fleet.name(1)).await;
        (lanes.expect("the lanes can be read").len() == 64).then_some(())
    })
    .await;
    let since = audit::now(&session).await.expect("the database has a clock");
    fleet.daemon(0).thaw();
    eventually("the stalled one notices", TTL * 4, || async {
        let lost = fleet.daemon(0).metrics().await.get(LEASES_LOST).copied();
        (lost == Some(1.0)).then_some(())
    })
    .await;
    assert_eq!(marked(&session).await, 0, "nothing of the stalled one's is written");
    broker.thaw();
    session.drained(Duration::from_secs(30)).await;
    let by = audit::marks(&session, since).await.expect("the audit can be read");
    fleet.leave_all().await;

    let fencing = audit::fencing(&session).await.expect("the audit can be read");
    let fencing = fencing.expect("the audit is installed");
    let verdict = judge(&database, &broker, &["orders"]).await;
    println!("{}", fleet.site(0).log());
    println!("{verdict}; {fencing}; marks by {by:?}, the stalled one is {stalled}");
    fencing.assert_fenced();
    verdict.assert_nothing_lost();
    verdict.assert_ordered();
    verdict.assert_duplicates_within(300);
}

async fn in_flight(fleet: &Fleet, messages: f64) {
    eventually("they are on their way", Duration::from_secs(10), || async {
        let metrics = fleet.daemon(0).metrics().await;
        (metrics.get("outboxd_in_flight_messages").copied() == Some(messages)).then_some(())
    })
    .await;
}

async fn marked(session: &Session) -> i64 {
    session
        .count(
            "select count(*) from outbox_messages where relayed_at is not null or failed_at is not null or attempt > 1",
        )
        .await
}

/// The audit itself: a write without the lease is seen, one with it is not, and a plain mark that a take-over crossed is
/// told apart from both.
#[tokio::test]
async fn the_fencing_audit_sees_a_stranger() {
    let database = Cluster::shared().database().await;
    let fleet = Fleet::new(&database, 1, "[transports.out.stdout]\n");
    let session = database.connect().await;
    audit::install(&session).await.expect("the audit is installed");
    drop(fleet);
    session
        .run(
            "update outboxd_lanes set owner = 'a', epoch = 1;
             insert into outbox_messages (topic, key, payload) select 't', 'k', '{}' from generate_series(1, 6)",
        )
        .await;
    let mark = |seq: i64| format!("update outbox_messages set relayed_at = now() where seq = {seq}");
    let (a, b) = (database.connect().await, database.connect().await);
    a.run("set application_name = 'outboxd/a/settle'").await;
    b.run("set application_name = 'outboxd/b/settle'").await;
    a.run(&mark(1)).await;
    a.run("update outbox_messages set attempt = 2 where seq = 2").await;
    session.run(&mark(3)).await;
    let fencing = audit::fencing(&session)
        .await
        .expect("it can be read")
        .expect("it is there");
    fencing.assert_fenced();
    assert_eq!(
        (fencing.writes, fencing.crossed),
        (2, 0),
        "an operator's update is nobody's lease: {fencing}"
    );

    b.run(&mark(4)).await;
    b.run("update outbox_messages set failed_at = now() where seq = 2")
        .await;
    // A statement of a's waits for a row while its lane goes to b.
    let blocker = database.connect().await;
    blocker
        .run("begin; select from outbox_messages where seq = 5 for update")
        .await;
    let waiting = mark(5);
    let waiting = a.run(&waiting);
    let between = async {
        let blocked = "select count(*) from pg_stat_activity where application_name = 'outboxd/a/settle'
            and wait_event_type = 'Lock'";
        eventually("it waits", Duration::from_secs(10), || async {
            (session.count(blocked).await == 1).then_some(())
        })
        .await;
        session.run("update outboxd_lanes set owner = 'b'").await;
        blocker.run("commit").await;
    };
    tokio::join!(waiting, between);
    let fencing = audit::fencing(&session)
        .await
        .expect("it can be read")
        .expect("it is there");
    let seen: Vec<(i64, &str)> = fencing
        .strangers
        .iter()
        .map(|one| (one.seq, one.what.as_str()))
        .collect();
    assert_eq!(seen, [(4, "relayed"), (2, "failed")], "{fencing}");
    assert_eq!((fencing.crossed, fencing.unraised), (1, 64), "{fencing}");
}
