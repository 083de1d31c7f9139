//! Plays a scenario: one runtime, paused time, up to three relays on one table and a few brokers.

use std::collections::HashMap;
use std::sync::atomic::Ordering as Atomic;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outboxd::backoff::Backoff;
use outboxd::delivery::{FailureClass, Order};
use outboxd::message::Seq;
use outboxd::relay::Inquiries;
use outboxd::relay::plan::Plans;
use outboxd::relay::{Options, Relay, RelayError};
use outboxd::route::{Route, RouteSpec, Routes, Unrouted};
use outboxd::stuck::StuckReason;
use outboxd::telemetry::Telemetry;
use outboxd::testing::memory_store::{MemoryStore, MemoryTable, NewRow, StoredRow, Transaction};
use outboxd::testing::scripted_transport::{Answer, ScriptedTransport};
use outboxd::transport::{Envelope, Transport};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::journal::{Event, Journal, Process, Record, Row, SeqNumber};
use super::ports::{Ends, Line, SimStore, SimTransport, Switches};
use super::scenario::{Act, BrokerFault, DatabaseFault, ProcessFault, RowSpec, SLOTS, Scenario, Temper};
use super::theirs::{self, Theirs};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// Everything must have arrived so long after the weather has cleared.
const DRAIN_LIMIT: Duration = Duration::from_secs(120);
/// Numbers written by hand are found by the sweep, which rests a hundred times as long as it last took.
const SWEEP_LIMIT: Duration = Duration::from_secs(1500);
/// Added to a statement's latency while the database is slow, in milliseconds.
const SLOW_DATABASE_MS: u64 = 700;

/// What a run leaves to be judged.
pub struct Outcome {
    pub record: Record,
    pub rows: HashMap<SeqNumber, StoredRow>,
    pub drained: bool,
}

/// What is wrong with the brokers.
#[derive(Default)]
struct Weather {
    lossy: Vec<bool>,
    slow: Vec<bool>,
    refused: Vec<bool>,
}

/// A process under way.
struct Running {
    process: Process,
    stop: CancellationToken,
    switches: Arc<Switches>,
    task: JoinSet<Result<(), RelayError>>,
    stopping: bool,
}

struct World {
    scenario: Arc<Scenario>,
    journal: Arc<Journal>,
    table: Arc<MemoryTable>,
    line: Arc<Line>,
    brokers: Vec<Arc<ScriptedTransport>>,
    weather: Arc<Mutex<Weather>>,
    routes: Routes,
    open: HashMap<usize, (Transaction, Vec<SeqNumber>)>,
    /// Where the table is another program's.
    theirs: Option<Theirs>,
    by_hand: i64,
    running: [Option<Running>; SLOTS],
    names: [usize; SLOTS],
    processes: Process,
}

/// Plays the scenario from beginning to end.
pub fn play(scenario: &Arc<Scenario>) -> Outcome {
    // The relay draws its backoff from this thread's generator.
    fastrand::seed(scenario.seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async { World::new(Arc::clone(scenario)).play().await })
}

/// A number in `0.0..1.0` that depends on nothing but its arguments.
fn roll(seed: u64, seq: i64, time: u64) -> f64 {
    let mixed = seed ^ seq.cast_unsigned().rotate_left(20) ^ time.rotate_left(40);
    fastrand::Rng::with_seed(mixed).f64()
}

impl World {
    fn new(scenario: Arc<Scenario>) -> Self {
        let journal = Journal::new();
        let weather = Arc::new(Mutex::new(Weather {
            lossy: vec![false; scenario.brokers.len()],
            slow: vec![false; scenario.brokers.len()],
            refused: vec![false; scenario.routes.len()],
        }));
        let brokers = (0..scenario.brokers.len())
            .map(|index| broker(&scenario, index, &journal, &weather))
            .collect();
        let routes = scenario.routes.iter().enumerate().map(|(index, route)| {
            Route::new(&RouteSpec {
                topic: &format!("t{index}"),
                transport: route.transport,
                destination: "{topic}",
                order: route.order,
                max_attempts: route.max_attempts,
                commit_order: route.commit_order,
                limits: route.limits,
                prefix: "",
                reserved: &[],
                backoff: Backoff {
                    min: 500 * MS,
                    max: 2 * SECOND,
                    factor: 2,
                },
            })
            .unwrap()
        });
        Self {
            table: MemoryTable::new(scenario.lanes),
            line: Arc::default(),
            brokers,
            weather,
            routes: Routes::new(routes.collect()),
            open: HashMap::new(),
            theirs: scenario.enlists.then(|| Theirs::new(scenario.seed)),
            by_hand: 0,
            running: std::array::from_fn(|_| None),
            names: [0; SLOTS],
            processes: 0,
            journal,
            scenario,
        }
    }

