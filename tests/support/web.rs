//! A small HTTP client: any method, headers and a body, over a connection of its own.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::daemon::Site;

/// The token [`with_token`] configures.
pub(crate) const TOKEN: &str = "correct-horse-battery-staple";

/// Gives `site` a token of its own file, readable by its owner only. Call it before the daemon starts.
pub(crate) fn with_token(site: &Site) {
    write_token(site, TOKEN);
    let text = std::fs::read_to_string(site.config()).expect("a configuration");
    site.configure(&text.replace("[http]\n", "[http]\ntoken_file = \"token\"\n"));
}

/// Replaces the token in its file.
pub(crate) fn write_token(site: &Site, token: &str) {
    use std::os::unix::fs::PermissionsExt;
    let file = site.config().with_file_name("token");
    std::fs::write(&file, format!("{token}\n")).expect("the scratch directory is writable");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
}

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// Status code.
    pub(crate) status: u16,
    /// The head, in lower case.
    pub(crate) head: String,
    /// The body.
    pub(crate) body: String,
    /// How long it took.
    pub(crate) took: Duration,
}

impl Answer {
    /// The body, which must be JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The body of a 200.
    #[track_caller]
    pub(crate) fn done(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()
    }

    /// `error` of an answer with `status`.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        self.json()["error"].as_str().expect("an error").to_owned()
    }
}

/// One request to a port of loopback; panics when nobody answers within 12 seconds.
pub(crate) async fn call(port: u16, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let started = Instant::now();
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() || method == "POST" {
        request.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    request.push_str("\r\n");
    request.push_str(body);
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port))
            .await
            .expect("the daemon listens");
        // A server may answer, and close, before it has read a body it refuses.
        let (mut incoming, mut outgoing) = stream.split();
        let mut answer = Vec::new();
        let (_, read) = tokio::join!(
            outgoing.write_all(request.as_bytes()),
            incoming.read_to_end(&mut answer)
        );
        assert!(read.is_ok() || !answer.is_empty(), "{method} {path}: {read:?}");
        String::from_utf8(answer).expect("UTF-8")
    };
    let answer = tokio::time::timeout(Duration::from_secs(12), exchange).await;
    let answer = answer.unwrap_or_else(|_| panic!("{method} {path}: no answer"));
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("{method} {path}: {answer:?}"));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .expect("a status");
    let (head, body, took) = (head.to_ascii_lowercase(), body.to_owned(), started.elapsed());
    Answer {
        status,
        head,
        body,
        took,
    }
}

/// `GET`, without a token.
pub(crate) async fn get(port: u16, path: &str) -> Answer {
    call(port, "GET", path, &[], "").await
}

/// `GET` with a token.
pub(crate) async fn get_as(port: u16, token: &str, path: &str) -> Answer {
    call(port, "GET", path, &[("Authorization", &format!("Bearer {token}"))], "").await
}

/// `POST` of JSON with the right token.
pub(crate) async fn post(port: u16, path: &str, body: &Value) -> Answer {
    let authorization = format!("Bearer {TOKEN}");
    let headers = [
        ("Authorization", authorization.as_str()),
        ("Content-Type", "application/json"),
    ];
    call(port, "POST", path, &headers, &body.to_string()).await
}
