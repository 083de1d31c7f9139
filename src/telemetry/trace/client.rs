//! One HTTP/1.1 connection to the collector, made when it is needed and kept while it lasts.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use prost::Message;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::endpoint::Endpoint;
use super::otlp::Response;
use crate::telemetry::health::chain;

/// One export, connecting included. OTLP's own default.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Of an answer, which is small.
const ANSWER_MAX: usize = 64 << 10;

/// Why spans were not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// They may be taken later.
    Later(String),
    /// These spans will never be taken.
    Never(String),
}

impl Refusal {
    pub(super) fn error(&self) -> &str {
        match self {
            Self::Later(error) | Self::Never(error) => error,
        }
    }
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// Moves the connection's bytes; ends with it.
    _driver: JoinSet<()>,
}

/// See the module.
pub(super) struct Client {
    endpoint: Endpoint,
    tls: Option<TlsConnector>,
    connection: Option<Connection>,
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

impl Client {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self {
            tls: endpoint.https.then(connector),
            endpoint,
            connection: None,
        }
    }

    /// Sends one encoded request. `Ok(n)`: taken, but for `n` spans and why.
    pub(super) async fn send(&mut self, body: Bytes) -> Result<Option<(u64, String)>, Refusal> {
        let reused = self.connection.is_some();
        let answer = match self.exchange(body.clone()).await {
            // Kept connections may be closed at any time.
            Err(_) if reused => self.exchange(body).await,
            answer => answer,
        };
        let (status, answer) = answer.map_err(|error| Refusal::Later(chain(&*error)))?;
        judge(status, &answer)
    }

    async fn exchange(&mut self, body: Bytes) -> Result<(StatusCode, Bytes), Failed> {
        let exchange = async {
            // Taken out: what is dropped half way is not used again.
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            let request = Request::post(self.endpoint.path.as_str())
                .header(HOST, self.endpoint.authority.as_str())
                .header(CONTENT_TYPE, "application/x-protobuf")
                .header(USER_AGENT, concat!("outboxd/", env!("CARGO_PKG_VERSION")))
                .body(Full::new(body))?;
            connection.sender.ready().await?;
            let answer = connection.sender.send_request(request).await?;
            let status = answer.status();
            let answer = Limited::new(answer.into_body(), ANSWER_MAX).collect().await?.to_bytes();
            self.connection = Some(connection);
            Ok((status, answer))
        };
        match tokio::time::timeout(TIMEOUT, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs()).into()),
        }
    }

    async fn connect(&self) -> Result<Connection, Failed> {
        let Endpoint { host, port, .. } = &self.endpoint;
        let stream = TcpStream::connect((host.as_str(), *port)).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => handshake(stream).await,
            Some(tls) => {
                let name = ServerName::try_from(host.clone())?;
                handshake(tls.connect(name, stream).await?).await
            }
        }
    }
}

async fn handshake<S>(stream: S) -> Result<Connection, Failed>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        // The sender says what went wrong.
        drop(connection.await);
    });
    Ok(Connection {
        sender,
        _driver: driver,
    })
}

/// Trusts the system's authorities (`SSL_CERT_FILE` is honoured). None at all: every handshake fails, and says so.
fn connector() -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring speaks the default protocol versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// OTLP specification, "OTLP/HTTP Response": which answers are worth another try.
fn judge(status: StatusCode, answer: &Bytes) -> Result<Option<(u64, String)>, Refusal> {
    if status.is_success() {
        let partial = Response::decode(&**answer).unwrap_or_default().partial_success;
        let rejected = partial.filter(|partial| partial.rejected_spans > 0);
        return Ok(rejected.map(|partial| (partial.rejected_spans.unsigned_abs(), partial.error_message)));
    }
    let error = format!("the collector answers {status}");
    match status.as_u16() {
        429 | 502 | 503 | 504 => Err(Refusal::Later(error)),
        _ => Err(Refusal::Never(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let nothing = Bytes::new();
        assert_eq!(judge(StatusCode::OK, &nothing), Ok(None));
        for (code, later) in [(429, true), (503, true), (400, false), (404, false), (500, false)] {
            let refusal = judge(StatusCode::from_u16(code).expect("a code"), &nothing).expect_err("refused");
            assert_eq!(matches!(refusal, Refusal::Later(_)), later, "{code}");
            assert!(refusal.error().contains(&code.to_string()));
        }
        let partial = crate::telemetry::trace::otlp::PartialSuccess {
            rejected_spans: 3,
            error_message: "too old".to_owned(),
        };
        let answer = Response {
            partial_success: Some(partial),
        };
        let answer = Bytes::from(answer.encode_to_vec());
        assert_eq!(judge(StatusCode::OK, &answer), Ok(Some((3, "too old".to_owned()))));
    }
}