    async fn play(mut self) -> Outcome {
        let began = Instant::now();
        let scenario = Arc::clone(&self.scenario);
        for (at, act) in &scenario.acts {
            self.sleep_until(began + *at).await;
            self.reap().await;
            if !self.theirs.as_mut().is_some_and(|theirs| theirs.takes(act)) {
                self.act(act);
            }
        }
        self.sleep_until(began + scenario.horizon).await;
        self.heal();
        let drained = self.drain().await;
        // Whoever sends something twice after all is given time to.
        sleep(3 * SECOND).await;
        for slot in 0..SLOTS {
            self.stop(slot);
        }
        let deadline = Instant::now() + scenario.shutdown_timeout + 10 * SECOND;
        while self.running.iter().any(Option::is_some) && Instant::now() < deadline {
            sleep(10 * MS).await;
            self.reap().await;
        }
        Outcome {
            drained,
            rows: (self.journal.numbers().into_iter())
                .filter_map(|seq| Some((seq, self.table.row(Seq(seq))?)))
                .collect(),
            record: self.journal.close(),
        }
    }

    /// Meanwhile rows of another program's table are enlisted.
    async fn sleep_until(&mut self, time: Instant) {
        while self.theirs.is_some() && Instant::now() + theirs::LOOK < time {
            sleep(theirs::LOOK).await;
            self.enlist();
        }
        sleep_until(time).await;
        self.enlist();
    }

    /// Enlisted by whichever process has its turn; by none while none runs, or the database is away.
    fn enlist(&mut self) {
        let alive = self.running.iter().flatten().any(|running| !running.stopping);
        if let Some(mut theirs) = self.theirs.take() {
            if alive && !self.table.is_away() {
                theirs.look(&self.journal, || self.table.begin(), |spec| self.new_row(spec));
            }
            self.theirs = Some(theirs);
        }
    }

    /// Whether everything has arrived that was committed.
    fn is_drained(&self) -> bool {
        self.table.pending() == 0 && self.theirs.as_ref().is_none_or(|theirs| !theirs.has_more())
    }

    /// Whatever the scenario left broken is mended.
    fn heal(&mut self) {
        for broker in 0..self.brokers.len() {
            for fault in [
                BrokerFault::Away,
                BrokerFault::Mute,
                BrokerFault::Lossy,
                BrokerFault::Slow,
            ] {
                self.broker(broker, fault, false);
            }
        }
        for route in 0..self.scenario.routes.len() {
            self.weather().refused[route] = false;
        }
        for fault in [DatabaseFault::Away, DatabaseFault::Mute, DatabaseFault::Slow] {
            self.database(fault, false);
        }
        self.table.lose_answers_of_settlements(0);
        self.free();
        for slot in 0..SLOTS {
            for fault in [
                ProcessFault::LeaseRefused,
                ProcessFault::LeaseMute,
                ProcessFault::Frozen,
            ] {
                self.process(slot, fault, false);
            }
        }
        if self.running.iter().flatten().all(|running| running.stopping) {
            self.start(0, false);
        }
        self.journal.note(Event::Weather("healed".to_owned()));
    }

