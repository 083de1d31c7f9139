//! What ships for monitoring, against the real things: the rules by promtool, every metric named by a real daemon, the
//! exposition by a real Prometheus, and a number of series that does not grow with the topics.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::broker::{Broker, Kind};
use crate::support::daemon::{Daemon, Site, http_get};
use crate::support::postgres::Cluster;
use crate::support::process::Server;
use crate::support::processes::package;
use crate::support::{eventually, ports, together};

const RULES: &str = include_str!("../monitoring/prometheus/outboxd.rules.yml");
const DASHBOARD: &str = include_str!("../monitoring/grafana/outboxd.json");
const HINT: &str = "apt-get install prometheus (dev/setup test does)";

fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(package().join("monitoring/prometheus"))
        .output()
        .unwrap_or_else(|error| panic!("promtool: {error}: {HINT}"));
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {arguments:?}:\n{said}");
}

#[test]
fn the_alert_rules_are_valid_and_pass_their_own_tests() {
    promtool(&["check", "rules", "--lint=all", "--lint-fatal", "outboxd.rules.yml"]);
    promtool(&["test", "rules", "outboxd.rules.test.yml"]);
}

/// Each alert's text, from its name to the next.
fn alerts() -> Vec<(&'static str, &'static str)> {
    let blocks = RULES.split("- alert: ").skip(1);
    blocks
        .map(|block| block.split_once('\n').expect("more than a name"))
        .collect()
}

#[test]
fn every_alert_says_how_bad_it_is_and_what_to_do_and_is_tested() {
    let tested = include_str!("../monitoring/prometheus/outboxd.rules.test.yml");
    let alerts = alerts();
    assert!(alerts.len() >= 9, "{alerts:?}");
    for (name, text) in alerts {
        let severe = ["critical", "warning", "info"];
        assert!(
            severe.iter().any(|one| text.contains(&format!("severity: {one}\n"))),
            "{name}: a severity"
        );
        assert!(text.contains("summary: \""), "{name}: a summary");
        let (_, description) = text
            .split_once("description: >-\n")
            .unwrap_or_else(|| panic!("{name}: a description"));
        let commands = ["`outboxd ", "`journalctl ", "`systemctl ", "`curl ", "`select "];
        assert!(
            commands.iter().any(|command| description.contains(command)),
            "{name}: a command to begin with"
        );
        assert!(
            tested.contains(&format!("alertname=\"{name}\"")),
            "{name}: fires in a test"
        );
    }
}

/// Names of metrics in a PromQL expression or any other text.
fn metric_names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let metrics = words.filter(|word| word.starts_with("outboxd_") || word.starts_with("process_"));
    metrics.map(str::to_owned).collect()
}

fn dashboard() -> Value {
    serde_json::from_str(DASHBOARD).expect("the dashboard is JSON")
}

fn panels(dashboard: &Value) -> &Vec<Value> {
    dashboard["panels"].as_array().expect("panels")
}

#[test]
fn every_panel_has_title_unit_place_and_queries() {
    let dashboard = dashboard();
    for field in ["uid", "title"] {
        assert!(
            dashboard[field].as_str().is_some_and(|text| !text.is_empty()),
            "{field}"
        );
    }
    assert!(dashboard["schemaVersion"].as_u64().is_some_and(|version| version >= 36));
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let names: Vec<&str> = variables.iter().filter_map(|one| one["name"].as_str()).collect();
    assert_eq!(names, ["datasource", "job", "outbox", "instance"]);
    assert_eq!(variables[0]["type"], "datasource");
    let mut ids = BTreeSet::new();
    let mut places: Vec<[u64; 4]> = Vec::new();
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().filter(|title| !title.is_empty());
        let title = title.unwrap_or_else(|| panic!("a title: {panel}"));
        assert!(
            ids.insert(panel["id"].as_u64().expect("a number")),
            "{title}: its id twice"
        );
        let said = |at: &Value| at.as_str().is_some_and(|text| !text.is_empty());
        assert!(said(&panel["fieldConfig"]["defaults"]["unit"]), "{title}: a unit");
        assert!(said(&panel["description"]), "{title}: a description");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        let place = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().expect("a number"));
        let [x, y, w, h] = place;
        assert!(x + w <= 24 && w > 0 && h > 0, "{title}: {place:?}");
        let free = |other: &[u64; 4]| {
            x + w <= other[0] || other[0] + other[2] <= x || y + h <= other[1] || other[1] + other[3] <= y
        };
        assert!(places.iter().all(free), "{title} lies on another panel");
        places.push(place);
        let targets = panel["targets"].as_array().expect("queries");
        assert!(!targets.is_empty(), "{title}: a query");
        for target in targets {
            let query = target["expr"].as_str().expect("an expression");
            assert!(
                !metric_names(query).is_empty() || query.contains("up{"),
                "{title}: {query}"
            );
            assert!(
                query.contains("job=~\"$job\""),
                "{title}: of the chosen outbox: {query}"
            );
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
    let shown = metric_names(DASHBOARD);
    for wanted in [
        "outboxd_oldest_due_age_seconds",
        "outboxd_relay_latency_seconds_bucket",
        "outboxd_gaps_open",
        "outboxd_rows_stuck",
        "outboxd_database_unavailable",
    ] {
        assert!(shown.contains(wanted), "{wanted}");
    }
}

