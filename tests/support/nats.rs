//! A real nats-server with JetStream on a file store.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use super::ports;
use super::process::{Server, on_path};
use super::processes::{package, run};

/// The name of Debian's nats-server, on the `PATH`.
pub const DEBIAN: &str = "nats-server";

/// A current release, built by `dev/nats` when first needed and kept outside of the clone: it can what Debian's cannot.
pub fn current() -> String {
    static CURRENT: OnceLock<String> = OnceLock::new();
    let build = || {
        let mut script = Command::new(package().join("dev/nats"));
        run(script.arg("binary").env("NATS_VERSION", "v2.15.2"))
            .trim()
            .to_owned()
    };
    CURRENT.get_or_init(build).clone()
}

/// The programs of every version a test is to hold for: Debian's and the current one. The second is left out, aloud, where
/// there is no Go to build it with.
pub fn programs() -> Vec<String> {
    let mut programs = vec![DEBIAN.to_owned()];
    if on_path("go") {
        programs.push(current());
    } else {
        eprintln!("no Go here to build today's nats-server with: NOT TESTED with it");
    }
    programs
}

const HINT: &str = "apt-get install nats-server (or put one on the PATH)";

/// A nats-server of its own directory and port.
pub struct NatsServer {
    program: String,
    port: u16,
    config: PathBuf,
    /// Of its JetStream; empty: none.
    domain: String,
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
        Self::of(DEBIAN, extra)
    }

    /// Starts one of another version: its `program`.
    pub fn of(program: &str, extra: &str) -> Self {
        Self::in_domain(program, "", extra)
    }

    /// Starts one whose JetStream is a `domain` of its own; empty: of none.
    pub fn in_domain(program: &str, domain: &str, extra: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = ports::free();
        let config = folder.path().join("nats.conf");
        let server = Self {
            program: program.to_owned(),
            port,
            config,
            domain: domain.to_owned(),
            folder,
            server: Mutex::new(None),
        };
        server.configure(extra);
        server.up();
        server
    }

    fn configure(&self, extra: &str) {
        let (port, store) = (self.port, self.folder.path().join("store"));
        let domain = match &*self.domain {
            "" => String::new(),
            named => format!(", domain: {named}"),
        };
        let lines = format!(
            "listen: 127.0.0.1:{port}\nserver_name: test-{port}\n\
             jetstream {{ store_dir: {store:?}, max_mem: 64MB, max_file: 8GB{domain} }}\n{extra}\n"
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

    /// The server of the current version that all tests share that do not stop it.
    pub fn shared_current() -> &'static Self {
        static SHARED: OnceLock<NatsServer> = OnceLock::new();
        SHARED.get_or_init(|| Self::of(&current(), ""))
    }

    /// The shared server of every version: see [`programs`].
    pub fn every_version() -> Vec<&'static Self> {
        let current = programs().len() > 1;
        let mut servers = vec![Self::shared()];
        servers.extend(current.then(Self::shared_current));
        servers
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

    /// Has it read a configuration in which `old` is `new`: who logged in by what is gone is thrown out.
    pub fn reconfigure(&self, old: &str, new: &str) {
        let text = std::fs::read_to_string(&self.config).unwrap();
        assert!(text.contains(old), "{text}");
        std::fs::write(&self.config, text.replace(old, new)).unwrap();
        self.signal("HUP");
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
