//! A real PgBouncer in transaction mode.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::logins::LOGINS;
use super::ports;
use super::postgres::{Database, as_owner};
use super::process::on_path;
use super::processes::{scratch, spawn, uid};

/// A pooler before one server; killed on drop.
pub(crate) struct PgBouncer {
    dir: PathBuf,
    port: u16,
    server: Mutex<Option<Child>>,
}

impl PgBouncer {
    /// Starts one before the server on `target`, with `size` server connections per database.
    pub(crate) fn before(target: u16, size: usize) -> Self {
        Self::with(target, size, "pool_mode = transaction\n")
    }

    /// As [`Self::before`], with more settings, the mode among them.
    pub(crate) fn with(target: u16, size: usize, more: &str) -> Self {
        let bouncer = Self {
            dir: scratch("pgbouncer"),
            port: ports::free(),
            server: Mutex::default(),
        };
        let port = bouncer.port;
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={target}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {}\n\
             {more}default_pool_size = {size}\nmax_client_conn = 200\nserver_login_retry = 1\n",
            bouncer.dir.join("users.txt").display()
        );
        let logins = LOGINS.iter().map(|(login, _)| *login).chain(["postgres"]);
        let users: String = logins.map(|user| format!("\"{user}\" \"\"\n")).collect();
        std::fs::write(bouncer.dir.join("users.txt"), users).expect("the scratch directory is writable");
        std::fs::write(bouncer.dir.join("pgbouncer.ini"), settings).expect("the scratch directory is writable");
        if uid() == 0 {
            super::processes::run(
                Command::new("chown")
                    .args(["-R", "postgres:postgres"])
                    .arg(&bouncer.dir),
            );
        }
        bouncer.start();
        bouncer
    }

    /// Starts it (again) on the same port; returns when it listens.
    pub(crate) fn start(&self) {
        let program = ["/usr/sbin/pgbouncer", "pgbouncer"]
            .into_iter()
            .find(|path| on_path(path));
        let program = program.expect("pgbouncer is missing: apt-get install pgbouncer");
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("pgbouncer.log"))
            .expect("a log file");
        let mut command = as_owner("KILL", program.to_owned());
        command.arg(self.dir.join("pgbouncer.ini")).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        *self.server.lock().expect("no panic under the lock") = Some(spawn(command));
        let started = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let log = std::fs::read_to_string(self.dir.join("pgbouncer.log")).unwrap_or_default();
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "pgbouncer does not listen:\n{log}"
            );
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Kills it as `kill -9` does, and reaps it.
    pub(crate) fn kill9(&self) {
        let server = self.server.lock().expect("no panic under the lock").take();
        let mut server = server.expect("it runs");
        server.kill().expect("it can be killed");
        server.wait().expect("it can be waited for");
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// `database` through it.
    pub(crate) fn to(&self, database: &Database) -> Database {
        Database {
            name: database.name.clone(),
            port: self.port,
        }
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.lock().expect("no panic under the lock").take() {
            let (_killed, _reaped) = (server.kill(), server.wait());
        }
        std::fs::remove_dir_all(&self.dir).ok();
    }
}
