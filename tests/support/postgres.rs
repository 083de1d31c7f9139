//! Scratch PostgreSQL clusters: one for the whole test binary, a database per test; a cluster of its own for tests that
//! kill the server.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_postgres::NoTls;

use super::processes::{run, scratch, scratch_root, signal, spawn, uid};
use super::{eventually, logins, ports};

/// A running cluster; stopped and removed on drop.
pub(crate) struct Cluster {
    dir: PathBuf,
    port: u16,
    settings: Settings,
    server: Mutex<Option<Child>>,
    databases: AtomicUsize,
    /// Further `name=value` settings of the next start.
    extra: Mutex<Vec<String>>,
}

/// What differs between clusters.
#[derive(Clone, Copy, Default)]
struct Settings {
    /// fsync on: its server will be killed.
    durable: bool,
    /// `max_prepared_transactions`. Where it is above 0 the wake trigger is silent, and the daemon lives by polling.
    prepared_transactions: u32,
}

static SHARED: LazyLock<Cluster> = LazyLock::new(|| Cluster::create("postgres", Settings::default()));
static TWO_PHASE: LazyLock<Cluster> = LazyLock::new(|| {
    Cluster::create(
        "postgres-2pc",
        Settings {
            prepared_transactions: 200,
            ..Settings::default()
        },
    )
});

impl Cluster {
    /// The cluster all tests share. Without fsync: nobody kills it.
    pub(crate) fn shared() -> &'static Self {
        &SHARED
    }

    /// A cluster that takes prepared transactions, shared too.
    pub(crate) fn two_phase() -> &'static Self {
        &TWO_PHASE
    }

    /// A cluster of one's own, with fsync, to kill.
    pub(crate) fn own() -> Self {
        Self::create(
            "postgres-own",
            Settings {
                durable: true,
                ..Settings::default()
            },
        )
    }

    fn create(name: &str, settings: Settings) -> Self {
        let dir = scratch(name);
        run(Command::new("cp").arg("-a").arg(template()).arg(dir.join("data")));
        give_away(&dir);
        let cluster = Self::of(dir, settings);
        cluster.start();
        cluster
    }

    fn of(dir: PathBuf, settings: Settings) -> Self {
        Self {
            dir,
            port: ports::free(),
            settings,
            server: Mutex::default(),
            databases: AtomicUsize::default(),
            extra: Mutex::default(),
        }
    }

    /// A streaming standby of this running cluster, itself running.
    pub(crate) fn standby(&self) -> Self {
        let dir = scratch("postgres-standby");
        give_away(&dir);
        let mut copy = as_owner("KILL", bin("pg_basebackup"));
        copy.args([
            "--checkpoint=fast",
            "--wal-method=stream",
            "--write-recovery-conf",
            "--no-sync",
        ])
        .arg("--dbname")
        .arg(self.admin().url())
        .arg("--pgdata")
        .arg(dir.join("data"));
        self.wait();
        run(&mut copy);
        let standby = Self::of(dir, self.settings);
        standby.start();
        standby.wait();
        standby
    }

    /// Settings (`name=value`) that the next start adds.
    pub(crate) fn configure(&self, settings: &[&str]) {
        *self.extra.lock().expect("no panic under the lock") = settings.iter().map(|text| (*text).to_owned()).collect();
    }

    /// Its port on loopback.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The database called `name`, which is there already: a copy's.
    pub(crate) fn database_called(&self, name: &str) -> Database {
        Database {
            name: name.to_owned(),
            port: self.port,
        }
    }

    /// The maintenance database.
    pub(crate) fn maintenance(&self) -> Database {
        self.admin()
    }

    /// Freezes the postmaster and every process of it: connections stay open, new ones are made by the kernel alone.
    pub(crate) fn freeze(&self) {
        let postmaster = self.pid();
        signal(postmaster, "STOP");
        for child in super::processes::children(postmaster) {
            signal(child, "STOP");
        }
    }

    /// Starts the server; returns at once.
    pub(crate) fn start(&self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("postgres.log"))
            .expect("a log");
        let mut command = as_owner("QUIT", bin("postgres"));
        command
            .arg("-D")
            .arg(self.dir.join("data"))
            .arg("-k")
            .arg(&self.dir)
            .arg("-p")
            .arg(self.port.to_string());
        let durability = if self.settings.durable { "on" } else { "off" };
        for setting in [
            "listen_addresses=127.0.0.1",
            "max_connections=200",
            &format!("max_prepared_transactions={}", self.settings.prepared_transactions),
            "shared_buffers=256MB",
            "max_wal_size=4GB",
            "checkpoint_timeout=30min",
            "timezone=UTC",
            &format!("fsync={durability}"),
            &format!("full_page_writes={durability}"),
        ] {
            command.arg("-c").arg(setting);
        }
        for setting in self.extra.lock().expect("no panic under the lock").iter() {
            command.arg("-c").arg(setting);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        *self.server.lock().expect("no panic under the lock") = Some(spawn(command));
    }

    /// The postmaster's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.server
            .lock()
            .expect("no panic under the lock")
            .as_ref()
            .expect("the server was started")
            .id()
    }

    /// `kill -9` of the postmaster; its children follow by themselves. Returns once all of them are gone.
    pub(crate) async fn kill9(&self) {
        let mut server = self
            .server
            .lock()
            .expect("no panic under the lock")
            .take()
            .expect("the server was started");
        let children = super::processes::children(server.id());
        server.kill().expect("it can be killed");
        server.wait().expect("it can be waited for");
        eventually(
            "the postmaster's children are gone",
            Duration::from_secs(30),
            || async {
                let left = children
                    .iter()
                    .any(|pid| Path::new("/proc").join(pid.to_string()).exists());
                (!left).then_some(())
            },
        )
        .await;
    }

    /// Immediate stop, as `pg_ctl stop -m immediate`: no checkpoint, no goodbye. Returns once the postmaster is gone.
    pub(crate) fn stop_immediately(&self) {
        let mut server = self
            .server
            .lock()
            .expect("no panic under the lock")
            .take()
            .expect("the server was started");
        signal(server.id(), "QUIT");
        server.wait().expect("it can be waited for");
    }

    /// A new, empty database.
    pub(crate) async fn database(&self) -> Database {
        let name = self.next_name();
        let admin = self.admin();
        admin.connect_when_up().await.run(&creation(&name)).await;
        Database { name, port: self.port }
    }

    fn next_name(&self) -> String {
        format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed))
    }

    fn admin(&self) -> Database {
        Database {
            name: "postgres".to_owned(),
            port: self.port,
        }
    }

    /// Blocks until the server accepts connections.
    pub(crate) fn wait(&self) {
        let started = std::time::Instant::now();
        while !psql(&self.admin().url(), "select 1").status.success() {
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "PostgreSQL does not start: {}",
                self.dir.display()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn creation(name: &str) -> String {
    format!("create database {name} template template0 strategy file_copy")
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.lock().expect("no panic under the lock").take() {
            signal(server.id(), "QUIT");
            for frozen in super::processes::children(server.id()).into_iter().chain([server.id()]) {
                Command::new("kill").args(["-CONT", &frozen.to_string()]).output().ok();
            }
            server.wait().ok();
        }
        std::fs::remove_dir_all(&self.dir).ok();
    }
}

/// One database of a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    /// Its name.
    pub(crate) name: String,
    /// Its server's port on loopback.
    pub(crate) port: u16,
}

