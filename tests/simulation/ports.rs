//! One process's ends of the two ports: they take their time, get stuck, and note what takes effect.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use outboxd::delivery::{Failure, Outcome};
use outboxd::message::Seq;
use outboxd::store::{
    DuePage, DuePosition, FailedAttempt, Hold, LaneSet, Lease, Leases, Mark, OpenTransaction, Page, Reread, Room, Row,
    Scope, Settled, Settlement, Store, StoreError, Tenancy,
};
use outboxd::testing::memory_store::{MemoryStore, MemoryTable, StoredRow};
use outboxd::testing::scripted_transport::ScriptedTransport;
use outboxd::transport::{Envelope, Probe, Transport};

use super::journal::{Event, Journal, LaneChange, Process, Reply, Sending};

/// A latch that holds up a future: the process is stopped, or a connection hangs.
#[derive(Default)]
pub struct Stop {
    state: Mutex<(bool, Vec<Waker>)>,
}

impl Stop {
    pub fn set(&self, stopped: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = stopped;
        if !stopped {
            state.1.drain(..).for_each(Waker::wake);
        }
    }

    fn holds(&self, context: &Context<'_>) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0 {
            state.1.push(context.waker().clone());
        }
        state.0
    }

    pub async fn passed(&self) {
        std::future::poll_fn(|context| {
            if self.holds(context) {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
    }

    /// Runs `future`, except while stopped.
    pub async fn around<T>(self: Arc<Self>, future: impl Future<Output = T>) -> T {
        let mut future = Box::pin(future);
        std::future::poll_fn(move |context| {
            if self.holds(context) {
                Poll::Pending
            } else {
                future.as_mut().poll(context)
            }
        })
        .await
    }
}

/// What can be wrong with the database, for all processes.
#[derive(Default)]
pub struct Line {
    /// Times it has gone away.
    pub absences: AtomicU64,
    /// Statements take this many milliseconds more, at most.
    pub slow: AtomicU64,
}

/// Switches of one process.
#[derive(Default)]
pub struct Switches {
    pub frozen: Arc<Stop>,
    pub lease_mute: Stop,
    pub lease_refused: std::sync::atomic::AtomicBool,
}

/// What the ports of one process share.
pub struct Ends {
    pub process: Process,
    pub instance: String,
    pub journal: Arc<Journal>,
    pub table: Arc<MemoryTable>,
    pub line: Arc<Line>,
    pub switches: Arc<Switches>,
    pub database_latency: Duration,
    pub wire_latency: Duration,
    pub rng: Mutex<fastrand::Rng>,
}

impl Ends {
    async fn wait(&self, longest: Duration) {
        let share = self.rng.lock().unwrap_or_else(PoisonError::into_inner).f64();
        let long = longest.mul_f64(share);
        if long >= Duration::from_millis(1) {
            tokio::time::sleep(long).await;
        }
    }

    fn latency(&self) -> Duration {
        self.database_latency + Duration::from_millis(self.line.slow.load(Ordering::Relaxed))
    }

    /// A statement: its way there, its effect at one instant, the way back. An absence meanwhile loses the answer.
    /// `effect` polls once for the effect, and is told whether there was one.
    async fn statement<T: Send>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send,
        effect: impl FnOnce(&mut dyn FnMut() -> bool) + Send,
    ) -> Result<T, StoreError> {
        self.wait(self.latency()).await;
        let absences = self.line.absences.load(Ordering::Relaxed);
        let mut call: Pin<Box<_>> = Box::pin(call);
        let waker = std::future::poll_fn(|context| Poll::Ready(context.waker().clone())).await;
        let first = {
            let mut first = None;
            effect(&mut || {
                let answer = first.insert(call.as_mut().poll(&mut Context::from_waker(&waker)));
                !matches!(answer, Poll::Ready(Err(_)))
            });
            first.expect("an effect is polled for")
        };
        let answer = match first {
            Poll::Ready(answer) => answer,
            Poll::Pending => call.await,
        };
        self.wait(self.latency()).await;
        if answer.is_ok() && self.line.absences.load(Ordering::Relaxed) != absences {
            return Err(StoreError::Unavailable("the answer got lost".into()));
        }
        answer
    }

    async fn query<T: Send>(&self, call: impl Future<Output = Result<T, StoreError>> + Send) -> Result<T, StoreError> {
        let effect = |poll: &mut dyn FnMut() -> bool| {
            poll();
        };
        self.statement(call, effect).await
    }

    fn owns(&self, mark: &Mark) -> bool {
        let (owner, epoch) = self.table.lease(mark.lane);
        owner.as_deref() == Some(&*self.instance) && epoch == mark.epoch
    }

    fn leases(&self, lanes: u16) -> Vec<(Option<String>, i64)> {
        (0..lanes).map(|lane| self.table.lease(lane)).collect()
    }
}

pub struct SimStore {
    pub ends: Arc<Ends>,
    pub inner: Arc<MemoryStore>,
    pub lanes: u16,
}

impl SimStore {
    fn note_settled(&self, settlement: &Settlement, before: &[Option<StoredRow>], owned: &[bool]) {
        let ends = &self.ends;
        let marks = settlement.failures.iter().map(|failed| &failed.mark);
        let marks: Vec<&Mark> = marks.chain(&settlement.relayed).collect();
        for (index, mark) in marks.iter().enumerate() {
            let (before, after) = (&before[index], ends.table.row(mark.seq));
            let (Some(before), Some(after)) = (before, after) else {
                continue;
            };
            let (process, seq, owned) = (ends.process, mark.seq.0, owned[index]);
            if let Some(failed) = settlement.failures.get(index) {
                if after.message.attempt != before.message.attempt {
                    ends.journal.note(failure(process, failed, owned));
                }
            } else if after.relayed_at.is_some() && before.relayed_at.is_none() {
                ends.journal.note(Event::Marked { process, seq, owned });
            }
        }
    }
}

fn failure(process: Process, failed: &FailedAttempt, owned: bool) -> Event {
    Event::Failed {
        process,
        seq: failed.mark.seq.0,
        attempt: failed.attempt,
        class: failed.class,
        for_good: failed.retry_in.is_none(),
        owned,
    }
}

#[async_trait]
impl Store for SimStore {
    async fn open(&self) -> Result<Seq, StoreError> {
        self.ends.query(self.inner.open()).await
    }

    async fn read(&self, lanes: &LaneSet, room: Room) -> Result<Page, StoreError> {
        self.ends.query(self.inner.read(lanes, room)).await
    }

    async fn reread(&self, scope: &Scope, after: Seq, upto: Seq, room: Room) -> Result<Reread, StoreError> {
        self.ends.query(self.inner.reread(scope, after, upto, room)).await
    }

    async fn due(
        &self,
        lanes: &LaneSet,
        after: Option<DuePosition>,
        upto: Seq,
        room: Room,
    ) -> Result<DuePage, StoreError> {
        self.ends.query(self.inner.due(lanes, after, upto, room)).await
    }

    async fn urgent(&self, lanes: &LaneSet, without: &[Arc<str>], room: Room) -> Result<Vec<Row>, StoreError> {
        self.ends.query(self.inner.urgent(lanes, without, room)).await
    }

    async fn recall(&self, lanes: &LaneSet, seqs: &[Seq], room: Room) -> Result<Vec<Row>, StoreError> {
        self.ends.query(self.inner.recall(lanes, seqs, room)).await
    }

    async fn holds(&self, lanes: &LaneSet, among: Option<&[Seq]>, failed_too: bool) -> Result<Vec<Hold>, StoreError> {
        self.ends.query(self.inner.holds(lanes, among, failed_too)).await
    }

    async fn open_transactions(&self) -> Result<Vec<OpenTransaction>, StoreError> {
        self.ends.query(self.inner.open_transactions()).await
    }

    async fn settle(&self, settlement: &Settlement) -> Result<Settled, StoreError> {
        let effect = |poll: &mut dyn FnMut() -> bool| {
            let marks = settlement.failures.iter().map(|failed| &failed.mark);
            let marks: Vec<&Mark> = marks.chain(&settlement.relayed).collect();
            let before: Vec<_> = marks.iter().map(|mark| self.ends.table.row(mark.seq)).collect();
            let owned: Vec<_> = marks.iter().map(|mark| self.ends.owns(mark)).collect();
            poll();
            self.note_settled(settlement, &before, &owned);
        };
        self.ends.statement(self.inner.settle(settlement), effect).await
    }

    async fn changed(&self) {
        self.inner.changed().await;
        self.ends.wait(self.ends.latency()).await;
    }
}

impl SimStore {
    /// The lease's own connection: hangs or is refused on its own, and stops with its process.
    async fn about_lease<T: Send>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send,
        renewal: bool,
    ) -> Result<T, StoreError> {
        let switches = &self.ends.switches;
        switches.frozen.passed().await;
        switches.lease_mute.passed().await;
        if switches.lease_refused.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("renewals are refused".into()));
        }
        let effect = |poll: &mut dyn FnMut() -> bool| {
            let before = self.ends.leases(self.lanes);
            let renewal = poll() && renewal;
            let after = self.ends.leases(self.lanes);
            if renewal {
                self.ends.journal.note(Event::Renewed(self.ends.process));
            }
            for (lane, (before, after)) in (0..).zip(before.into_iter().zip(after)) {
                if before != after {
                    let change = LaneChange {
                        lane,
                        from: before.0,
                        to: after.0,
                        epoch: after.1,
                    };
                    let process = self.ends.process;
                    self.ends.journal.note(Event::Lane { process, change });
                }
            }
        };
        let answer = self.ends.statement(call, effect).await;
        switches.frozen.passed().await;
        answer
    }
}

