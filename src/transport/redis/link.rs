//! The connection: made when first needed, and anew after every error that it is to blame for.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisError, Value};
use tokio::time::Instant;

use super::Redis;
use crate::delivery::{Failure, FailureClass};
use crate::lock::lock;
use crate::repeat::SharedRepeat;

/// Pause between two attempts to connect.
const RECONNECT: Duration = Duration::from_millis(250);

/// A connection, and which one it is.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) connection: MultiplexedConnection,
    number: u64,
}

/// The one that is used now.
#[derive(Debug, Default)]
pub(super) struct Link {
    line: Mutex<Option<Line>>,
    connecting: tokio::sync::Mutex<()>,
    next: AtomicU64,
    /// When connecting failed last and why: until a moment later nobody tries again.
    broken: Mutex<Option<(Instant, Failure)>>,
    /// The last connection was left because of what the server said: that there is a new one is no news.
    wary: AtomicBool,
    log: SharedRepeat,
}

impl Link {
    fn line(&self) -> MutexGuard<'_, Option<Line>> {
        lock(&self.line)
    }

    fn broken(&self) -> MutexGuard<'_, Option<(Instant, Failure)>> {
        lock(&self.broken)
    }

    /// A message was acknowledged: it is the right server.
    pub(super) fn trust(&self) {
        if self.wary.load(Ordering::Relaxed) {
            self.wary.store(false, Ordering::Relaxed);
            self.log.reset();
        }
    }

    /// Whichever connection there is, is of no use any more.
    pub(super) fn close(&self) {
        *self.line() = None;
    }

    /// `line` is of no use any more.
    pub(super) fn give_up(&self, line: &Line) {
        self.line().take_if(|current| current.number == line.number);
    }
}

impl Redis {
    /// The connection; made where there is none.
    pub(super) async fn line(&self) -> Result<Line, Failure> {
        let link = &self.link;
        let current = || link.line().clone();
        if let Some(line) = current() {
            return Ok(line);
        }
        let _alone = link.connecting.lock().await;
        if let Some(line) = current() {
            return Ok(line);
        }
        if let Some((at, failure)) = &*link.broken()
            && at.elapsed() < RECONNECT
        {
            return Err(failure.clone());
        }
        match self.admitted().await {
            Ok(connection) => {
                if !link.wary.load(Ordering::Relaxed) {
                    link.log.reset();
                    tracing::info!(transport = self.blame.name, "connected to redis");
                }
                let number = link.next.fetch_add(1, Ordering::Relaxed);
                let line = Line { connection, number };
                *link.line() = Some(line.clone());
                Ok(line)
            }
            Err(error) => {
                let failure = Failure {
                    class: FailureClass::Unavailable,
                    ..self.failure(&error, "cannot connect to redis")
                };
                self.warn(&failure);
                *link.broken() = Some((Instant::now(), failure.clone()));
                Err(failure)
            }
        }
    }

    /// The connection itself.
    pub(super) async fn connection(&self) -> Result<MultiplexedConnection, Failure> {
        Ok(self.line().await?.connection)
    }

    /// The server behind `line` is not the one to talk to, or not with this login. The next connection may lead to another; it is
    /// made a moment later.
    pub(super) fn leave(&self, line: &Line, failure: &Failure) {
        self.link.wary.store(true, Ordering::Relaxed);
        self.warn(failure);
        // Other messages meet the connection's trouble, whatever it was for this one.
        let class = FailureClass::Unavailable;
        let met = Failure {
            class,
            ..failure.clone()
        };
        *self.link.broken() = Some((Instant::now(), met));
        self.link.give_up(line);
    }

    fn warn(&self, failure: &Failure) {
        if let Some(held) = self.link.log.pass() {
            tracing::warn!(transport = self.blame.name, held, "{}", failure.error);
        }
    }

    /// A connection the server takes commands on. One that wants a login, or has no room, closes the connection at the first
    /// long command and says why to nobody, so it is asked with a short one. It may refuse to answer that one.
    async fn admitted(&self) -> Result<MultiplexedConnection, RedisError> {
        let patience = self.ack_timeout / 2;
        // How long an answer is waited for is decided where it is: a slow line takes its time.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(patience))
            .set_response_timeout(None);
        let mut connection = self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        let ping = redis::cmd("PING");
        let answer = tokio::time::timeout(patience, ping.query_async::<Value>(&mut connection)).await;
        match answer {
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
            Ok(Err(error)) if closes(&error) => Err(error),
            Ok(Ok(_) | Err(_)) => Ok(connection),
        }
    }
}

/// Whether what `PING` met is the end of the connection.
fn closes(error: &RedisError) -> bool {
    match error.code() {
        None | Some("NOAUTH" | "DENIED") => true,
        Some(_) => error.to_string().contains("max number of clients"),
    }
}
