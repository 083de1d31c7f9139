//! The driver: brings what happens to the core, and carries out what it wants done. The only place with futures.

pub mod plan;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::delivery::Failure;
use crate::message::Seq;
use crate::store::{LaneSet, Room, Settled, Settlement, Store, StoreError, Tenancy};
use crate::telemetry::metrics::Metrics;
use crate::transport::{Probe, Transport};

use super::core::{Core, Setup};
use super::event::{Asked, Batch, Effect, Event, PageRead, Published, Underway};
use super::inquiry::Inquiries;
use super::options::RelayError;
use super::owning::standing::Standing;
use super::reading::{Answer, Question, URGENT_ROWS};
use super::waiting::found::DestinationId;

use plan::Plans;

/// The core's ports.
pub(super) struct Ports {
    pub(super) store: Arc<dyn Store>,
    /// In configuration order; routes name them by index.
    pub(super) transports: Vec<Arc<dyn Transport>>,
    pub(super) plans: Plans,
    pub(super) inquiries: Inquiries,
    pub(super) standing: watch::Receiver<Standing>,
    /// Tells the lease task which lanes may be handed over.
    pub(super) left: mpsc::UnboundedSender<Tenancy>,
}

/// What is awaited.
struct Flying {
    published: FuturesUnordered<BoxFuture<'static, Published>>,
    probed: FuturesUnordered<BoxFuture<'static, (DestinationId, Result<Probe, Failure>)>>,
    opened: Option<BoxFuture<'static, Result<Seq, StoreError>>>,
    settled: Option<BoxFuture<'static, Result<Settled, StoreError>>>,
    page: Option<BoxFuture<'static, PageRead>>,
    answer: Option<BoxFuture<'static, Asked>>,
    changed: BoxFuture<'static, ()>,
}

/// See the module.
pub(super) struct Driver {
    core: Core,
    ports: Ports,
    flying: Flying,
    metrics: Arc<Metrics>,
}

impl Driver {
    pub(super) fn new(setup: Setup, ports: Ports) -> Self {
        let names = (ports.plans.names().to_vec(), ports.transports.len());
        Self {
            flying: Flying {
                published: FuturesUnordered::new(),
                probed: FuturesUnordered::new(),
                opened: None,
                settled: None,
                page: None,
                answer: None,
                changed: changed(Arc::clone(&ports.store)),
            },
            metrics: Arc::clone(&setup.telemetry.metrics),
            core: Core::new(setup, names, Instant::now()),
            ports,
        }
    }

    /// Acknowledged messages whose mark is not written.
    pub(super) fn unmarked(&self) -> usize {
        self.core.unmarked()
    }

    /// Every transport that is open.
    pub(super) fn all_transports(&mut self) -> Vec<Arc<dyn Transport>> {
        self.ports.plans.transports(&self.ports.transports)
    }

    /// Waits for transports of earlier plans that are being closed.
    pub(super) async fn transports_closed(&mut self) {
        self.ports.plans.closed().await;
    }

    pub(super) async fn run(&mut self, stop: CancellationToken) -> Result<(), RelayError> {
        loop {
            let now = Instant::now();
            self.core.advance(now);
            while let Some(effect) = self.core.next_effect() {
                self.carry_out(effect);
            }
            if self.core.has_ended() {
                let rows = self.core.stuck();
                if rows > 0 {
                    tracing::warn!(
                        rows,
                        "stopped with stuck rows: those that were sent are sent again after a restart"
                    );
                }
                return Ok(());
            }
            let event = self.next_event(&stop, now).await;
            self.core.handle(event, Instant::now())?;
        }
    }

