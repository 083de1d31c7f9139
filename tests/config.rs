//! Configuration as an operator meets it: a file, an environment, and one line when something is wrong.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use outboxd::config::{self, Config, DEFAULT_PATH, Listen, OnRelayed, TransportConfig};
use outboxd::delivery::Order;
use outboxd::store::postgres::link::mapping::Column;
use proptest::prelude::*;
use secrecy::ExposeSecret;

const BASE: &str = "[database]\nurl = \"postgres://u:pass-word@h/db\"\n[transports.main.nats]\nurl = \"nats://h:1\"\n";

fn env(variables: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    variables
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)))
        .collect()
}

fn parse(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
    config::parse(text, Path::new("/etc/outboxd/outboxd.toml"), env(variables)).map_err(|error| error.to_string())
}

fn load(text: &str) -> Config {
    parse(text, &[]).unwrap_or_else(|error| panic!("{error}\nin\n{text}"))
}

/// The one line `text` is refused with.
fn refused(text: &str, variables: &[(&str, &str)]) -> String {
    let line = parse(text, variables).expect_err(text);
    assert!(!line.contains('\n'), "{line}");
    assert!(!line.contains("pass-word"), "a secret in {line}");
    line
}

fn with(section: &str) -> String {
    format!("{BASE}{section}\n")
}

#[test]
fn the_smallest_file_gets_every_default() {
    let config = load(BASE);
    assert_eq!(config.database.pool_size, 4);
    assert_eq!((config.relay.batch_size, config.relay.max_in_flight), (1000, 10_000));
    assert_eq!(config.relay.max_in_flight_bytes, 64 << 20);
    assert_eq!(config.relay.poll_interval_max, Duration::from_millis(250));
    assert_eq!(config.lease.ttl, Duration::from_secs(15));
    assert!(!config.lease.instance.is_empty(), "the host name");
    assert_eq!(config.outbox.on_relayed, OnRelayed::Mark);
    assert_eq!(
        config.http.listen,
        Listen::Tcp {
            host: "127.0.0.1".into(),
            port: 7117
        }
    );
    assert_eq!(config.retention.relayed, Some(Duration::from_secs(7 * 86_400)));
    assert_eq!(config.retention.failed, None);
    let routes: Vec<_> = config.routes.iter().collect();
    assert_eq!(
        (
            routes.len(),
            &*routes[0].pattern,
            routes[0].transport,
            routes[0].max_attempts
        ),
        (1, "*", 0, 5)
    );
    assert_eq!(
        config
            .routes
            .resolve(&"a.b/c".into(), None)
            .unwrap()
            .destination
            .as_ref(),
        "a.b/c"
    );
}

#[test]
fn the_example_loads_and_its_comments_are_the_defaults() {
    let example = include_str!("../config.example.toml");
    let smallest = "[database]\nurl = \"postgres://outboxd@127.0.0.1:5432/app\"\n\
                    [transports.main.nats]\nurl = \"nats://127.0.0.1:4222\"\n";
    let expected = format!("{:?}", load(smallest));
    assert_eq!(format!("{:?}", load(example)), expected);
    let mut uncommented = String::new();
    let mut count = 0;
    for line in example.lines() {
        let bare = line
            .strip_prefix('#')
            .filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '['));
        count += usize::from(bare.is_some());
        uncommented.push_str(bare.unwrap_or(line));
        uncommented.push('\n');
    }
    assert!(count > 40, "only {count} defaults found");
    assert_eq!(format!("{:?}", load(&uncommented)), expected);
}

/// Keys by section, as `config.example.toml` shows them, whether set, defaults or examples.
fn example_keys() -> BTreeMap<String, Vec<String>> {
    let mut sections: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut section = String::new();
    for line in include_str!("../config.example.toml").lines() {
        let bare = match line.strip_prefix("##") {
            Some(example) => example.trim_start(),
            None => line.strip_prefix('#').unwrap_or(line),
        };
        if bare.starts_with('[') {
            section = bare.trim_matches(['[', ']']).to_owned();
            sections.entry(section.clone()).or_default();
        } else if let Some((key, _)) = bare.split_once(" = ")
            && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        {
            sections.entry(section.clone()).or_default().push(key.to_owned());
        }
    }
    sections
}

