//! The daemon as its users meet it: a binary, a configuration file, exit codes, one HTTP port.
//!
//! A [`Site`] is an installation (configuration, scratch directory, log); a [`Daemon`] is one run of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::postgres::Database;
use super::processes::{guarded, scratch, signal, spawn};
use super::{eventually, logins, ports, postgres, processes};

/// The program under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_outboxd");

/// The section of an outbox whose relayed rows are deleted, or stay.
pub(crate) fn on_relayed(deletes: bool) -> &'static str {
    if deletes {
        "[outbox]\non_relayed = \"delete\"\n"
    } else {
        ""
    }
}

/// One installation: configuration file, runtime directory, log file.
pub(crate) struct Site {
    dir: PathBuf,
    port: u16,
    binary: PathBuf,
    owner: bool,
}

impl Site {
    /// An installation for `database`, its table not yet made. `rest` is TOML: transports, routes, `[relay]` and so on.
    pub(crate) fn new(database: &Database, rest: &str) -> Self {
        Self::with_lease(database, "", rest)
    }

    /// As [`Self::new`], with more lines of `[lease]`.
    pub(crate) fn with_lease(database: &Database, lease: &str, rest: &str) -> Self {
        Self::told(&format!("url = \"{}\"", database.url()), lease, rest)
    }

    /// An installation whose `[database]` section is `section`.
    pub(crate) fn at(section: &str, rest: &str) -> Self {
        Self::told(section, "", rest)
    }

    fn told(section: &str, lease: &str, rest: &str) -> Self {
        let site = Self::bare();
        let mut text = String::new();
        let port = site.port;
        let instance = site.instance();
        write!(
            text,
            "[database]\n{section}\n\n[lease]\ninstance = \"{instance}\"\n{lease}\n\
             [http]\nlisten = \"127.0.0.1:{port}\"\n\n[log]\nformat = \"text\"\n\n{rest}\n"
        )
        .expect("writing into a string");
        site.configure(&text);
        site
    }

    /// An installation without a configuration.
    pub(crate) fn bare() -> Self {
        Self {
            dir: scratch("daemon"),
            port: ports::free(),
            binary: PathBuf::from(BINARY),
            owner: false,
        }
    }

    /// Installs another build of the program.
    pub(crate) fn install(&mut self, binary: PathBuf) {
        self.binary = binary;
    }

    /// From now on, whatever is run logs in as the tables' owner.
    pub(crate) fn log_in_as_owner(&mut self) {
        self.owner = true;
    }

    /// `lease.instance`: unique among the daemons of all tests, because it is locked per machine.
    pub(crate) fn instance(&self) -> String {
        let name = self.dir.file_name().expect("a scratch directory has a name");
        name.to_string_lossy().into_owned()
    }

    /// Replaces the configuration file.
    pub(crate) fn configure(&self, text: &str) {
        // As editors and packages do it: a daemon that reads meanwhile reads the one or the other.
        let new = self.config().with_extension("new");
        std::fs::write(&new, text).expect("the scratch directory is writable");
        std::fs::rename(new, self.config()).expect("the scratch directory is writable");
    }

