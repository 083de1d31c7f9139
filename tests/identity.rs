//! P7, a live session is never taken from: of several processes with one name, one works and the others stand by, whatever
//! they hold a lock on; who holds the very file its predecessor held goes on at once.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::support::broker::{Broker, Kind};
use crate::support::daemon::Site;
use crate::support::postgres::{Cluster, Session};
use crate::support::{eventually, throughout, together};

const TTL: Duration = Duration::from_secs(3);
/// Raised by take-overs.
const EPOCHS: &str = "select sum(epoch)::bigint from outboxd_lanes";

struct Twins {
    broker: Broker,
    session: Session,
    /// Two installations of one name; each has a runtime directory of its own.
    sites: [Site; 2],
}

impl Twins {
    async fn new(ttl: &str) -> Self {
        let broker = Broker::start(Kind::Nats);
        broker.prepare(&["orders"]).await;
        let database = Cluster::shared().database().await;
        let name = format!("twin-{}", Uuid::new_v4().simple());
        let sites = [(), ()].map(|()| {
            let site = Site::with_lease(&database, &format!("ttl = \"{ttl}\"\n"), &broker.section("main"));
            let text = std::fs::read_to_string(site.config()).unwrap();
            site.configure(&text.replace(&site.instance(), &name));
            site
        });
        sites[0].migrate();
        let session = database.connect().await;
        Self { broker, session, sites }
    }

    /// What a process of the site has locked, or has left.
    fn lock_file(&self, site: usize) -> PathBuf {
        let folder = self.sites[site].config();
        std::fs::read_dir(folder.parent().unwrap())
            .unwrap()
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "lock"))
            .unwrap()
    }

    async fn insert(&self, rows: usize) {
        self.session
            .run(&format!(
                "insert into outbox_messages (topic, key, payload) select 'orders', 'k' || g % 9, '{{}}' from generate_series(1, {rows}) g"
            ))
            .await;
    }

    async fn epochs(&self) -> i64 {
        self.session.count(EPOCHS).await
    }

    async fn copies(&self) -> usize {
        let rows = self.session.count("select count(*) from outbox_messages").await;
        self.broker.arrivals(&["orders"]).await.len() - usize::try_from(rows).unwrap()
    }

    fn said(&self, site: usize) -> String {
        let log = self.sites[site].log();
        let lines: Vec<&str> = log
            .lines()
            .filter(|line| line.contains("another process of this name"))
            .collect();
        lines.join("\n")
    }
}

#[tokio::test]
async fn two_processes_of_one_name_do_not_fight() {
    let _guard = together().await;
    let twins = Twins::new("3s").await;
    let first = twins.sites[0].start().await;
    let second = twins.sites[1].start().await;
    let before = twins.epochs().await;
    throughout("no lane changes hands", TTL * 2, || async {
        twins.insert(20).await;
        twins.epochs().await == before
    })
    .await;
    twins.session.drained(Duration::from_secs(30)).await;
    assert_eq!(twins.copies().await, 0);
    assert_eq!(twins.said(0), "");
    let said = twins.said(1);
    assert_eq!(said.lines().count(), 1, "once: {said}");
    assert!(
        said.contains("twin-") && said.contains("machine=") && said.contains("since="),
        "{said}"
    );

    first.kill9();
    twins.insert(20).await;
    twins.session.drained(TTL * 3).await;
    assert_eq!(twins.epochs().await, before + 64, "one take-over");
    assert!(second.terminate(Duration::from_secs(30)).await.success());
}

