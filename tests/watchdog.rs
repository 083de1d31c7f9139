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

/// One daemon publishes a row that a lock of another session lets nobody mark: nothing moves, and nobody has said why. The
/// other has a row due as long, and no broker.
#[tokio::test]
async fn no_progress_trips_watchdog() {
    let _guard = together().await;
    let row = "insert into outbox_messages (topic, payload) values ('orders', '1')";
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders"]).await;
    let (database, other) = (Cluster::shared().database().await, Cluster::shared().database().await);
    let site = Site::new(&database, &broker.section("main"));
    site.migrate();
    let nowhere = Site::new(&other, "[transports.main.nats]\nurl = \"nats://127.0.0.1:1\"\n");
    nowhere.migrate();
    let session = database.connect().await;
    session.run(row).await;
    other.connect().await.run(row).await;
    let locker = database.connect().await;
    locker.run("begin; select seq from outbox_messages for update").await;

    let (mut stuck, mut away) = (Watched::start(&site), Watched::start(&nowhere));
    let (both, started) = (tokio::sync::Mutex::new((&mut stuck, &mut away)), Instant::now());
    eventually("the one that is stuck is silent", STALL_MAX * 3, || async {
        let mut both = both.lock().await;
        both.0.hear();
        both.1.hear();
        (both.0.longest_silence > LIMIT).then_some(())
    })
    .await;
    assert!(started.elapsed() > STALL_MAX, "silent after {:?}", started.elapsed());
    assert!(
        stuck.status.starts_with("relaying: 64 of 64 lanes, "),
        "{}",
        stuck.status
    );
    assert!(away.ready && away.longest_silence < LIMIT, "{:?}", away.longest_silence);
    assert!(
        away.status.contains("1 due") && away.status.contains("paused: main"),
        "{}",
        away.status
    );

    locker.run("rollback").await;
    session.drained(Duration::from_secs(30)).await;
    let moved = Instant::now();
    let stuck = tokio::sync::Mutex::new(stuck);
    eventually("it calls again once the row has moved", LIMIT * 2, || async {
        let mut stuck = stuck.lock().await;
        stuck.hear();
        (stuck.called > moved).then_some(())
    })
    .await;
}