    /// The configuration file.
    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("outboxd.toml")
    }

    /// The HTTP port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Everything the daemon logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("daemon.log")).unwrap_or_default()
    }

    fn command(&self, mut command: Command, arguments: &[&str]) -> Command {
        if !self.owner {
            logins::sign_in(&mut command, &self.config(), arguments);
        }
        command
            .arg("--config")
            .arg(self.config())
            .args(arguments)
            .env("RUNTIME_DIRECTORY", &self.dir)
            .env("XDG_RUNTIME_DIR", &self.dir);
        command
    }

    /// Runs a verb to its end.
    pub(crate) fn outboxd(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(Command::new(&self.binary), arguments);
        command.stdin(Stdio::null()).output().expect("the binary starts")
    }

    /// Runs a verb that must succeed; answers its standard output.
    pub(crate) fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.outboxd(arguments);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "outboxd {arguments:?} ended with {}:\n{said}{complained}",
            output.status
        );
        said
    }

    /// Makes the tables, and grants what the roles need of them.
    pub(crate) fn migrate(&self) {
        self.succeed(&["migrate"]);
        self.grant();
    }

    /// Makes the roles for the configuration as it is now.
    pub(crate) fn grant(&self) {
        let script = self.succeed(&["roles", "--print"]);
        let (_, owner) = logins::urls(&self.config()).swap_remove(0);
        let output = postgres::psql(&owner, &script);
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the roles are refused: {complained}");
    }

    /// Starts the daemon without waiting for it.
    pub(crate) fn launch(&self) -> Daemon {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("daemon.log"))
            .expect("a log file");
        let mut command = self.command(guarded(&self.binary, "KILL"), &["run"]);
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        Daemon {
            child: spawn(command),
            port: self.port,
            log: self.dir.join("daemon.log"),
        }
    }

    /// Starts the daemon and waits until it answers `/readyz` with 200.
    pub(crate) async fn start(&self) -> Daemon {
        let mut daemon = self.launch();
        daemon.ready(Duration::from_secs(30)).await;
        daemon
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let skipped = log.lines().count().saturating_sub(60);
            let tail: Vec<&str> = log.lines().skip(skipped).collect();
            eprintln!(
                "--- the daemon's log ({skipped} lines before)\n{}\n---",
                tail.join("\n")
            );
        }
        std::fs::remove_dir_all(&self.dir).ok();
    }
}

/// A running daemon; killed on drop.
pub(crate) struct Daemon {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Daemon {
    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for `/readyz` to answer 200.
    pub(crate) async fn ready(&mut self, deadline: Duration) {
        let started = std::time::Instant::now();
        loop {
            if self.get("/readyz").await.is_some_and(|(status, _)| status == 200) {
                return;
            }
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                panic!("the daemon ended with {status} before it was ready:\n{log}");
            }
            super::assert_within("getting ready", started.elapsed(), deadline);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// `kill -9`, and waits for its end.
    pub(crate) fn kill9(mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it can be waited for");
    }

    /// SIGTERM, and waits for its end.
    pub(crate) async fn terminate(mut self, deadline: Duration) -> ExitStatus {
        signal(self.pid(), "TERM");
        self.ended(deadline).await
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self, deadline: Duration) -> ExitStatus {
        let child = std::cell::RefCell::new(&mut self.child);
        eventually("the daemon has ended", deadline, || async {
            child.borrow_mut().try_wait().expect("it is ours")
        })
        .await
    }

    /// Freezes it (SIGSTOP).
    pub(crate) fn freeze(&self) {
        signal(self.pid(), "STOP");
    }

    /// Lets it go on (SIGCONT).
    pub(crate) fn thaw(&self) {
        signal(self.pid(), "CONT");
    }

    /// The most memory it ever held, in bytes.
    pub(crate) fn peak_rss(&self) -> u64 {
        processes::peak_rss(self.pid())
    }

    /// `GET path`: status and body, `None` when nobody answers.
    pub(crate) async fn get(&self, path: &str) -> Option<(u16, String)> {
        http_get(self.port, path).await
    }

    /// `/metrics`, every sample by its name with labels. Empty when nobody answers.
    pub(crate) async fn metrics(&self) -> BTreeMap<String, f64> {
        let (_, body) = self.get("/metrics").await.unwrap_or_default();
        body.lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| {
                let (name, value) = line.rsplit_once(' ')?;
                Some((name.to_owned(), value.parse().ok()?))
            })
            .collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// `GET path` on loopback: status and body, `None` when nobody answers within two seconds.
pub(crate) async fn http_get(port: u16, path: &str) -> Option<(u16, String)> {
    let answer = tokio::time::timeout(Duration::from_secs(2), async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    });
    let answer = answer.await.ok()??;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split_whitespace().nth(1)?.parse().ok()?, body.to_owned()))
}