#[tokio::test]
async fn a_restart_with_the_same_lock_file_goes_on_at_once() {
    let _guard = together().await;
    let twins = Twins::new("60s").await;
    twins.sites[0].start().await.kill9();
    twins.insert(1).await;
    let started = Instant::now();
    let daemon = twins.sites[0].start().await;
    twins.session.drained(Duration::from_secs(10)).await;
    println!("resumed after {:.1?}", started.elapsed());
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

/// A tmp cleaner deletes the file while it is held: it proves nothing any more.
#[tokio::test]
async fn a_lock_file_deleted_while_it_is_held_is_no_proof() {
    let _guard = together().await;
    let twins = Twins::new("3s").await;
    let first = twins.sites[0].start().await;
    let lock = twins.lock_file(0);
    // The other one finds a copy of the file in its own directory, as a cloned machine would.
    let other = twins.sites[1].config();
    std::fs::copy(&lock, other.parent().unwrap().join(lock.file_name().unwrap())).unwrap();
    std::fs::remove_file(&lock).unwrap();
    let before = twins.epochs().await;
    let second = twins.sites[1].start().await;
    throughout("no lane changes hands", TTL * 2, || async {
        twins.insert(20).await;
        twins.epochs().await == before
    })
    .await;
    twins.session.drained(Duration::from_secs(30)).await;
    assert_eq!(twins.copies().await, 0);
    for daemon in [second, first] {
        assert!(daemon.terminate(Duration::from_secs(30)).await.success());
    }
}

/// Frozen beyond its lease, it finds another one at work when it wakes, and leaves it alone.
#[tokio::test]
async fn a_frozen_predecessor_that_wakes_stands_by() {
    let _guard = together().await;
    let twins = Twins::new("3s").await;
    let first = twins.sites[0].start().await;
    let second = twins.sites[1].start().await;
    let before = twins.epochs().await;
    first.freeze();
    twins.insert(20).await;
    twins.session.drained(TTL * 4).await;
    assert_eq!(twins.epochs().await, before + 64);
    first.thaw();
    throughout("the lanes stay where they are", TTL * 2, || async {
        twins.insert(5).await;
        twins.epochs().await == before + 64
    })
    .await;
    eventually("the one that was frozen says why it waits", TTL * 2, || async {
        (!twins.said(0).is_empty()).then_some(())
    })
    .await;
    twins.session.drained(Duration::from_secs(30)).await;
    assert_eq!(twins.copies().await, 0);
    for daemon in [second, first] {
        assert!(daemon.terminate(Duration::from_secs(30)).await.success());
    }
}

/// Of 0.2, whose file is empty and whose registration proves nothing: gone on from at once where its file is found and free.
#[tokio::test]
async fn an_older_version_is_succeeded_where_its_file_is_found() {
    let _guard = together().await;
    let twins = Twins::new("3s").await;
    twins.sites[0].start().await.kill9();
    let older = "update outboxd_instances set proof = null, session = gen_random_uuid(), version = '0.2.0',
        expires_at = now() + interval '1 hour'";
    twins.session.run(older).await;
    std::fs::write(twins.lock_file(0), "").unwrap();
    // Not from elsewhere, where no such file is.
    let elsewhere = twins.sites[1].start().await;
    eventually("the one elsewhere stands by", TTL, || async {
        (!twins.said(1).is_empty()).then_some(())
    })
    .await;
    assert!(elsewhere.terminate(Duration::from_secs(30)).await.success());
    twins.insert(1).await;
    let daemon = twins.sites[0].start().await;
    twins.session.drained(Duration::from_secs(10)).await;
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}

/// The server's clock is set back while nobody is there to renew: the lease of the dead seems to last for years.
#[tokio::test]
async fn a_clock_set_back_keeps_no_name_taken() {
    let _guard = together().await;
    let twins = Twins::new("3s").await;
    twins.sites[0].start().await.kill9();
    let back = "update outboxd_instances set renewed_at = renewed_at + interval '10 years', expires_at = expires_at + interval '10 years'";
    twins.session.run(back).await;
    let daemon = twins.sites[1].start().await;
    twins.insert(10).await;
    twins.session.drained(TTL * 5).await;
    assert_eq!(twins.copies().await, 0);
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
}
