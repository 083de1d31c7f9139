//! Several outboxes in one daemon: each is relayed, none waits for another, and people say which one they mean.

use std::time::Duration;

use serde_json::Value;

use crate::support::broker::{Broker, Kind};
use crate::support::daemon::{Daemon, Site};
use crate::support::postgres::{self, Cluster, Database, Session};
use crate::support::web::{self, call};
use crate::support::{eventually, logins, together};

const DEADLINE: Duration = Duration::from_secs(60);
/// Fewer connections than outboxes: two of them share one.
const POOL: usize = 4;

/// A table of another program.
const LETTERS: &str = "create table letters (id uuid primary key default gen_random_uuid(), topic varchar(255) not null,
  payload jsonb not null, headers jsonb default '{}', attempt integer default 1, relayed_at timestamp, failed_at timestamp,
  last_error varchar(255), inserted_at timestamp not null, updated_at timestamp not null);
create index on letters (relayed_at, inserted_at)";

/// Three outboxes of our own in two schemas, a table of another program, and one whose schema is not there.
const OUTBOXES: &str = "
[[outboxes]]
name = \"orders\"
schema = \"shop\"

[[outboxes]]
name = \"gone\"
schema = \"gone\"

[[outboxes]]
name = \"billing\"
schema = \"money\"

[[outboxes]]
name = \"letters\"
table = \"letters\"
[outboxes.columns]
seq = \"\"
key = \"\"
max_attempts = \"\"
priority = \"\"
available_at = \"\"

[[outboxes]]
name = \"returns\"
schema = \"shop\"
table = \"returns\"
on_relayed = \"delete\"
";

/// Those that can be relayed, and their tables.
const TABLES: [(&str, &str); 4] = [
    ("orders", "shop.outbox_messages"),
    ("billing", "money.outbox_messages"),
    ("letters", "letters"),
    ("returns", "shop.returns"),
];

struct Scene {
    broker: Broker,
    database: Database,
    session: Session,
    site: Site,
}

impl Scene {
    async fn set() -> Self {
        Self::with("").await
    }

    /// `rest` is more TOML.
    async fn with(rest: &str) -> Self {
        let broker = Broker::start(Kind::Nats);
        broker.prepare(&["t.>"]).await;
        let database = Cluster::shared().database().await;
        let session = database.connect().await;
        session.run("create schema shop; create schema money").await;
        session.run(LETTERS).await;
        let site = Site::at(
            &format!("url = \"{}\"\npool_size = {POOL}", database.url()),
            &format!("{}{OUTBOXES}{rest}", broker.section("main")),
        );
        let scene = Self {
            broker,
            database,
            session,
            site,
        };
        for (name, _) in TABLES {
            scene.make(name);
        }
        scene
    }