/// The public fields of `name` in a source file.
fn fields(source: &str, name: &str) -> Vec<String> {
    let body = source
        .split(&format!("struct {name} {{"))
        .nth(1)
        .unwrap_or_else(|| panic!("no struct {name}"));
    let body = body.split("\n}").next().unwrap();
    let field = |line: &str| {
        let rest = line
            .trim()
            .strip_prefix("pub ")
            .or(line.trim().strip_prefix("pub(super) "))?;
        let name = rest.split_once(':')?.0;
        name.bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            .then(|| name.to_owned())
    };
    body.lines().filter_map(field).collect()
}

#[test]
fn every_key_stands_in_the_example() {
    let example = example_keys();
    let raw = include_str!("../src/config/raw.rs");
    let mut expected: Vec<(String, String, &str)> = Vec::new();
    for section in [
        "Database",
        "Outbox",
        "Relay",
        "Lease",
        "Retention",
        "Http",
        "Log",
        "Trace",
    ] {
        expected.push((section.to_lowercase(), section.to_owned(), raw));
    }
    expected.push(("routes".to_owned(), "Route".to_owned(), raw));
    expected.push(("outboxes".to_owned(), "Outbox".to_owned(), raw));
    expected.push(("outbox.state".to_owned(), "OutboxState".to_owned(), raw));
    let transports = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/transport");
    let mut kinds: Vec<(String, String)> = Vec::new();
    for folder in std::fs::read_dir(transports).unwrap().flatten() {
        if let Ok(source) = std::fs::read_to_string(folder.path().join("config.rs")) {
            kinds.push((folder.file_name().into_string().unwrap(), source));
        }
    }
    assert!(kinds.len() > 3, "the folders of src/transport were not found");
    for (kind, source) in &kinds {
        let shown = example.keys().find(|section| section.ends_with(&format!(".{kind}")));
        let section = shown.unwrap_or_else(|| panic!("no section of the kind {kind}"));
        let name = format!("{}{}Config", kind[..1].to_uppercase(), &kind[1..]);
        expected.push((section.clone(), name, source.as_str()));
    }
    let mut missing = Vec::new();
    let mut unknown = Vec::new();
    for (section, name, source) in expected {
        let shown = example.get(&section).unwrap_or_else(|| panic!("no section {section}"));
        let fields = fields(source, &name);
        missing.extend(
            fields
                .iter()
                .filter(|field| !["columns", "state"].contains(&&***field) && !shown.contains(field))
                .cloned(),
        );
        if source == raw {
            unknown.extend(shown.iter().filter(|key| !fields.contains(key)).cloned());
        }
    }
    assert_eq!(missing, [""; 0], "not in config.example.toml");
    assert_eq!(unknown, [""; 0], "only in config.example.toml");
    let columns = &example["outbox.columns"];
    assert_eq!(
        columns,
        &outboxd::store::postgres::link::sql::COLUMNS.map(str::to_owned).to_vec()
    );
}

