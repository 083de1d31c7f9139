//! What the server refuses this user.
//!
//! A message that its sender may not publish gets no answer: the server says `-ERR 'Permissions Violation for Publish to
//! "orders"'` beside everything else, once for each, and drops it. The same with a subscription: then no acknowledgement can
//! ever come. So what it says is kept here: who waits is told at once and with the true reason, and nothing more is sent there
//! for a while. Then a message may try: rights are given without a word.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::delivery::{Failure, FailureClass};
use crate::lock::lock;

/// How long a refusal stands before it is put to the test; doubled each time it still holds.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// The same for a question about streams, which we can do without.
const API_PAUSE: Duration = Duration::from_secs(30);
/// Subjects remembered at most.
const REMEMBERED: usize = 4096;
/// What questions about streams begin with.
const API: &str = "$JS.API.";
/// Announcements of new leaders of streams (NATS manual, "JetStream Advisories").
pub(super) const ELECTIONS: &str = "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.*";

/// The code of a failure to ask because this user may not.
pub(super) const API_DENIED: &str = "API_DENIED";

/// A refusal that the server pronounces beside the answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Denial {
    /// Of a message to this subject.
    Publish(String),
    /// Of hearing what is sent to this subject.
    Subscribe(String),
}

impl Denial {
    /// Reads an `-ERR`; `None`: it is about something else.
    pub(super) fn read(error: &str) -> Option<Self> {
        let quoted = |lead: &str| {
            let start = error.find(lead)? + lead.len();
            let rest = &error[start..];
            let mut subject = String::new();
            let mut escaped = false;
            for c in rest.chars() {
                match c {
                    '\\' if !escaped => escaped = true,
                    '"' if !escaped => return Some(subject),
                    c => {
                        escaped = false;
                        subject.push(c);
                    }
                }
            }
            None
        };
        quoted("Permissions Violation for Publish to \"")
            .map(Self::Publish)
            .or_else(|| quoted("Permissions Violation for Subscription to \"").map(Self::Subscribe))
    }
}

#[derive(Debug)]
struct Denied {
    at: Instant,
    pause: Duration,
}

impl Denied {
    fn again(before: Option<&Self>, first: Duration) -> Self {
        let at = Instant::now();
        let pause = match before {
            None => first,
            // The same breath: many messages were on their way.
            Some(before) if at < before.at + before.pause => before.pause,
            Some(before) => (before.pause * 2).min(PAUSE_MAX.max(first)),
        };
        Self { at, pause }
    }

    fn stands(&self) -> bool {
        Instant::now() < self.at + self.pause
    }
}

#[derive(Debug, Default)]
struct State {
    publish: HashMap<Box<str>, Denied>,
    /// Of a subscription that acknowledgements come by; and whether it still is so.
    acks: Option<(Denied, Box<str>)>,
    acks_denied: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Rights {
    state: Mutex<State>,
    /// Subjects in `state.publish`, for those who are in a hurry.
    known: AtomicUsize,
    denials: AtomicU64,
    changed: Notify,
}

impl Rights {
    /// How many refusals came so far.
    pub(super) fn denials(&self) -> u64 {
        self.denials.load(Ordering::Acquire)
    }

