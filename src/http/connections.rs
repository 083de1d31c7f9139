//! The open connections: [`MAX`] at most, whatever the other sides do with them.
//!
//! Where one more comes, the one that has waited longest for its other side is closed for it. Leaving the new one in the
//! kernel's backlog would make a load balancer's `/readyz` wait behind every idle connection until that one's time is up, and
//! refusing it would let whoever reconnects fastest shut it out; so, it is answered at once, and who loses a connection that
//! was doing nothing opens another. Only while all of them are being answered, ten seconds at most, do new ones wait their
//! turn in the backlog.
//!
//! A process that has no descriptor left closes idle connections too, one at each attempt to accept, and pauses between them.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::pace::{Pace, attend};

/// Connections at a time. Database and brokers need their descriptors too, and 1024 is what a process is often given.
const MAX: usize = 256;
/// Between two attempts when accepting fails: the reason, mostly no descriptor, does not go away at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What connections come from.
pub(super) trait Accept {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next one. A dropped future loses none.
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Accept for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// Answers connections of `listener` until `shutdown` returns; then takes no more, and lets requests under way end.
pub(super) async fn serve(listener: impl Accept, router: Router, shutdown: impl Future<Output = ()>) {
    let mut connections = Connections::new(router);
    {
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                biased;
                () = shutdown.as_mut() => break,
                () = connections.step(&listener) => {}
            }
        }
    }
    drop(listener);
    connections.end().await;
}

struct Connections {
    routes: TowerToHyperService<Router>,
    tasks: JoinSet<()>,
    /// Those of `tasks` that were not told to end.
    open: HashMap<Id, (Arc<Pace>, AbortHandle)>,
    rested: Arc<Notify>,
    stop: CancellationToken,
    /// The last attempt to accept failed, which was said.
    failing: bool,
}

impl Connections {
    fn new(router: Router) -> Self {
        Self {
            routes: TowerToHyperService::new(router),
            tasks: JoinSet::new(),
            open: HashMap::new(),
            rested: Arc::default(),
            stop: CancellationToken::new(),
            failing: false,
        }
    }

    /// Until one has come or gone.
    async fn step<L: Accept>(&mut self, listener: &L) {
        let accepted = tokio::select! {
            Some(ended) = self.tasks.join_next_with_id() => return self.forget(ended),
            accepted = listener.next() => accepted,
        };
        match accepted {
            Ok(stream) => {
                self.failing = false;
                self.make_room().await;
                self.add(stream);
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if !self.failing {
                    tracing::error!(%error, "the HTTP server cannot accept connections; it goes on trying");
                }
                self.failing = true;
                self.close_longest_waiting();
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    fn add(&mut self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let pace = Arc::new(Pace::new(Arc::clone(&self.rested)));
        let attended = attend(stream, self.routes.clone(), Arc::clone(&pace), self.stop.clone());
        let task = self.tasks.spawn(attended);
        self.open.insert(task.id(), (pace, task));
    }

    async fn make_room(&mut self) {
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            self.forget(ended);
        }
        while self.tasks.len() >= MAX {
            if self.close_longest_waiting() {
                // Its descriptor is free once its task has ended.
                let ended = self.tasks.join_next_with_id().await;
                self.forget(ended.expect("the one told to end is among them"));
                continue;
            }
            tokio::select! {
                Some(ended) = self.tasks.join_next_with_id() => self.forget(ended),
                () = self.rested.notified() => {}
            }
        }
    }

    /// Whether there was one.
    fn close_longest_waiting(&mut self) -> bool {
        let waiting = self
            .open
            .iter()
            .filter_map(|(id, (pace, _))| Some((pace.waits_since()?, *id)));
        let longest = waiting.min_by_key(|(since, _)| *since);
        let Some((_, task)) = longest.and_then(|(_, id)| self.open.remove(&id)) else {
            return false;
        };
        task.abort();
        true
    }

    fn forget(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => {
                if error.is_panic() {
                    tracing::error!(%error, "a request over HTTP ended in a panic");
                }
                error.id()
            }
        };
        self.open.remove(&id);
    }

    async fn end(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next_with_id().await {
            self.forget(ended);
        }
    }
}

/// Failures of the connection that was to be accepted: the next one may be well.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::sync::mpsc;
    use tokio::time::{Instant, sleep};

    use super::*;

    /// Hands out what is sent to it.
    struct Handed(tokio::sync::Mutex<mpsc::UnboundedReceiver<io::Result<DuplexStream>>>);

    impl Accept for Handed {
        type Stream = DuplexStream;

        async fn next(&self) -> io::Result<DuplexStream> {
            match self.0.lock().await.recv().await {
                Some(accepted) => accepted,
                None => std::future::pending().await,
            }
        }
    }