#[test]
fn each_of_several_outboxes_has_its_share_and_its_routes() {
    let text = "[database]\nurl = \"postgres://u@h/db?sslmode=disable\"\n[transports.main.stdout]\n\
                [relay]\nmax_in_flight = 900\nbatch_size = 500\n[retention]\nfailed = \"1d\"\n\
                [[outboxes]]\nname = \"a\"\ncommit_order = true\n[[outboxes]]\nname = \"b\"\nschema = \"b\"\n\
                [[outboxes]]\nname = \"c\"\nschema = \"c\"\n[outboxes.columns]\nkey = \"\"\n\
                [[routes]]\ntopic = \"x\"\noutbox = \"b\"\n[[routes]]\ntopic = \"*\"\n";
    let whole = load(text);
    assert_eq!(whole.outbox_names(), ["a", "b", "c"]);
    let parts = whole.parts();
    let told = |part: &Config| {
        let routes: Vec<String> = part.routes.iter().map(|route| route.pattern.to_string()).collect();
        (
            part.outbox.schema.clone(),
            routes.join(" "),
            part.routes.get(0).commit_order,
        )
    };
    assert_eq!(
        parts.iter().map(told).collect::<Vec<_>>(),
        [
            ("public".into(), "*".into(), true),
            ("b".into(), "x *".into(), false),
            ("c".into(), "*".into(), false),
        ]
    );
    for part in &parts {
        assert_eq!((part.relay.max_in_flight, part.relay.batch_size), (300, 300));
        assert!(part.outboxes.is_empty());
    }
    assert_eq!(parts[0].retention.failed, Some(Duration::from_secs(86_400)));
    assert_eq!(
        parts[2].retention.failed, None,
        "nothing is deleted from a table of another program"
    );
    let alone = load("[database]\nurl = \"postgres://u@h/db?sslmode=disable\"\n[transports.main.stdout]\n");
    assert_eq!((alone.parts().len(), alone.outbox_names().len()), (1, 0));
}

