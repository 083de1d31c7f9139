//! From the releases before this one and back: migrate while it runs, replace it, lose nothing and send nothing twice.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::support::broker::{Broker, Kind};
use crate::support::chaos::judge;
use crate::support::daemon::Site;
use crate::support::fleet::shares;
use crate::support::load::{Load, Loading};
use crate::support::postgres::{Cluster, Database, Session};
use crate::support::processes::package;
use crate::support::stage::{TOPICS, seed};
use crate::support::{eventually, together};

const MINUTE: Duration = Duration::from_secs(60);

/// The binary of a release before.
fn previous(version: &str) -> PathBuf {
    let mut script = Command::new(package().join("dev/previous"));
    let built = script.args(["--built", version]).output().expect("a script");
    let complaint = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{complaint}");
    PathBuf::from(String::from_utf8_lossy(&built.stdout).trim())
}

/// Both releases installed side by side, the schema that of the old one.
struct Scene {
    database: Database,
    session: Session,
    broker: Broker,
    old: Site,
    new: Site,
}

impl Scene {
    async fn new(version: &str) -> Self {
        let broker = Broker::start(Kind::Nats);
        broker.prepare(TOPICS).await;
        let database = Cluster::shared().database().await;
        // Releases before this one do not know the key.
        let section = broker.section("main");
        let known: Vec<&str> = section
            .lines()
            .filter(|line| !line.starts_with("allow_headers"))
            .collect();
        let section = known.join("\n") + "\n";
        let site = || Site::with_lease(&database, "ttl = \"3s\"\n", &section);
        let (mut old, mut new) = (site(), site());
        old.install(previous(version));
        if version == "0.1.0" {
            // It had no roles.
            old.log_in_as_owner();
            new.log_in_as_owner();
            old.succeed(&["migrate"]);
        } else {
            old.migrate();
        }
        Self {
            session: database.connect().await,
            database,
            broker,
            old,
            new,
        }
    }

    fn load(&self) -> Loading {
        let load = Load {
            connections: 4,
            keys: 500,
            topics: TOPICS,
            per_second: 1_000,
            rows: usize::MAX,
        };
        load.start(&self.database, seed())
    }

    /// The new release stands by while the old one holds the lanes.
    async fn stands_by(&self) {
        eventually("the new one says that it stands by", MINUTE, || async {
            let log = self.new.log();
            log.contains("an instance of another version holds the lanes")
                .then_some(())
        })
        .await;
        self.relays().await;
        self.owned_by(&self.old).await;
    }

    /// Everything was sent, once, in order.
    async fn is_whole(&self) {
        let verdict = judge(&self.database, &self.broker, TOPICS).await;
        println!("{verdict}");
        assert_eq!((verdict.failed, verdict.duplicates), (0, 0), "{verdict}");
        verdict.assert_nothing_lost();
        verdict.assert_ordered();
    }

    /// Who owns all lanes.
    async fn owned_by(&self, site: &Site) {
        eventually("all lanes are its", MINUTE, || async {
            let shares = shares(&self.session).await;
            (shares.len() == 1 && shares.contains_key(&site.instance())).then_some(())
        })
        .await;
    }

    /// More rows arrive than have.
    async fn relays(&self) {
        let relayed = "select count(*) from outbox_messages where relayed_at is not null";
        let before = self.session.count(relayed).await;
        eventually("rows are relayed", MINUTE, || async {
            (self.session.count(relayed).await > before + 500).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn an_upgrade_under_load_loses_and_duplicates_nothing() {
    let _guard = together().await;
    let scene = Scene::new("0.2.0").await;
    let old = scene.old.start().await;
    let loading = scene.load();
    scene.relays().await;

    // The new one refuses the old schema, and says what to do.
    let early = scene.new.outboxd(&["run"]);
    let said = String::from_utf8_lossy(&early.stderr).into_owned();
    assert_eq!(early.status.code(), Some(64), "{said}");
    assert!(said.contains("run: outboxd migrate"), "{said}");

    // Migrated while the old one works, which goes on.
    let applied = scene.new.succeed(&["migrate"]);
    assert!(applied.contains("applied 0007_"), "{applied}");
    scene.relays().await;
    scene.new.grant();
    scene.relays().await;

    // The new one waits for the old one to leave, and goes on where it was.
    let new = scene.new.start().await;
    scene.stands_by().await;
    assert!(old.terminate(MINUTE).await.success());
    scene.owned_by(&scene.new).await;
    scene.relays().await;

    // And back: the old one works on the new schema, and says that it is not its own.
    let unknown = scene.old.succeed(&["migrate", "--status"]);
    assert!(unknown.contains("unknown"), "{unknown}");
    let old = scene.old.start().await;
    assert!(new.terminate(MINUTE).await.success());
    scene.owned_by(&scene.old).await;
    scene.relays().await;

    loading.end().await;
    scene.session.drained(MINUTE).await;
    assert!(old.terminate(MINUTE).await.success());
    scene.is_whole().await;
}

/// Straight from the first release, past the one between.
#[tokio::test]
async fn an_upgrade_from_the_first_release_loses_and_duplicates_nothing() {
    let _guard = together().await;
    let scene = Scene::new("0.1.0").await;
    let old = scene.old.start().await;
    let loading = scene.load();
    scene.relays().await;
    let applied = scene.new.succeed(&["migrate"]);
    assert!(applied.contains("applied 0004_paused.sql"), "{applied}");
    let new = scene.new.start().await;
    scene.stands_by().await;
    assert!(old.terminate(MINUTE).await.success());
    scene.owned_by(&scene.new).await;
    loading.end().await;
    scene.session.drained(MINUTE).await;
    assert!(new.terminate(MINUTE).await.success());
    scene.is_whole().await;
}

/// Migrations are never undone. An older release goes on with what it knows, and says so.
#[tokio::test]
async fn a_schema_of_a_newer_release_is_used_and_named() {
    let _guard = together().await;
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, "[transports.out.stdout]\n");
    site.migrate();
    let newer = "insert into outboxd_migrations (version, name, checksum, outbox)
        select 9999, '9999_of_tomorrow.sql', repeat('0', 64), outbox from outboxd_migrations where version = 1";
    database.connect().await.run(newer).await;
    let said = site.succeed(&["migrate"]);
    assert!(
        said.contains("9999_of_tomorrow.sql") && said.contains("never undone"),
        "{said}"
    );
    let daemon = site.start().await;
    let log = site.log();
    assert!(
        log.contains("9999_of_tomorrow.sql") && log.contains("install the newer one"),
        "{log}"
    );
    assert!(daemon.terminate(MINUTE).await.success());
}