#[async_trait]
impl Leases for SimStore {
    async fn renew(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.about_lease(self.inner.renew(ttl), true).await
    }

    async fn hand_over(&self, lanes: &Tenancy) -> Result<(), StoreError> {
        self.about_lease(self.inner.hand_over(lanes), false).await
    }

    async fn leave(&self) -> Result<(), StoreError> {
        self.about_lease(self.inner.leave(), false).await
    }

    async fn membership_changed(&self) {
        self.inner.membership_changed().await;
        self.ends.switches.frozen.passed().await;
    }
}

pub struct SimTransport {
    pub ends: Arc<Ends>,
    pub index: usize,
    pub broker: Arc<ScriptedTransport>,
}

#[async_trait]
impl Transport for SimTransport {
    async fn publish(&self, batch: &[Envelope]) -> Vec<Outcome> {
        let ends = &self.ends;
        let number = ends.journal.next_batch();
        let sending = |envelope: &Envelope| {
            let message = &envelope.message;
            let lane = ends.table.peek(message.seq, |row| row.lane).unwrap_or(0);
            Sending {
                seq: message.seq.0,
                attempt: message.attempt,
                lane,
                owned: ends.table.lease(lane).0.as_deref() == Some(&*ends.instance),
            }
        };
        let messages: Vec<Sending> = batch.iter().map(sending).collect();
        ends.journal.note(Event::Sent {
            process: ends.process,
            transport: self.index,
            batch: number,
            messages: messages.clone(),
        });
        let outcomes = self.broker.publish(batch).await;
        ends.wait(ends.wire_latency).await;
        let reply = |outcome: &Outcome| match outcome {
            Outcome::Acknowledged { .. } => Reply::Acknowledged,
            Outcome::Withheld => Reply::Withheld,
            Outcome::Refused(failure) => Reply::Refused(failure.class),
        };
        ends.journal.note(Event::Answered {
            process: ends.process,
            batch: number,
            replies: messages
                .iter()
                .map(|message| message.seq)
                .zip(outcomes.iter().map(reply))
                .collect(),
        });
        outcomes
    }

    async fn probe(&self, destination: &str) -> Result<Probe, Failure> {
        let answer = self.broker.probe(destination).await;
        self.ends.wait(self.ends.wire_latency).await;
        self.ends.journal.note(Event::Probed {
            process: self.ends.process,
            transport: self.index,
            destination: destination.to_owned(),
            alive: answer.is_ok(),
        });
        answer
    }

    async fn close(&self) {}
}