/// What is added to the smallest file, how its refusal begins, and what else it says.
const MISTAKES: &[(&str, &str, &[&str])] = &[
    (
        "[relay]\nbatchsize = 5",
        "relay.batchsize: unknown key",
        &["batch_size"],
    ),
    (
        "[outbox]\nschema = \"a\"\n[[outboxes]]\nname = \"b\"",
        "outbox: [[outboxes]] is there too",
        &[],
    ),
    ("[[outboxes]]\nschema = \"b\"", "outboxes[0].name: is required", &[]),
    (
        "[[outboxes]]\nname = \"B b\"",
        "outboxes[0].name: \"B b\" is no name",
        &["lower-case"],
    ),
    (
        "[[outboxes]]\nname = \"b\"\n[[outboxes]]\nname = \"b\"\nschema = \"x\"",
        "outboxes[1].name: outboxes[0] has it",
        &[],
    ),
    (
        "[[outboxes]]\nname = \"b\"\n[[outboxes]]\nname = \"c\"",
        "outboxes[1].table: public.outbox_messages is that of outboxes[0]",
        &[],
    ),
    (
        "[[outboxes]]\nname = \"b\"\n[[routes]]\ntopic = \"*\"\noutbox = \"c\"",
        "routes[0].outbox: \"c\" is not configured",
        &["outboxes: b"],
    ),
    (
        "[[routes]]\ntopic = \"*\"\noutbox = \"c\"",
        "routes[0].outbox: \"c\" is not configured",
        &["has no name"],
    ),
    (
        "[[outboxes]]\nname = \"b\"\n[[outboxes]]\nname = \"c\"\nschema = \"x\"\n[[routes]]\ntopic = \"*\"\noutbox = \"c\"",
        "outboxes[0]: none of [[routes]] is for it",
        &[],
    ),
    (
        "[[outboxes]]\nname = \"b\"\nlanes = 0",
        "outboxes[0].lanes: ",
        &["1 to 1024"],
    ),
    (
        "[[outboxes]]\nname = \"b\"\n[outboxes.columns]\nsec = \"x\"",
        "outboxes[0].columns.sec: unknown column",
        &[],
    ),
    (
        "[[outboxes]]\nname = \"b\"\nlens = 0",
        "outboxes[0].lens: unknown key",
        &["lanes"],
    ),
    ("[relai]\nx = 5", "relai: unknown key", &["relay"]),
    (
        "[relay]\nbatch_size = \"many\"",
        "relay.batch_size: ",
        &["\"many\"", "whole number"],
    ),
    ("[relay]\nbatch_size = -1", "relay.batch_size: ", &["-1"]),
    ("[relay]\nbatch_size = 0", "relay.batch_size: ", &["0", "1 to 100000"]),
    ("[relay]\nbatch_size = 200001", "relay.batch_size: ", &["200001"]),
    (
        "[relay]\nbatch_size = 500\nmax_in_flight = 400",
        "relay.max_in_flight: ",
        &["400", "relay.batch_size (500)"],
    ),
    (
        "[relay]\nmax_in_flight_bytes = \"64M\"",
        "relay.max_in_flight_bytes: ",
        &["\"64M\"", "\"64MiB\""],
    ),
    (
        "[relay]\nmax_in_flight_bytes = 1",
        "relay.max_in_flight_bytes: ",
        &["64KiB"],
    ),
    (
        "[relay]\npoll_interval_min = 5",
        "relay.poll_interval_min: ",
        &["no unit", "\"5s\""],
    ),
    (
        "[relay]\npoll_interval_min = \"2s\"\npoll_interval_max = \"250ms\"",
        "relay.poll_interval_min: ",
        &["2s", "relay.poll_interval_max (250ms)"],
    ),
    (
        "[relay]\npoll_interval_max = \"0s\"",
        "relay.poll_interval_max: ",
        &["0s is too short"],
    ),
    (
        "[relay]\nbackoff_min = \"10m\"\nbackoff_max = \"5m\"",
        "relay.backoff_min: ",
        &["10m", "relay.backoff_max (5m)"],
    ),
    ("[relay]\nmax_attempts = 0", "relay.max_attempts: ", &["0"]),
    (
        "[relay]\nnotify = \"perhaps\"",
        "relay.notify: ",
        &["perhaps", "boolean"],
    ),
    ("[lease]\nttl = \"500ms\"", "lease.ttl: ", &["500ms", "1s"]),
    ("[lease]\ninstance = \"a/b\"", "lease.instance: ", &["a/b"]),
    (
        "ack_timeout = \"6s\"\n[lease]\nttl = \"4s\"",
        "transports.main.nats.ack_timeout: ",
        &["6s", "lease.ttl (4s)"],
    ),
    ("[outbox]\nlanes = 2000", "outbox.lanes: ", &["2000", "1024"]),
    (
        "[outbox]\non_relayed = \"keep\"",
        "outbox.on_relayed: ",
        &["\"keep\"", "\"mark\", \"delete\""],
    ),
    ("[outbox]\ntable = \"\"", "outbox.table: ", &["1 to 63"]),
    (
        "[outbox.columns]\nbody = \"x\"",
        "outbox.columns.body: ",
        &["unknown column", "payload"],
    ),
    (
        "[outbox.columns]\ntopic = \"\"",
        "outbox.columns.topic: ",
        &["a message needs it"],
    ),
    (
        "[outbox.columns]\nid = { sql = \"t.a\" }",
        "outbox.columns.id: ",
        &["must be a column"],
    ),
    (
        "[outbox.columns]\nkey = { sqll = \"t.a\" }",
        "outbox.columns.key",
        &["sqll"],
    ),
    ("[outbox.state]\npending = \"\"", "outbox.state.pending: ", &["piece"]),
    (
        "[outbox.state]\nrelayed = \"a = 1; drop table x\"",
        "outbox.state.relayed: ",
        &["piece"],
    ),
    ("[outbox.state]\nsent = \"a\"", "outbox.state.sent: ", &["unknown key"]),
    (
        "[http]\nlisten = \"7117\"",
        "http.listen: ",
        &["\"7117\"", "127.0.0.1:7117"],
    ),
    ("[http]\nlisten = \"unix:rel.sock\"", "http.listen: ", &["rel.sock"]),
    (
        "[http]\ntoken_file = \"missing\"",
        "http.token_file: ",
        &["/etc/outboxd/missing"],
    ),
    ("[log]\nlevel = \"loud\"", "log.level: ", &["\"loud\"", "\"info\""]),
    (
        "[trace]\notlp_endpoint = \"collector:4317\"",
        "trace.otlp_endpoint: ",
        &["collector:4317", "http://127.0.0.1:4318"],
    ),
    (
        "[trace]\notlp_endpoint = \"http://user:key@h:4318\"",
        "trace.otlp_endpoint: ",
        &["user"],
    ),
    (
        "[trace]\nstart_new = true",
        "trace.start_new: ",
        &["trace.otlp_endpoint"],
    ),
    (
        "[retention]\nrelayed = \"a week\"",
        "retention.relayed: ",
        &["a week", "\"7d\""],
    ),
    ("[transports.Main.stdout]", "transports.Main: ", &["lower-case"]),
    (
        "[transports.other.rabbit]",
        "transports.other.rabbit: unknown key",
        &["nats", "kafka"],
    ),
    ("[transports.other]", "transports.other: ", &["no kind"]),
    (
        "[transports.main.stdout]",
        "transports.main: ",
        &["several kinds", "nats, stdout"],
    ),
    ("[transports.other.stdout]", "routes: ", &["2 transports"]),
    (
        "[transports.other.kafka]",
        "transports.other.kafka.brokers: ",
        &["required"],
    ),
];