/// A daemon that has relayed, failed and paused: every family has a sample.
async fn busy_daemon(broker: &Broker) -> (Site, Daemon) {
    broker.prepare(&["orders"]).await;
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, &broker.section("main"));
    site.migrate();
    let daemon = site.start().await;
    let session = database.connect().await;
    session
        .run(
            "insert into outbox_messages (topic, payload, headers)
             values ('orders', '1', '{}'), ('nowhere', '1', '{}'), ('orders', '1', '[1]')",
        )
        .await;
    eventually("one of each", Duration::from_secs(20), || async {
        let metrics = daemon.metrics().await;
        let paused = metrics
            .keys()
            .any(|name| name.starts_with("outboxd_destination_paused"));
        (paused && metrics.get("outboxd_messages_failed") == Some(&1.0)).then_some(())
    })
    .await;
    (site, daemon)
}

#[tokio::test]
async fn every_metric_named_is_one_a_daemon_has() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    let (_site, daemon) = busy_daemon(&broker).await;
    let metrics = daemon.metrics().await;
    let known: BTreeSet<&str> = metrics.keys().filter_map(|name| name.split('{').next()).collect();
    let mut named = metric_names(DASHBOARD);
    for (_, text) in alerts() {
        let (rule, _) = text.split_once("annotations:").expect("annotations");
        named.extend(metric_names(rule));
    }
    assert!(named.len() > 20, "{named:?}");
    let unknown: Vec<&String> = named.iter().filter(|name| !known.contains(name.as_str())).collect();
    assert!(unknown.is_empty(), "no daemon has {unknown:?}; it has {known:?}");
}

/// A Prometheus of the test's own that scrapes `targets` every second.
struct Prometheus {
    port: u16,
    _server: Server,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    fn start(target: u16) -> Self {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let rules = package().join("monitoring/prometheus/outboxd.rules.yml");
        let config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [{rules:?}]\nscrape_configs:\n  \
             - job_name: outboxd\n    static_configs: [{{ targets: [\"127.0.0.1:{target}\"] }}]\n"
        );
        std::fs::write(folder.path().join("prometheus.yml"), config).expect("it is writable");
        let port = ports::free();
        let arguments = [
            format!("--config.file={}", at("prometheus.yml")),
            format!("--storage.tsdb.path={}", at("data")),
            format!("--web.listen-address=127.0.0.1:{port}"),
        ];
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let log = PathBuf::from(at("prometheus.log"));
        let server = Server::start("prometheus", &arguments, &log, HINT);
        server.wait_for_port(port);
        Self {
            port,
            _server: server,
            _folder: folder,
        }
    }

    /// The value of an instant query's first sample.
    async fn value(&self, query: &str) -> Option<f64> {
        let (_, body) = http_get(self.port, &format!("/api/v1/query?query={query}")).await?;
        // The body may come in chunks: from the first brace to the last it is JSON.
        let answer = body.get(body.find('{')?..=body.rfind('}')?)?;
        let answer: Value = serde_json::from_str(answer).ok()?;
        answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
    }

    async fn becomes(&self, query: &str, wanted: f64) {
        eventually(query, Duration::from_secs(30), || async {
            self.value(query).await.filter(|value| *value == wanted)
        })
        .await;
    }
}

#[tokio::test]
async fn prometheus_scrapes_a_daemon() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    let (site, daemon) = busy_daemon(&broker).await;
    let prometheus = Prometheus::start(site.port());
    prometheus.becomes("up", 1.0).await;
    prometheus.becomes("outboxd_messages_relayed_total", 1.0).await;
    prometheus.becomes("outboxd_messages_failed", 1.0).await;
    prometheus.becomes("sum(outboxd_messages_failed_total)", 1.0).await;
    prometheus.becomes("outboxd_lanes_owned", 64.0).await;
    prometheus
        .becomes("count(ALERTS{alertname=\"OutboxdMessagesFailed\"})", 1.0)
        .await;
    daemon.kill9();
    prometheus.becomes("up", 0.0).await;
}

#[tokio::test]
async fn the_number_of_series_does_not_grow_with_the_topics() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&["orders.>"]).await;
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, &broker.section("main"));
    site.migrate();
    let daemon = site.start().await;
    let session = database.connect().await;
    let relay = async |from: u32, to: u32| {
        let insert = format!(
            "insert into outbox_messages (topic, key, payload)
             select 'orders.' || n, 'k' || n, '1' from generate_series({from}, {to}) as n"
        );
        session.run(&insert).await;
        session.drained(Duration::from_secs(60)).await;
        daemon.metrics().await.into_keys().collect::<BTreeSet<String>>()
    };
    let few = relay(1, 10).await;
    let many = relay(11, 10_000).await;
    assert_eq!(broker.held().await, 10_000);
    assert!(many.len() < 200, "{} series", many.len());
    let new: Vec<&String> = many.difference(&few).filter(|name| name.contains("orders")).collect();
    assert!(new.is_empty(), "{new:?}");
    assert!(many.len() <= few.len() + 5, "{} series, then {}", few.len(), many.len());
}
