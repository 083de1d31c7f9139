//! What goes wrong in production, drawn from a seed, done to a [`Stage`] one after another.

use std::fmt;
use std::time::{Duration, Instant};

use super::broker::Kind;
use super::chaos::print_attempts;
use super::fleet::TTL;
use super::load::Load;
use super::stage::{MAX_IN_FLIGHT, Stage, TOPICS};
use super::{audit, eventually};

/// Marks a crash of PostgreSQL may lose beside those in flight: three times `wal_writer_delay` (200 ms) at 10,000 rows/s,
/// which is more than this machine relays.
const MARKS_LOST_WITH_POSTGRES: usize = 6_000;

/// Something that happens to the stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `kill -9` of an instance, started again after a while.
    Kill { instance: usize, down: Duration },
    /// SIGSTOP of an instance, SIGCONT after a while, its lease's length or more.
    Freeze { instance: usize, span: Duration },
    /// SIGTERM of an instance, started again at once.
    Leave { instance: usize },
    /// `kill -9` of the broker, started again after a while.
    KillBroker { down: Duration },
    /// SIGSTOP of the broker, SIGCONT after a while.
    FreezeBroker { span: Duration },
    /// Immediate stop of PostgreSQL, started again after a while.
    StopPostgres { down: Duration },
    /// `pg_terminate_backend` of every connection of every instance.
    TerminateBackends,
    /// A transaction that inserts, is idle for a while, and commits: its rows have numbers long passed.
    CommitLate { idle: Duration },
}

impl Fault {
    /// One drawn by `random` for `size` instances.
    pub(crate) fn draw(random: &mut fastrand::Rng, size: usize) -> Self {
        let instance = random.usize(..size);
        let mut span = |from: u64, to: u64| Duration::from_millis(random.u64(from..to));
        let (short, long) = (span(0, 3_000), span(0, 3_000));
        match random.u8(..8) {
            0 => Self::Kill {
                instance,
                down: Duration::ZERO,
            },
            // Long enough that the others take its lanes.
            1 => Self::Kill {
                instance,
                down: TTL * 2 + short,
            },
            2 => Self::Freeze {
                instance,
                span: TTL * 2 + long,
            },
            3 => Self::Leave { instance },
            4 => Self::KillBroker { down: short },
            5 => Self::FreezeBroker {
                span: Duration::from_secs(1) + long,
            },
            6 => Self::StopPostgres { down: short },
            _ => [
                Self::TerminateBackends,
                Self::CommitLate {
                    idle: Duration::from_secs(3) + long,
                },
            ][random.usize(..2)],
        }
    }

    /// Duplicates it explains, with `size` instances.
    fn allowance(self, size: usize) -> usize {
        match self {
            Self::Kill { .. } | Self::Freeze { .. } => MAX_IN_FLIGHT,
            Self::Leave { .. } | Self::CommitLate { .. } => 0,
            Self::KillBroker { .. } | Self::FreezeBroker { .. } | Self::TerminateBackends => size * MAX_IN_FLIGHT,
            Self::StopPostgres { .. } => size * MAX_IN_FLIGHT + MARKS_LOST_WITH_POSTGRES,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill { instance, down } => write!(f, "kill -9 instance {instance}, back after {down:.1?}"),
            Self::Freeze { instance, span } => write!(f, "stop instance {instance} for {span:.1?}"),
            Self::Leave { instance } => write!(f, "restart instance {instance} cleanly"),
            Self::KillBroker { down } => write!(f, "kill -9 broker, back after {down:.1?}"),
            Self::FreezeBroker { span } => write!(f, "stop broker for {span:.1?}"),
            Self::StopPostgres { down } => write!(f, "stop PostgreSQL, back after {down:.1?}"),
            Self::TerminateBackends => write!(f, "terminate all backends"),
            Self::CommitLate { idle } => write!(f, "commit after {idle:.1?} idle"),
        }
    }
}