#[test]
fn what_is_wrong_is_named_with_its_key_in_one_line() {
    for (section, begins, contains) in MISTAKES {
        let line = refused(&with(section), &[]);
        assert!(line.starts_with(begins), "{section:?}: {line}");
        for part in *contains {
            assert!(line.contains(part), "{section:?}: no {part:?} in {line}");
        }
    }
    let mode = BASE.replace("h/db", "h/db?sslmode=strict");
    assert!(refused(&mode, &[]).starts_with("database.url: sslmode \"strict\" is not accepted"));
    let listen = [("OUTBOXD__DATABASE__LISTEN_URL", "pass-word")];
    assert!(refused(BASE, &listen).starts_with("OUTBOXD__DATABASE__LISTEN_URL: is neither a URL"));
    assert!(refused("", &[]).starts_with("transports: none is configured"));
    let line = refused("[transports.main.nats]\nurl = \"nats://h:1\"", &[]);
    assert!(line.starts_with("database.url: is required"), "{line}");
}

#[test]
fn routes_are_checked_one_by_one() {
    let cases = [
        ("transport = \"main\"", "routes[0].topic: is required"),
        ("topic = \"[\"", "routes[0].topic: "),
        ("topic = \"*\"\ndestination = \"{name}\"", "routes[0].destination: "),
        (
            "topic = \"*\"\norder = \"fifo\"",
            "routes[0].order: \"fifo\" is not accepted: one of \"key\", \"strict\", \"none\"",
        ),
        (
            "topic = \"*\"\ntransport = \"nope\"",
            "routes[0].transport: \"nope\" is not configured; transports: main",
        ),
        (
            "topic = \"*\"\nmax_attempts = 0",
            "routes[0].max_attempts: 0 is not within",
        ),
        (
            "topic = \"*\"\nbackoff_factor = 0",
            "routes[0].backoff_factor: 0 is not within",
        ),
        (
            "topic = \"*\"\nbackoff_min = \"1h\"\nbackoff_max = \"5m\"",
            "routes[0].backoff_min: 1h is above routes[0].backoff_max (5m)",
        ),
        (
            "topic = \"*\"\nbackoff_min = \"soon\"",
            "routes[0].backoff_min: \"soon\" is no duration",
        ),
        ("topic = \"*\"\nrate = 0", "routes[0].rate: 0 is not within"),
        ("topic = \"*\"\nprio = 0", "routes[0].prio: unknown key"),
    ];
    for (route, begins) in cases {
        let line = refused(&with(&format!("[[routes]]\n{route}")), &[]);
        assert!(line.starts_with(begins), "{route:?}: {line}");
    }
    let two = format!(
        "{BASE}[transports.aux.stdout]\n[[routes]]\ntopic = \"a\"\ntransport = \"main\"\n[[routes]]\ntopic = \"b\"\n"
    );
    let line = refused(&two, &[]);
    assert_eq!(
        line,
        "routes[1].transport: is required, as there are several: one of aux, main"
    );
}

