//! What one seed means: the table, the routes, who writes what and when, and what breaks.
//!
//! Everything is drawn beforehand, so that a seed is a list one can read. Each seed allows only some kinds of faults:
//! rare combinations show that would drown if everything happened all the time.

use std::num::NonZeroU32;
use std::time::Duration;

use fastrand::Rng;
use outboxd::delivery::Order;
use outboxd::route::Limits;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// Processes at most.
pub const SLOTS: usize = 3;

/// How a row behaves at its broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Temper {
    /// Taken.
    Good,
    /// Rejected, always.
    Poison,
    /// Its headers are no object: the relay itself rejects it.
    Unfit,
    /// Refused at its first attempts, so many.
    Fails(i32),
}

/// A row to be written.
#[derive(Clone, Debug)]
pub struct RowSpec {
    pub route: usize,
    pub key: Option<u8>,
    pub temper: Temper,
    pub delay: Option<Duration>,
    pub priority: i16,
    pub max_attempts: Option<i32>,
}

#[derive(Clone, Debug)]
pub struct RouteSpec {
    pub transport: usize,
    pub order: Order,
    pub max_attempts: i32,
    pub commit_order: bool,
    pub limits: Limits,
}

#[derive(Clone, Debug)]
pub struct BrokerSpec {
    pub dedupes: bool,
    pub timeout: Duration,
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Act {
    Insert(RowSpec),
    /// With a number written by hand.
    InsertByHand(RowSpec),
    Begin(usize),
    InsertIn(usize, RowSpec),
    Commit(usize),
    RollBack(usize),
    /// An operator retries one of the failed rows.
    Retry(usize),
    /// An operator discards one of the failed rows.
    Discard(usize),
    /// One of the pending rows cannot be written from now on; `false`: all can.
    Stuck(usize, bool),
    Broker(usize, BrokerFault, bool),
    /// This route's topic is refused as unavailable.
    Refused(usize, bool),
    /// An operator pauses this route's topic, or resumes it.
    Paused(usize, bool),
    Database(DatabaseFault, bool),
    LoseAnswersOfSettlements(u32),
    Process(usize, ProcessFault, bool),
    /// `true`: under a name of its own.
    Start(usize, bool),
    Stop(usize),
    Crash(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerFault {
    /// Nobody reaches it.
    Away,
    /// Messages arrive, no answer leaves.
    Mute,
    /// Messages and answers get lost.
    Lossy,
    /// It takes its time.
    Slow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseFault {
    Away,
    /// Statements take effect, no answer leaves.
    Mute,
    /// Statements take their time.
    Slow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessFault {
    /// Renewals fail, everything else works.
    LeaseRefused,
    /// Renewals are never answered, everything else works.
    LeaseMute,
    /// SIGSTOP.
    Frozen,
}

#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub lanes: u16,
    pub batch_size: usize,
    pub max_in_flight: usize,
    pub max_in_flight_bytes: usize,
    pub ttl: Duration,
    pub poll_interval_max: Duration,
    pub shutdown_timeout: Duration,
    pub brokers: Vec<BrokerSpec>,
    pub routes: Vec<RouteSpec>,
    /// A statement's way there takes up to this, and so does the way back.
    pub database_latency: Duration,
    /// A message's.
    pub wire_latency: Duration,
    pub acts: Vec<(Duration, Act)>,
    pub horizon: Duration,
    /// The table is another program's: rows are enlisted.
    pub enlists: bool,
}

/// Draws the scenario of a seed.
pub struct Draw {
    rng: Rng,
    horizon: Duration,
    acts: Vec<(Duration, Act)>,
    /// Some rows have a priority.
    priorities: bool,
}

impl Scenario {
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let horizon = SECOND * rng.u32(4..=24);
        let mut draw = Draw {
            rng,
            horizon,
            acts: Vec::new(),
            priorities: seed.is_multiple_of(3),
        };
        let mut scenario = draw.setting(seed);
        draw.processes(scenario.ttl);
        draw.writers(scenario.routes.len());
        draw.operators();
        if draw.rng.u8(0..10) > 0 {
            draw.faults(&scenario);
        }
        draw.pauses(scenario.routes.len());
        if draw.rng.u8(0..4) == 0 {
            let pick = draw.rng.usize(..);
            draw.spell(8 * SECOND, |begins| Act::Stuck(pick, begins));
        }
        scenario.acts = draw.acts;
        scenario.acts.sort_by_key(|(at, _)| *at);
        scenario
    }
}

impl Draw {
    fn setting(&mut self, seed: u64) -> Scenario {
        let rng = &mut self.rng;
        let brokers: Vec<BrokerSpec> = (0..rng.usize(1..=3))
            .map(|_| BrokerSpec {
                dedupes: rng.bool(),
                timeout: SECOND * rng.u32(1..=3),
            })
            .collect();
        let routes = (0..rng.usize(1..=4))
            .map(|_| RouteSpec {
                transport: rng.usize(0..brokers.len()),
                order: [Order::Key, Order::Key, Order::Strict, Order::None][rng.usize(0..4)],
                max_attempts: rng.i32(1..=4),
                commit_order: rng.u8(0..6) == 0,
                limits: Limits {
                    max_in_flight: (rng.u8(0..8) == 0).then(|| rng.usize(1..20)),
                    rate: NonZeroU32::new(rng.u32(20..200)).filter(|_| rng.u8(0..8) == 0),
                    paused: false,
                },
            })
            .collect();
        let batch_size = [1, 3, 10, 50][rng.usize(0..4)];
        Scenario {
            seed,
            lanes: [1, 2, 3, 8][rng.usize(0..4)],
            batch_size,
            max_in_flight: batch_size * [1, 2, 4, 10][rng.usize(0..4)],
            max_in_flight_bytes: [1 << 11, 1 << 13, 1 << 20][rng.usize(0..3)],
            ttl: SECOND * rng.u32(2..=6),
            poll_interval_max: MS * [50, 250][rng.usize(0..2)],
            shutdown_timeout: SECOND * [2, 10][rng.usize(0..2)],
            brokers,
            routes,
            database_latency: MS * [0, 2, 20][rng.usize(0..3)],
            wire_latency: MS * [0, 2, 20][rng.usize(0..3)],
            acts: Vec::new(),
            horizon: self.horizon,
            // `OUTBOXD_ENLISTING=1`: every story's.
            enlists: seed % 5 == 4 || std::env::var_os("OUTBOXD_ENLISTING").is_some(),
        }
    }

    fn at(&mut self) -> Duration {
        self.horizon.mul_f64(self.rng.f64())
    }

    fn act(&mut self, at: Duration, act: Act) {
        self.acts.push((at.min(self.horizon), act));
    }

    /// Who runs when: the first one from the start, the others come and go.
    fn processes(&mut self, ttl: Duration) {
        let count = self.rng.usize(1..=SLOTS);
        for slot in 0..count {
            let at = if slot == 0 && self.rng.bool() {
                Duration::ZERO
            } else {
                self.at() / 2
            };
            self.act(at, Act::Start(slot, false));
            for _ in 0..self.rng.usize(0..=2) {
                let stop = self.at();
                self.act(stop, Act::Stop(slot));
                let pause = ttl.mul_f64(1.5 * self.rng.f64());
                let renamed = self.rng.u8(0..4) == 0;
                self.act(stop + pause, Act::Start(slot, renamed));
            }
        }
    }

    fn row(&mut self, routes: usize, keys: u8) -> RowSpec {
        let (priorities, rng) = (self.priorities, &mut self.rng);
        RowSpec {
            route: rng.usize(0..routes),
            key: (rng.u8(0..10) > 0).then(|| rng.u8(0..keys)),
            temper: match rng.u8(0..40) {
                0 => Temper::Poison,
                1 => Temper::Unfit,
                2..=4 => Temper::Fails(rng.i32(1..=4)),
                _ => Temper::Good,
            },
            delay: (rng.u8(0..20) == 0).then(|| MS * rng.u32(1..8000)),
            priority: if priorities && rng.u8(0..3) == 0 {
                rng.i16(1..=3)
            } else {
                0
            },
            max_attempts: (rng.u8(0..20) == 0).then(|| rng.i32(1..=3)),
        }
    }

    fn writers(&mut self, routes: usize) {
        let keys = [1, 4, 12][self.rng.usize(0..3)];
        let rows = self.rng.usize(20..=150);
        let (mut written, mut transactions) = (0, 0);
        while written < rows {
            let at = self.at();
            match self.rng.u8(0..10) {
                0..4 => {
                    for _ in 0..self.rng.usize(1..=12) {
                        let row = self.row(routes, keys);
                        self.act(at, Act::Insert(row));
                        written += 1;
                    }
                }
                4 => {
                    let row = self.row(routes, keys);
                    self.act(at, Act::InsertByHand(row));
                    written += 1;
                }
                _ => {
                    let id = transactions;
                    transactions += 1;
                    let long = [5 * MS, 200 * MS, 8 * SECOND][self.rng.usize(0..3)].mul_f64(self.rng.f64());
                    self.act(at, Act::Begin(id));
                    for _ in 0..self.rng.usize(1..=5) {
                        let when = at + long.mul_f64(self.rng.f64());
                        let row = self.row(routes, keys);
                        self.act(when, Act::InsertIn(id, row));
                        written += 1;
                    }
                    let commits = self.rng.u8(0..4) > 0;
                    let end = if commits { Act::Commit(id) } else { Act::RollBack(id) };
                    self.act(at + long, end);
                }
            }
        }
    }

    fn operators(&mut self) {
        for _ in 0..self.rng.usize(0..=4) {
            let (at, pick) = (self.at(), self.rng.usize(..));
            let act = if self.rng.bool() {
                Act::Retry(pick)
            } else {
                Act::Discard(pick)
            };
            self.act(at, act);
        }
    }

    fn pauses(&mut self, routes: usize) {
        for route in 0..routes {
            if self.rng.u8(0..4) == 0 {
                self.spell(8 * SECOND, |begins| Act::Paused(route, begins));
            }
        }
    }

    /// Something that lasts.
    fn spell(&mut self, longest: Duration, act: impl Fn(bool) -> Act) {
        for _ in 0..self.rng.usize(1..=3) {
            let at = self.at();
            let long = longest.mul_f64(self.rng.f64() * self.rng.f64()) + MS;
            self.act(at, act(true));
            self.act(at + long, act(false));
        }
    }

    fn faults(&mut self, scenario: &Scenario) {
        let chance = self.rng.u8(1..=4);
        for broker in 0..scenario.brokers.len() {
            for fault in [
                BrokerFault::Away,
                BrokerFault::Mute,
                BrokerFault::Lossy,
                BrokerFault::Slow,
            ] {
                if self.rng.u8(0..10) < chance {
                    self.spell(8 * SECOND, |begins| Act::Broker(broker, fault, begins));
                }
            }
        }
        for route in 0..scenario.routes.len() {
            if self.rng.u8(0..10) < chance {
                self.spell(8 * SECOND, |begins| Act::Refused(route, begins));
            }
        }
        for fault in [DatabaseFault::Away, DatabaseFault::Mute, DatabaseFault::Slow] {
            if self.rng.u8(0..10) < chance {
                self.spell(2 * scenario.ttl, |begins| Act::Database(fault, begins));
            }
        }
        if self.rng.u8(0..10) < chance {
            for _ in 0..self.rng.usize(1..=4) {
                let (at, count) = (self.at(), self.rng.u32(1..=3));
                self.act(at, Act::LoseAnswersOfSettlements(count));
            }
        }
        for slot in 0..SLOTS {
            for fault in [
                ProcessFault::LeaseRefused,
                ProcessFault::LeaseMute,
                ProcessFault::Frozen,
            ] {
                if self.rng.u8(0..15) < chance {
                    self.spell(3 * scenario.ttl, |begins| Act::Process(slot, fault, begins));
                }
            }
            if self.rng.u8(0..10) < chance {
                for _ in 0..self.rng.usize(1..=3) {
                    let at = self.at();
                    let pause = scenario.ttl.mul_f64(1.5 * self.rng.f64());
                    let pause = if self.rng.bool() { pause } else { MS };
                    let renamed = self.rng.u8(0..4) == 0;
                    self.act(at, Act::Crash(slot));
                    self.act(at + pause, Act::Start(slot, renamed));
                }
            }
        }
    }
}
