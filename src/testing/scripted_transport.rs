//! A transport that answers as it is told and remembers what became visible.
//!
//! Without a script every message becomes visible and is acknowledged. A script sees each message and picks an
//! [`Answer`]; on top of that the whole transport can be [dropped](ScriptedTransport::disconnect) or
//! [held](ScriptedTransport::hold). It obeys the port's laws, so what the engine does with it holds for the real ones: a
//! dedupe id that is visible already is acknowledged as a duplicate and not shown again, as JetStream does;
//! [`ScriptedTransport::without_dedupe`] shows every copy, as Kafka does.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::gate::Gate;
use crate::delivery::{Failure, FailureClass, Outcome};
use crate::lock::lock;
use crate::message::Headers;
use crate::transport::chain::{Ledger, is_ordered};
use crate::transport::{Envelope, Probe, Transport};

/// What happens to one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Visible and acknowledged.
    Acknowledge,
    /// Refused with this class; not visible.
    Refuse(FailureClass),
    /// Visible, but the answer says `TimedOut`: the acknowledgement got lost.
    StoreThenTimeOut,
    /// Not visible, `TimedOut`: the message got lost.
    Lose,
    /// Visible and acknowledged, after this long.
    Slow(Duration),
}

/// A message as a consumer sees it.
#[derive(Clone, Debug)]
pub struct Visible {
    /// The message as published.
    pub envelope: Envelope,
}

type Script = Box<dyn FnMut(&Envelope) -> Answer + Send>;
type Consumer = Box<dyn FnMut(&Envelope) + Send>;
type ProbeScript = Box<dyn FnMut(&str) -> Result<Probe, Failure> + Send>;

#[derive(Default)]
struct State {
    script: Option<Script>,
    consumer: Option<Consumer>,
    probe_script: Option<ProbeScript>,
    visible: Vec<Visible>,
    known: HashSet<(Arc<str>, String)>,
    published: u64,
}

/// A scripted transport. See the module.
pub struct ScriptedTransport {
    state: Mutex<State>,
    connected: Gate<bool>,
    held: Gate<bool>,
    timeout: Duration,
    dedupes: bool,
}

impl std::fmt::Debug for ScriptedTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScriptedTransport")
            .field("connected", &self.connected.get())
            .finish_non_exhaustive()
    }
}

impl Default for ScriptedTransport {
    fn default() -> Self {
        Self::new(Duration::from_secs(5))
    }
}