/// `max_in_flight = 500` alone was refused because of a `batch_size` nobody had asked for.
#[test]
fn a_key_was_refused_because_of_another_s_default() {
    let relay = |text: &str| load(&with(&format!("[relay]\n{text}"))).relay;
    let rows = |text: &str| {
        let relay = relay(text);
        (relay.batch_size, relay.max_in_flight)
    };
    assert_eq!(rows("max_in_flight = 500"), (500, 500));
    assert_eq!(rows("max_in_flight = 2000"), (1000, 2000));
    assert_eq!(rows("batch_size = 20000"), (20_000, 20_000));
    assert_eq!(rows("batch_size = 500\nmax_in_flight = 500"), (500, 500));
    let polls = |text: &str| {
        let relay = relay(text);
        (relay.poll_interval_min.as_millis(), relay.poll_interval_max.as_millis())
    };
    assert_eq!(polls("poll_interval_min = \"2s\""), (2000, 2000));
    assert_eq!(polls("poll_interval_max = \"5ms\""), (5, 5));
    let pauses = |text: &str| {
        let config = load(&with(text));
        let backoff = config.routes.get(0).backoff;
        (backoff.min.as_millis(), backoff.max.as_millis())
    };
    let route = "[[routes]]\ntopic = \"*\"\n";
    assert_eq!(pauses("[relay]\nbackoff_min = \"10m\""), (600_000, 600_000));
    assert_eq!(pauses("[relay]\nbackoff_max = \"100ms\""), (100, 100));
    assert_eq!(pauses(&format!("{route}backoff_min = \"1h\"")), (3_600_000, 3_600_000));
    assert_eq!(
        pauses(&format!("[relay]\nbackoff_min = \"10m\"\n{route}backoff_max = \"1h\"")),
        (600_000, 3_600_000)
    );
    let factor = |text: &str| load(&with(text)).routes.get(0).backoff.factor;
    assert_eq!(factor(""), 2);
    assert_eq!(factor("[relay]\nbackoff_factor = 1"), 1);
    assert_eq!(
        factor(&format!("[relay]\nbackoff_factor = 1\n{route}backoff_factor = 3")),
        3
    );
    let ttl = |text: &str| load(&with(text)).lease.ttl;
    assert_eq!(ttl("ack_timeout = \"12s\""), Duration::from_secs(15));
    assert_eq!(ttl("ack_timeout = \"20s\""), Duration::from_secs(30));
    let variable = [("OUTBOXD__RELAY__MAX_IN_FLIGHT", "500")];
    assert_eq!(parse(BASE, &variable).unwrap().relay.batch_size, 500);
    let line = refused(&with("[relay]\nbatch_size = 1000"), &variable);
    assert!(
        line.starts_with("OUTBOXD__RELAY__MAX_IN_FLIGHT: 500 is below relay.batch_size (1000)"),
        "{line}"
    );
}

/// A route's key may be at odds with what `[relay]` says: that is written too.
#[test]
fn a_route_at_odds_with_the_relay_section_is_told_by_both_keys() {
    let line = refused(
        &with("[relay]\nbackoff_max = \"5m\"\n[[routes]]\ntopic = \"*\"\nbackoff_min = \"1h\""),
        &[],
    );
    assert!(
        line.starts_with("routes[0].backoff_min: 1h is above relay.backoff_max (5m)"),
        "{line}"
    );
}

#[test]
fn a_route_says_everything_it_can() {
    let config = load(&with(
        "[[routes]]\ntopic = \"orders.*\"\ndestination = \"shop.{topic}\"\norder = \"strict\"\nmax_attempts = 9\n\
         backoff_min = \"2s\"\nbackoff_max = \"4s\"\nmax_in_flight = 7\nrate = 50\npaused = true\n[[routes]]\ntopic = \"*\"",
    ));
    let routes: Vec<_> = config.routes.iter().collect();
    assert_eq!((routes[0].order, routes[0].max_attempts), (Order::Strict, 9));
    assert_eq!(
        (routes[0].backoff.min, routes[0].backoff.max),
        (Duration::from_secs(2), Duration::from_secs(4))
    );
    assert_eq!(
        &*config.routes.resolve(&"orders.new".into(), None).unwrap().destination,
        "shop.orders.new"
    );
    let limits: Vec<_> = routes.iter().map(|route| route.limits).collect();
    assert_eq!(
        (limits[0].max_in_flight, limits[0].rate.map(u32::from), limits[0].paused),
        (Some(7), Some(50), true)
    );
    assert_eq!(
        (limits[1].max_in_flight, limits[1].rate, limits[1].paused),
        (None, None, false)
    );
    assert_eq!((routes[1].order, routes[1].max_attempts), (Order::Key, 5));
}

