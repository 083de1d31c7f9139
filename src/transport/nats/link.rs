//! The state of the connection, as the client's events tell it.
//!
//! The client reconnects by itself for ever. What we keep is whether it is connected, how often it broke (a message sent
//! before a break will never be acknowledged), and the last reason, for the operator. A broken connection is logged once,
//! then every 30 seconds; a reason that names a key of the configuration is logged as soon as it is known.
//!
//! The client's events say "IO error" for whatever went wrong while connecting. The words behind it are in the list of
//! servers it shows before its next attempt, so that is where they are taken from ([`Link::note_attempt`]).
//!
//! Streams of a cluster change leaders; what was on its way to the old one may have got lost without any answer. Servers
//! announce elections, and they are counted here. What the server refuses this user is in [`Rights`].

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_nats::Event;

use super::rights::{Denial, ELECTIONS, Rights};
use super::tried::Tried;
use crate::delivery::{Failure, FailureClass};
use crate::lock::lock;
use crate::repeat::SharedRepeat;
use crate::transport::blame::Blame;

#[derive(Debug)]
pub(super) struct Link {
    name: String,
    blame: Blame,
    breaks: AtomicU64,
    elections: AtomicU64,
    /// What the user may not do.
    pub(super) rights: Rights,
    /// What was tried only to know whether the user may.
    tried: Tried,
    /// It was said that the user may not ask about streams.
    told_of_info: AtomicBool,
    reason: Mutex<Option<Arc<str>>>,
    log: SharedRepeat,
}

impl Link {
    /// The link of a transport, not connected yet.
    pub(super) fn new(blame: Blame) -> Self {
        Self {
            name: blame.name.clone(),
            blame,
            breaks: AtomicU64::new(0),
            elections: AtomicU64::new(0),
            rights: Rights::default(),
            tried: Tried::default(),
            told_of_info: AtomicBool::new(false),
            reason: Mutex::default(),
            log: SharedRepeat::default(),
        }
    }

    /// How often the connection broke so far.
    pub(super) fn breaks(&self) -> u64 {
        self.breaks.load(Ordering::Acquire)
    }

    /// How many elections of a stream's leader were announced so far.
    pub(super) fn elections(&self) -> u64 {
        self.elections.load(Ordering::Acquire)
    }

    /// A stream has a new leader.
    pub(super) fn note_election(&self) {
        self.elections.fetch_add(1, Ordering::AcqRel);
    }

    /// What was tried of what the user may do.
    pub(super) fn tried(&self) -> &Tried {
        &self.tried
    }

    /// Notes what the server refuses the user; `true` when batches in flight must look again.
    fn note_denial(&self, denial: Denial, error: &str) -> bool {
        let tried = self.tried.note(&denial);
        match &denial {
            Denial::Subscribe(subject) if subject == ELECTIONS => {
                tracing::info!(
                    transport = self.name,
                    "the user may not subscribe to {ELECTIONS}: messages lost with a stream's leader time out"
                );
                return false;
            }
            Denial::Publish(_) | Denial::Subscribe(_) if tried => {}
            Denial::Publish(subject) if subject.starts_with("$JS.API.STREAM.INFO.") => {
                if !self.told_of_info.swap(true, Ordering::AcqRel) {
                    tracing::warn!(
                        transport = self.name,
                        "the user may not publish on $JS.API.STREAM.INFO.*: a stream without a leader is not noticed as an outage"
                    );
                }
            }
            Denial::Publish(_) | Denial::Subscribe(_) => {
                if let Some(held) = self.log.pass() {
                    tracing::warn!(transport = self.name, held, "{error}");
                }
            }
        }
        self.rights.note(denial);
        true
    }

    /// Notes an event; `true` when batches in flight must look again.
    pub(super) fn note(&self, event: &Event) -> bool {
        match event {
            Event::Connected => {
                self.set_reason(None);
                self.rights.forget();
                self.log.reset();
                tracing::info!(transport = self.name, "connected to nats");
                false
            }
            Event::Disconnected | Event::Closed => {
                self.breaks.fetch_add(1, Ordering::AcqRel);
                self.complain("connection lost");
                true
            }
            Event::ServerError(error) => {
                let error = error.to_string();
                if let Some(denial) = Denial::read(&error) {
                    return self.note_denial(denial, &error);
                }
                self.set_reason(Some(error.as_str().into()));
                self.complain(&error);
                false
            }
            Event::ClientError(_) => false,
            Event::LameDuckMode | Event::Draining | Event::SlowConsumer(_) => {
                tracing::info!(transport = self.name, %event, "nats");
                false
            }
        }
    }

    /// The client tries to connect; `last` is why it could not, the time before.
    pub(super) fn note_attempt(&self, last: Option<&str>) {
        let Some(error) = last else { return };
        let error = error.replace(['\r', '\n'], " ");
        let blamed = self.blame.line(&error);
        let line = blamed.clone().unwrap_or(error);
        let news = self.set_reason(Some(line.as_str().into()));
        if news && blamed.is_some() {
            self.log.reset();
        }
        self.complain(&line);
    }

    /// What a message meets while there is no connection.
    pub(super) fn failure(&self) -> Failure {
        let reason = lock(&self.reason).clone();
        let error = match reason {
            Some(reason) => format!("not connected to nats: {reason}"),
            None => "not connected to nats".to_owned(),
        };
        Failure::new(FailureClass::Unavailable, "DISCONNECTED", error)
    }

    /// `true` when it was another one before.
    fn set_reason(&self, reason: Option<Arc<str>>) -> bool {
        let mut known = lock(&self.reason);
        let news = *known != reason;
        *known = reason;
        news
    }

    fn complain(&self, what: &str) {
        if let Some(held) = self.log.pass() {
            tracing::warn!(transport = self.name, held, "nats: {what}; reconnecting");
        }
    }
}
