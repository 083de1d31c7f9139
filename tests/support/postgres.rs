//! A scratch PostgreSQL: one cluster for the whole test binary, one database for each test.
//!
//! The cluster lives as long as a pipe held by this process: its shell waits for the end of the pipe, then stops the server
//! and removes its files, so that nothing is left behind however the tests end.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

struct Cluster {
    port: u16,
    _shell: Child,
}

static CLUSTER: OnceLock<Cluster> = OnceLock::new();
static NEXT: AtomicU32 = AtomicU32::new(1);

/// A database of its own for one test.
pub(crate) struct TestDatabase {
    /// libpq URL.
    pub(crate) url: String,
}

impl TestDatabase {
    /// A new, empty database.
    pub(crate) fn create() -> Self {
        let port = CLUSTER.get_or_init(start).port;
        let name = format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let admin = Self {
            url: format!("postgres://postgres@127.0.0.1:{port}/postgres"),
        };
        admin.psql(&format!("create database {name} template template0 strategy file_copy"));
        Self {
            url: format!("postgres://postgres@127.0.0.1:{port}/{name}"),
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
        let mut psql = Command::new(bin("psql"));
        let output = psql
            .args(["-XqAt", "-v", "ON_ERROR_STOP=1", &self.url, "-c", sql])
            .env_remove("PGOPTIONS")
            .output()
            .expect("psql runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8").trim_end().to_owned();
        (output.status.success(), text(output.stdout), text(output.stderr))
    }

    /// The database's schema as pg_dump prints it, with the rows of `tables`.
    pub(crate) fn dump(&self) -> String {
        let output = Command::new(bin("pg_dump"))
            .args(["--schema-only", "-d", &self.url])
            .output()
            .expect("pg_dump runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        // \restrict lines hold a random word.
        text.lines()
            .filter(|line| !line.starts_with('\\'))
            .collect::<Vec<_>>()
            .join("\n")
    }
}

/// The path of a PostgreSQL program: Debian keeps those of the server out of the PATH.
pub(crate) fn bin(name: &str) -> String {
    let newest = (13..30)
        .rev()
        .map(|v| format!("/usr/lib/postgresql/{v}/bin/{name}"))
        .find(|path| Path::new(path).exists());
    newest.unwrap_or_else(|| name.to_owned())
}

const SCRIPT: &str = r#"
set -e
dir=$(mktemp -d "${TMPDIR:-/tmp}/outboxd-test-XXXXXX")
"$1" --no-sync -A trust -U postgres -D "$dir/data" >"$dir/log" 2>&1 || { cat "$dir/log"; exit 1; }
port=$3
"$2" -D "$dir/data" -p "$port" -k "$dir" -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=200 \
    -c timezone=UTC >>"$dir/log" 2>&1 3>&- </dev/null &
server=$!
for _ in $(seq 200); do
    grep -q 'ready to accept connections' "$dir/log" && break
    kill -0 $server 2>/dev/null || { cat "$dir/log"; exit 1; }
    sleep 0.05
done
echo "ready"
trap '' INT TERM HUP
read -r _ || true
kill -INT $server; wait $server || true
rm -rf "$dir"
"#;

fn start() -> Cluster {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("a free port")
        .port();
    let root = std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    let mut command = if root {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "sh"]);
        command
    } else {
        Command::new("sh")
    };
    let mut shell = command
        .args(["-c", SCRIPT, "sh", &bin("initdb"), &bin("postgres"), &port.to_string()])
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a shell");
    let mut lines = BufReader::new(shell.stdout.take().expect("piped"))
        .lines()
        .map_while(Result::ok);
    let first = lines.next().unwrap_or_default();
    assert!(
        first == "ready",
        "no scratch PostgreSQL (apt-get install postgresql): {first}\n{}",
        lines.collect::<Vec<_>>().join("\n")
    );
    Cluster { port, _shell: shell }
}