impl ScriptedTransport {
    /// A transport that acknowledges everything and gives up after `timeout` where it is told to wait.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        Self {
            state: Mutex::default(),
            connected: Gate::new(true),
            held: Gate::new(false),
            timeout,
            dedupes: true,
        }
    }

    /// Shows every copy, as Kafka does.
    #[must_use]
    pub fn without_dedupe(self) -> Self {
        Self { dedupes: false, ..self }
    }

    /// From now on `script` decides, message by message, in the order they are sent.
    pub fn script(&self, script: impl FnMut(&Envelope) -> Answer + Send + 'static) {
        self.state().script = Some(Box::new(script));
    }

    /// Acknowledges everything again.
    pub fn unscript(&self) {
        self.state().script = None;
    }

    /// From now on `consumer` is told of each copy the moment it becomes visible.
    pub fn consume(&self, consumer: impl FnMut(&Envelope) + Send + 'static) {
        self.state().consumer = Some(Box::new(consumer));
    }

    /// From now on `script` answers probes, while the connection stands.
    pub fn script_probes(&self, script: impl FnMut(&str) -> Result<Probe, Failure> + Send + 'static) {
        self.state().probe_script = Some(Box::new(script));
    }

    /// The connection drops: everything answers `Unavailable`, what is held included.
    pub fn disconnect(&self) {
        self.connected.set(false);
    }

    /// The connection is back.
    pub fn reconnect(&self) {
        self.connected.set(true);
    }

    /// Messages become visible but no answer leaves, until [`release`](Self::release); `TimedOut` if that takes too long.
    pub fn hold(&self) {
        self.held.set(true);
    }

    /// Lets held answers go.
    pub fn release(&self) {
        self.held.set(false);
    }

    /// Everything visible, in the order it became so.
    #[must_use]
    pub fn visible(&self) -> Vec<Visible> {
        self.state().visible.clone()
    }

    /// How many times a message was sent, copies included.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.state().published
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn is_connected(&self) -> Result<(), Failure> {
        if self.connected.get() {
            Ok(())
        } else {
            Err(refusal(FailureClass::Unavailable))
        }
    }

    /// Sends one message; the answer may take until the timeout.
    async fn send(&self, envelope: &Envelope) -> Outcome {
        if let Err(failure) = self.is_connected() {
            return Outcome::Refused(failure);
        }
        if let Headers::Invalid(reason) = &envelope.message.headers {
            return Outcome::Refused(Failure::new(
                FailureClass::Rejected,
                "INVALID_HEADERS",
                reason.to_string(),
            ));
        }
        let answer = {
            let mut state = self.state();
            state.published += 1;
            state
                .script
                .as_mut()
                .map_or(Answer::Acknowledge, |script| script(envelope))
        };
        match answer {
            Answer::Acknowledge => self.acknowledge(envelope).await,
            Answer::Slow(latency) => {
                tokio::time::sleep(latency).await;
                self.acknowledge(envelope).await
            }
            Answer::Refuse(class) => Outcome::Refused(refusal(class)),
            Answer::Lose => Outcome::Refused(refusal(FailureClass::TimedOut)),
            Answer::StoreThenTimeOut => {
                self.show(envelope);
                Outcome::Refused(refusal(FailureClass::TimedOut))
            }
        }
    }

    async fn acknowledge(&self, envelope: &Envelope) -> Outcome {
        let duplicate = self.show(envelope);
        let held = &self.held;
        let connected = &self.connected;
        tokio::select! {
            biased;
            _ = connected.wait_for(|connected| !connected) => Outcome::Refused(refusal(FailureClass::Unavailable)),
            _ = held.wait_for(|held| !held) => Outcome::Acknowledged { duplicate },
            () = tokio::time::sleep(self.timeout) => Outcome::Refused(refusal(FailureClass::TimedOut)),
        }
    }

    /// Makes a message visible unless it is; `true` when it was.
    fn show(&self, envelope: &Envelope) -> bool {
        let mut state = self.state();
        let fresh = state
            .known
            .insert((Arc::clone(&envelope.destination), envelope.message.dedupe_id()));
        if fresh || !self.dedupes {
            state.visible.push(Visible {
                envelope: envelope.clone(),
            });
            if let Some(consumer) = &mut state.consumer {
                consumer(envelope);
            }
        }
        !fresh && self.dedupes
    }
}

fn refusal(class: FailureClass) -> Failure {
    Failure::new(class, "SCRIPTED", format!("the script answers {}", class.as_str()))
}

#[async_trait]
impl Transport for ScriptedTransport {
    /// Chains go one message at a time, everything else in the batch's order.
    async fn publish(&self, batch: &[Envelope]) -> Vec<Outcome> {
        let ledger = Mutex::new(Ledger::new(batch, is_ordered));
        let lock = || lock(&ledger);
        let give_up = tokio::time::Instant::now() + self.timeout;
        let heads = lock().heads().to_vec();
        let chains = heads.into_iter().map(|head| async move {
            let mut next = Some(head);
            while let Some(index) = next {
                let answer = tokio::time::timeout_at(give_up, self.send(&batch[index as usize])).await;
                let outcome = answer.unwrap_or_else(|_| Outcome::Refused(refusal(FailureClass::TimedOut)));
                next = lock().answer(index, outcome);
            }
        });
        futures_util::future::join_all(chains).await;
        ledger.into_inner().unwrap_or_else(PoisonError::into_inner).finish()
    }

    async fn probe(&self, destination: &str) -> Result<Probe, Failure> {
        self.is_connected()?;
        if let Some(script) = &mut self.state().probe_script {
            return script(destination);
        }
        let held = &self.held;
        let released = tokio::time::timeout(self.timeout, held.wait_for(|held| !held)).await;
        if released.is_ok() {
            Ok(Probe::Ready)
        } else {
            Err(refusal(FailureClass::TimedOut))
        }
    }

    async fn close(&self) {}
}
