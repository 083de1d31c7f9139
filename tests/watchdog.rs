//! P8, loud: systemd's watchdog hears from the daemon while something moves or a known reason explains why nothing does, and
//! only then.

use std::process::Child;
use std::time::{Duration, Instant};

use tokio::net::UnixDatagram;

use crate::support::broker::{Broker, Kind};
use crate::support::daemon::{BINARY, Site};
use crate::support::postgres::Cluster;
use crate::support::processes::{guarded, scratch, spawn};
use crate::support::{eventually, together};

/// `WatchdogSec=` of these daemons: they call twice in this time.
const LIMIT: Duration = Duration::from_secs(6);
/// Without progress for so long, something must explain it.
const STALL_MAX: Duration = Duration::from_secs(30);

/// A daemon and what its service manager hears.
struct Watched {
    daemon: Child,
    socket: UnixDatagram,
    ready: bool,
    status: String,
    called: Instant,
    longest_silence: Duration,
}

impl Watched {
    fn start(site: &Site) -> Self {
        let directory = scratch("manager");
        let path = directory.join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        let mut command = guarded(BINARY, "KILL");
        command
            .args(["run", "--config"])
            .arg(site.config())
            .env("RUNTIME_DIRECTORY", &directory)
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", LIMIT.as_micros().to_string());
        Self {
            daemon: spawn(command),
            socket,
            ready: false,
            status: String::new(),
            called: Instant::now(),
            longest_silence: Duration::ZERO,
        }
    }

    /// Takes in all that has been said by now.
    fn hear(&mut self) {
        let mut buffer = [0; 4096];
        while let Ok(length) = self.socket.try_recv(&mut buffer) {
            for line in String::from_utf8_lossy(&buffer[..length]).lines() {
                match line.split_once('=') {
                    Some(("READY", "1")) => self.ready = true,
                    Some(("STATUS", status)) => status.clone_into(&mut self.status),
                    Some(("WATCHDOG", "1")) => self.called = Instant::now(),
                    Some(_) | None => {}
                }
            }
        }
        if self.ready {
            self.longest_silence = self.longest_silence.max(self.called.elapsed());
        } else {
            self.called = Instant::now();
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.daemon.kill().ok();
        self.daemon.wait().ok();
    }
}

/// Three daemons have a row due, and nothing moves. One has no broker, one cannot mark what another session has locked: both say
/// so. One never finds its row, whose number nobody would give, and does not know it.
#[tokio::test]
async fn no_progress_trips_watchdog() {
    let _guard = together().await;
    let row = "insert into outbox_messages (topic, payload) values ('orders', '1')";
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders"]).await;
    let place = async |transport: &str| {
        let database = Cluster::shared().database().await;
        let site = Site::new(&database, transport);
        site.migrate();
        (site, database.connect().await)
    };
    let (at_nats, nowhere) = (
        broker.section("main"),
        "[transports.main.nats]\nurl = \"nats://127.0.0.1:1\"\n",
    );
    let ((lost, session), (locked, locker), (away, other)) =
        (place(&at_nats).await, place(&at_nats).await, place(nowhere).await);
    let lowest = "insert into outbox_messages (seq, topic, payload) values (-9223372036854775808, 'orders', '1')";
    session.run(lowest).await;
    other.run(row).await;
    locker.run(row).await;
    locker.run("begin; select seq from outbox_messages for update").await;

    let mut three = [&lost, &locked, &away].map(Watched::start);
    let started = Instant::now();
    let heard = tokio::sync::Mutex::new(&mut three);
    eventually("the one that is lost is silent", STALL_MAX * 3, || async {
        let mut three = heard.lock().await;
        three.iter_mut().for_each(Watched::hear);
        (three[0].longest_silence > LIMIT).then_some(())
    })
    .await;
    assert!(started.elapsed() > STALL_MAX, "silent after {:?}", started.elapsed());
    let [lost, locked, away] = three;
    assert!(lost.status.starts_with("relaying: 64 of 64 lanes, "), "{}", lost.status);
    for (explained, why) in [(&locked, "stuck"), (&away, "paused: main")] {
        let (silence, status) = (explained.longest_silence, &explained.status);
        assert!(explained.ready && silence < LIMIT, "{silence:?}: {status}");
        assert!(status.contains("1 due") && status.contains(why), "{status}");
    }

    session.run("update outbox_messages set seq = default").await;
    session.drained(Duration::from_secs(40)).await;
    let moved = Instant::now();
    let lost = tokio::sync::Mutex::new(lost);
    eventually("it calls again once the row has moved", LIMIT * 2, || async {
        let mut lost = lost.lock().await;
        lost.hear();
        (lost.called > moved).then_some(())
    })
    .await;
}
