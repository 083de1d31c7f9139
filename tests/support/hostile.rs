//! What holds for any input whatever, one function per surface: it panics when a promise breaks.
//!
//! The fuzz targets of `fuzz/` are made of these, and so are the tests of `tests/hostile/`: what fuzzing finds is kept in
//! `tests/hostile/cases/<function>/`, and played by every run of the tests.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use outboxd::backoff::Backoff;
use outboxd::config;
use outboxd::delivery::Order;
use outboxd::http;
use outboxd::message::{Headers, Message, MessageId, Seq};
use outboxd::route::{Limits, Route, RouteSpec, Routes};
use outboxd::store::postgres::desk::rules::Rule;
use outboxd::store::postgres::link::connect::parse_url;
use outboxd::store::postgres::link::database::{ConnectOptions, Database};
use outboxd::store::postgres::link::sql::Names;
use outboxd::telemetry::Telemetry;
use outboxd::transport::Envelope;
#[cfg(feature = "kafka")]
use outboxd::transport::kafka::record;
use outboxd::transport::nats::wire;
#[cfg(feature = "kafka")]
use rdkafka::message::Headers as _;
use tower::ServiceExt;

/// Whether `text` fits one line of a log or terminal.
fn is_line(text: &str) -> bool {
    !text.is_empty() && !text.contains(['\n', '\r'])
}

