//! Child processes that never outlive the test binary, signals to them, and what `/proc` says about them.
//!
//! Children are started under `setpriv --pdeathsig`, so the kernel signals them when the thread that started them ends.
//! A test's thread ends with its test, so one thread that never ends starts all of them.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

type Request = (Command, Sender<io::Result<Child>>);

static SPAWNER: LazyLock<Mutex<Sender<Request>>> = LazyLock::new(|| {
    let (requests, inbox) = channel::<Request>();
    std::thread::spawn(move || {
        for (mut command, reply) in inbox {
            reply.send(command.spawn()).ok();
        }
    });
    Mutex::new(requests)
});

/// Starts `command` from the thread that never ends.
pub(crate) fn spawn(command: Command) -> Child {
    let (reply, answer) = channel();
    let shown = format!("{command:?}");
    SPAWNER
        .lock()
        .expect("no panic while sending")
        .send((command, reply))
        .expect("the spawner never ends");
    match answer.recv().expect("the spawner never ends") {
        Ok(child) => child,
        Err(error) => panic!("cannot start {shown}: {error}"),
    }
}

/// A command for `program` that gets `signal` ("KILL", "QUIT") when the test binary ends, however it ends.
pub(crate) fn guarded(program: impl AsRef<std::ffi::OsStr>, signal: &str) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", signal, "--"])
        .arg(program)
        .stdin(Stdio::null());
    command
}

/// Sends `signal` ("TERM", "STOP", "CONT", "KILL") to the process `pid`, which must exist. After STOP and CONT the process has
/// done so: a signal that is only sent is obeyed when the scheduler comes to it, thread by thread.
pub(crate) fn signal(pid: u32, signal: &str) {
    let status = Command::new("kill")
        .arg(format!("-{signal}"))
        .arg(pid.to_string())
        .status()
        .expect("kill starts");
    assert!(status.success(), "cannot send SIG{signal} to {pid}");
    let stops = match signal {
        "STOP" => true,
        "CONT" => false,
        _ended => return,
    };
    let until = Instant::now() + Duration::from_secs(30);
    while !all_threads(pid, stops) {
        assert!(Instant::now() < until, "{pid} has not obeyed SIG{signal}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Whether every thread of `pid` is stopped, or none is. A process that has ended is either.
fn all_threads(pid: u32, stopped: bool) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return true;
    };
    tasks.flatten().all(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        // The state comes after the parenthesised name (proc(5)).
        let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
        state.is_empty() || state.starts_with(['Z', 'X']) || state.starts_with('T') == stopped
    })
}

/// Runs a command to its end and returns its standard output; panics with everything it said when it fails.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?} ended with {}:\n{said}{complained}",
        output.status
    );
    said
}

/// The user this process runs as.
pub(crate) fn uid() -> u32 {
    std::fs::metadata("/proc/self").expect("/proc is mounted").uid()
}

/// The package's directory.
pub(crate) fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The directory all scratch data of this user's tests lies in.
pub(crate) fn scratch_root() -> PathBuf {
    let root = std::env::temp_dir().join(format!("outboxd-tests-{}", uid()));
    std::fs::create_dir_all(&root).unwrap_or_else(|error| panic!("cannot create {}: {error}", root.display()));
    root
}

/// A new scratch directory, named after this process so that a later run can tell that its owner is gone.
pub(crate) fn scratch(name: &str) -> PathBuf {
    static CLEAN: std::sync::Once = std::sync::Once::new();
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    CLEAN.call_once(remove_orphans);
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let dir = scratch_root().join(format!("run-{}-{number}-{name}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("cannot create {}: {error}", dir.display()));
    dir
}

/// Ends servers and removes directories of test binaries that no longer run.
fn remove_orphans() {
    let Ok(entries) = std::fs::read_dir(scratch_root()) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(owner) = name.strip_prefix("run-").and_then(|rest| rest.split('-').next()) else {
            continue;
        };
        if Path::new("/proc").join(owner).exists() {
            continue;
        }
        for pid_file in ["kafka.pid", "nats.pid"] {
            if let Ok(pid) = std::fs::read_to_string(entry.path().join(pid_file)) {
                end_if_ours(pid.trim(), &entry.path());
            }
        }
        std::fs::remove_dir_all(entry.path()).ok();
    }
}

/// Kills `pid` when its command line names `dir`: a pid file may be older than the process that has its number now.
fn end_if_ours(pid: &str, dir: &Path) {
    let command_line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if command_line.contains(&*dir.to_string_lossy()) {
        Command::new("kill").args(["-KILL", pid]).status().ok();
    }
}

/// The most memory `pid` ever held resident, in bytes.
pub(crate) fn peak_rss(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .expect("the kernel reports VmHWM");
    let kilobytes: u64 = line
        .split_whitespace()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .expect("VmHWM is a number");
    kilobytes * 1024
}

/// How many threads `pid` has.
pub(crate) fn threads(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

/// CPU time `pid` and its reaped children have used, in seconds.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return 0.0;
    };
    // Fields after the parenthesised name: state is number 3, utime 14, stime 15, cutime 16, cstime 17 (proc(5)).
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = fields[11..15]
        .iter()
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    ticks / 100.0
}

/// The processes whose parent is `pid`.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let numbers = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
    numbers.filter(|child| parent(*child) == Some(pid)).collect()
}

fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
}
