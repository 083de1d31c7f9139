//! A real redis-server with an append-only file.

use std::sync::{Mutex, OnceLock};

use super::ports;
use super::process::Server;

const HINT: &str = "apt-get install redis-server";

/// A redis-server of its own folder and port.
pub struct RedisServer {
    port: u16,
    /// More of its command line, and where TLS listens; 0: nowhere.
    extra: Vec<String>,
    tls_port: u16,
    folder: tempfile::TempDir,
    server: Mutex<Option<Server>>,
}

impl RedisServer {
    /// Starts one.
    pub fn start() -> Self {
        Self::of(0, "")
    }

    /// Starts one that listens with TLS too, with more options, separated by spaces.
    pub fn with_tls(options: &str) -> Self {
        let port = ports::free();
        Self::of(port, &format!("--tls-port {port} {options}"))
    }

    /// Starts one with more options, separated by spaces.
    pub fn with_options(options: &str) -> Self {
        Self::of(0, options)
    }

    fn of(tls_port: u16, options: &str) -> Self {
        let server = Self {
            port: ports::free(),
            extra: options.split_whitespace().map(str::to_owned).collect(),
            tls_port,
            folder: tempfile::tempdir().unwrap(),
            server: Mutex::new(None),
        };
        server.up();
        server
    }

    /// The server all tests share that do not stop it.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<RedisServer> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// `redis://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its port for TLS.
    pub fn tls_port(&self) -> u16 {
        self.tls_port
    }

    /// Starts it (again) on the same port and data.
    pub fn up(&self) {
        let folder = self.folder.path().to_str().unwrap();
        let port = self.port.to_string();
        let mut args = vec![
            "--port",
            &port,
            "--bind",
            "127.0.0.1",
            "--dir",
            folder,
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
        ];
        args.extend(self.extra.iter().map(String::as_str));
        let server = Server::start("redis-server", &args, &self.folder.path().join("redis.log"), HINT);
        server.wait_for_output("Ready to accept connections");
        *self.server.lock().unwrap() = Some(server);
    }

    /// Kills it as `kill -9` does.
    pub fn kill(&self) {
        self.server.lock().unwrap().take().expect("running").kill();
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: &str) {
        self.server.lock().unwrap().as_ref().expect("running").signal(signal);
    }
}