/// Input as `N` fields, a NUL between two; missing ones are empty.
fn fields<const N: usize>(input: &[u8]) -> [String; N] {
    let mut parts = input
        .splitn(N, |byte| *byte == 0)
        .map(|part| String::from_utf8_lossy(part).into_owned());
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

/// A configuration file: accepted, or refused in one line.
pub fn config(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Err(error) = config::parse(&text, Path::new("/nonexistent/outboxd.toml"), std::iter::empty()) {
        let line = error.to_string();
        assert!(is_line(&line), "{line:?}");
    }
}

/// Ends each password, so that one made of our own words is told from these.
const MARK: &str = "Mk7";

/// `database.url`: accepted, or refused in one line without the password (what stands between `://user:` and `@`).
pub fn url(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    // In key=value pairs, a URL within a value has nobody's password.
    let parts = text.split_once("://").and_then(|(scheme, rest)| {
        let (login, rest) = rest.split_once('@')?;
        let (user, password) = login.split_once(':').filter(|_| !scheme.contains('='))?;
        Some((scheme, user, format!("{password}{MARK}"), rest))
    });
    let Some((scheme, user, password, rest)) = parts else {
        return assert!(parse_url(&text).err().is_none_or(|line| is_line(&line)), "{text:?}");
    };
    if let Err(line) = parse_url(&format!("{scheme}://{user}:{password}@{rest}")) {
        assert!(is_line(&line), "{line:?}");
        assert!(!line.contains(&password), "{line:?} shows the password");
    }
}

/// A route's glob, its destination, a message's topic and key: refused in one line, or resolved to something; the topic that
/// is the glob's own text without wildcards is matched.
pub fn route(input: &[u8]) {
    let [glob, destination, topic, key] = fields(input);
    let spec = RouteSpec {
        topic: &glob,
        transport: 0,
        destination: &destination,
        order: Order::Key,
        max_attempts: 5,
        backoff: Backoff {
            min: Duration::from_secs(1),
            max: Duration::from_secs(2),
            factor: 2,
        },
        commit_order: false,
        limits: Limits::default(),
        prefix: "",
        reserved: &[],
    };
    let routes = match Route::new(&spec) {
        Ok(route) => Routes::new(vec![route]),
        Err(line) => return assert!(is_line(&line), "{line:?}"),
    };
    let literal = !glob.contains(['*', '?', '[', ']', '{', '}', '\\', ',', '!']);
    assert!(
        !literal || routes.find(&glob).is_some(),
        "{glob:?} does not match itself"
    );
    for (topic, key) in [(&topic, Some(key.as_str())), (&glob, None)] {
        match routes.resolve(&topic.as_str().into(), key) {
            Ok(resolved) => assert_eq!(resolved.route, 0),
            Err(none) => assert!(is_line(&none.reason), "{none:?}"),
        }
    }
}

/// A destination template, a topic and a key: what is filled in is the text with its placeholders replaced once.
pub fn template(input: &[u8]) {
    let [destination, topic, key] = fields(input);
    let route = [
        b"*\0",
        destination.as_bytes(),
        b"\0",
        topic.as_bytes(),
        b"\0",
        key.as_bytes(),
    ]
    .concat();
    self::route(&route);
    let Ok(template) = outboxd::route::Template::parse(&destination) else {
        return;
    };
    let topic: Arc<str> = topic.into();
    let filled = template.fill(&topic, Some(&key));
    let length = destination.matches("{topic}").count() * topic.len()
        + destination.matches("{key}").count() * key.len()
        + destination.replace("{topic}", "").replace("{key}", "").len();
    match filled {
        Ok(filled) => {
            assert_eq!(
                filled.len(),
                length,
                "{destination:?} with {topic:?} and {key:?} is {filled:?}"
            );
            check_address(&filled);
        }
        Err(line) => assert!(is_line(&line), "{line:?}"),
    }
}

/// A destination either can be written on the wire as it is, or is refused in one line.
fn check_address(destination: &str) {
    match wire::check_subject(destination) {
        Ok(()) => assert!(!destination.contains(['\r', '\n', '\t', ' ', '\0']), "{destination:?}"),
        Err(failure) => assert!(is_line(&failure.error), "{:?}", failure.error),
    }
    #[cfg(feature = "kafka")]
    match record::check_topic(destination) {
        Ok(()) => assert!(!destination.contains('\0'), "{destination:?}"),
        Err(failure) => assert!(is_line(&failure.error), "{:?}", failure.error),
    }
}

/// A row's key and headers: on NATS and Kafka they are the row's and the relay's and nobody else's, or the row is refused.
pub fn headers(input: &[u8]) {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (key, json) = input.split_at(end);
    let key = (end > 0).then(|| String::from_utf8_lossy(key).into_owned().into_boxed_str());
    let envelope = Envelope {
        message: Message {
            seq: Seq(1),
            id: MessageId::Number(7),
            topic: "orders".into(),
            key: key.clone(),
            payload: bytes::Bytes::new(),
            payload_is_null: false,
            headers: Headers::parse(json.trim_ascii()),
            attempt: 1,
            max_attempts: None,
            priority: 0,
            replay: 1,
            origin: None,
            age: Duration::ZERO,
        },
        destination: "orders".into(),
        order: Order::Key,
    };
    nats_headers(&envelope, key.as_deref());
    #[cfg(feature = "kafka")]
    kafka_headers(&envelope);
}

fn nats_headers(envelope: &Envelope, key: Option<&str>) {
    let map = match wire::headers(envelope, &[]) {
        Ok(map) => map,
        Err(failure) => return assert!(is_line(&failure.error), "{:?}", failure.error),
    };
    // As it goes over the wire (NATS ADR-4): a line per header, so nobody may add a line.
    let mut expected = Vec::new();
    let mut text = String::new();
    for (name, values) in map.iter() {
        for value in values {
            text.push_str(&format!("{name}: {value}\r\n"));
            expected.push((name.to_string(), value.as_str().to_owned()));
        }
    }
    let lines: Vec<&str> = text.split_terminator("\r\n").collect();
    assert_eq!(lines.len(), expected.len(), "{text:?}");
    for (line, (name, value)) in lines.iter().zip(&expected) {
        assert_eq!(line.split_once(": "), Some((name.as_str(), value.as_str())), "{line:?}");
        assert!(!line.contains(['\r', '\n', '\0']), "{line:?}");
    }
    for (ours, value) in [
        ("Nats-Msg-Id", Some("7.1")),
        ("Outbox-Id", Some("7")),
        ("Outbox-Key", key),
    ] {
        let found: Vec<&str> = expected
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case(ours))
            .map(|(_, value)| value.as_str())
            .collect();
        assert_eq!(found, value.as_slice(), "{ours}");
    }
}