impl Stage {
    /// Does `fault` to the stage and undoes it; returns when its end has passed.
    pub(crate) async fn strike(&mut self, fault: Fault) {
        self.bound += fault.allowance(self.fleet.size());
        match fault {
            Fault::Kill { instance, down } => {
                self.fleet.kill9(instance);
                tokio::time::sleep(down).await;
                self.fleet.launch(instance);
            }
            Fault::Freeze { instance, span } => {
                self.fleet.daemon(instance).freeze();
                tokio::time::sleep(span).await;
                self.fleet.daemon(instance).thaw();
            }
            Fault::Leave { instance } => {
                self.fleet.leave(instance).await;
                self.fleet.launch(instance);
            }
            Fault::KillBroker { down } => {
                self.broker.kill9().await;
                tokio::time::sleep(down).await;
                self.broker.bring_back();
                self.broker.serving(TOPICS).await;
            }
            Fault::FreezeBroker { span } => {
                self.broker.freeze();
                tokio::time::sleep(span).await;
                self.broker.thaw();
            }
            Fault::StopPostgres { down } => {
                self.cluster.stop_immediately();
                tokio::time::sleep(down).await;
                self.cluster.start();
                self.session().await;
            }
            Fault::TerminateBackends => {
                let terminate = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                    where datname = current_database() and application_name like 'outboxd/%'";
                self.session().await.count(terminate).await;
            }
            Fault::CommitLate { idle } => {
                let session = self.session().await;
                let insert = "begin; insert into outbox_messages (topic, key, payload)
                    select 'orders', 'late ' || gen_random_uuid(), '{}' from generate_series(1, 5)";
                session.run(insert).await;
                tokio::time::sleep(idle).await;
                session.run("commit").await;
            }
        }
    }

    /// Waits until relaying goes on after a fault that is over now. Answers how long it took until any row was marked, and
    /// until none of the rows present now was pending: the first is what an outage of all costs, the second also what the
    /// loss of one instance does.
    pub(crate) async fn recovery(&self) -> (Duration, Duration) {
        let over = Instant::now();
        let session = self.session().await;
        let moment = audit::now(&session).await.expect("the database has a clock");
        let last = session.count("select coalesce(max(seq), 0) from outbox_messages").await;
        let new = format!(
            "select count(*) from (select from audit.writes
             where at > to_timestamp({moment}::float8) and what = 'relayed' limit 1) as one"
        );
        let old = format!(
            "select count(*) from (select from outbox_messages
             where seq <= {last} and relayed_at is null and failed_at is null limit 1) as one"
        );
        let deadline = Duration::from_secs(120);
        let resumed = eventually("a row is marked", deadline, || async {
            (session.count(&new).await > 0).then(|| over.elapsed())
        });
        let caught_up = eventually("the rows of before are relayed", deadline, || async {
            (session.count(&old).await == 0).then(|| over.elapsed())
        });
        tokio::join!(resumed, caught_up)
    }
}

/// What a chaos run does.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// How long faults go on.
    pub(crate) span: Duration,
    /// Draws the faults, the times between them and the load.
    pub(crate) seed: u64,
    /// Rows written a second.
    pub(crate) per_second: usize,
    /// Only faults whose line contains this.
    pub(crate) only: String,
}

impl Plan {
    /// Runs a random fault every few seconds, prints a line of counts for each, and leaves the verdict to the checker
    /// program.
    pub(crate) async fn run(&self, kind: Kind) -> bool {
        let mut stage = Stage::new(kind, 3, "").await;
        stage.fleet.start_all().await;
        let load = Load {
            connections: 4,
            keys: 2_000,
            topics: TOPICS,
            per_second: self.per_second,
            rows: usize::MAX,
        };
        println!(
            "chaos on {kind:?}: 3 instances, {} rows/s over 2,000 keys for {:.0?}, --seed {}",
            self.per_second, self.span, self.seed
        );
        println!(
            "{:>7}  {:<42} {:>9} {:>9} {:>8} {:>9}",
            "at", "fault", "committed", "relayed", "resumed", "caught up"
        );
        let loading = load.start(&stage.database, self.seed);
        let mut random = fastrand::Rng::with_seed(self.seed);
        let started = Instant::now();
        while started.elapsed() < self.span {
            let fault = self.draw(&mut random, stage.fleet.size());
            tokio::time::sleep(Duration::from_millis(random.u64(1_000..5_000))).await;
            let at = started.elapsed();
            stage.strike(fault).await;
            let (resumed, caught_up) = stage.recovery().await;
            let relayed = "select count(*) from outbox_messages where relayed_at is not null";
            let relayed = stage.session().await.count(relayed).await;
            println!(
                "{:>6.1}s  {:<42} {:>9} {:>9} {:>7.2}s {:>8.2}s",
                at.as_secs_f64(),
                fault.to_string(),
                loading.committed(),
                relayed,
                resumed.as_secs_f64(),
                caught_up.as_secs_f64()
            );
        }
        loading.end().await;
        let session = stage.session().await;
        session.drained(Duration::from_secs(120)).await;
        stage.fleet.leave_all().await;
        print_attempts(&session).await;
        stage.check()
    }

    fn draw(&self, random: &mut fastrand::Rng, size: usize) -> Fault {
        let mut drawn = std::iter::repeat_with(|| Fault::draw(random, size)).take(10_000);
        drawn
            .find(|fault| fault.to_string().contains(&self.only))
            .unwrap_or_else(|| panic!("no fault's line contains {:?}", self.only))
    }
}