impl Database {
    /// What goes into `database.url`.
    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{}", self.port, self.name)
    }

    /// A connection; the server must be up.
    pub(crate) async fn connect(&self) -> Session {
        self.try_connect()
            .await
            .unwrap_or_else(|error| panic!("cannot connect to {}: {error}", self.url()))
    }

    /// A connection, once the server accepts one.
    pub(crate) async fn connect_when_up(&self) -> Session {
        eventually("PostgreSQL accepts connections", Duration::from_secs(60), || async {
            self.try_connect().await.ok()
        })
        .await
    }

    async fn try_connect(&self) -> Result<Session, tokio_postgres::Error> {
        try_session(&self.url()).await
    }
}

/// A connection to `url`, unless the server is not there.
pub(crate) async fn try_session(url: &str) -> Result<Session, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        // The error reaches whoever uses the client.
        connection.await.ok();
    });
    Ok(Session {
        client,
        _driver: driver,
    })
}

/// A connection and the task that drives it.
pub(crate) struct Session {
    client: tokio_postgres::Client,
    _driver: JoinSet<()>,
}

impl Deref for Session {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &Self::Target {
        &self.client
    }
}

impl Session {
    /// The single number a query answers.
    pub(crate) async fn count(&self, query: &str) -> i64 {
        self.client
            .query_one(query, &[])
            .await
            .unwrap_or_else(|error| panic!("{query}: {error}"))
            .get(0)
    }

    /// Runs statements that must succeed.
    pub(crate) async fn run(&self, statements: &str) {
        self.client
            .batch_execute(statements)
            .await
            .unwrap_or_else(|error| panic!("{statements}: {error}"));
    }