    /// Waits until nothing is pending. What has failed for good under `strict` is discarded, or its key would wait for ever.
    async fn drain(&mut self) -> bool {
        let healed = Instant::now();
        while !self.is_drained() {
            let limit = if self.only_by_hand() { SWEEP_LIMIT } else { DRAIN_LIMIT };
            if healed.elapsed() > limit {
                return false;
            }
            sleep(50 * MS).await;
            self.enlist();
            self.reap().await;
            let strict: Vec<SeqNumber> = self.failed(|order| order == Order::Strict);
            for seq in strict {
                self.discard(seq);
            }
        }
        true
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Insert(row) => {
                let seq = self.table.insert(&self.new_row(row)).0;
                self.journal.insert(seq, written(row, false, None));
                self.journal.note(Event::Committed(seq));
            }
            Act::InsertByHand(row) => {
                self.by_hand -= 1;
                let seq = self.table.insert_at(self.by_hand, &self.new_row(row)).0;
                self.journal.insert(seq, written(row, true, None));
                self.journal.note(Event::Committed(seq));
            }
            Act::Begin(id) => drop(self.open.insert(*id, (self.table.begin(), Vec::new()))),
            Act::InsertIn(id, row) => {
                let new = self.new_row(row);
                if let Some((transaction, rows)) = self.open.get_mut(id) {
                    let seq = transaction.insert(&new).0;
                    rows.push(seq);
                    self.journal.insert(seq, written(row, false, Some(*id)));
                }
            }
            Act::Commit(id) => {
                if let Some((transaction, rows)) = self.open.remove(id) {
                    transaction.commit();
                    rows.into_iter()
                        .for_each(|seq| self.journal.note(Event::Committed(seq)));
                }
            }
            Act::RollBack(id) => {
                if let Some((transaction, rows)) = self.open.remove(id) {
                    transaction.rollback();
                    rows.into_iter()
                        .for_each(|seq| self.journal.note(Event::RolledBack(seq)));
                }
            }
            Act::Retry(pick) => {
                let failed = self.failed(|_| true);
                if let Some(seq) = failed.get(pick % failed.len().max(1)) {
                    self.journal.note(Event::Retried(*seq));
                    self.table.retry(Seq(*seq));
                }
            }
            Act::Discard(pick) => {
                let failed = self.failed(|_| true);
                if let Some(seq) = failed.get(pick % failed.len().max(1)) {
                    self.discard(*seq);
                }
            }
            Act::Stuck(pick, true) => self.stick(*pick),
            Act::Stuck(_, false) => self.free(),
            Act::Broker(broker, fault, begins) => self.broker(*broker, *fault, *begins),
            Act::Refused(route, begins) => {
                self.journal
                    .note(Event::Weather(format!("topic t{route} refused: {begins}")));
                self.weather().refused[*route] = *begins;
            }
            Act::Paused(route, begins) => {
                self.journal
                    .note(Event::Weather(format!("topic t{route} paused: {begins}")));
                self.table.set_paused(&format!("t{route}"), *begins);
            }
            Act::Database(fault, begins) => self.database(*fault, *begins),
            Act::LoseAnswersOfSettlements(count) => self.lose_answers(*count),
            Act::Process(slot, fault, begins) => self.process(*slot, *fault, *begins),
            Act::Start(slot, renamed) => self.start(*slot, *renamed),
            Act::Stop(slot) => self.stop(*slot),
            Act::Crash(slot) => self.crash(*slot),
        }
    }

    fn lose_answers(&mut self, count: u32) {
        self.journal
            .note(Event::Weather(format!("{count} answers of settlements will be lost")));
        self.table.lose_answers_of_settlements(count);
    }

    /// A pending row can no longer be written.
    fn stick(&mut self, pick: usize) {
        let pending = |seq: &SeqNumber| self.is_pending(*seq);
        let pending: Vec<SeqNumber> = self.journal.numbers().into_iter().filter(pending).collect();
        if let Some(seq) = pending.get(pick % pending.len().max(1)) {
            self.journal.note(Event::Stuck(*seq));
            self.table.set_stuck(Seq(*seq), Some(StuckReason::Refused));
        }
    }

    fn new_row(&self, spec: &RowSpec) -> NewRow {
        let mut row = NewRow::new(&format!("t{}", spec.route)).priority(spec.priority);
        if let Some(key) = spec.key {
            row = row.key(&format!("k{key}"));
        }
        if let Some(delay) = spec.delay {
            row = row.delayed(delay);
        }
        if let Some(attempts) = spec.max_attempts {
            row = row.max_attempts(attempts);
        }
        match spec.temper {
            Temper::Good => row,
            Temper::Poison => row.payload("poison"),
            Temper::Unfit => row.headers("[]"),
            Temper::Fails(times) => row.payload(times.to_string()),
        }
    }

    /// Rows that have failed for good, on routes of such an order.
    fn failed(&self, order: impl Fn(Order) -> bool) -> Vec<SeqNumber> {
        let rows = self.journal.numbers().into_iter();
        rows.filter(|seq| {
            let topic = |row: &StoredRow| row.failed_at.map(|_| Arc::clone(&row.message.topic));
            let topic = self.table.peek(Seq(*seq), topic).flatten();
            topic.is_some_and(|topic| {
                let route = self.routes.find(&topic).unwrap();
                order(self.routes.get(route).order)
            })
        })
        .collect()
    }

    /// Only rows with numbers written by hand are pending.
    fn only_by_hand(&self) -> bool {
        let mut numbered = self.journal.numbers().into_iter().filter(|seq| *seq > 0);
        !numbered.any(|seq| self.is_pending(seq))
    }

    fn is_pending(&self, seq: SeqNumber) -> bool {
        self.table.peek(Seq(seq), StoredRow::is_pending).unwrap_or(false)
    }

    /// Every row can be written again.
    fn free(&self) {
        self.journal.note(Event::Weather("no row is stuck".to_owned()));
        self.table.free_all();
    }

    fn discard(&self, seq: SeqNumber) {
        self.journal.note(Event::Discarded(seq));
        self.table.discard(Seq(seq));
    }

    fn weather(&self) -> std::sync::MutexGuard<'_, Weather> {
        self.weather.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn broker(&self, broker: usize, fault: BrokerFault, begins: bool) {
        self.journal
            .note(Event::Weather(format!("broker {broker} {fault:?}: {begins}")));
        let transport = &self.brokers[broker];
        match (fault, begins) {
            (BrokerFault::Away, true) => transport.disconnect(),
            (BrokerFault::Away, false) => transport.reconnect(),
            (BrokerFault::Mute, true) => transport.hold(),
            (BrokerFault::Mute, false) => transport.release(),
            (BrokerFault::Lossy, _) => self.weather().lossy[broker] = begins,
            (BrokerFault::Slow, _) => self.weather().slow[broker] = begins,
        }
    }

    fn database(&self, fault: DatabaseFault, begins: bool) {
        self.journal
            .note(Event::Weather(format!("database {fault:?}: {begins}")));
        match (fault, begins) {
            (DatabaseFault::Away, true) => {
                self.line.absences.fetch_add(1, Atomic::Relaxed);
                self.table.go_away();
            }
            (DatabaseFault::Away, false) => self.table.come_back(),
            (DatabaseFault::Mute, true) => self.table.hold(),
            (DatabaseFault::Mute, false) => self.table.release(),
            (DatabaseFault::Slow, true) => self.line.slow.store(SLOW_DATABASE_MS, Atomic::Relaxed),
            (DatabaseFault::Slow, false) => self.line.slow.store(0, Atomic::Relaxed),
        }
    }

    fn process(&self, slot: usize, fault: ProcessFault, begins: bool) {
        let Some(running) = &self.running[slot] else { return };
        let process = running.process;
        self.journal
            .note(Event::Weather(format!("process {process} {fault:?}: {begins}")));
        match fault {
            ProcessFault::LeaseRefused => running.switches.lease_refused.store(begins, Atomic::Relaxed),
            ProcessFault::LeaseMute => running.switches.lease_mute.set(begins),
            ProcessFault::Frozen => running.switches.frozen.set(begins),
        }
    }

    /// A process that still runs in this slot is killed first.
    fn start(&mut self, slot: usize, renamed: bool) {
        self.crash(slot);
        self.names[slot] += usize::from(renamed);
        let instance = format!("{}{}", ["a", "b", "c"][slot], self.names[slot]);
        let process = self.processes;
        self.processes += 1;
        self.journal.note(Event::Started(process, instance.clone()));
        let scenario = &self.scenario;
        let switches = Arc::new(Switches::default());
        let inner = Arc::new(MemoryStore::new(&self.table, &instance));
        let ends = Arc::new(Ends {
            process,
            instance,
            journal: Arc::clone(&self.journal),
            table: Arc::clone(&self.table),
            line: Arc::clone(&self.line),
            switches: Arc::clone(&switches),
            database_latency: scenario.database_latency,
            wire_latency: scenario.wire_latency,
            rng: Mutex::new(fastrand::Rng::with_seed(scenario.seed ^ ((process as u64 + 1) << 48))),
        });
        let store = Arc::new(SimStore {
            ends: Arc::clone(&ends),
            inner,
            lanes: scenario.lanes,
        });
        let transports = (self.brokers.iter().enumerate()).map(|(index, broker)| {
            Arc::new(SimTransport {
                ends: Arc::clone(&ends),
                index,
                broker: Arc::clone(broker),
            }) as Arc<dyn Transport>
        });
        let relay = Relay {
            leases: Arc::clone(&store) as _,
            store,
            transports: transports.collect(),
            routes: self.routes.clone(),
            options: self.options(),
            telemetry: Telemetry::default(),
            plans: Plans::none(),
            inquiries: Inquiries::none(),
        };
        let stop = CancellationToken::new();
        let mut task = JoinSet::new();
        task.spawn(Arc::clone(&switches.frozen).around(relay.run(stop.clone())));
        self.running[slot] = Some(Running {
            process,
            stop,
            switches,
            task,
            stopping: false,
        });
    }

    fn options(&self) -> Options {
        let scenario = &self.scenario;
        Options {
            lanes: scenario.lanes,
            batch_size: scenario.batch_size,
            max_in_flight: scenario.max_in_flight,
            max_in_flight_bytes: scenario.max_in_flight_bytes,
            poll_interval_min: 10 * MS,
            poll_interval_max: scenario.poll_interval_max,
            count_outages: false,
            unrouted: Unrouted::Wait,
            shutdown_timeout: scenario.shutdown_timeout,
            lease_ttl: scenario.ttl,
            probe_interval: SECOND,
            sweep_interval: 5 * SECOND,
        }
    }

    fn stop(&mut self, slot: usize) {
        if let Some(running) = &mut self.running[slot]
            && !running.stopping
        {
            self.journal.note(Event::Stopping(running.process));
            running.stop.cancel();
            running.stopping = true;
        }
    }

    fn crash(&mut self, slot: usize) {
        if let Some(running) = self.running[slot].take() {
            self.journal.note(Event::Crashed(running.process));
        }
    }

    /// Notes who has ended.
    async fn reap(&mut self) {
        for slot in &mut self.running {
            let Some(running) = slot else { continue };
            let Some(ended) = running.task.try_join_next() else {
                continue;
            };
            let trouble = match ended {
                Ok(Ok(())) if running.stopping => None,
                Ok(Ok(())) => Some("ended without being told to".to_owned()),
                Ok(Err(error)) => Some(error.to_string()),
                Err(error) => Some(format!("panicked: {error}")),
            };
            self.journal.note(Event::Ended(running.process, trouble));
            *slot = None;
        }
    }
}

