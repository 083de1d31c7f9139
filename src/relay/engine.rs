//! The loop: waits for whatever comes first, books it, starts what may be started.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::delivery::Failure;
use crate::message::Seq;
use crate::route::Routes;
use crate::store::{Page, Room, Settled, Store, StoreError, Tenancy};
use crate::telemetry::Telemetry;
use crate::transport::{Probe, Transport};

use super::destination::DestinationId;
use super::destinations::Destinations;
use super::gates::Gates;
use super::holds::Holds;
use super::lanes::Lanes;
use super::limits::Limits;
use super::plan::Plans;
use super::publishing::Published;
use super::reading::{Answer, Reading, Watermark};
use super::settler::Settler;
use super::tenure::Standing;
use super::territory::Territory;
use super::window::Window;
use super::{Options, Relay, RelayError};

/// Waits between attempts to reach a database that is away.
pub(super) const DATABASE_RETRY: std::time::Duration = std::time::Duration::from_millis(250);

/// Draining waits so long for brokers to answer; the store is opened anew beside batches that take longer. A stop waits for all.
const ANSWERS_WAITED_FOR: std::time::Duration = std::time::Duration::from_millis(250);

/// Where the engine stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No lanes, or the database is away: nothing is read before `Instant`.
    Waiting(Instant),
    /// The store is being opened.
    Opening,
    /// Rows flow.
    Running,
    /// Nothing new starts; what is in flight is answered and settled, as far as brokers answer by then.
    Draining(Instant),
}

/// The cursor's read, answered.
pub(super) struct PageRead {
    pub(super) started: Instant,
    pub(super) page: Result<Page, StoreError>,
}

/// A question, answered.
pub(super) struct Asked {
    pub(super) started: Instant,
    pub(super) answer: Result<Answer, StoreError>,
}

pub(super) struct Engine {
    pub(super) store: Arc<dyn Store>,
    pub(super) transports: Vec<Arc<dyn Transport>>,
    pub(super) routes: Routes,
    pub(super) options: Options,
    pub(super) telemetry: Telemetry,
    pub(super) plans: Plans,
    pub(super) standing: watch::Receiver<Standing>,
    /// Tells the lease task which lanes may be handed over.
    pub(super) left: mpsc::UnboundedSender<Tenancy>,
    pub(super) territory: Territory,
    pub(super) valid_until: Instant,
    pub(super) phase: Phase,
    pub(super) window: Window,
    pub(super) lanes: Lanes,
    pub(super) holds: Holds,
    pub(super) gates: Gates,
    pub(super) limits: Limits,
    pub(super) destinations: Destinations,
    pub(super) settler: Settler,
    pub(super) reading: Reading,
    pub(super) watermark: Watermark,
    pub(super) page: Option<BoxFuture<'static, PageRead>>,
    pub(super) answer: Option<BoxFuture<'static, Asked>>,
    pub(super) publishing: FuturesUnordered<BoxFuture<'static, Published>>,
    pub(super) probing: FuturesUnordered<BoxFuture<'static, (DestinationId, Result<Probe, Failure>)>>,
    opening: Option<BoxFuture<'static, Result<Seq, StoreError>>>,
    writing: Option<BoxFuture<'static, Result<Settled, StoreError>>>,
    changed: BoxFuture<'static, ()>,
    pub(super) stopping: bool,
    /// The store is not opened again before: it has just failed.
    not_before: Instant,
    started_over: Option<Instant>,
    pub(super) unrouted: super::unrouted::Waiting,
}

/// What the loop woke up for.
enum Event {
    Published(Published),
    Probed(DestinationId, Result<Probe, Failure>),
    Opened(Result<Seq, StoreError>),
    Wrote(Result<Settled, StoreError>),
    Page(PageRead),
    Answered(Asked),
    Changed,
    Standing,
    Planned,
    Stop,
    Time,
}

impl Engine {
    pub(super) fn new(relay: Relay, standing: watch::Receiver<Standing>, left: mpsc::UnboundedSender<Tenancy>) -> Self {
        let now = Instant::now();
        let Relay {
            store,
            leases: _,
            transports,
            routes,
            options,
            telemetry,
            plans,
        } = relay;
        let room = Room {
            rows: options.max_in_flight,
            bytes: options.max_in_flight_bytes,
        };
        Self {
            window: Window::new(room, options.lanes),
            lanes: Lanes::new(options.lanes, transports.len()),
            holds: Holds::default(),
            gates: Gates::default(),
            limits: Limits::new(&routes, now),
            destinations: Destinations::new(options.probe_interval, transports.len(), room, now),
            settler: Settler::default(),
            reading: Reading::new(&options, now),
            watermark: Watermark::new(now),
            page: None,
            answer: None,
            publishing: FuturesUnordered::new(),
            probing: FuturesUnordered::new(),
            opening: None,
            writing: None,
            changed: changed(Arc::clone(&store)),
            stopping: false,
            not_before: now,
            started_over: None,
            unrouted: super::unrouted::Waiting::new(),
            phase: Phase::Waiting(now),
            territory: Territory::default(),
            valid_until: now,
            left,
            store,
            transports,
            routes,
            options,
            telemetry,
            plans,
            standing,
        }
    }

