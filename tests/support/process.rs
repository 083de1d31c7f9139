//! Server processes that die with the test process, whatever ends it.

use std::fs::File;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::processes::{self, guarded, spawn};

/// A running server. Killed when dropped.
pub struct Server {
    child: Mutex<Child>,
    log: PathBuf,
}

impl Server {
    /// Starts `program` with `args`, its output going to `log`. `hint` says how to get the program when it is missing.
    pub fn start(program: &str, args: &[&str], log: &Path, hint: &str) -> Self {
        let output = File::create(log).unwrap();
        let mut command = guarded(program, "KILL");
        command.args(args).stdout(output.try_clone().unwrap()).stderr(output);
        if !on_path(program) {
            panic!("{program} is missing: {hint}");
        }
        Self {
            child: Mutex::new(spawn(command)),
            log: log.to_owned(),
        }
    }

    /// Waits until something listens on `port`.
    pub fn wait_for_port(&self, port: u16) {
        self.wait(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    /// Waits until its output contains `text`.
    pub fn wait_for_output(&self, text: &str) {
        self.wait(|| std::fs::read_to_string(&self.log).is_ok_and(|log| log.contains(text)));
    }

    fn wait(&self, ready: impl Fn() -> bool) {
        let until = Instant::now() + Duration::from_secs(60);
        while !ready() {
            let ended = self.child.lock().unwrap().try_wait().unwrap();
            if ended.is_some() || Instant::now() > until {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                panic!("server is not ready ({ended:?}), its output:\n{log}");
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Sends `signal` ("STOP", "CONT", "KILL").
    pub fn signal(&self, signal: &str) {
        processes::signal(self.child.lock().unwrap().id(), signal);
    }

    /// Kills it as `kill -9` does, and reaps it.
    pub fn kill(&self) {
        let mut child = self.child.lock().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(child) = self.child.get_mut() {
            let (_killed, _reaped) = (child.kill(), child.wait());
        }
    }
}

/// Whether `program` is a path that exists or a name found on the `PATH`.
pub fn on_path(program: &str) -> bool {
    if program.contains('/') {
        return Path::new(program).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).exists())
}
