//! A TCP proxy that does what networks do: cuts, refuses, delays, and swallows without a word.
//!
//! It lives on a thread of its own, so that a test which blocks does not stop the network. A connection that had bytes
//! swallowed is dead for ever and never closed, like one whose firewall forgot it: after [`Proxy::heal`] only new ones work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::ports;

/// What happens to bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weather {
    /// They go through.
    Fair,
    /// New connections are reset at once.
    Refuse,
    /// They go through, each piece so much later.
    Delay(Duration),
    /// They go through, so many a second to the server on each connection.
    Thin(usize),
    /// Connections are accepted and stay open, and nothing goes through in either direction.
    BlackHole,
    /// What the client sends is swallowed; the server is heard.
    DeafServer,
    /// What the server sends is swallowed; the client is heard.
    DeafClient,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

impl Weather {
    fn swallows(self, direction: Direction) -> bool {
        match self {
            Self::Fair | Self::Refuse | Self::Delay(_) | Self::Thin(_) => false,
            Self::BlackHole => true,
            Self::DeafServer => direction == Direction::ToServer,
            Self::DeafClient => direction == Direction::ToClient,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Rules {
    weather: Weather,
    target: u16,
    /// Raised to end every connection.
    cuts: u64,
}

/// A proxy on loopback; ends with everything that runs through it on drop.
pub(crate) struct Proxy {
    port: u16,
    rules: watch::Sender<Rules>,
}

impl Proxy {
    /// A proxy to `target` on loopback, on a free port.
    pub(crate) fn to(target: u16) -> Self {
        Self::between(ports::free(), target)
    }

    /// A proxy from `port` to `target`, both on loopback.
    pub(crate) fn between(port: u16, target: u16) -> Self {
        let (rules, seen) = watch::channel(Rules {
            weather: Weather::Fair,
            target,
            cuts: 0,
        });
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
        listener.set_nonblocking(true).expect("a socket option");
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(serve(listener, seen));
        });
        Self { port, rules }
    }

    /// Where clients connect.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Changes what happens to bytes from now on.
    pub(crate) fn turn(&self, weather: Weather) {
        self.rules.send_modify(|rules| rules.weather = weather);
    }

    /// Fair weather for what is not lost yet, and for new connections.
    pub(crate) fn heal(&self) {
        self.turn(Weather::Fair);
    }

    /// Ends every connection at once, both ways.
    pub(crate) fn cut(&self) {
        self.rules.send_modify(|rules| rules.cuts += 1);
    }

    /// Connects new ones to `target`; those that are there stay with their server.
    pub(crate) fn aim(&self, target: u16) {
        self.rules.send_modify(|rules| rules.target = target);
    }

    /// Ends every connection, and connects new ones to `target`: another server under the same address.
    pub(crate) fn switch(&self, target: u16) {
        self.rules.send_modify(|rules| {
            rules.target = target;
            rules.cuts += 1;
        });
    }
}

async fn serve(listener: std::net::TcpListener, mut rules: watch::Receiver<Rules>) {
    let listener = TcpListener::from_std(listener).expect("inside a runtime");
    let mut connections = JoinSet::new();
    loop {
        let client = tokio::select! {
            accepted = listener.accept() => accepted.expect("the listener stands").0,
            changed = rules.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            Some(ended) = connections.join_next() => {
                ended.expect("a connection's task does not panic");
                continue;
            }
        };
        connections.spawn(connection(client, rules.clone()));
    }
}

async fn connection(client: TcpStream, rules: watch::Receiver<Rules>) {
    let now = *rules.borrow();
    client.set_nodelay(true).ok();
    if now.weather == Weather::Refuse {
        reset(client);
        return;
    }
    if now.weather == Weather::BlackHole {
        // The kernel has accepted for us; nobody will ever read.
        cut(rules, now.cuts).await;
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", now.target)).await else {
        reset(client);
        return;
    };
    server.set_nodelay(true).ok();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let lost = Arc::new(AtomicBool::new(false));
    let mut pumps = JoinSet::new();
    pumps.spawn(pump(
        from_client,
        to_server,
        Direction::ToServer,
        rules.clone(),
        Arc::clone(&lost),
    ));
    pumps.spawn(pump(
        from_server,
        to_client,
        Direction::ToClient,
        rules.clone(),
        Arc::clone(&lost),
    ));
    let both = async { while pumps.join_next().await.is_some() {} };
    tokio::select! {
        () = both => {}
        () = cut(rules, now.cuts) => {}
    }
}

/// Carries one direction. Never ends a connection that lost bytes: whoever vanished does not say goodbye.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    direction: Direction,
    rules: watch::Receiver<Rules>,
    lost: Arc<AtomicBool>,
) {
    let mut buffer = vec![0; 64 * 1024];
    let mut swallows = false;
    loop {
        let now = rules.borrow().weather;
        let thin = if let (Weather::Thin(rate), Direction::ToServer) = (now, direction) {
            Some(rate)
        } else {
            None
        };
        let room = thin.map_or(buffer.len(), |rate| (rate / 50).clamp(1, buffer.len()));
        let read = from.read(&mut buffer[..room]).await.unwrap_or(0);
        if let Some(rate) = thin {
            tokio::time::sleep(Duration::from_secs_f64(read as f64 / rate as f64)).await;
        }
        let weather = rules.borrow().weather;
        swallows |= weather.swallows(direction);
        if swallows {
            lost.store(true, Ordering::Relaxed);
        }
        if read == 0 {
            if lost.load(Ordering::Relaxed) || weather.swallows(direction) {
                std::future::pending::<()>().await;
            }
            to.shutdown().await.ok();
            return;
        }
        if swallows {
            continue;
        }
        if let Weather::Delay(time) = weather {
            tokio::time::sleep(time).await;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

async fn cut(mut rules: watch::Receiver<Rules>, before: u64) {
    // An error means that the proxy is gone, which ends connections too.
    rules.wait_for(|rules| rules.cuts != before).await.ok();
}

/// Closes with RST instead of FIN.
fn reset(stream: TcpStream) {
    stream.set_zero_linger().ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo_server() -> (u16, JoinSet<()>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut held = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                held.spawn(async move {
                    let (mut from, mut to) = stream.into_split();
                    tokio::io::copy(&mut from, &mut to).await.ok();
                });
            }
        });
        (port, tasks)
    }

    async fn says(stream: &mut TcpStream, text: &[u8]) -> Option<Vec<u8>> {
        stream.write_all(text).await.ok()?;
        let mut answer = vec![0; text.len()];
        tokio::time::timeout(Duration::from_millis(300), stream.read_exact(&mut answer))
            .await
            .ok()?
            .ok()?;
        Some(answer)
    }

    #[tokio::test]
    async fn the_proxy_makes_each_weather() {
        let (port, _server) = echo_server().await;
        let proxy = Proxy::to(port);
        let connect = || TcpStream::connect(("127.0.0.1", proxy.port()));
        let mut old = connect().await.unwrap();
        assert_eq!(says(&mut old, b"one").await.unwrap(), b"one");
        for weather in [Weather::BlackHole, Weather::DeafServer, Weather::DeafClient] {
            let mut stream = connect().await.unwrap();
            assert!(says(&mut stream, b"fair").await.is_some());
            proxy.turn(weather);
            assert_eq!(says(&mut stream, b"lost").await, None, "{weather:?}");
            let mut during = connect().await.unwrap();
            assert_eq!(says(&mut during, b"lost").await, None, "{weather:?}");
            proxy.heal();
            assert_eq!(says(&mut stream, b"late").await, None, "{weather:?}: lost for ever");
            assert!(
                says(&mut connect().await.unwrap(), b"new").await.is_some(),
                "{weather:?}"
            );
        }
        proxy.turn(Weather::Delay(Duration::from_millis(50)));
        let asked = std::time::Instant::now();
        assert!(says(&mut old, b"slow").await.is_some());
        assert!(asked.elapsed() >= Duration::from_millis(100));
        proxy.turn(Weather::Refuse);
        let mut refused = connect().await.unwrap();
        assert_eq!(refused.read(&mut [0; 1]).await.unwrap_or(0), 0);
        assert!(says(&mut old, b"old ones stay").await.is_some());
        proxy.cut();
        assert_eq!(says(&mut old, b"cut").await, None);
        assert_eq!(old.read(&mut [0; 1]).await.unwrap_or(0), 0, "the end is told");
    }
}