#[test]
fn transports_come_in_order_of_their_names() {
    let config = load(&format!(
        "{BASE}[transports.a-1.stdout]\n[transports.b_2.kafka]\nbrokers = \"h:1\"\nlibrdkafka = {{ \"linger.ms\" = \"5\" }}\n\
         [[routes]]\ntopic = \"*\"\ntransport = \"main\""
    ));
    let names: Vec<_> = config
        .transports
        .iter()
        .map(|t| (&*t.name, t.config.settings().kind()))
        .collect();
    assert_eq!(names, [("a-1", "stdout"), ("b_2", "kafka"), ("main", "nats")]);
    assert_eq!(config.routes.get(0).transport, 2);
    let TransportConfig::Kafka(kafka) = &config.transports[1].config else {
        panic!("{config:?}")
    };
    assert_eq!(kafka.librdkafka["linger.ms"].expose_secret(), "5");
}

#[test]
fn the_environment_wins_and_keeps_text_as_it_is() {
    let config = parse(
        BASE,
        &[
            ("OUTBOXD__DATABASE__URL", "host=h password=1e5"),
            ("OUTBOXD__RELAY__BATCH_SIZE", "250"),
            ("OUTBOXD__RELAY__NOTIFY", "false"),
            ("OUTBOXD__RELAY__MAX_IN_FLIGHT_BYTES", "1GB"),
            ("OUTBOXD__RELAY__POLL_INTERVAL_MAX", "2s"),
            ("OUTBOXD__LEASE__INSTANCE", "007"),
            ("OUTBOXD__LEASE__TTL", ""),
            ("OUTBOXD__HTTP__LISTEN", "off"),
            ("OUTBOXD__OUTBOX__COLUMNS__KEY", "aggregateid"),
            ("OUTBOXD__TRANSPORTS__MAIN__NATS__URL", "nats://other:1"),
            ("OUTBOXD__ROUTES__0__TOPIC", "x.*"),
            ("OUTBOXD__ROUTES__1__TOPIC", "y.*"),
            ("OUTBOXD__ROUTES__1__PAUSED", "true"),
            ("OUTBOXD_UNRELATED", "1"),
            ("PATH", "/bin"),
        ],
    )
    .unwrap();
    assert_eq!(config.database.url.expose_secret(), "host=h password=1e5");
    assert_eq!(
        (config.lease.instance.as_str(), config.lease.ttl),
        ("007", Duration::from_secs(15))
    );
    assert_eq!((config.relay.batch_size, config.relay.notify), (250, false));
    assert_eq!(
        (config.relay.max_in_flight_bytes, config.relay.poll_interval_max),
        (1_000_000_000, Duration::from_secs(2))
    );
    assert_eq!(config.http.listen, Listen::Off);
    let key = Column::Named("aggregateid".to_owned());
    assert_eq!(config.outbox.columns, [("key".to_owned(), key)]);
    assert_eq!(
        config.routes.iter().map(|route| &*route.pattern).collect::<Vec<_>>(),
        ["x.*", "y.*"]
    );
    assert!(config.routes.get(1).limits.paused);
    let TransportConfig::Nats(nats) = &config.transports[0].config else {
        panic!("{config:?}")
    };
    assert_eq!(nats.url.expose_secret(), "nats://other:1");
}

#[test]
fn a_mistake_in_the_environment_names_the_variable() {
    for (name, value, problem) in [
        ("OUTBOXD__RELAY__BATCHSIZE", "5", "unknown key"),
        ("OUTBOXD__FOO", "5", "unknown key"),
        ("OUTBOXD__RELAY__BATCH_SIZE", "many", "\"many\" is no whole number"),
        ("OUTBOXD__RELAY__BATCH_SIZE", "0", "0 is not within"),
        ("OUTBOXD__LEASE__TTL", "1", "no duration"),
        ("OUTBOXD__LEASE__TTL", "10ms", "too short"),
        ("OUTBOXD__ROUTES__0__ORDER", "fifo", "\"fifo\""),
        ("OUTBOXD__ROUTES__99999999999__TOPIC", "x", "index is too large"),
    ] {
        let line = refused(&with("[[routes]]\ntopic = \"*\""), &[(name, value)]);
        assert!(
            line.starts_with(&format!("{name}: ")) && line.contains(problem),
            "{line}"
        );
    }
    let both = [("OUTBOXD__RELAY__BATCHSIZE", "5"), ("OUTBOXD__LEASE__TTL", "1")];
    assert!(refused(BASE, &both).starts_with("OUTBOXD__"), "one of the two is named");
}

