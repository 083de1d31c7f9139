//! P1 where a number comes back: the outbox is emptied with its numbers restarted, exchanged, or on a server that lags. What is
//! settled is the message that was sent, never another one under its number.

use std::time::Duration;

use uuid::Uuid;

use crate::support::broker::{Broker, Kind};
use crate::support::daemon::{Site, on_relayed};
use crate::support::postgres::{Cluster, Session};
use crate::support::{eventually, throughout, together};

pub(crate) struct Stage {
    pub(crate) broker: Broker,
    pub(crate) site: Site,
    pub(crate) session: Session,
}

impl Stage {
    async fn set(deletes: bool) -> Self {
        let database = Cluster::shared().database().await;
        let broker = Broker::start(Kind::Nats);
        broker.prepare(&["orders"]).await;
        let site = Site::new(&database, &(broker.section("main") + on_relayed(deletes)));
        site.migrate();
        Self {
            session: database.connect().await,
            broker,
            site,
        }
    }

    async fn arrived(&self, ids: &[Uuid], deadline: Duration) {
        let last = std::cell::Cell::new(0);
        let waits = eventually("every message has arrived", deadline * 2, || async {
            let arrivals = self.broker.arrivals(&["orders"]).await;
            let there = |id: &&Uuid| arrivals.iter().any(|arrival| arrival.id == **id);
            last.set(ids.iter().filter(there).count());
            (last.get() == ids.len()).then_some(())
        });
        let done = tokio::time::timeout(deadline, waits).await;
        assert!(
            done.is_ok(),
            "{} of {} arrived; {}",
            last.get(),
            ids.len(),
            self.site.log()
        );
    }

    /// The transport has handed over what is there, and the broker does not answer.
    pub(crate) async fn in_flight(&self, rows: i64, port: u16) {
        eventually("the messages are in flight", Duration::from_secs(20), || async {
            let (_, metrics) = crate::support::daemon::http_get(port, "/metrics").await?;
            let line = metrics
                .lines()
                .find(|line| line.starts_with("outboxd_in_flight_messages "))?;
            let count: f64 = line.rsplit(' ').next()?.parse().ok()?;
            (count >= rows as f64).then_some(())
        })
        .await;
    }
}