    struct Played {
        sender: mpsc::UnboundedSender<io::Result<DuplexStream>>,
        _server: JoinSet<()>,
    }

    impl Played {
        fn start(router: Router) -> Self {
            let (sender, receiver) = mpsc::unbounded_channel();
            let mut server = JoinSet::new();
            let listener = Handed(tokio::sync::Mutex::new(receiver));
            server.spawn(serve(listener, router, std::future::pending()));
            Self {
                sender,
                _server: server,
            }
        }

        fn connect(&self) -> DuplexStream {
            let (ours, theirs) = duplex(64 << 10);
            self.sender.send(Ok(theirs)).unwrap();
            ours
        }
    }

    async fn status(stream: &mut DuplexStream, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 512];
        let read = stream.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..read])
            .chars()
            .skip(9)
            .take(3)
            .collect()
    }

    fn router() -> Router {
        Router::new()
            .route("/quick", get(|| async { "quick" }))
            .route("/slow", get(|| sleep(Duration::from_secs(8))))
            .route("/long", get(|| async { "x".repeat(1 << 20) }))
    }

    /// Nothing but the end comes.
    async fn is_closed(stream: &mut DuplexStream) -> bool {
        stream.read(&mut [0; 16]).await.is_ok_and(|read| read == 0)
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_waiting_makes_room_and_nobody_who_is_being_answered() {
        let served = Played::start(router());
        let begun = Instant::now();
        let mut answered = served.connect();
        answered
            .write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        let mut idle = Vec::new();
        for _ in 1..MAX {
            idle.push(served.connect());
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(status(&mut idle[0], "/quick").await, "200");
        let mut probe = served.connect();
        assert_eq!(status(&mut probe, "/quick").await, "200");
        assert!(is_closed(&mut idle[1]).await);
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        assert_eq!(status(&mut idle[0], "/quick").await, "200");
        let mut answer = [0; 512];
        assert!(answered.read(&mut answer).await.unwrap() > 0);
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn while_all_are_being_answered_the_next_one_waits_its_turn() {
        let served = Played::start(router());
        let begun = Instant::now();
        let mut busy = Vec::new();
        for _ in 0..MAX {
            let mut stream = served.connect();
            stream
                .write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
                .await
                .unwrap();
            busy.push(stream);
            sleep(Duration::from_millis(1)).await;
        }
        let mut probe = served.connect();
        assert_eq!(status(&mut probe, "/quick").await, "200");
        let waited = begun.elapsed();
        assert!(
            waited >= Duration::from_secs(8) && waited < Duration::from_secs(9),
            "{waited:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_rests_for_half_a_minute_and_a_further_head_has_five_seconds() {
        let served = Played::start(router());
        let mut resting = served.connect();
        for _ in 0..3 {
            assert_eq!(status(&mut resting, "/quick").await, "200");
            sleep(Duration::from_secs(29)).await;
        }
        assert_eq!(status(&mut resting, "/quick").await, "200");
        let begun = Instant::now();
        assert!(is_closed(&mut resting).await);
        assert_eq!(begun.elapsed().as_secs(), 30);

        let (mut incoming, mut outgoing) = tokio::io::split({
            let mut stream = served.connect();
            assert_eq!(status(&mut stream, "/quick").await, "200");
            sleep(Duration::from_secs(20)).await;
            stream
        });
        let begun = Instant::now();
        let closed = async {
            assert_eq!(incoming.read(&mut [0; 16]).await.unwrap(), 0);
            assert_eq!(begun.elapsed().as_secs(), 5);
        };
        let dribble = async {
            while outgoing.write_all(b"x").await.is_ok() {
                sleep(Duration::from_millis(700)).await;
            }
        };
        tokio::join!(closed, dribble);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_nobody_takes_is_given_up() {
        let served = Played::start(router());
        let mut stream = served.connect();
        stream
            .write_all(b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        sleep(Duration::from_secs(31)).await;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer.len() < 1 << 20, "{}", answer.len());
    }

    /// As a process without a descriptor to spare.
    struct Exhausted(Arc<Mutex<Vec<Instant>>>);

    impl Accept for Exhausted {
        type Stream = DuplexStream;

        async fn next(&self) -> io::Result<DuplexStream> {
            self.0.lock().unwrap().push(Instant::now());
            Err(io::Error::from_raw_os_error(24))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_descriptors_accepting_pauses_and_ends_when_told() {
        let attempts = Arc::new(Mutex::new(Vec::new()));
        let span = Duration::from_secs(10);
        serve(Exhausted(Arc::clone(&attempts)), router(), sleep(span)).await;
        let count = attempts.lock().unwrap().len() as u128;
        let at_most = span.as_millis() / ACCEPT_PAUSE.as_millis() + 1;
        assert!((at_most - 2..=at_most).contains(&count), "{count} attempts");
    }
}
