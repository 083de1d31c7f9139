//! Instances killed and stopped one after another under load, and how long it took others, or themselves, to go on.

use std::fmt;
use std::time::{Duration, Instant};

use super::broker::Kind;
use super::checker::Verdict;
use super::faults::Fault;
use super::fleet::TTL;
use super::load::Load;
use super::postgres::Session;
use super::stage::{MAX_IN_FLIGHT, Stage, TOPICS, seed};
use super::{audit, crowding, eventually};

/// What [`under_kills`] measured.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    /// Kills and stops.
    pub(crate) blows: usize,
    /// From each start after a kill to the instance's first mark.
    pub(crate) restarts: Vec<Duration>,
    /// From a kill without restart until all lanes of the dead had another owner, and until rows of each were marked.
    pub(crate) takeover: Option<(Duration, Duration)>,
    /// How crowded the machine was meanwhile, 1 or more.
    pub(crate) crowding: f64,
}

impl Rounds {
    /// The restarts, quickest first.
    pub(crate) fn sorted(&self) -> Vec<Duration> {
        let mut sorted = self.restarts.clone();
        sorted.sort();
        sorted
    }
}

impl fmt::Display for Rounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sorted = self.sorted();
        write!(
            f,
            "{} blows; start to first mark of {} restarts: median {:.2?}, worst {:.2?}",
            self.blows,
            sorted.len(),
            sorted[sorted.len() / 2],
            sorted[sorted.len() - 1]
        )?;
        if let Some((owned, flowing)) = self.takeover {
            write!(
                f,
                "; kill to take-over {owned:.2?}, to rows of every lane {flowing:.2?}"
            )?;
        }
        Ok(())
    }
}

/// At least `rows` rows in about `span` while, every 5 s, an instance is killed and started again; every fourth time it is
/// stopped past its lease and continued instead. The first one killed stays dead until others have taken its lanes.
pub(crate) async fn under_kills(kind: Kind, rows: usize, span: Duration) -> (Rounds, Verdict) {
    let mut stage = Stage::new(kind, 3, "").await;
    stage.fleet.start_all().await;
    let session = stage.session().await;
    stage.fleet.even(&session, TTL * 4).await;
    let load = Load {
        connections: 4,
        keys: 2_000,
        topics: TOPICS,
        per_second: (rows as f64 / span.as_secs_f64()) as usize,
        // It goes on while blows fall: an instance that comes back must find rows to mark.
        rows: usize::MAX,
    };
    let loading = load.start(&stage.database, seed());
    let started = Instant::now();
    let mut rounds = Rounds::default();
    eventually("all three relay", Duration::from_secs(30), || async {
        let marks = audit::marks(&session, 0.0).await.expect("the audit can be read");
        (marks.len() == 3).then_some(())
    })
    .await;
    let before = crowding();
    rounds.takeover = Some(takeover(&mut stage, &session).await);
    rounds.crowding = before.max(crowding());
    rounds.blows += 1;
    let mut beat = tokio::time::interval(Duration::from_secs(5));
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        if started.elapsed() + TTL >= span {
            break;
        }
        let instance = rounds.blows % 3;
        if rounds.blows % 4 == 3 {
            let span = TTL + TTL / 2;
            stage.strike(Fault::Freeze { instance, span }).await;
        } else {
            stage.bound += MAX_IN_FLIGHT;
            stage.fleet.kill9(instance);
            let restarted = restart(&mut stage, &session, instance).await;
            rounds.restarts.push(restarted);
        }
        rounds.blows += 1;
    }
    eventually("all rows are written", span * 10, || async {
        (loading.committed() >= rows).then_some(())
    })
    .await;
    loading.end().await;
    let took = started.elapsed();
    let verdict = stage.verdict().await;
    println!("{kind:?}, {took:.0?}: {rounds}; {verdict}");
    (rounds, verdict)
}

/// Kills instance 0, waits until the others have its lanes and relay their rows, and starts it again.
async fn takeover(stage: &mut Stage, session: &Session) -> (Duration, Duration) {
    let dead = stage.fleet.name(0);
    let lanes = audit::lanes_of(session, &dead).await.expect("the lanes can be read");
    assert!(!lanes.is_empty(), "{dead} holds lanes");
    stage.bound += MAX_IN_FLIGHT;
    let since = audit::now(session).await.expect("the database has a clock");
    stage.fleet.kill9(0);
    let taken = eventually("the dead one's lanes flow again", TTL * 10, || async {
        let taken = audit::takeover(session, &dead, &lanes, since).await;
        taken.expect("the audit can be read")
    })
    .await;
    stage.fleet.start(0).await;
    (Duration::from_secs_f64(taken.0), Duration::from_secs_f64(taken.1))
}

/// Starts an instance that was killed; how long it took to its first mark.
async fn restart(stage: &mut Stage, session: &Session, instance: usize) -> Duration {
    let name = stage.fleet.name(instance);
    let since = audit::now(session).await.expect("the database has a clock");
    stage.fleet.launch(instance);
    let first = eventually("the restarted instance relays", TTL * 10, || async {
        let first = audit::first_mark(session, &name, since).await;
        first.expect("the audit can be read")
    })
    .await;
    Duration::from_secs_f64(first - since)
}