/// New rows, by their ids.
pub(crate) async fn insert(session: &Session, count: i64) -> Vec<Uuid> {
    let insert = "insert into outbox_messages (topic, key, payload)
        select 'orders', 'k' || n, '{}' from generate_series(1, $1::bigint) n returning id";
    let rows = session.query(insert, &[&count]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// What cleaners between tests do, and whoever empties or exchanges a table.
pub(crate) const WAYS: [&str; 4] = [
    "truncate outbox_messages restart identity",
    "delete from outbox_messages; alter table outbox_messages alter seq restart with 1",
    "delete from outbox_messages; select setval(pg_get_serial_sequence('outbox_messages', 'seq'), 1, false)",
    "create table fresh (like outbox_messages including all);
     grant select, update, delete on fresh to outboxd_relay;
     do $$ begin execute 'grant select on sequence ' || pg_get_serial_sequence('fresh', 'seq') || ' to outboxd_relay'; end $$;
     begin; alter table outbox_messages rename to former; alter table fresh rename to outbox_messages; commit",
];

/// The broker stalls while the numbers come back, so every mark is written when another message has its number.
#[tokio::test]
async fn numbers_that_come_back_while_the_broker_stalls_lose_nothing() {
    let _guard = together().await;
    for deletes in [false, true] {
        for way in WAYS {
            let stage = Stage::set(deletes).await;
            let daemon = stage.site.start().await;
            let first = insert(&stage.session, 5).await;
            stage.arrived(&first, Duration::from_secs(20)).await;
            for rows in [3, 300] {
                stage.broker.freeze();
                insert(&stage.session, rows).await;
                stage.in_flight(rows, stage.site.port()).await;
                stage.session.run(way).await;
                let second = insert(&stage.session, rows + 5).await;
                stage.broker.thaw();
                stage.arrived(&second, Duration::from_secs(40)).await;
                stage.session.drained(Duration::from_secs(20)).await;
                if way.contains("former") {
                    break;
                }
            }
            assert!(stage.site.log().contains("settled rows no longer matched"), "{way}");
            assert!(daemon.terminate(Duration::from_secs(20)).await.success());
        }
    }
}

/// Insert, wait until it has arrived, empty, insert again: the mark of the first may come before or after.
#[tokio::test]
async fn truncating_between_messages_loses_nothing() {
    let _guard = together().await;
    for (deletes, rounds) in [(false, 3), (true, 1)] {
        let stage = Stage::set(deletes).await;
        let daemon = stage.site.start().await;
        for _ in 0..rounds {
            let first = insert(&stage.session, 1).await;
            stage.arrived(&first, Duration::from_secs(45)).await;
            stage.session.run("truncate outbox_messages restart identity").await;
            let second = insert(&stage.session, 1).await;
            stage.arrived(&second, Duration::from_secs(45)).await;
            stage.session.run("truncate outbox_messages restart identity").await;
        }
        assert!(daemon.terminate(Duration::from_secs(20)).await.success());
    }
}

/// An operator replays a message whose first copy is still on its way: the replay is not swallowed by the first one's mark.
#[tokio::test]
async fn a_replay_is_not_swallowed_by_the_mark_of_the_copy_before() {
    let _guard = together().await;
    for deletes in [false, true] {
        let stage = Stage::set(deletes).await;
        let daemon = stage.site.start().await;
        let first = insert(&stage.session, 1).await;
        stage.arrived(&first, Duration::from_secs(20)).await;
        // Or it is the one in flight below.
        stage.session.drained(Duration::from_secs(20)).await;
        stage.broker.freeze();
        let sent = insert(&stage.session, 1).await[0];
        stage.in_flight(1, stage.site.port()).await;
        stage
            .session
            .execute(
                "update outbox_messages set replay = 1, available_at = now() where id = $1",
                &[&sent],
            )
            .await
            .unwrap();
        stage.broker.thaw();
        eventually("both copies have arrived", Duration::from_secs(20), || async {
            let arrivals = stage.broker.arrivals(&["orders"]).await;
            (arrivals.iter().filter(|arrival| arrival.id == sent).count() == 2).then_some(())
        })
        .await;
        stage.session.drained(Duration::from_secs(20)).await;
        assert!(daemon.terminate(Duration::from_secs(20)).await.success());
    }
}

/// What a person sets back to pending by plain SQL was found by a look that came every half minute.
#[tokio::test]
async fn rows_set_back_by_sql_are_found_soon() {
    let _guard = together().await;
    let stage = Stage::set(false).await;
    let daemon = stage.site.start().await;
    let sent = insert(&stage.session, 20).await;
    stage.arrived(&sent, Duration::from_secs(20)).await;
    stage.session.drained(Duration::from_secs(20)).await;
    let failed = "insert into outbox_messages (topic, payload, failed_at, last_error, attempt)
        select 'orders', '1', now(), 'no', 5 from generate_series(1, 5)";
    stage.session.run(failed).await;
    for back in [
        "update outbox_messages set failed_at = null where failed_at is not null",
        "update outbox_messages set relayed_at = null where seq in (select seq from outbox_messages order by seq limit 3)",
    ] {
        stage.session.run(back).await;
        stage.session.drained(Duration::from_secs(8)).await;
    }
    assert!(daemon.terminate(Duration::from_secs(20)).await.success());
}

/// From now on `standby` hears nothing of its primary, to which `session` belongs; a session of its own, for [`promote`].
pub(crate) async fn lagging(standby: &Cluster, session: &Session) -> Session {
    let there = standby.maintenance().connect().await;
    there.run("alter system set primary_conninfo = ''").await;
    there.run("select pg_reload_conf()").await;
    eventually("the standby lags", Duration::from_secs(20), || async {
        (session.count("select count(*) from pg_stat_replication").await == 0).then_some(())
    })
    .await;
    there
}

pub(crate) async fn promote(standby: &Session) {
    let promoted = "select case when pg_promote() then 1 else 0 end::bigint";
    assert_eq!(standby.count(promoted).await, 1);
}

/// A standby that lags is promoted while messages are on their way: its new rows have their numbers.
#[tokio::test]
async fn a_lagging_standby_loses_none_of_its_rows() {
    let _guard = together().await;
    let primary = Cluster::own();
    let database = primary.database().await;
    let standby = primary.standby();
    let url = format!(
        "postgres://postgres@127.0.0.1:{},127.0.0.1:{}/{}?target_session_attrs=read-write",
        primary.port(),
        standby.port(),
        database.name
    );
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders"]).await;
    Site::new(&database, &broker.section("main")).migrate();
    let site = Site::at(&format!("url = \"{url}\""), &broker.section("main"));
    let daemon = site.start().await;
    let mut stage = Stage {
        session: database.connect().await,
        broker,
        site,
    };
    let first = insert(&stage.session, 10).await;
    stage.arrived(&first, Duration::from_secs(20)).await;
    stage.session.drained(Duration::from_secs(20)).await;
    let there = lagging(&standby, &stage.session).await;
    stage.broker.freeze();
    insert(&stage.session, 190).await;
    stage.in_flight(190, stage.site.port()).await;
    primary.stop_immediately();
    promote(&there).await;
    stage.session = standby.database_called(&database.name).connect().await;
    let second = insert(&stage.session, 100).await;
    stage.broker.thaw();
    stage.arrived(&second, Duration::from_secs(45)).await;
    stage.session.drained(Duration::from_secs(20)).await;
    assert!(daemon.terminate(Duration::from_secs(20)).await.success());
}

/// `wait` waits for a message, not for whatever gets its number.
#[tokio::test]
async fn waiting_for_a_message_does_not_end_with_another() {
    let _guard = together().await;
    let stage = Stage::set(false).await;
    let first = insert(&stage.session, 1).await[0];
    let mut waiting = tokio::process::Command::new(crate::support::daemon::BINARY);
    waiting.arg("--config").arg(stage.site.config());
    waiting.args(["wait", &first.to_string(), "--timeout", "20s"]);
    let waiting = waiting.output();
    let work = async {
        throughout("it waits", Duration::from_millis(500), || async { true }).await;
        stage
            .session
            .run("truncate outbox_messages restart identity; insert into outbox_messages (topic, payload, relayed_at) values ('orders', '{}', now())")
            .await;
    };
    let (waited, ()) = tokio::join!(waiting, work);
    let waited = waited.unwrap();
    let said = String::from_utf8_lossy(&waited.stderr).into_owned();
    assert_eq!(waited.status.code(), Some(1), "{said}");
    assert!(said.contains("another one has its seq"), "{said}");
}

impl Stage {
    /// Everything that was inserted so far arrives, each once; in the order of its numbers, which for one writer is the order of P3.
    async fn arrived_in_order(&self, deadline: Duration) {
        self.session.drained(deadline).await;
        let arrivals = self.broker.arrivals(&["orders"]).await;
        let came: Vec<Uuid> = arrivals.iter().map(|arrival| arrival.id).collect();
        let rows = self
            .session
            .query("select id from outbox_messages order by seq", &[])
            .await;
        let ids: Vec<Uuid> = rows.unwrap().iter().map(|row| row.get(0)).collect();
        assert_eq!(came, ids, "{}", self.site.log());
    }
}

/// `count` rows of one key.
fn of_one_key(count: i64) -> String {
    format!(
        "insert into outbox_messages (topic, key, payload) select 'orders', 'one', '{{}}' from generate_series(1, {count})"
    )
}

/// A daemon that starts where rows were relayed before has read none of them: it asks what stands below its cursor.
#[tokio::test]
async fn numbers_that_come_back_right_after_a_start_are_read_at_once() {
    let _guard = together().await;
    let stage = Stage::set(false).await;
    let daemon = stage.site.start().await;
    stage.session.run(&of_one_key(100)).await;
    stage.session.drained(Duration::from_secs(20)).await;
    assert!(daemon.terminate(Duration::from_secs(20)).await.success());
    let daemon = stage.site.start().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let anew = "begin; delete from outbox_messages;
        select setval(pg_get_serial_sequence('outbox_messages', 'seq'), 1, false); ";
    stage.session.run(&format!("{anew}{}; commit", of_one_key(150))).await;
    stage.session.drained(Duration::from_secs(10)).await;
    let arrivals = stage.broker.arrivals(&["orders"]).await;
    assert_eq!(arrivals.len(), 250);
    assert!(daemon.terminate(Duration::from_secs(20)).await.success());
}

/// What was there at the start is still being read, and no read past it begins before: the exchange is seen all the same.
#[tokio::test]
async fn a_table_emptied_while_a_start_reads_it_is_read_anew_at_once() {
    let _guard = together().await;
    for way in WAYS {
        let stage = Stage::set(false).await;
        stage
            .session
            .run(
                "insert into outbox_messages (topic, key, payload, available_at)
                 select 'orders', 'k' || n, '{}', now() from generate_series(1, 100000) n",
            )
            .await;
        let daemon = stage.site.start().await;
        stage.session.run(way).await;
        let ids = insert(&stage.session, 20).await;
        stage.arrived(&ids, Duration::from_secs(3)).await;
        stage.session.drained(Duration::from_secs(5)).await;
        assert!(daemon.terminate(Duration::from_secs(20)).await.success());
    }
}

/// Sessions may show times differently: it is the same server for all of them.
#[tokio::test]
async fn sessions_of_different_time_zones_see_one_server() {
    let _guard = together().await;
    let stage = Stage::set(false).await;
    let daemon = stage.site.start().await;
    stage.session.run(&of_one_key(10)).await;
    stage.session.drained(Duration::from_secs(20)).await;
    stage
        .session
        .run(
            "do $$ begin execute format('alter database %I set timezone = %L', current_database(), 'Asia/Tokyo');
               execute format('alter database %I set datestyle = %L', current_database(), 'German'); end $$;
             select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and application_name like 'outboxd/%/side'",
        )
        .await;
    for _ in 0..3 {
        stage.site.succeed(&["pause", "orders"]);
        stage.session.run(&of_one_key(50)).await;
        stage.site.succeed(&["resume", "orders"]);
        stage.session.drained(Duration::from_secs(10)).await;
    }
    assert!(!stage.site.log().contains("another server"), "{}", stage.site.log());
    assert!(daemon.terminate(Duration::from_secs(20)).await.success());
}

/// A key over the number and something else, as a partitioned table has: numbers may be there twice.
#[tokio::test]
async fn numbers_that_are_there_twice_stop_nobody() {
    let _guard = together().await;
    let stage = Stage::set(false).await;
    let daemon = stage.site.start().await;
    stage.session.run(&of_one_key(20)).await;
    stage.session.drained(Duration::from_secs(20)).await;
    let twice = "alter table outbox_messages drop constraint outbox_messages_pkey;
        create index on outbox_messages (seq);
        select setval(pg_get_serial_sequence('outbox_messages', 'seq'), 1, false)";
    stage.session.run(twice).await;
    let second = insert(&stage.session, 30).await;
    stage.arrived(&second, Duration::from_secs(45)).await;
    let third = insert(&stage.session, 5).await;
    stage.arrived(&third, Duration::from_secs(10)).await;
    let log = stage.site.log();
    assert!(log.matches("starting over").count() < 10, "{log}");
    assert!(daemon.terminate(Duration::from_secs(20)).await.success());
}

#[tokio::test]
async fn numbers_below_zero_are_numbers() {
    let _guard = together().await;
    let stage = Stage::set(false).await;
    let daemon = stage.site.start().await;
    let below = "alter table outbox_messages alter seq set minvalue -9223372036854775808 restart with -2147483648";
    stage.session.run(below).await;
    for _ in 0..3 {
        stage.session.run(&of_one_key(5)).await;
        stage.arrived_in_order(Duration::from_secs(10)).await;
    }
    assert!(daemon.terminate(Duration::from_secs(20)).await.success());
}

/// The numbers come from the sequence that the default names, whichever belongs to the column; and they jump forward while rows
/// that were not read yet lie below.
#[tokio::test]
async fn a_sequence_that_is_exchanged_or_jumps_forward_keeps_the_order() {
    let _guard = together().await;
    let few = "[relay]\nbatch_size = 50\nmax_in_flight = 200\n";
    for way in [
        "alter table outbox_messages alter seq restart with 100000",
        "select setval(pg_get_serial_sequence('outbox_messages', 'seq'), 100000, false)",
        "alter table outbox_messages alter seq drop identity;
         create sequence own owned by outbox_messages.seq; create sequence other start 5000;
         grant select on sequence own, other to outboxd_relay;
         alter table outbox_messages alter seq set default nextval('other')",
    ] {
        let database = Cluster::shared().database().await;
        let broker = Broker::start(Kind::Nats);
        broker.prepare(&["orders"]).await;
        let site = Site::new(&database, &(broker.section("main") + few));
        site.migrate();
        let stage = Stage {
            session: database.connect().await,
            broker,
            site,
        };
        let daemon = stage.site.start().await;
        stage.session.run(&of_one_key(10)).await;
        stage.session.drained(Duration::from_secs(20)).await;
        stage.broker.freeze();
        stage.session.run(&of_one_key(1_000)).await;
        stage.in_flight(200, stage.site.port()).await;
        stage.session.run(way).await;
        stage.session.run(&of_one_key(500)).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        stage.broker.thaw();
        stage.session.drained(Duration::from_secs(45)).await;
        stage.session.run(&of_one_key(500)).await;
        stage.arrived_in_order(Duration::from_secs(20)).await;
        assert!(daemon.terminate(Duration::from_secs(20)).await.success());
    }
}

/// `inserted_at` by the application's clock, which is a little behind: such a row is due, and delays nothing.
#[tokio::test]
async fn the_clock_of_an_application_changes_no_order() {
    let _guard = together().await;
    let stage = Stage::set(false).await;
    let daemon = stage.site.start().await;
    for row in 0..300 {
        let behind = [20, 0, 5][row % 3];
        let insert = format!(
            "insert into outbox_messages (topic, key, payload, inserted_at)
             values ('orders', 'one', '{{}}', now() - interval '{behind} ms')"
        );
        stage.session.run(&insert).await;
    }
    stage.arrived_in_order(Duration::from_secs(20)).await;
    assert!(daemon.terminate(Duration::from_secs(20)).await.success());
}
