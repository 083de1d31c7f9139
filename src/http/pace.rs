//! One connection and how long it may take: a head begun is there within [`HEAD_LIMIT`], and [`IDLE_LIMIT`] after an answer
//! its reader has taken it and asked again.
//!
//! ```text
//!  accepted --> Begun --whole head--> Asked --answer--> Rests --first byte--> Begun
//!                 |                     |                 |
//!              HEAD_LIMIT         the routes' limit    IDLE_LIMIT: closed
//! ```
//!
//! Begun and resting connections [wait](Pace::waits_since) for the other side, so one may be closed where room is needed; who
//! is being answered may not. Answers lie in memory as a whole, so what is left to do after [`Phase::Asked`] is the reader's.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::lock::lock;

/// A request's head is sent in one go; whoever dribbles it holds a descriptor for nothing.
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// For a scraper that comes every 15 seconds to keep its connection.
const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// No head is longer; also what is read ahead of a body, per connection.
const HEAD_MAX: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Accepted, or the first byte of a further request is here.
    Begun,
    /// The routes work on the answer; they limit that themselves.
    Asked,
    /// The answer is ready or taken.
    Rests,
}

/// How far a connection is. Its own task writes it; whoever makes room reads it.
#[derive(Debug)]
pub(super) struct Pace {
    now: Mutex<(Phase, Instant)>,
    /// Told when the connection begins to rest.
    rested: Arc<Notify>,
}

impl Pace {
    pub(super) fn new(rested: Arc<Notify>) -> Self {
        Self {
            now: Mutex::new((Phase::Begun, Instant::now())),
            rested,
        }
    }

    fn get(&self) -> (Phase, Instant) {
        *lock(&self.now)
    }

    fn enter(&self, phase: Phase) {
        *lock(&self.now) = (phase, Instant::now());
    }

    /// Since when the other side is to move; `None` while it is our turn.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        match self.get() {
            (Phase::Begun | Phase::Rests, since) => Some(since),
            (Phase::Asked, _) => None,
        }
    }

    fn read_something(&self) {
        match self.get().0 {
            Phase::Rests => self.enter(Phase::Begun),
            // More of a head, whose time runs already, or of a body.
            Phase::Begun | Phase::Asked => {}
        }
    }

    fn rest(&self) {
        self.enter(Phase::Rests);
        self.rested.notify_one();
    }

    /// When the connection is closed if nothing else happens.
    fn deadline(&self) -> Instant {
        match self.get() {
            (Phase::Begun, since) => since + HEAD_LIMIT,
            (Phase::Asked | Phase::Rests, since) => since + IDLE_LIMIT,
        }
    }
}

/// Answers on `stream` until it is closed, too slow, or `stop` lets the request under way be the last.
pub(super) async fn attend(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    routes: TowerToHyperService<Router>,
    pace: Arc<Pace>,
    stop: CancellationToken,
) {
    let paced = TokioIo::new(Paced {
        stream,
        pace: Arc::clone(&pace),
    });
    let service = service_fn(|request: hyper::Request<Incoming>| {
        pace.enter(Phase::Asked);
        let answer = routes.call(request);
        let pace = Arc::clone(&pace);
        async move {
            let answer = answer.await;
            pace.rest();
            answer.map_err(|never: Infallible| never)
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .max_buf_size(HEAD_MAX)
            // Limits the time between two requests too, so it cannot tell a head from a pause.
            .header_read_timeout(None)
            .serve_connection(paced, service)
    );
    let mut alarm = pin!(sleep_until(pace.deadline()));
    // Asked after the connection, whose progress moves the deadline.
    let mut late = poll_fn(|context| {
        let deadline = pace.deadline();
        if alarm.deadline() != deadline {
            alarm.as_mut().reset(deadline);
        }
        alarm.as_mut().poll(context)
    });
    let mut stopping = false;
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::trace!(%error, "an HTTP connection broke");
                }
                return;
            }
            () = &mut late => return,
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// A stream that notes when something is read.
struct Paced<S> {
    stream: S,
    pace: Arc<Pace>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, into);
        if into.filled().len() > before {
            this.pace.read_something();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