    /// Acknowledged messages whose mark is not written.
    pub(super) fn unmarked(&self) -> usize {
        self.settler.unwritten()
    }

    pub(super) async fn run(&mut self, stop: CancellationToken) -> Result<(), RelayError> {
        loop {
            let now = Instant::now();
            self.start(now);
            if self.stopping && self.publishing.is_empty() && self.is_settled() {
                let rows = self.settler.stuck.len();
                if rows > 0 {
                    tracing::warn!(
                        rows,
                        "stopped with stuck rows: those that were sent are sent again after a restart"
                    );
                }
                return Ok(());
            }
            let event = self.next_event(&stop, now).await;
            self.book(event, Instant::now())?;
        }
    }

    async fn next_event(&mut self, stop: &CancellationToken, now: Instant) -> Event {
        let wake_at = self.wake_at(now);
        tokio::select! {
            biased;
            () = stop.cancelled(), if !self.stopping => Event::Stop,
            changed = self.standing.changed(), if !self.stopping && changed_is_open(&self.standing) => {
                drop(changed);
                Event::Standing
            }
            () = self.plans.next(), if !self.stopping => Event::Planned,
            Some(published) = self.publishing.next() => Event::Published(published),
            wrote = some(&mut self.writing) => Event::Wrote(wrote),
            page = some(&mut self.page) => Event::Page(page),
            answer = some(&mut self.answer) => Event::Answered(answer),
            opened = some(&mut self.opening) => Event::Opened(opened),
            Some((id, answer)) = self.probing.next() => Event::Probed(id, answer),
            () = &mut self.changed => Event::Changed,
            () = tokio::time::sleep_until(wake_at) => Event::Time,
        }
    }

    fn book(&mut self, event: Event, now: Instant) -> Result<(), RelayError> {
        match event {
            Event::Published(published) => self.book_published(published, now),
            Event::Probed(id, answer) => self.book_probe(id, answer, now),
            Event::Opened(answer) => {
                self.opening = None;
                self.book_opened(answer, now)?;
            }
            Event::Wrote(answer) => {
                self.writing = None;
                self.book_written(answer, now)?;
            }
            Event::Page(page) => {
                self.page = None;
                self.book_page(page, now)?;
            }
            Event::Answered(answer) => {
                self.answer = None;
                self.book_answer(answer, now)?;
            }
            Event::Changed => {
                self.changed = changed(Arc::clone(&self.store));
                self.reading.pace.hint(now);
            }
            Event::Standing => self.book_standing(now),
            Event::Stop => {
                self.stopping = true;
                self.store.hurry();
                self.drain("told to stop");
            }
            Event::Planned | Event::Time => {}
        }
        Ok(())
    }

    /// Starts whatever may be started now.
    fn start(&mut self, now: Instant) {
        if self.phase == Phase::Running && now >= self.valid_until {
            self.lose_lease();
        }
        self.report_left();
        self.report_stuck(now);
        self.follow_plans(now);
        match self.phase {
            Phase::Running => {
                if self.limits.is_due(now) {
                    self.lanes.list_all();
                }
                self.publish_ready(now);
                self.start_reads(now);
                self.start_probes(now);
            }
            Phase::Draining(until) if !self.stopping && self.is_settled() => {
                // A broker that hangs keeps its own rows only: they stay in the window, and in front of their queues.
                if self.publishing.is_empty() || now >= until {
                    self.phase = Phase::Waiting(self.not_before.max(now));
                }
            }
            Phase::Waiting(_) | Phase::Opening | Phase::Draining(_) => {}
        }
        if let Phase::Waiting(not_before) = self.phase
            && now >= not_before
            && !self.stopping
            && !self.plan_goes_first(now)
            && self.standing.borrow().is_valid(now)
        {
            self.phase = Phase::Opening;
            self.opening = Some(open(Arc::clone(&self.store)));
        }
        if self.writing.is_none()
            && let Some(settlement) =
                self.settler
                    .next(now, matches!(self.phase, Phase::Draining(_)), self.may_try_stuck())
        {
            let store = Arc::clone(&self.store);
            let metrics = Arc::clone(&self.telemetry.metrics);
            self.writing = Some(Box::pin(async move {
                let started = Instant::now();
                let answer = store.settle(&settlement).await;
                metrics.settle_latency(started.elapsed());
                answer
            }));
        }
        self.telemetry.metrics.window(self.window.len(), self.window.bytes());
    }

