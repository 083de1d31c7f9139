//! The program as somebody calls it: arguments, standard input, output, exit code, on a database of its own.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::logins;
use super::postgres::TestDatabase;

/// A database and a configuration file that points at it.
pub(crate) struct Site {
    /// The database.
    pub(crate) database: TestDatabase,
    directory: tempfile::TempDir,
}

/// What one call of the program did.
pub(crate) struct Called {
    /// Exit code.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

impl Called {
    /// Succeeded; its output.
    #[track_caller]
    pub(crate) fn done(&self) -> &str {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{}", self.out);
        &self.out
    }

    /// Failed with `code` and one plain line on standard error; that line.
    #[track_caller]
    pub(crate) fn refused(&self, code: i32) -> &str {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        let line = self.err.trim_end();
        assert!(line.starts_with("outboxd: ") && !line.contains('\n'), "{line}");
        assert!(!line["outboxd: ".len()..].starts_with(char::is_uppercase), "{line}");
        line
    }

    /// Succeeded; its output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(self.done()).unwrap()
    }
}

impl Site {
    /// Not migrated.
    pub(crate) fn empty() -> Self {
        let (database, directory) = (TestDatabase::create(), tempfile::tempdir().unwrap());
        let site = Self { database, directory };
        site.configure("");
        site
    }

    /// Migrated, the roles granted.
    pub(crate) fn migrated() -> Self {
        let site = Self::empty();
        site.call(&["migrate"]).done();
        site
    }

    /// Makes the roles for the configuration as it is now.
    pub(crate) fn grant(&self) {
        let script = self.call(&["roles", "--print"]);
        self.database.psql(script.done());
    }

    /// Replaces the configuration: what stands in `[outbox]`, and sections after it.
    pub(crate) fn configure(&self, outbox: &str) {
        let url = &self.database.url;
        let text = format!("[database]\nurl = \"{url}\"\n[outbox]\nlanes = 8\n{outbox}\n[transports.main.stdout]\n");
        std::fs::write(self.file(), text).unwrap();
    }

    /// The configuration file.
    pub(crate) fn file(&self) -> std::path::PathBuf {
        self.directory.path().join("outboxd.toml")
    }

    /// A call, to be finished.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outboxd"));
        logins::sign_in(&mut command, &self.file(), args);
        command
            .args(args)
            .env("OUTBOXD_CONFIG", self.file())
            .env_remove("SUDO_USER")
            .env_remove("RUST_BACKTRACE");
        command
    }

    /// Calls the program.
    pub(crate) fn call(&self, args: &[&str]) -> Called {
        let called = finish(self.command(args).stdin(Stdio::null()).output().unwrap());
        let has_tables = args.first() == Some(&"migrate") && !args.contains(&"--print") && !args.contains(&"--status");
        if has_tables && called.code == 0 {
            self.grant();
        }
        called
    }

    /// Calls the program with something on its standard input.
    pub(crate) fn call_with(&self, args: &[&str], stdin: &[u8]) -> Called {
        let mut command = self.command(args);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A call refused for its arguments ends without reading: what it printed is what counts.
        if let Err(error) = child.stdin.take().unwrap().write_all(stdin) {
            assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
        }
        finish(child.wait_with_output().unwrap())
    }

    /// `count` failed messages of topic `orders.0` to `orders.2`, keys `k1`...
    pub(crate) fn fail(&self, count: u32) {
        self.database.psql(&format!(
            "insert into outbox_messages (topic, key, payload, headers, failed_at, last_error, attempt)
             select 'orders.' || g % 3, 'k' || g, jsonb_build_object('n', g), '{{\"h\": \"v\"}}', now() - g * interval '1 second',
                    case when g % 2 = 0 then 'too large: 10054 ' || repeat('x', 200) else 'no route' end, 6
             from generate_series(1, {count}) g"
        ));
    }

    /// SQL by psql; its output.
    pub(crate) fn one(&self, sql: &str) -> String {
        self.database.psql(sql)
    }
}

/// What a call did, once it has ended.
pub(crate) fn finish(output: Output) -> Called {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Called {
        code: output.status.code().unwrap(),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

/// Asserts that `text` fits a terminal and does not steer it.
#[track_caller]
pub(crate) fn fits(text: &str) {
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "wider than 80 columns: {line}");
        assert!(!line.contains('\x1b'), "steers the terminal: {line:?}");
    }
}
