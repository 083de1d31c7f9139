//! The HTTP server over real sockets, as a scraper, a load balancer and a curious web page meet it.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use outboxd::config::{self, Http, Listen};
use outboxd::http::{Listener, State, bind, serve};
use outboxd::telemetry::Telemetry;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::support::daemon::Site;
use crate::support::postgres::Cluster;
use crate::support::web::get;
use crate::support::{alone, assert_within};

fn http(listen: Listen) -> Http {
    Http {
        listen,
        hosts: Vec::new(),
        ready_max_age: Duration::from_secs(60),
        token: None,
        token_file: None,
        host_name: "db1".to_owned(),
    }
}

fn loopback(port: u16) -> Listen {
    Listen::Tcp {
        host: "127.0.0.1".to_owned(),
        port,
    }
}

/// A served socket; `stop` ends it.
struct Server {
    telemetry: Telemetry,
    address: String,
    stop: oneshot::Sender<()>,
    task: JoinSet<()>,
}

impl Server {
    async fn start(listen: Listen) -> Self {
        Self::told(&http(listen)).await
    }

    async fn told(http: &Http) -> Self {
        let telemetry = Telemetry::default();
        let state = State::new(telemetry.clone(), http);
        let listener = bind(&http.listen).await.unwrap().expect("not off");
        let address = match &listener {
            Listener::Tcp(listener) => listener.local_addr().unwrap().to_string(),
            Listener::Unix(_, path) => path.display().to_string(),
        };
        let (stop, stopped) = oneshot::channel();
        let mut task = JoinSet::new();
        task.spawn(serve(listener, state, async {
            let _ = stopped.await;
        }));
        Self {
            telemetry,
            address,
            stop,
            task,
        }
    }

    async fn get(&self, request: &str) -> (u16, String, String) {
        ask(TcpStream::connect(&self.address).await.unwrap(), request).await
    }

    async fn end(mut self) {
        self.stop.send(()).unwrap();
        self.task.join_next().await.expect("one task").unwrap();
    }
}

/// Status, head and body of one request.
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> (u16, String, String) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no head in {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_ascii_lowercase(), body.to_owned())
}