    /// Makes the tables and rights of an outbox.
    fn make(&self, name: &str) {
        self.site.succeed(&["migrate", "--outbox", name]);
        let script = self.site.succeed(&["roles", "--print", "--outbox", name]);
        let (_, owner) = logins::urls(&self.site.config()).swap_remove(0);
        let output = postgres::psql(&owner, &script);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// The daemon, once everything but `gone` is relayed.
    async fn start(&self) -> Daemon {
        let daemon = self.site.launch();
        eventually("all but one are ready", DEADLINE, || async {
            let listed = web::get(self.site.port(), "/api/v1/outboxes");
            let (status, _) = daemon.get("/livez").await?;
            assert_eq!(status, 200);
            let listed = listed.await.json();
            let ready: Vec<&str> = listed
                .as_array()?
                .iter()
                .filter(|one| one["ready"] == true)
                .map(name)
                .collect();
            (ready == ["orders", "billing", "letters", "returns"]).then_some(())
        })
        .await;
        daemon
    }

    async fn insert(&self, name: &str, count: usize) {
        let (_, table) = TABLES.iter().find(|(known, _)| *known == name).expect("a name");
        let statement = if name == "letters" {
            format!(
                "insert into {table} (topic, payload, inserted_at, updated_at)
                 select 't.{name}', to_jsonb(g), now() at time zone 'utc', now() at time zone 'utc' from generate_series(1, {count}) g"
            )
        } else {
            format!(
                "insert into {table} (topic, key, payload) select 't.{name}', 'k' || g % 7, to_jsonb(g)
                 from generate_series(1, {count}) g"
            )
        };
        self.session.run(&statement).await;
    }

    /// Waits until nothing of an outbox is pending.
    async fn drained(&self, name: &str) {
        let (_, table) = TABLES.iter().find(|(known, _)| *known == name).expect("a name");
        let pending = format!("select count(*) from {table} where relayed_at is null and failed_at is null");
        eventually(&format!("{name} is relayed"), DEADLINE, || async {
            (self.session.count(&pending).await == 0).then_some(())
        })
        .await;
    }

    /// Waits until the stream holds so many.
    async fn holds(&self, count: u64) {
        eventually(&format!("{count} messages have arrived"), DEADLINE, || async {
            (self.broker.held().await >= count).then_some(())
        })
        .await;
        assert_eq!(self.broker.held().await, count, "each once");
    }

    /// Connections of the daemon.
    async fn connections(&self) -> i64 {
        let query = format!(
            "select count(*) from pg_stat_activity where application_name like 'outboxd/{}/%'",
            self.site.instance()
        );
        self.session.count(&query).await
    }
}

fn name(one: &Value) -> &str {
    one["outbox"].as_str().unwrap_or_default()
}

/// An exit code, and the one line on standard error.
fn refused(site: &Site, arguments: &[&str]) -> (Option<i32>, String) {
    let output = site.outboxd(arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    (output.status.code(), said)
}

#[tokio::test]
async fn each_is_relayed_and_one_that_cannot_be_harms_no_other() {
    let _guard = together().await;
    let scene = Scene::set().await;
    let daemon = scene.start().await;
    for (name, _) in TABLES {
        scene.insert(name, 500).await;
    }
    for (name, _) in TABLES {
        scene.drained(name).await;
    }
    scene.holds(2_000).await;
    assert_eq!(scene.session.count("select count(*) from shop.returns").await, 0);
    let connections = scene.connections().await;
    assert!(connections <= POOL as i64 + 1, "{connections} connections");

    let (status, readiness) = daemon.get("/readyz").await.expect("an answer");
    assert_eq!(status, 503);
    assert!(
        readiness.contains("gone: ") && !readiness.contains("orders: "),
        "{readiness}"
    );
    let log = scene.site.log();
    assert!(
        log.contains("this outbox cannot be relayed") && log.contains("gone"),
        "{log}"
    );

    let metrics = daemon.metrics().await;
    let relayed = |name: &str| {
        let sample = format!("outboxd_messages_relayed_total{{outbox=\"{name}\",transport=\"main\",route=\"*\"}}");
        metrics.get(&sample).copied()
    };
    assert_eq!(relayed("orders"), Some(500.0), "{metrics:?}");
    assert_eq!((relayed("letters"), relayed("gone")), (Some(500.0), Some(0.0)));

    // Somebody makes the schema: it is relayed without a restart.
    scene.session.run("create schema gone").await;
    scene.make("gone");
    scene
        .session
        .run("insert into gone.outbox_messages (topic, payload) values ('t.gone', '1')")
        .await;
    scene.holds(2_001).await;
    eventually("everything is ready", DEADLINE, || async {
        (daemon.get("/readyz").await?.0 == 200).then_some(())
    })
    .await;
    assert!(daemon.terminate(Duration::from_secs(20)).await.success());
    let instances: String = ["shop", "money", "gone", "public"]
        .map(|schema| format!("select instance from {schema}.outboxd_instances"))
        .join(" union all ");
    let left = format!("select count(*) from ({instances}) all_of_them");
    assert_eq!(scene.session.count(&left).await, 0, "all lanes were handed back");
}

#[tokio::test]
async fn a_locked_or_dropped_table_holds_up_no_other() {
    let _guard = together().await;
    let scene = Scene::set().await;
    // The first has a connection of its own: the fifth shares one with it.
    let text = std::fs::read_to_string(scene.site.config()).unwrap();
    scene
        .site
        .configure(&text.replace(&format!("pool_size = {POOL}"), "pool_size = 10"));
    let daemon = scene.start().await;
    let locker = scene.database.connect().await;
    locker
        .run("begin; lock table money.outbox_messages in access exclusive mode")
        .await;
    scene.session.run("drop table shop.returns cascade").await;
    for round in 1..=20 {
        scene.insert("orders", 20).await;
        scene.insert("letters", 20).await;
        scene.holds(round * 40).await;
    }
    locker.run("commit").await;
    scene.insert("billing", 100).await;
    scene.drained("billing").await;
    scene.holds(900).await;
    assert!(daemon.terminate(Duration::from_secs(20)).await.success());
}

#[tokio::test]
async fn people_say_which_outbox_they_mean() {
    let _guard = together().await;
    let scene = Scene::set().await;
    let site = &scene.site;
    web::with_token(site);
    for verb in [
        &["enqueue", "t.orders"][..],
        &["pause", "t.orders"],
        &["failed", "list"],
        &["prune"],
        &["wait"],
    ] {
        let (code, said) = refused(site, verb);
        assert_eq!(code, Some(64), "{said}");
        assert!(
            said.contains("which outbox? add --outbox NAME, one of orders, gone,"),
            "{said}"
        );
    }
    let (code, said) = refused(site, &["status", "--outbox", "nobody"]);
    assert_eq!(code, Some(64));
    assert!(
        said.contains("\"nobody\" is not configured; outboxes: orders, gone"),
        "{said}"
    );

    site.succeed(&["pause", "t.orders", "--outbox", "orders"]);
    scene.insert("orders", 3).await;
    scene.insert("billing", 2).await;
    let daemon = scene.start().await;
    scene.drained("billing").await;
    // One that cannot be asked keeps nobody from being shown.
    let output = site.outboxd(&["status", "--json"]);
    assert_eq!(output.status.code(), Some(64));
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    let of = |wanted: &str| all.as_array().unwrap().iter().find(|one| name(one) == wanted).unwrap();
    let paused = |wanted: &str| of(wanted)["paused_topics"].as_array().unwrap().len();
    assert_eq!((paused("orders"), paused("billing")), (1, 0), "{all}");
    assert!(of("gone")["error"].as_str().unwrap().contains("gone"), "{all}");
    let shown = String::from_utf8_lossy(&site.outboxd(&["status"]).stdout).into_owned();
    let headings: Vec<&str> = shown.lines().filter(|line| line.starts_with("outbox ")).collect();
    assert_eq!(headings.len(), 5, "{shown}");

    let port = site.port();
    let asked = web::get(port, "/api/v1/status").await.refused(400);
    assert!(asked.contains("?outbox=NAME with one of orders, gone"), "{asked}");
    web::get(port, "/api/v1/status?outbox=nobody").await.refused(400);
    let status = web::get(port, "/api/v1/status?outbox=orders").await.done();
    assert_eq!(status["paused_topics"].as_array().unwrap().len(), 1, "{status}");
    eventually("the summary of one tells its own figures", DEADLINE, || async {
        let summary = web::get(port, "/api/v1/summary?outbox=billing&after=0").await.done();
        (summary["routes"][0]["relayed_total"] == 2).then_some(())
    })
    .await;
    assert_eq!(web::get(port, "/").await.status, 200);
    assert_eq!(web::get(port, "/api/v1/openapi.json").await.status, 200);
    let posted = call(port, "POST", "/api/v1/failed/retry", &[], "{}").await;
    assert_eq!(posted.status, 400, "{posted:?}");

    site.succeed(&["resume", "t.orders", "--outbox", "orders"]);
    scene.holds(5).await;
    drop(daemon);
    // One alone, as if it were the only one.
    let only = site.outboxd(&["check", "--outbox", "letters"]);
    assert_eq!(String::from_utf8_lossy(&only.stdout).lines().count(), 1);
}

#[tokio::test]
async fn a_reload_changes_the_routes_of_one_and_no_outbox() {
    let _guard = together().await;
    let routes =
        "\n[[routes]]\ntopic = \"*\"\noutbox = \"orders\"\ndestination = \"t.first\"\n[[routes]]\ntopic = \"*\"\n";
    let scene = Scene::with(routes).await;
    let daemon = scene.start().await;
    let text = std::fs::read_to_string(scene.site.config()).unwrap();
    let reload = |new: &str| {
        scene.site.configure(new);
        crate::support::processes::signal(daemon.pid(), "HUP");
    };
    let said = async |word: &str| {
        eventually(&format!("the log says {word:?}"), DEADLINE, || async {
            scene.site.log().contains(word).then_some(())
        })
        .await;
    };
    scene.insert("orders", 50).await;
    scene.insert("billing", 50).await;
    scene.holds(100).await;
    reload(&text.replace("t.first", "t.second"));
    said("configuration reloaded: routes").await;
    scene.insert("orders", 50).await;
    scene.insert("letters", 50).await;
    scene.holds(200).await;
    let arrivals = scene.broker.arrivals(&["t.>"]).await;
    let count = |subject: &str| arrivals.iter().filter(|one| one.topic == subject).count();
    assert_eq!(
        ["t.first", "t.second", "t.billing", "t.letters"].map(count),
        [50, 50, 50, 50]
    );
    reload(&text.replace("name = \"returns\"", "name = \"others\""));
    said("outboxes: they are orders, gone, billing, letters, returns until the next start").await;
    scene.insert("returns", 10).await;
    scene.holds(210).await;
    assert!(daemon.terminate(Duration::from_secs(20)).await.success());
}

#[tokio::test]
async fn where_none_can_be_relayed_the_daemon_does_not_start() {
    let _guard = together().await;
    let database = Cluster::shared().database().await;
    let outboxes = "[transports.main.stdout]\n[[outboxes]]\nname = \"a\"\nschema = \"a\"\n[[outboxes]]\nname = \"b\"\nschema = \"b\"\n";
    let site = Site::new(&database, outboxes);
    let output = site.outboxd(&["run"]);
    assert_eq!(output.status.code(), Some(64));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("outboxd: outbox ") && said.contains("does not exist"),
        "{said}"
    );
}
