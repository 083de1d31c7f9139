//! The HTTP server: liveness, readiness, metrics, the API and the dashboard, on a loopback port or a Unix socket.
//!
//! ```text
//!  connection --> request --time limit--> Host --> route --> Telemetry: what the dashboard draws
//!  (connections)                   |                    \--> Desk: one question at a time to the database, kept for two seconds
//!                                  \--> /livez /readyz /metrics: Telemetry, under any Host
//! ```
//!
//! A request is about one outbox (`site.rs`); probes and metrics are about all of them.
//!
//! What the engine reported ([`Telemetry`]) is shown without asking anybody: a scrape or an open dashboard costs the
//! database nothing, and goes on while it is away. `openapi.json` says what each path answers. Every request is limited in
//! time and size, connections in number and patience (`connections.rs`, `pace.rs`). API and dashboard refuse a `Host` header
//! that is no address of ours, so that no web page can read them through a name it made to point here (DNS rebinding);
//! probes and metrics are asked by any name a load balancer or Prometheus has for us. What changes something needs the
//! token and a content type that no form of another site can send.

mod answer;
mod connections;
mod desk;
mod failed;
mod messages;
mod pace;
mod page;
mod routes;
mod site;
mod standing;
mod token;

use std::future::Future;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};

use crate::config::{Http, Listen};
use crate::telemetry::Telemetry;
use answer::Refusal;
use desk::Desk;
pub use desk::Outbox;
pub use routes::{paths, router};
pub use site::Site;
pub use token::Token;

/// What the routes read, of one outbox.
#[derive(Clone, Debug)]
pub struct State {
    /// The outbox's name; `None`: it is the only one.
    pub outbox: Option<Arc<str>>,
    /// What the engine reports.
    pub telemetry: Telemetry,
    /// `http.ready_max_age`.
    pub ready_max_age: Duration,
    /// `Host` headers accepted beyond addresses and `localhost`, in lower case; `None`: any (Unix socket).
    pub names: Option<Vec<String>>,
    /// `http.token_file`.
    pub token: Token,
    /// This instance's name.
    instance: Arc<str>,
    desk: Option<Arc<Desk>>,
}

impl State {
    /// The state for a server listening as `http` says.
    #[must_use]
    pub fn new(telemetry: Telemetry, http: &Http) -> Self {
        let names = match &http.listen {
            Listen::Tcp { host, port: _ } => {
                let names = [host, &http.host_name].into_iter().chain(&http.hosts);
                Some(names.map(|name| name.to_ascii_lowercase()).collect())
            }
            Listen::Unix(_) | Listen::Off => None,
        };
        Self {
            outbox: None,
            telemetry,
            ready_max_age: http.ready_max_age,
            names,
            token: Token::new(http.token.clone()),
            instance: "".into(),
            desk: None,
        }
    }

    /// With a database to ask. Without one, what needs it answers 503.
    #[must_use]
    pub fn with_outbox(self, outbox: Outbox) -> Self {
        Self {
            instance: outbox.instance.as_str().into(),
            desk: Some(Arc::new(Desk::new(outbox, self.telemetry.clone()))),
            ..self
        }
    }

    fn desk(&self) -> Result<&Desk, Refusal> {
        self.desk
            .as_deref()
            .ok_or_else(|| Refusal::unavailable("this server has no database to ask"))
    }
}

/// A bound socket.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket and where it is; removed when the server ends.
    Unix(UnixListener, PathBuf),
}

/// An address that cannot be listened on. One line that names the key: exit code 64.
#[derive(Debug, thiserror::Error)]
#[error("http.listen: cannot listen on {address}: {source}; choose another address or \"\" for none")]
pub struct BindError {
    address: String,
    source: io::Error,
}

/// Binds `listen`; `None` when it is off. A Unix socket left behind by a dead process is replaced, one that answers is not.
///
/// # Errors
/// The address and why: in use, not ours, not permitted.
pub async fn bind(listen: &Listen) -> Result<Option<Listener>, BindError> {
    match listen {
        Listen::Off => Ok(None),
        Listen::Tcp { host, port } => match TcpListener::bind((host.as_str(), *port)).await {
            Ok(listener) => Ok(Some(Listener::Tcp(listener))),
            Err(source) if host.contains(':') => Err(BindError {
                address: format!("[{host}]:{port}"),
                source,
            }),
            Err(source) => Err(BindError {
                address: format!("{host}:{port}"),
                source,
            }),
        },
        Listen::Unix(path) => match bind_unix(path).await {
            Ok(listener) => Ok(Some(Listener::Unix(listener, path.clone()))),
            Err(source) => Err(BindError {
                address: format!("unix:{}", path.display()),
                source,
            }),
        },
    }
}

async fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let stale = match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "something that is no socket is in its place",
            ));
        }
        Ok(_) => tokio::net::UnixStream::connect(path).await.is_err(),
        Err(_) => false,
    };
    if stale {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    // The group may ask too: whoever scrapes is put into it.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Serves until `shutdown` returns, then lets open requests end (each is limited in time).
pub async fn serve(listener: Listener, site: impl Into<Site>, shutdown: impl Future<Output = ()> + Send + 'static) {
    let router = routes::router(site);
    match listener {
        Listener::Tcp(listener) => connections::serve(listener, router, shutdown).await,
        Listener::Unix(listener, path) => {
            connections::serve(listener, router, shutdown).await;
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%error, path = %path.display(), "the HTTP socket could not be removed");
                }
                Ok(()) | Err(_) => {}
            }
        }
    }
}