#[cfg(feature = "kafka")]
fn kafka_headers(envelope: &Envelope) {
    let headers = match record::headers(envelope, "id", "7") {
        Ok(headers) => headers,
        Err(failure) => return assert!(is_line(&failure.error), "{:?}", failure.error),
    };
    let ids: Vec<_> = headers
        .iter()
        .filter(|header| header.key.eq_ignore_ascii_case("id"))
        .map(|header| header.value)
        .collect();
    assert_eq!(ids, [Some(&b"7"[..])]);
    assert!(record::size(envelope, "id", "7") > 61);
}

/// A request, as text: method, path and query on the first line, headers, an empty line, the body. No answer is a server
/// error other than "the database is away", and every error of the API is JSON.
pub async fn request(router: &axum::Router, input: &[u8]) {
    let Some(request) = read_request(input) else {
        return;
    };
    let path = request.uri().path().to_owned();
    let response = router.clone().oneshot(request).await.expect("a router answers");
    let status = response.status();
    assert!(
        !status.is_server_error() || status == StatusCode::SERVICE_UNAVAILABLE,
        "{path:?} answers {status}"
    );
    if path.starts_with("/api/") && !status.is_success() {
        let kind = response
            .headers()
            .get("content-type")
            .and_then(|kind| kind.to_str().ok());
        let method_or_json = kind.is_some_and(|kind| kind.starts_with("application/json"));
        assert!(method_or_json, "{path:?} answers {status} as {kind:?}");
    }
}

fn read_request(input: &[u8]) -> Option<Request<Body>> {
    let (head, body) = match input.windows(2).position(|pair| pair == b"\n\n") {
        Some(end) => (&input[..end], &input[end + 2..]),
        None => (input, &b""[..]),
    };
    let mut lines = head.split(|byte| *byte == b'\n');
    let first = lines.next()?;
    let space = first.iter().position(|byte| *byte == b' ')?;
    let mut request = Request::builder().method(&first[..space]).uri(&first[space + 1..]);
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        request = request.header(&line[..colon], line[colon + 1..].trim_ascii());
    }
    request.body(Body::from(body.to_vec())).ok()
}

/// The daemon's HTTP server with the token `open-sesame`, without a socket, on a database nobody answers for.
pub fn router() -> axum::Router {
    let config = config::parse(
        "[database]\nurl = \"postgres://nobody@127.0.0.1:1/none?sslmode=disable\"\n[transports.out.stdout]\n",
        Path::new("outboxd.toml"),
        std::iter::empty(),
    )
    .expect("a configuration");
    let telemetry = Telemetry::new(&["out".into()], &config.routes);
    let database = Database::new(&ConnectOptions {
        url: "postgres://nobody@127.0.0.1:1/none?sslmode=disable".to_owned(),
        pool_size: 2,
        prepared_statements: true,
        application: "outboxd".to_owned(),
        statement_timeout: Duration::from_secs(1),
    })
    .expect("a URL");
    let outbox = http::Outbox {
        database,
        names: Names::new("public", "outbox_messages", 64),
        recognized: tokio::sync::watch::channel(Names::new("public", "outbox_messages", 64)).1,
        instance: "test".to_owned(),
        rule_of: Arc::new(|_| Rule {
            order: Order::Key,
            paused: false,
            routed: true,
        }),
        any_paused: Arc::new(|| false),
    };
    let http = config::Http {
        token: Some("open-sesame".to_owned().into()),
        ..config.http
    };
    http::router(http::State::new(telemetry, &http).with_outbox(outbox))
}
