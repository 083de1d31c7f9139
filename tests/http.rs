//! The HTTP server over real sockets, as a scraper, a load balancer and a curious web page meet it.

use std::time::Duration;

use outboxd::config::{Http, Listen};
use outboxd::http::{Listener, State, bind, serve};
use outboxd::telemetry::Telemetry;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

fn http(listen: Listen) -> Http {
    Http {
        listen,
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
    task: JoinSet<std::io::Result<()>>,
}

impl Server {
    async fn start(listen: Listen) -> Self {
        let telemetry = Telemetry::default();
        let state = State::new(telemetry.clone(), &http(listen.clone()));
        let listener = bind(&listen).await.unwrap().expect("not off");
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
        self.task.join_next().await.expect("one task").unwrap().unwrap();
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
    for (host, status) in [
        ("evil.example", 421),
        ("db1.evil.example:80", 421),
        ("db1", 200),
        ("[::1]:80", 200),
    ] {
        assert_eq!(server.get(&request("GET /metrics", host)).await.0, status, "{host}");
    }
    server.end().await;
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
