//! The service manager's notification socket (`sd_notify(3)`). Outside systemd every call does nothing; none can fail.

use std::time::Duration;

use sd_notify::NotifyState;

use super::escape::Escaped;

/// `READY=1`: start-up is over.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// `STOPPING=1`: a clean stop has begun.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// `RELOADING=1`, with the time systemd asks for; follow it with [`ready`].
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

/// `STATUS=`: the line `systemctl status` shows. Line ends become spaces: each would begin another assignment. Nothing else in it
/// steers the terminal either.
pub fn status(text: &str) {
    let line = Escaped(text.replace(['\n', '\r'], " ")).to_string();
    send(&[NotifyState::Status(&line)]);
}

/// `WATCHDOG=1`: still making progress. See [`super::Telemetry::watchdog_ok`].
pub fn watchdog() {
    send(&[NotifyState::Watchdog]);
}

/// How often [`watchdog`] should be called: half of what the unit's `WatchdogSec=` allows. `None`: no watchdog.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled()
        .filter(|limit| !limit.is_zero())
        .map(|limit| limit / 2)
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the notification socket of systemd does not answer");
    }
}