    /// Takes note of a refusal that matters to messages or questions.
    pub(super) fn note(&self, denial: Denial) {
        let mut state = self.lock();
        match denial {
            Denial::Publish(subject) => {
                let first = if subject.starts_with(API) { API_PAUSE } else { PAUSE };
                let denied = Denied::again(state.publish.get(&*subject), first);
                if state.publish.len() >= REMEMBERED {
                    state.publish.retain(|_, denied| denied.stands());
                }
                if state.publish.len() < REMEMBERED {
                    state.publish.insert(subject.into(), denied);
                }
                self.known.store(state.publish.len(), Ordering::Release);
            }
            Denial::Subscribe(subject) => {
                let denied = Denied::again(state.acks.as_ref().map(|(denied, _)| denied), PAUSE);
                state.acks = Some((denied, subject.into()));
                state.acks_denied = true;
            }
        }
        drop(state);
        self.denials.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    /// A new connection: nobody knows what it may.
    pub(super) fn forget(&self) {
        let mut state = self.lock();
        state.publish.clear();
        // How often it was so is kept: each test costs a connection.
        state.acks_denied = false;
        self.known.store(0, Ordering::Release);
    }

    /// A message to `subject` was answered.
    pub(super) fn granted(&self, subject: &str) {
        if self.known.load(Ordering::Acquire) > 0 {
            let mut state = self.lock();
            state.publish.remove(subject);
            self.known.store(state.publish.len(), Ordering::Release);
        }
    }

    /// Why nothing is sent to `subject` now.
    pub(super) fn denied(&self, subject: &str) -> Option<Failure> {
        if self.known.load(Ordering::Acquire) == 0 {
            return None;
        }
        let state = self.lock();
        state
            .publish
            .get(subject)
            .filter(|denied| denied.stands())
            .map(|_| may_not_publish(subject))
    }

    /// Why nothing was sent to `subject` lately, whether or not that stands.
    pub(super) fn was_denied(&self, subject: &str) -> Option<Failure> {
        let state = self.lock();
        state.publish.get(subject).map(|_| may_not_publish(subject))
    }

    /// What the server said, at `since` or later, that answers a message to `subject`.
    pub(super) fn denied_since(&self, subject: &str, since: Instant) -> Option<Failure> {
        let state = self.lock();
        if let (true, Some((_, inbox))) = (state.acks_denied, &state.acks) {
            return Some(may_not_hear(inbox));
        }
        let denied = state.publish.get(subject)?;
        (denied.at >= since).then(|| may_not_publish(subject))
    }

    /// Why no acknowledgement can come.
    pub(super) fn acks_denied(&self) -> Option<Failure> {
        let state = self.lock();
        let (_, inbox) = state.acks.as_ref().filter(|_| state.acks_denied)?;
        Some(may_not_hear(inbox))
    }

    /// Whether it is time to see if acknowledgements still cannot come; true for one who asks.
    pub(super) fn shall_be_tested(&self) -> bool {
        let mut state = self.lock();
        match &mut state.acks {
            Some((denied, _)) if !denied.stands() => {
                *denied = Denied::again(Some(denied), PAUSE);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Waits for the server to refuse a message to `subject`.
    pub(super) async fn refused(&self, subject: &str) -> Failure {
        let since = Instant::now();
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(failure) = self.denied_since(subject, since) {
                return failure;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn may_not_publish(subject: &str) -> Failure {
    let unavailable = |code, error: String| Failure::new(FailureClass::Unavailable, code, error);
    if subject.starts_with(API) {
        // One right serves the streams of all names.
        let right = match subject.strip_prefix("$JS.API.STREAM.INFO.") {
            Some(_) => "$JS.API.STREAM.INFO.*",
            None => subject,
        };
        return unavailable(
            API_DENIED,
            format!("the nats user may not publish on {right}, so only a message can tell: allow it to publish there"),
        );
    }
    unavailable(
        "PERMISSIONS_VIOLATION",
        format!(
            "the nats user may not publish on {subject:?} (Permissions Violation): allow it, or correct the route's destination"
        ),
    )
}

fn may_not_hear(subject: &str) -> Failure {
    let error = format!(
        "the nats user may not subscribe to {subject:?}, so no acknowledgement can come (Permissions Violation): allow it to \
         subscribe to _INBOX.>"
    );
    Failure::new(FailureClass::Unavailable, "INBOX_DENIED", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_its_subject() {
        for (error, denial) in [
            (
                "nats: Permissions Violation for Publish to \"orders\"",
                Some(Denial::Publish("orders".to_owned())),
            ),
            (
                r#"Permissions Violation for Publish to "a\"b\\c""#,
                Some(Denial::Publish(r#"a"b\c"#.to_owned())),
            ),
            (
                r#"Permissions Violation for Subscription to "_INBOX.1.>" (sid "1")"#,
                Some(Denial::Subscribe("_INBOX.1.>".to_owned())),
            ),
            (
                r#"Permissions Violation for Subscription to "a" using queue "b""#,
                Some(Denial::Subscribe("a".to_owned())),
            ),
            (r#"Permissions Violation for Publish with Reply of "x""#, None),
            ("Authorization Violation", None),
        ] {
            assert_eq!(Denial::read(error), denial, "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_stands_for_a_while_and_longer_each_time() {
        let rights = Rights::default();
        let orders = || Denial::Publish("orders".to_owned());
        let sent = Instant::now();
        for pause in [1, 2, 4, 8, 8] {
            rights.note(orders());
            rights.note(orders());
            tokio::time::advance(Duration::from_millis(pause * 1000 - 1)).await;
            assert!(rights.denied("orders").is_some(), "{pause}");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(rights.denied("orders").is_none(), "{pause}");
        }
        assert!(rights.denied_since("orders", sent).is_some());
        assert!(rights.denied_since("orders", Instant::now()).is_none());
        assert!(rights.denied_since("others", sent).is_none());
        rights.granted("orders");
        assert!(rights.was_denied("orders").is_none());
        rights.note(Denial::Subscribe("_INBOX.x.>".to_owned()));
        assert_eq!(&*rights.denied_since("others", sent).unwrap().code, "INBOX_DENIED");
        rights.forget();
        assert!(rights.acks_denied().is_none());
    }
}