fn request(line: &str, host: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

#[tokio::test]
async fn live_at_once_and_ready_when_the_engine_is() {
    let server = Server::start(loopback(0)).await;
    assert_eq!(server.get(&request("GET /livez", "localhost")).await.0, 200);
    let (status, head, body) = server.get(&request("GET /readyz", "127.0.0.1:7117")).await;
    assert_eq!(status, 503);
    assert!(head.contains("content-type: application/json"), "{head}");
    let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer["status"], "unready");
    let kinds: Vec<_> = answer["reasons"]
        .as_array()
        .unwrap()
        .iter()
        .map(|reason| reason["kind"].clone())
        .collect();
    assert_eq!(kinds, ["database", "lanes"]);
    server.telemetry.health.database_up();
    server.telemetry.health.lanes(64, 64);
    let (status, _, body) = server.get(&request("GET /readyz", "127.0.0.1:7117")).await;
    assert_eq!((status, body.as_str()), (200, r#"{"status":"ready"}"#));
    server.end().await;
}

#[tokio::test]
async fn metrics_are_openmetrics() {
    let server = Server::start(loopback(0)).await;
    server.telemetry.health.progress();
    let (status, head, body) = server.get(&request("GET /metrics", "localhost")).await;
    assert_eq!(status, 200);
    assert!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
        "{head}"
    );
    assert!(
        body.contains("outboxd_in_flight_messages 0\n") && body.ends_with("# EOF\n"),
        "{body}"
    );
    let last = body
        .lines()
        .find_map(|line| line.strip_prefix("outboxd_last_progress_timestamp_seconds "))
        .unwrap();
    assert!(last.parse::<f64>().unwrap() > 1e9, "{last}");
    server.end().await;
}

#[tokio::test]
async fn what_is_not_there_is_answered_in_json() {
    let server = Server::start(loopback(0)).await;
    let (status, _, body) = server.get(&request("GET /nothing", "localhost")).await;
    assert_eq!(
        (status, body.as_str()),
        (404, r#"{"error":"there is nothing at /nothing"}"#)
    );
    let (status, _, body) = server.get(&request("POST /metrics", "localhost")).await;
    assert_eq!(
        (status, body.as_str()),
        (405, r#"{"error":"/metrics does not take POST"}"#)
    );
    server.end().await;
}

#[tokio::test]
async fn a_page_that_points_its_own_name_here_reads_nothing() {
    let server = Server::start(loopback(0)).await;
    for path in [
        "/",
        "/dashboard.js",
        "/api/v1/openapi.json",
        "/api/v1/summary",
        "/nothing",
    ] {
        for host in ["evil.example", "db1.evil.example:80"] {
            let (status, _, body) = server.get(&request(&format!("GET {path}"), host)).await;
            assert_eq!(status, 421, "{path} under {host}");
            assert!(body.contains("http.hosts"), "{body}");
        }
        for host in ["db1", "DB1.:80", "[::1]:80"] {
            assert_ne!(
                server.get(&request(&format!("GET {path}"), host)).await.0,
                421,
                "{path} under {host}"
            );
        }
    }
    server.end().await;
}

#[tokio::test]
async fn a_load_balancer_that_asked_by_its_own_name_took_us_for_dead() {
    let server = Server::start(loopback(0)).await;
    for host in ["relay.prod.example", "outboxd:7117", ""] {
        for (line, status) in [
            ("GET /livez", 200),
            ("HEAD /livez", 200),
            ("GET /readyz", 503),
            ("GET /metrics", 200),
            ("POST /metrics", 405),
            ("GET /livez/", 421),
        ] {
            assert_eq!(
                server.get(&request(line, host)).await.0,
                status,
                "{line} under {host:?}"
            );
        }
    }
    server.end().await;
}

#[tokio::test]
async fn a_proxy_that_passed_its_name_on_was_refused_and_nothing_could_be_done() {
    let server = Server::told(&Http {
        hosts: vec!["relay.example.org".to_owned()],
        ..http(loopback(0))
    })
    .await;
    for (host, status) in [
        ("relay.example.org", 200),
        ("Relay.Example.ORG.:443", 200),
        ("db1", 200),
        ("127.0.0.1", 200),
        ("example.org", 421),
        ("a.relay.example.org", 421),
        ("relay.example.org.evil.example", 421),
    ] {
        let asked = request("GET /api/v1/openapi.json", host);
        assert_eq!(server.get(&asked).await.0, status, "{host}");
    }
    server.end().await;
}

fn hosts(line: &str, env: &[(&str, &str)]) -> Result<Vec<String>, String> {
    let text = format!(
        "[database]\nurl = \"postgres://nobody@127.0.0.1:1/none?sslmode=disable\"\n[transports.out.stdout]\n[http]\n{line}\n"
    );
    let env = env.iter().map(|(name, value)| (name.into(), value.into()));
    config::parse(&text, Path::new("outboxd.toml"), env)
        .map(|config| config.http.hosts)
        .map_err(|error| error.to_string())
}

#[test]
fn a_url_among_the_names_matched_no_host_and_nobody_said_so() {
    assert_eq!(hosts("", &[]), Ok(vec![]));
    let named = Ok(vec!["relay.example.org".to_owned(), "relay_2".to_owned()]);
    assert_eq!(hosts(r#"hosts = ["Relay.example.org.", "relay_2"]"#, &[]), named);
    let env = [("OUTBOXD__HTTP__HOSTS", "relay.example.org, relay_2")];
    assert_eq!(hosts("", &env), named);
    for wrong in [
        "",
        ".",
        "a b",
        " a",
        "a/b",
        "http://a",
        "a:443",
        "[::1]",
        "*.example.org",
        "bücher.example",
    ] {
        let line = hosts(&format!("hosts = [\"fine\", {wrong:?}]"), &[]).unwrap_err();
        let start = format!("http.hosts: {wrong:?} is no host name");
        assert!(line.starts_with(&start) && !line.contains('\n'), "{line}");
    }
    let line = hosts("", &[("OUTBOXD__HTTP__HOSTS", "a,,b")]).unwrap_err();
    assert!(line.starts_with("OUTBOXD__HTTP__HOSTS: \"\""), "{line}");
    let line = hosts("hosts = 5", &[]).unwrap_err();
    assert!(line.starts_with("http.hosts: ") && line.contains("list"), "{line}");
}

/// What comes until the other side closes, and after how long it does.
async fn closed(address: &str, sent: &str) -> (String, Duration) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let begun = Instant::now();
    stream.write_all(sent.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    (answer, begun.elapsed())
}

#[tokio::test]
async fn half_sent_heads_kept_their_connections_for_ever() {
    let server = Server::start(loopback(0)).await;
    let (nothing, half, lines) = tokio::join!(
        closed(&server.address, ""),
        closed(&server.address, "GET /live"),
        closed(&server.address, "GET /livez HTTP/1.1\r\nHost: localhost\r\nX-More: "),
    );
    for (answer, took) in [nothing, half, lines] {
        assert_eq!(answer, "");
        assert!(took > Duration::from_millis(4_900), "{took:?}");
        assert_within("closing", took, Duration::from_secs(7));
    }
    server.end().await;
}

#[tokio::test]
async fn a_stop_waited_for_connections_that_asked_nothing() {
    let server = Server::start(loopback(0)).await;
    let fresh = TcpStream::connect(&server.address).await.unwrap();
    let mut kept = TcpStream::connect(&server.address).await.unwrap();
    kept.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    assert!(kept.read(&mut [0; 1024]).await.unwrap() > 0);
    let begun = Instant::now();
    server.end().await;
    assert_within("the stop", begun.elapsed(), Duration::from_secs(2));
    for mut stream in [fresh, kept] {
        assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0);
    }
}

/// Descriptors the daemon may have: those of 256 connections and its own, and fewer than are opened to it.
const DESCRIPTORS: usize = 400;

/// How many descriptors this process may still open.
fn spare_descriptors() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let soft: usize = line.split_whitespace().nth(3).unwrap().parse().unwrap();
    soft - std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test]
async fn idle_connections_used_up_the_descriptors_and_stopped_relaying() {
    let _guard = alone().await;
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, "[transports.main.stdout]\n");
    site.migrate();
    let daemon = site.start().await;
    let limited = Command::new("prlimit")
        .arg(format!("--nofile={DESCRIPTORS}:{DESCRIPTORS}"))
        .args(["--pid", &daemon.pid().to_string()])
        .status()
        .expect("prlimit of util-linux");
    assert!(limited.success(), "{limited}");

    let count = spare_descriptors().saturating_sub(50).min(2_000);
    assert!(count > DESCRIPTORS + 100, "only {count} descriptors to spare");
    let mut idle = Vec::new();
    for number in 0..count {
        let mut stream = TcpStream::connect(("127.0.0.1", site.port())).await.unwrap();
        if number % 2 == 0 {
            stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: loc").await.unwrap();
        }
        idle.push(stream);
        if number % 100 == 0 {
            get(site.port(), "/readyz").await.done();
        }
    }
    let session = database.connect().await;
    for _ in 0..20 {
        session
            .run("insert into outbox_messages (topic, payload) select 'orders', '1' from generate_series(1, 50)")
            .await;
        let answer = get(site.port(), "/readyz").await;
        answer.done();
        assert_within("/readyz", answer.took, Duration::from_secs(2));
    }
    session.drained(Duration::from_secs(10)).await;
    let log = site.log();
    assert!(!log.contains("cannot accept") && !log.contains("open files"), "{log}");
    drop(idle);
}

#[tokio::test]
async fn an_address_in_use_names_the_key() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let line = bind(&loopback(port)).await.unwrap_err().to_string();
    assert!(
        line.starts_with(&format!("http.listen: cannot listen on 127.0.0.1:{port}: ")),
        "{line}"
    );
    assert!(bind(&Listen::Off).await.unwrap().is_none());
}

#[tokio::test]
async fn a_unix_socket_replaces_a_dead_one_and_no_living_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("http.sock");
    drop(tokio::net::UnixListener::bind(&path).unwrap());
    let server = Server::start(Listen::Unix(path.clone())).await;
    let answer = ask(
        UnixStream::connect(&path).await.unwrap(),
        &request("GET /livez", "whatever.example"),
    )
    .await;
    assert_eq!(answer.0, 200);
    let line = bind(&Listen::Unix(path.clone())).await.unwrap_err().to_string();
    assert!(line.starts_with("http.listen: cannot listen on unix:"), "{line}");
    server.end().await;
    assert!(!path.exists());
    std::fs::write(&path, "a file").unwrap();
    assert!(
        bind(&Listen::Unix(path.clone()))
            .await
            .unwrap_err()
            .to_string()
            .contains("no socket")
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "a file");
}
