//! Input nobody should write: what fuzzing found and began with, and made-up input of every shape, against the promises of
//! [`crate::support::hostile`].

mod rows;

use std::path::PathBuf;

use proptest::prelude::*;
use proptest::strategy::ValueTree;

use crate::support::hostile;
use crate::support::processes::package;

type Check = fn(&[u8]);

/// The kept inputs of one function.
fn cases(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = package().join("tests/hostile/cases").join(name);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        (path.clone(), std::fs::read(path).unwrap())
    };
    let cases: Vec<_> = entries.map(read).collect();
    assert!(!cases.is_empty(), "{} has cases", folder.display());
    cases
}

#[test]
fn what_was_found_once_stays_mended() {
    let checks: [(&str, Check); 5] = [
        ("config", hostile::config),
        ("url", hostile::url),
        ("route", hostile::route),
        ("template", hostile::template),
        ("headers", hostile::headers),
    ];
    for (name, check) in checks {
        for (path, input) in cases(name) {
            println!("{}", path.display());
            check(&input);
        }
    }
}

#[tokio::test]
async fn no_request_found_once_is_a_server_error() {
    let router = hostile::router();
    for (path, input) in cases("http") {
        println!("{}", path.display());
        hostile::request(&router, &input).await;
    }
}

/// TOML that is nearly a configuration: known and unknown names, in and out of their sections, with values of every kind.
fn nearly_a_configuration() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        "[a-z_]{1,12}",
        Just("url".to_owned()),
        Just("listen".to_owned()),
        Just("max_in_flight_bytes".to_owned()),
        Just("backoff_min".to_owned()),
        Just("topic".to_owned()),
        Just("destination".to_owned()),
    ];
    let value = prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        any::<bool>().prop_map(|flag| flag.to_string()),
        any::<String>().prop_map(|text| format!("{text:?}")),
        "[0-9]{1,20} ?(ms|s|m|d|MiB|GB|KiB|parsecs)".prop_map(|text| format!("{text:?}")),
        Just("[]".to_owned()),
        Just("{}".to_owned()),
    ];
    let section = prop_oneof![
        Just("[database]"),
        Just("[outbox]"),
        Just("[outbox.columns]"),
        Just("[relay]"),
        Just("[lease]"),
        Just("[transports.main.nats]"),
        Just("[transports.main.redis]"),
        Just("[[routes]]"),
        Just("[retention]"),
        Just("[http]"),
        Just("[log]"),
        Just("[trace]"),
    ];
    let line = (name, value).prop_map(|(name, value)| format!("{name} = {value}\n"));
    let part = (section, prop::collection::vec(line, 0..4));
    prop::collection::vec(part, 0..6).prop_map(|parts| {
        parts
            .into_iter()
            .map(|(section, lines)| format!("{section}\n{}", lines.concat()))
            .collect()
    })
}

/// A string of the bytes that mean something to globs, templates and brokers, and of any others.
fn tricky() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[*?\\[\\]{},.!^a-c-]{0,40}",
        "(\\{topic\\}|\\{key\\}|[ .>*{}/]|\r|\n|\t|ä){0,12}",
        prop::char::any().prop_map(|char| char.to_string().repeat(300)),
    ]
}

/// JSON headers of any shape.
fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        tricky().prop_map(serde_json::Value::from),
    ];
    let name = prop_oneof![
        tricky(),
        Just("Nats-Msg-Id".to_owned()),
        Just("OUTBOX-KEY".to_owned()),
        Just("id".to_owned()),
        Just("a: b".to_owned()),
    ];
    leaf.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            prop::collection::hash_map(name.clone(), inner, 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_file_is_a_configuration_or_refused_in_one_line(text in prop_oneof![any::<String>(), nearly_a_configuration()]) {
        hostile::config(text.as_bytes());
    }

    #[test]
    fn any_url_is_read_or_refused_without_its_password(
        password in "[a-zA-Z0-9%#\\[:]{8,20}", host in tricky(), rest in tricky()
    ) {
        hostile::url(format!("postgres://user:{password}@{host}/db?{rest}").as_bytes());
        hostile::url(rest.as_bytes());
    }

    #[test]
    fn any_glob_and_template_resolve_or_are_refused(glob in tricky(), to in tricky(), topic in tricky(), key in tricky()) {
        hostile::route([&glob, "\0", &to, "\0", &topic, "\0", &key].concat().as_bytes());
        hostile::template([&to, "\0", &topic, "\0", &key].concat().as_bytes());
    }

    #[test]
    fn any_headers_are_the_rows_own_or_refused(key in tricky(), headers in json()) {
        hostile::headers(format!("{}\n{headers}", key.replace('\n', "")).as_bytes());
    }
}

#[test]
fn a_glob_bomb_is_refused_or_matched_in_no_time() {
    let braces = "{a,".repeat(5_000);
    let closed = format!("{}{}", "{".repeat(40), "}".repeat(40));
    let stars = format!("{}b", "*a".repeat(500));
    let classes = "[^a]".repeat(20_000);
    let topic = "a".repeat(1_000);
    let started = std::time::Instant::now();
    for glob in [&braces, &closed, &stars, &classes] {
        hostile::route(format!("{glob}\0{{topic}}\0{topic}\0k").as_bytes());
    }
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
}

#[tokio::test]
async fn any_request_is_answered_and_never_with_a_server_error() {
    let router = hostile::router();
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let paths = prop_oneof![
        Just("/api/v1/failed".to_owned()),
        Just("/api/v1/failed/retry".to_owned()),
        Just("/api/v1/failed/discard".to_owned()),
        "/api/v1/failed/[0-9a-f%-]{1,40}",
        "/[a-z0-9/.%]{0,30}",
    ];
    let query = "((topic|key|error|since|limit|after|id|all)=[^ #\r\n]{0,12}&?){0,4}";
    let body = prop_oneof![
        any::<String>(),
        json().prop_map(|value| value.to_string()),
        json().prop_map(|value| serde_json::json!({"filter": value, "all": true}).to_string()),
        json().prop_map(|value| serde_json::json!({"ids": value}).to_string()),
        Just("[".repeat(10_000)),
    ];
    let requests = (
        prop_oneof![Just("GET"), Just("POST"), Just("DELETE")],
        paths,
        query,
        body,
    );
    for _ in 0..400 {
        let (method, path, query, body) = requests.new_tree(&mut runner).unwrap().current();
        let head = "Authorization: Bearer open-sesame\nContent-Type: application/json";
        hostile::request(&router, format!("{method} {path}?{query}\n{head}\n\n{body}").as_bytes()).await;
    }
}