    fn wake_at(&self, now: Instant) -> Instant {
        let far = now + self.options.lease_ttl;
        let phase = match self.phase {
            Phase::Waiting(time) => time.max(now + DATABASE_RETRY / 5),
            Phase::Running => {
                let read = self.reading.wake_at(&self.window, self.cursor_waits(), now);
                read.min(self.valid_until).min(self.limits.wake_at().unwrap_or(far))
            }
            Phase::Draining(until) => until.max(now + DATABASE_RETRY / 5),
            Phase::Opening => far,
        };
        let probe = if self.phase == Phase::Running {
            self.destinations.next_probe().unwrap_or(far)
        } else {
            far
        };
        let settler = self.settler.wake_at(self.may_try_stuck());
        let plan = self
            .plans
            .patient_until(self.options.lease_ttl)
            .filter(|until| now < *until);
        let others = settler.into_iter().chain(plan).min();
        phase.min(probe).min(others.unwrap_or(far)).min(far)
    }

    /// What brokers have answered for is written.
    pub(super) fn is_settled(&self) -> bool {
        self.settler.is_idle() && self.writing.is_none() && self.opening.is_none()
    }

    /// Something else stands behind the name, or seems to: where it lasts, it is not looked at without a pause.
    pub(super) fn start_over(&mut self, now: Instant) {
        let lately = self
            .started_over
            .replace(now)
            .is_some_and(|at| now - at < DATABASE_RETRY);
        if lately {
            self.not_before = now + DATABASE_RETRY;
        }
        self.drain("another table stands behind the name");
        // Its rows have the numbers of those on their way: all of these are answered for before it is read.
        self.phase = Phase::Draining(now + self.options.lease_ttl);
    }

    /// Forgets what is queued and reads nothing more; what is in flight is still answered and settled.
    pub(super) fn drain(&mut self, why: &str) {
        if matches!(self.phase, Phase::Draining(_)) {
            return;
        }
        tracing::debug!(why, in_flight = self.lanes.in_flight(), "draining");
        self.phase = Phase::Draining(Instant::now() + ANSWERS_WAITED_FOR);
        self.opening = None;
        if self.settler.is_trying() {
            // Nobody waits for stuck rows: what was tried is tried again.
            self.writing = None;
            let now = Instant::now();
            self.settler.not_written(now, now);
        }
        self.page = None;
        self.answer = None;
        self.reading.stop(&mut self.window);
        self.territory.clear();
        self.holds.clear();
        for entry in self.lanes.remove(|_| true) {
            self.let_go(&entry);
        }
    }

    fn book_opened(&mut self, answer: Result<Seq, StoreError>, now: Instant) -> Result<(), RelayError> {
        match answer {
            Ok(cursor) => {
                self.telemetry.health.database_up();
                self.destinations.reset();
                self.gates.reset();
                self.reading.restart(cursor, now);
                self.watermark.stands_at(None, now);
                self.phase = Phase::Running;
                let standing = self.standing.borrow().clone();
                self.claim_again(now);
                self.follow(&standing);
            }
            Err(error) => {
                self.database_away(error, now)?;
                self.phase = Phase::Waiting(now + DATABASE_RETRY);
            }
        }
        Ok(())
    }

    /// The database did not answer: everything read before is doubtful. What only a person can mend ends the relay.
    pub(super) fn database_away(&mut self, error: StoreError, now: Instant) -> Result<(), RelayError> {
        match error {
            StoreError::Misconfigured(_) => return Err(error.into()),
            StoreError::Unavailable(source) => {
                self.not_before = now + DATABASE_RETRY;
                self.telemetry.health.database_down(&*source, now);
            }
        }
        Ok(())
    }
}

fn changed(store: Arc<dyn Store>) -> BoxFuture<'static, ()> {
    Box::pin(async move { store.changed().await })
}

fn open(store: Arc<dyn Store>) -> BoxFuture<'static, Result<Seq, StoreError>> {
    Box::pin(async move { store.open().await })
}

/// A closed channel would be ready for ever: the lease task has ended, and the relay with it.
fn changed_is_open(standing: &watch::Receiver<Standing>) -> bool {
    standing.has_changed().is_ok()
}

/// The future in the slot, or none for ever.
async fn some<T>(slot: &mut Option<BoxFuture<'static, T>>) -> T {
    match slot {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