#[test]
fn secrets_come_from_files_and_never_show() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("outboxd.toml");
    let transports = "[transports.main.nats]\nurl = \"nats://h:1\"\n";
    std::fs::write(directory.path().join("url"), "postgres://u:pass-word@h/db\n").unwrap();
    std::fs::write(directory.path().join("empty"), "\n").unwrap();
    let load = |database: &str| {
        std::fs::write(
            &file,
            format!("[database]\n{database}\n{transports}[http]\ntoken_file = \"url\"\n"),
        )
        .unwrap();
        config::load(&file, env(&[])).map_err(|error| error.to_string())
    };
    let config = load("url_file = \"url\"\nlisten_url_file = \"url\"").unwrap();
    assert_eq!(config.database.url.expose_secret(), "postgres://u:pass-word@h/db");
    assert_eq!(
        config.database.listen_url.as_ref().unwrap().expose_secret(),
        "postgres://u:pass-word@h/db"
    );
    assert!(!format!("{config:?}").contains("pass-word"));
    let both = load("url = \"postgres://h/db\"\nurl_file = \"url\"").unwrap_err();
    assert_eq!(both, "database.url_file: database.url is set too: keep one of them");
    let empty = load("url_file = \"empty\"").unwrap_err();
    assert!(
        empty.starts_with("database.url_file: ") && empty.ends_with("is empty"),
        "{empty}"
    );
    let missing = load("url_file = \"nope\"").unwrap_err();
    assert!(
        missing.starts_with("database.url_file: cannot read ") && missing.contains("nope"),
        "{missing}"
    );
}

#[test]
fn a_file_that_is_missing_or_no_toml_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("none.toml");
    let full = [
        ("OUTBOXD__DATABASE__URL", "postgres://h/db"),
        ("OUTBOXD__TRANSPORTS__MAIN__NATS__URL", "nats://h:1"),
    ];
    let line = config::load(&missing, env(&full)).unwrap_err().to_string();
    assert!(
        line.starts_with("--config: cannot read ") && line.contains("none.toml"),
        "{line}"
    );
    if !Path::new(DEFAULT_PATH).exists() {
        config::load(Path::new(DEFAULT_PATH), env(&full)).unwrap();
        assert!(config::load(Path::new(DEFAULT_PATH), env(&[])).is_err());
    }
    let line = refused("[database]\nurl = \"pass-word", &[]);
    assert!(
        line.starts_with("/etc/outboxd/outboxd.toml: not TOML at line 2"),
        "{line}"
    );
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,200}", name in "[A-Z_0-9]{0,20}", value in ".{0,20}") {
        let _ = parse(&text, &[(&format!("OUTBOXD__{name}"), &value)]);
    }

    #[test]
    fn no_value_of_a_known_key_makes_it_panic(value in "[\"\\[\\]{}=.,a-z0-9 *:/-]{0,40}", which in 0usize..9) {
        let key = ["relay]\nbatch_size", "lease]\nttl", "relay]\nmax_in_flight_bytes", "http]\nlisten", "outbox]\ntable",
            "outbox.columns]\nkey", "[routes]]\ntopic", "[routes]]\ntopic=\"*\"\ndestination", "log]\nlevel"][which];
        for text in [format!("{BASE}[{key} = {value}"), format!("{BASE}[{key} = '{value}'")] {
            if let Err(line) = parse(&text, &[]) {
                prop_assert!(!line.contains('\n') && !line.contains("pass-word"), "{}", line);
            }
        }
    }
}
