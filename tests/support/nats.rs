//! A real nats-server with JetStream on a file store.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use super::ports;
use super::process::Server;
use super::processes::{package, run};

/// A current release, built by `dev/nats` when first needed: it can what Debian's cannot.
pub fn current() -> String {
    let mut script = Command::new(package().join("dev/nats"));
    run(script.arg("binary").env("NATS_VERSION", "v2.15.2"))
        .trim()
        .to_owned()
}

const HINT: &str = "apt-get install nats-server (or put one on the PATH)";

/// A nats-server of its own directory and port.
pub struct NatsServer {
    program: String,
    port: u16,
    config: PathBuf,
    folder: tempfile::TempDir,
    server: Mutex<Option<Server>>,
}

impl NatsServer {
    /// Starts one with the defaults.
    pub fn start() -> Self {
        Self::with("")
    }

    /// Starts one with extra lines in its configuration file.
    pub fn with(extra: &str) -> Self {
        Self::of("nats-server", extra)
    }

    /// Starts one of another version: its `program`.
    pub fn of(program: &str, extra: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = ports::free();
        let config = folder.path().join("nats.conf");
        let server = Self {
            program: program.to_owned(),
            port,
            config,
            folder,
            server: Mutex::new(None),
        };
        server.configure(extra);
        server.up();
        server
    }

    fn configure(&self, extra: &str) {
        let (port, store) = (self.port, self.folder.path().join("store"));
        let lines = format!(
            "listen: 127.0.0.1:{port}\nserver_name: test\njetstream {{ store_dir: {store:?}, max_mem: 64MB, max_file: 8GB }}\n{extra}\n"
        );
        std::fs::write(&self.config, lines).unwrap();
    }

    /// Has it read other extra lines, without a restart.
    pub fn reload(&self, extra: &str) {
        self.configure(extra);
        self.signal("HUP");
    }

    /// The server all tests share that do not stop it.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<NatsServer> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// `nats://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts it (again) on the same port and store.
    pub fn up(&self) {
        let log = self.folder.path().join("nats.log");
        let server = Server::start(&self.program, &["-c", self.config.to_str().unwrap()], &log, HINT);
        server.wait_for_output("Server is ready");
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

    /// Creates a stream called `name` for `subjects`.
    pub async fn create_stream(&self, name: &str, subjects: &[&str]) {
        let config = async_nats::jetstream::stream::Config {
            name: name.to_owned(),
            subjects: subjects.iter().map(|subject| (*subject).to_owned()).collect(),
            ..Default::default()
        };
        self.jetstream().await.create_stream(config).await.unwrap();
    }

    /// Creates a stream of every subject, connecting with `options` to `localhost`.
    pub async fn create_stream_as(&self, options: async_nats::ConnectOptions) {
        let client = options.connect(format!("localhost:{}", self.port)).await.unwrap();
        let config = async_nats::jetstream::stream::Config {
            name: "all".to_owned(),
            subjects: vec!["*".to_owned()],
            ..Default::default()
        };
        async_nats::jetstream::new(client).create_stream(config).await.unwrap();
    }

    /// A client of the test's own.
    pub async fn jetstream(&self) -> async_nats::jetstream::Context {
        async_nats::jetstream::new(async_nats::connect(self.url()).await.unwrap())
    }
}
