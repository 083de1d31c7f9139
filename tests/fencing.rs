//! P7, one that lost its lease cannot write: owner and epoch are checked by the statement that writes, whatever the
//! process believes.

use std::time::Duration;

use crate::support::audit;
use crate::support::broker::{Broker, Kind};
use crate::support::chaos::judge;
use crate::support::fleet::{Fleet, TTL};
use crate::support::postgres::{Cluster, Database, Session};
use crate::support::processes::signal;
use crate::support::{eventually, together};

/// The mark of acknowledged rows is on its way when its instance stalls: the server process that is to run it is stopped,
/// then the instance. The lease ends, another instance takes the lanes and sends the rows again, which the broker does not
/// acknowledge yet. When the mark is run at last it would match the rows: they are pending. It must not match the lanes.
#[tokio::test]
async fn stalled_owner_cannot_mark_after_lease_loss() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders"]).await;
    // A server of its own: with one of its processes stopped it is no good for others.
    let cluster = Cluster::own();
    let database = cluster.database().await;
    let mut fleet = Fleet::new(&database, 2, &broker.section("main"));
    let session = database.connect().await;
    audit::install(&session).await.expect("the audit is installed");
    fleet.start(0).await;
    insert(&session, 1).await;
    session.drained(Duration::from_secs(20)).await;

    let settling = Backend::of(&database, &session, &format!("outboxd/{}/settle", fleet.name(0))).await;
    signal(settling.pid, "STOP");
    insert(&session, 300).await;
    // At once: it gives the connection up when the mark is not answered in ten seconds.
    eventually("the mark is on its way", Duration::from_secs(10), || async {
        (settling.unread() > 0).then_some(())
    })
    .await;
    fleet.daemon(0).freeze();
    broker.freeze();
    fleet.launch(1);
    eventually("the other instance has all lanes", TTL * 4, || async {
        let lanes = audit::lanes_of(&session, &fleet.name(1)).await;
        (lanes.expect("the lanes can be read").len() == 64).then_some(())
    })
    .await;
    signal(settling.pid, "CONT");
    eventually("the mark is run", Duration::from_secs(10), || async {
        (settling.unread() == 0 && settling.is_idle(&session).await).then_some(())
    })
    .await;
    assert_eq!(written(&session).await, 1, "the mark matched nothing");

    fleet.daemon(0).thaw();
    eventually("the stalled one notices", TTL * 4, || async {
        let lost = fleet
            .daemon(0)
            .metrics()
            .await
            .get("outboxd_leases_lost_total")
            .copied();
        (lost == Some(1.0) && fleet.site(0).log().contains("no longer matched")).then_some(())
    })
    .await;
    assert_eq!(written(&session).await, 1, "nor does it write anything now");
    broker.thaw();
    session.drained(Duration::from_secs(30)).await;
    fleet.leave_all().await;
    let fencing = audit::fencing(&session).await.expect("the audit can be read");
    let fencing = fencing.expect("the audit is installed");
    let verdict = judge(&database, &broker, &["orders"]).await;
    println!("{verdict}; {fencing}");
    fencing.assert_fenced();
    verdict.assert_nothing_lost();
    verdict.assert_ordered();
    verdict.assert_duplicates_within(300);
}

async fn insert(session: &Session, rows: usize) {
    let insert = format!(
        "insert into outbox_messages (topic, key, payload)
         select 'orders', 'k' || n, '{{}}' from generate_series(1, {rows}) as n"
    );
    session.run(&insert).await;
}

/// Rows of which anything was written.
async fn written(session: &Session) -> i64 {
    let query = "select count(*) from outbox_messages
        where relayed_at is not null or failed_at is not null or attempt > 1";
    session.count(query).await
}

/// The server's end of a connection.
struct Backend {
    pid: u32,
    /// `local` and `remote` as `/proc/net/tcp` writes them: the ports, in hexadecimal.
    ports: (String, String),
}

impl Backend {
    async fn of(database: &Database, session: &Session, application: &str) -> Self {
        let query = "select pid, client_port from pg_stat_activity where application_name = $1";
        let row = session.query_one(query, &[&application]).await.expect("one connection");
        let (pid, port): (i32, i32) = (row.get(0), row.get(1));
        Self {
            pid: u32::try_from(pid).expect("a process id"),
            ports: (format!(":{:04X}", database.port), format!(":{port:04X}")),
        }
    }

    /// Bytes that have arrived and were not read.
    fn unread(&self) -> u64 {
        let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel tells");
        let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let mut own = fields.filter(|fields| fields[1].ends_with(&self.ports.0) && fields[2].ends_with(&self.ports.1));
        let own = own.next().expect("the connection is open");
        let (_sent, received) = own[4].split_once(':').expect("two queues");
        u64::from_str_radix(received, 16).expect("a number")
    }

    async fn is_idle(&self, session: &Session) -> bool {
        let query = format!(
            "select count(*) from pg_stat_activity where pid = {} and state = 'idle'",
            self.pid
        );
        session.count(&query).await == 1
    }
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