    async fn next_event(&mut self, stop: &CancellationToken, now: Instant) -> Event {
        let wake_at = self.core.wake_at(now);
        let stopping = self.core.is_stopping();
        let Self {
            core, ports, flying, ..
        } = self;
        tokio::select! {
            biased;
            () = stop.cancelled(), if !stopping => Event::Stop,
            changed = ports.standing.changed(), if !stopping && is_open(&ports.standing) => {
                drop(changed);
                Event::Standing(ports.standing.borrow_and_update().clone())
            }
            change = ports.plans.next(), if !stopping => Event::Planned(change),
            Some(published) = flying.published.next() => Event::Published(published),
            answer = next(&mut flying.settled) => Event::Settled(answer),
            page = next(&mut flying.page) => Event::Page(page),
            answer = next(&mut flying.answer) => Event::Answered(answer),
            answer = next(&mut flying.opened) => Event::Opened(answer),
            Some((id, answer)) = flying.probed.next() => Event::Probed(id, answer),
            () = &mut flying.changed => {
                flying.changed = changed(Arc::clone(&ports.store));
                Event::Hint
            }
            inquiry = ports.inquiries.next() => {
                // Whoever asked may have given up.
                drop(inquiry.answer.send(core.find(&inquiry.about, Instant::now())));
                Event::Time
            }
            () = tokio::time::sleep_until(wake_at) => Event::Time,
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        let store = || Arc::clone(&self.ports.store);
        let flying = &mut self.flying;
        match effect {
            Effect::Open => flying.opened = Some(open(store())),
            Effect::Read(lanes, room) => flying.page = Some(read(store(), lanes, room)),
            Effect::Ask(question, room) => flying.answer = Some(ask(store(), question, room)),
            Effect::Settle(settlement) => {
                flying.settled = Some(settle(store(), settlement, Arc::clone(&self.metrics)));
            }
            Effect::Publish(batch) => {
                let transport = Arc::clone(&self.ports.transports[batch.transport]);
                flying.published.push(publish(transport, batch));
            }
            Effect::Probe(id, transport, name) => {
                let transport = Arc::clone(&self.ports.transports[transport]);
                let look = async move { (id, transport.probe(&name).await) };
                flying.probed.push(Box::pin(look));
            }
            // The lease task outlives the core.
            Effect::HandOver(lanes) => drop(self.ports.left.send(lanes)),
            Effect::Abandon => self.ports.transports.iter().for_each(|transport| transport.abandon()),
            Effect::Hurry => self.ports.store.hurry(),
            Effect::Drop(Underway::Opening) => flying.opened = None,
            Effect::Drop(Underway::Settling) => flying.settled = None,
            Effect::Drop(Underway::Reads) => {
                flying.page = None;
                flying.answer = None;
            }
            Effect::GoOver => {
                // Their answers would be about destinations by old numbers.
                flying.probed = FuturesUnordered::new();
                self.ports.plans.go_over(&mut self.ports.transports);
            }
        }
    }
}

fn changed(store: Arc<dyn Store>) -> BoxFuture<'static, ()> {
    Box::pin(async move { store.changed().await })
}

fn open(store: Arc<dyn Store>) -> BoxFuture<'static, Result<Seq, StoreError>> {
    Box::pin(async move { store.open().await })
}

fn read(store: Arc<dyn Store>, lanes: LaneSet, room: Room) -> BoxFuture<'static, PageRead> {
    Box::pin(async move {
        let started = Instant::now();
        let page = store.read(&lanes, room).await;
        PageRead { started, page }
    })
}

fn ask(store: Arc<dyn Store>, question: Question, room: Room) -> BoxFuture<'static, Asked> {
    Box::pin(async move {
        let started = Instant::now();
        let answer = answer(&*store, question, room).await;
        Asked { started, answer }
    })
}

async fn answer(store: &dyn Store, question: Question, room: Room) -> Result<Answer, StoreError> {
    Ok(match question {
        Question::Holds { lanes, failed_too } => {
            let of = LaneSet::of(lanes.keys().copied());
            let holds = store.holds(&of, None, failed_too).await?;
            Answer::Holds(lanes, holds)
        }
        Question::Urgent(lanes, without) => {
            // Rows in memory are among them: what can be let in is not what has to be looked at.
            let rows = URGENT_ROWS;
            Answer::Urgent(store.urgent(&lanes, &without, Room { rows, ..room }).await?)
        }
        Question::Recall(key, lanes, seqs) => {
            let rows = store.recall(&lanes, &seqs, room).await?;
            Answer::Recalled(key, seqs, rows)
        }
        Question::Due(lanes, after, upto) => Answer::Due(store.due(&lanes, after, upto, room).await?),
        Question::StillHolding(lanes, seqs) => {
            let holds = store.holds(&lanes, Some(&seqs), true).await?;
            Answer::StillHolding(seqs, holds)
        }
        Question::Blockers => Answer::Blockers(store.open_transactions().await?),
        Question::Reread(purpose, scope, (after, upto)) => {
            let reread = store.reread(&scope, after, upto, room).await?;
            Answer::Reread(purpose, upto, reread)
        }
    })
}

fn settle(
    store: Arc<dyn Store>,
    settlement: Arc<Settlement>,
    metrics: Arc<Metrics>,
) -> BoxFuture<'static, Result<Settled, StoreError>> {
    Box::pin(async move {
        let started = Instant::now();
        let answer = store.settle(&settlement).await;
        metrics.settle_latency(started.elapsed());
        answer
    })
}

fn publish(transport: Arc<dyn Transport>, batch: Batch) -> BoxFuture<'static, Published> {
    Box::pin(async move {
        let sent_at = Instant::now();
        let outcomes = transport.publish(&batch.envelopes).await;
        Published {
            batch,
            sent_at,
            outcomes,
        }
    })
}

/// A closed channel would be ready for ever: the lease task has ended, and the relay with it.
fn is_open(standing: &watch::Receiver<Standing>) -> bool {
    standing.has_changed().is_ok()
}

/// The future in the slot, which is empty then; or none for ever.
async fn next<T>(slot: &mut Option<BoxFuture<'static, T>>) -> T {
    let Some(future) = slot else {
        return std::future::pending().await;
    };
    let answer = future.await;
    *slot = None;
    answer
}