fn written(spec: &RowSpec, by_hand: bool, transaction: Option<usize>) -> Row {
    Row {
        spec: spec.clone(),
        by_hand,
        transaction,
    }
}

fn broker(
    scenario: &Arc<Scenario>,
    index: usize,
    journal: &Arc<Journal>,
    weather: &Arc<Mutex<Weather>>,
) -> Arc<ScriptedTransport> {
    let spec = &scenario.brokers[index];
    let transport = ScriptedTransport::new(spec.timeout);
    let transport = if spec.dedupes {
        transport
    } else {
        transport.without_dedupe()
    };
    let (scenario, weather, journal) = (Arc::clone(scenario), Arc::clone(weather), Arc::clone(journal));
    let mut sends: HashMap<SeqNumber, u64> = HashMap::new();
    transport.script(move |envelope| {
        let weather = weather.lock().unwrap_or_else(PoisonError::into_inner);
        let time = sends.entry(envelope.message.seq.0).or_default();
        *time += 1;
        answer(&scenario, &weather, index, envelope, *time)
    });
    transport.consume(move |envelope| {
        journal.note(Event::Visible {
            transport: index,
            seq: envelope.message.seq.0,
        });
    });
    Arc::new(transport)
}

fn answer(scenario: &Scenario, weather: &Weather, index: usize, envelope: &Envelope, time: u64) -> Answer {
    let message = &envelope.message;
    let route: usize = message.topic[1..].parse().unwrap();
    if weather.refused[route] {
        return Answer::Refuse(FailureClass::Unavailable);
    }
    match &*message.payload {
        b"{}" => {}
        b"poison" => return Answer::Refuse(FailureClass::Rejected),
        times => {
            let times: i32 = std::str::from_utf8(times).unwrap().parse().unwrap();
            if message.attempt <= times {
                return Answer::Refuse(FailureClass::Failed);
            }
        }
    }
    let roll = roll(scenario.seed, message.seq.0, time);
    if weather.lossy[index] && roll < 0.4 {
        return if roll < 0.2 {
            Answer::StoreThenTimeOut
        } else {
            Answer::Lose
        };
    }
    let longest = if weather.slow[index] {
        SECOND * 2
    } else {
        scenario.wire_latency
    };
    let latency = longest.mul_f64(roll);
    if latency < MS {
        Answer::Acknowledge
    } else {
        Answer::Slow(latency)
    }
}