    /// Waits until no row is pending, and says how many were left when the deadline passes.
    pub(crate) async fn drained(&self, deadline: Duration) {
        let pending = "select count(*) from outbox_messages where relayed_at is null and failed_at is null";
        let last = std::cell::Cell::new(0);
        let done = tokio::time::timeout(deadline, async {
            eventually("no row is pending", deadline * 2, || async {
                last.set(self.count(pending).await);
                (last.get() == 0).then_some(())
            })
            .await;
        });
        assert!(
            done.await.is_ok(),
            "{} rows still pending after {deadline:?}",
            last.get()
        );
    }
}

/// A database of the shared cluster for tests that need no connection of their own: statements go through psql.
pub(crate) struct TestDatabase {
    /// libpq URL.
    pub(crate) url: String,
}

impl TestDatabase {
    /// A new, empty database.
    pub(crate) fn create() -> Self {
        let cluster = Cluster::shared();
        cluster.wait();
        let name = cluster.next_name();
        Self {
            url: cluster.admin().url(),
        }
        .psql(&creation(&name));
        Self {
            url: Database {
                name,
                port: cluster.port,
            }
            .url(),
        }
    }

    /// Runs SQL by psql and returns its output, unaligned, without headers.
    pub(crate) fn psql(&self, sql: &str) -> String {
        let (ok, out, err) = self.try_psql(sql);
        assert!(ok, "psql failed: {err}\n{sql}");
        out
    }

    /// As [`Self::psql`], with whether it succeeded, its output and its errors.
    pub(crate) fn try_psql(&self, sql: &str) -> (bool, String, String) {
        let output = psql(&self.url, sql);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8").trim_end().to_owned();
        (output.status.success(), text(output.stdout), text(output.stderr))
    }

    /// The database's schema as pg_dump prints it.
    pub(crate) fn dump(&self) -> String {
        let text = run(Command::new(bin("pg_dump")).args(["--schema-only", "-d", &self.url]));
        // \restrict lines hold a random word.
        text.lines()
            .filter(|line| !line.starts_with('\\'))
            .collect::<Vec<_>>()
            .join("\n")
    }
}

pub(crate) fn psql(url: &str, sql: &str) -> std::process::Output {
    let mut command = Command::new(bin("psql"));
    command
        .args(["-XqAt", "-v", "ON_ERROR_STOP=1", url, "-c", sql])
        .env_remove("PGOPTIONS");
    command.output().expect("psql is installed: apt-get install postgresql")
}

/// The path of a server program: the newest version installed, else the PATH.
pub(crate) fn bin(name: &str) -> String {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse().ok()?,
                entry.path().join("bin").join(name),
            ))
        })
        .filter(|(_, path)| path.exists())
        .collect();
    found.sort();
    found
        .pop()
        .map_or_else(|| name.to_owned(), |(_, path)| path.to_string_lossy().into_owned())
}

/// A command that runs as somebody PostgreSQL accepts (never root) and gets `signal` when the test binary ends.
pub(crate) fn as_owner(signal: &str, program: String) -> Command {
    let mut command = Command::new("setpriv");
    if uid() == 0 {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    command.args(["--pdeathsig", signal, "--"]).arg(program);
    command
}

fn give_away(dir: &Path) {
    if uid() == 0 {
        run(Command::new("chown").arg("postgres:postgres").arg(dir));
    }
}

/// Logins and groups, in a cluster whose server does not run.
fn make_logins(data: &Path) {
    let mut command = as_owner("KILL", bin("postgres"));
    command.arg("--single").arg("-D").arg(data).arg("postgres");
    let mut server = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the server starts");
    let mut statements = server.stdin.take().expect("piped");
    let written = std::io::Write::write_all(&mut statements, logins::creation().as_bytes());
    written.expect("the server reads");
    drop(statements);
    assert!(server.wait().expect("it is ours").success(), "no logins could be made");
}

/// A freshly made cluster to copy from: `initdb` takes longer than everything else here.
fn template() -> PathBuf {
    let initdb = bin("initdb");
    let version = Path::new(&initdb)
        .ancestors()
        .nth(2)
        .and_then(Path::file_name)
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let template = scratch_root().join(format!("template-{version}-logins"));
    if template.join("PG_VERSION").exists() {
        return template;
    }
    let fresh = scratch("template");
    give_away(&fresh);
    let mut command = as_owner("KILL", initdb);
    command.args([
        "--no-sync",
        "--auth=trust",
        "--username=postgres",
        "--encoding=UTF8",
        "--locale=C",
        "-D",
    ]);
    if Command::new("setpriv").arg("--version").output().is_err() {
        panic!("setpriv is missing: install util-linux");
    }
    run(command.arg(fresh.join("data")));
    make_logins(&fresh.join("data"));
    // Another test binary may have been quicker; then its template serves.
    std::fs::rename(fresh.join("data"), &template).ok();
    std::fs::remove_dir_all(&fresh).ok();
    template
}
