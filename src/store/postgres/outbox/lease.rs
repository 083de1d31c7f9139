//! The lease in two small tables: who is alive until when, and whose each lane is.
//!
//! Lanes are shared evenly. An instance takes free lanes up to its share; what it holds beyond, it leaves lane by lane and
//! hands over (`relay/owning/lease`). Who comes, goes or hands over says so by a notification; without notifications others find
//! out with their next renewal.
//!
//! A process that starts with the name of a predecessor and holds the very lock file that one held (`identity`) takes its lanes back
//! at once: the system drops the lock with the process. Anyone else of the name waits for its lease to end: a live registration is
//! never taken.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use tokio_postgres::Row as PgRow;
use tokio_postgres::types::Type;

use super::PostgresStore;
use crate::lock::lock;
use crate::store::postgres::link::about::{About, database_error};
use crate::store::postgres::link::answer::unreadable;
use crate::store::postgres::link::database::Role;
use crate::store::postgres::link::sql::{Statement, kind};
use crate::store::{Lease, StoreError, Tenancy};

const RESTORE_LANES: &str = include_str!("../../../../sql/restore_lanes.sql");

/// What this instance calls itself among others.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// A lease is looked at so much after its end.
const EXPIRED_BY: Duration = Duration::from_millis(20);

/// An instance as it is registered.
struct Peer {
    instance: String,
    machine: String,
    started_at: String,
    /// Tells this renewal from others.
    renewal: String,
    /// Seconds it was made for.
    lasts: f64,
    version: String,
    /// Seconds until its lease ends; negative: it has.
    ends_in: f64,
    /// Seconds since it started.
    runs_for: f64,
    lanes: usize,
}

impl Peer {
    fn read(row: &PgRow) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            instance: row.try_get("instance")?,
            machine: row.try_get("machine")?,
            started_at: row.try_get("started_at")?,
            renewal: row.try_get("renewal")?,
            lasts: row.try_get("lasts")?,
            version: row.try_get::<_, Option<String>>("version")?.unwrap_or_default(),
            ends_in: row.try_get("ends_in")?,
            runs_for: row.try_get("runs_for")?,
            lanes: usize::try_from(row.try_get::<_, i64>("lanes")?).unwrap_or(0),
        })
    }

    fn is_live(&self) -> bool {
        self.ends_in > 0.0
    }

    /// Whether it works alike: versions may differ in their last number.
    fn is_like(&self, version: &str) -> bool {
        self.version.contains('.') && kind(&self.version) == kind(version)
    }

    /// Of two that do not work alike: the one with lanes goes on, else the one that runs longer.
    fn yields_to(&self, other: &Self) -> bool {
        let rank = |peer: &Self| (peer.lanes > 0, peer.runs_for);
        rank(other) > rank(self)
    }
}

/// How many of `lanes` instance `me` should hold: an equal share among those that live and work alike, the first ones by
/// name taking one more where it does not come out even. None at all, and for whom, while an instance that works otherwise
/// has the lanes.
fn share<'a>(peers: &'a [Peer], me: &str, version: &str, lanes: usize) -> (usize, Option<&'a Peer>) {
    let Some(mine) = peers.iter().find(|peer| peer.instance == me) else {
        return (0, None);
    };
    let others = |peer: &&Peer| peer.is_live() && peer.instance != me && !peer.is_like(version);
    if let Some(other) = peers.iter().filter(others).find(|other| mine.yields_to(other)) {
        return (0, Some(other));
    }
    let mut live: Vec<&str> = peers
        .iter()
        .filter(|peer| (peer.is_live() && peer.is_like(version)) || peer.instance == me)
        .map(|peer| &*peer.instance)
        .collect();
    live.sort_unstable();
    let rank = live.iter().position(|name| *name == me).unwrap_or(0);
    (lanes / live.len() + usize::from(rank < lanes % live.len()), None)
}

/// What was said once and stands until it ends.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// The name was ours once, or somebody else's: from then on nothing is taken over without a proof.
    registered: AtomicBool,
    name_taken: AtomicBool,
    other_version: AtomicBool,
    lanes_gone: AtomicBool,
    /// The highest epoch a lane was held at.
    highest_epoch: AtomicI64,
    /// The last renewal of the process that has our name, and until when it is to be followed by another.
    waits_for: Mutex<Option<(String, Instant)>>,
}

impl Said {
    /// Keeps an eye on whoever has our name: the server's clock may have been set back, and then its lease seems to last for ever.
    fn watch(&self, other: &Peer) {
        let mut waits_for = lock(&self.waits_for);
        if waits_for.as_ref().is_none_or(|(renewal, _)| *renewal != other.renewal) {
            let lasts = Duration::from_secs_f64(other.lasts.clamp(0.0, 86_400.0)) + EXPIRED_BY;
            *waits_for = Some((other.renewal.clone(), Instant::now() + lasts));
        }
    }

    /// The renewal that should have been followed by another by now.
    fn silent(&self) -> Option<String> {
        let waits_for = lock(&self.waits_for);
        let overdue = waits_for.as_ref().filter(|(_, until)| Instant::now() >= *until);
        overdue.map(|(renewal, _)| renewal.clone())
    }
}

/// Whether this is news: `now` differs from what was said last.
fn news(said: &AtomicBool, now: bool) -> bool {
    said.swap(now, Ordering::Relaxed) != now
}

impl PostgresStore {
    pub(super) async fn renew_lease(&self, ttl: Duration) -> Result<Lease, StoreError> {
        let options = &self.options;
        let lanes = i32::from(self.names.lanes());
        let proof = options.identity.proof();
        let succeeds = options.identity.succeeds_older() && !self.said.registered.load(Ordering::Relaxed);
        let silent = self.said.silent();
        let rows = self
            .database
            .query(
                Role::Lease,
                &self.sql.renew,
                &[
                    &options.instance,
                    &self.session,
                    &options.machine,
                    &VERSION,
                    &lanes,
                    &ttl.as_secs_f64(),
                    &proof,
                    &succeeds,
                    &silent,
                ],
            )
            .await?;
        let Some(row) = rows.first() else {
            return self.stand_by().await;
        };
        self.said.registered.store(true, Ordering::Relaxed);
        if news(&self.said.name_taken, false) {
            tracing::info!(instance = %options.instance, "lease.instance: the other process of this name is gone: taking over");
        }
        let anew: bool = row.try_get("anew").map_err(|error| unreadable(&error))?;
        let paused: Vec<String> = row.try_get("paused").map_err(|error| unreadable(&error))?;
        self.restore_lanes(row).await?;
        let peers = self.peers().await?;
        let (share, yields_to) = share(&peers, &options.instance, VERSION, usize::from(self.names.lanes()));
        if news(&self.said.other_version, yields_to.is_some()) {
            match yields_to {
                Some(other) => tracing::warn!(
                    other = %other.instance, version = %other.version,
                    "an instance of another version holds the lanes: standing by until it leaves; versions do not share an outbox"
                ),
                None => tracing::info!("no instance of another version is left: taking part"),
            }
        }
        let mine = peers.iter().find(|peer| peer.instance == options.instance);
        let missing = share.saturating_sub(mine.map_or(0, |mine| mine.lanes));
        if anew || missing > 0 {
            let missing = i64::try_from(missing).unwrap_or(i64::MAX);
            self.database
                .execute(
                    Role::Lease,
                    &self.sql.take_lanes,
                    &[&options.instance, &anew, &missing, &self.session],
                )
                .await?;
        }
        // A lease of somebody else that is not renewed in time: its lanes are to be taken then.
        let next_end = peers
            .iter()
            .filter(|peer| peer.is_live() && peer.instance != options.instance)
            .map(|peer| Duration::from_secs_f64(peer.ends_in) + EXPIRED_BY)
            .min();
        Ok(Lease {
            lanes: self.lanes_held(Role::Lease).await?,
            share,
            paused: paused.into_iter().map(Into::into).collect(),
            look_again: next_end,
        })
    }

    /// Puts back the lanes a cleaner deleted: nobody would send what belongs to them. `renewal` says how many are there.
    async fn restore_lanes(&self, renewal: &PgRow) -> Result<(), StoreError> {
        let there: i64 = renewal.try_get("lanes_there").map_err(|error| unreadable(&error))?;
        let lanes = i32::from(self.names.lanes());
        let missing = i64::from(lanes) - there;
        if missing <= 0 {
            news(&self.said.lanes_gone, false);
            return Ok(());
        }
        let statement = Statement {
            text: self.names.fill(RESTORE_LANES),
            types: const { &[Type::INT4, Type::INT8] },
        };
        let highest = self.said.highest_epoch.load(Ordering::Relaxed);
        match self
            .database
            .execute(Role::Lease, &statement, &[&lanes, &highest])
            .await
        {
            // Another instance was faster.
            Ok(0) => Ok(()),
            Ok(restored) => {
                tracing::warn!(restored, of = lanes, "rows of outboxd_lanes were deleted: put back");
                Ok(())
            }
            Err(error) if database_error(&error).is_some_and(|known| known.about() == About::Role) => {
                if news(&self.said.lanes_gone, true) {
                    tracing::warn!(
                        "{missing} of {lanes} rows of outboxd_lanes were deleted, and their messages are not sent: this role may not put \
                         them back: run: outboxd migrate; and outboxd roles --print | psql, for the next time"
                    );
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn peers(&self) -> Result<Vec<Peer>, StoreError> {
        let peers = self.database.query(Role::Lease, &self.sql.peers, &[]).await?;
        let peers: Result<Vec<Peer>, _> = peers.iter().map(Peer::read).collect();
        peers.map_err(|error| unreadable(&error))
    }

    /// Another process has the name and lives: no lanes, and another look as soon as its lease may have ended.
    async fn stand_by(&self) -> Result<Lease, StoreError> {
        self.said.registered.store(true, Ordering::Relaxed);
        let peers = self.peers().await?;
        let other = peers.iter().find(|peer| peer.instance == self.options.instance);
        if news(&self.said.name_taken, true) {
            let unknown = String::new();
            let (machine, since) = other.map_or((&unknown, &unknown), |other| (&other.machine, &other.started_at));
            tracing::warn!(
                instance = %self.options.instance, %machine, %since,
                "lease.instance: another process of this name is at work: standing by until its lease ends; if both are meant, give each its own lease.instance, else stop one"
            );
        }
        if let Some(other) = other {
            self.said.watch(other);
        }
        let ends_in = other.map_or(0.0, |other| other.ends_in.clamp(0.0, 3600.0));
        Ok(Lease {
            look_again: Some(Duration::from_secs_f64(ends_in) + EXPIRED_BY),
            ..Lease::default()
        })
    }

    /// The lanes this instance holds, asked for on the connection of `role`.
    pub(super) async fn lanes_held(&self, role: Role) -> Result<Tenancy, StoreError> {
        let rows = self
            .database
            .query(role, &self.sql.lanes_held, &[&self.options.instance, &self.session])
            .await?;
        let held: Tenancy = rows
            .iter()
            .map(|row| Ok((super::rows::lane(row)?, row.try_get("epoch")?)))
            .collect::<Result<_, _>>()
            .map_err(|error| unreadable(&error))?;
        let highest = held.values().copied().max().unwrap_or(0);
        self.said.highest_epoch.fetch_max(highest, Ordering::Relaxed);
        Ok(held)
    }

    pub(super) async fn hand_over_lanes(&self, lanes: &Tenancy) -> Result<(), StoreError> {
        let (lanes, epochs): (Vec<i32>, Vec<i64>) =
            lanes.iter().map(|(lane, epoch)| (i32::from(*lane), *epoch)).unzip();
        self.database
            .execute(
                Role::Lease,
                &self.sql.hand_over,
                &[&lanes, &epochs, &self.options.instance],
            )
            .await?;
        Ok(())
    }

    pub(super) async fn leave_lease(&self) -> Result<(), StoreError> {
        self.database
            .execute(Role::Lease, &self.sql.leave, &[&self.options.instance, &self.session])
            .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(instance: &str, version: &str, ends_in: f64, lanes: usize) -> Peer {
        Peer {
            instance: instance.to_owned(),
            machine: String::new(),
            started_at: String::new(),
            renewal: String::new(),
            lasts: 15.0,
            version: version.to_owned(),
            ends_in,
            runs_for: 60.0,
            lanes,
        }
    }

    fn shares(peers: &[Peer], lanes: usize) -> Vec<usize> {
        let of = |peer: &Peer| share(peers, &peer.instance, "1.2.3", lanes).0;
        peers.iter().map(of).collect()
    }

    #[test]
    fn lanes_are_shared_evenly_and_none_is_left_over() {
        let live = |name| peer(name, "1.2.3", 5.0, 0);
        assert_eq!(shares(&[live("a")], 64), [64]);
        assert_eq!(shares(&[live("b"), live("a"), live("c")], 64), [21, 22, 21]);
        assert_eq!(shares(&[live("a"), live("b"), live("c")], 2), [1, 1, 0]);
    }

    #[test]
    fn the_dead_have_no_share() {
        let peers = [peer("a", "1.2.3", 5.0, 32), peer("b", "1.2.3", -0.1, 32)];
        assert_eq!(share(&peers, "a", "1.2.3", 64).0, 64);
    }

    #[test]
    fn a_newcomer_of_another_version_stands_by_and_disturbs_nobody() {
        let old = peer("a", "1.1.9", 5.0, 64);
        let new = Peer {
            runs_for: 1.0,
            ..peer("b", "1.2.0", 5.0, 0)
        };
        let peers = [old, new];
        let (lanes, other) = share(&peers, "b", "1.2.0", 64);
        assert_eq!((lanes, other.map(|peer| &*peer.instance)), (0, Some("a")));
        assert_eq!(share(&peers, "a", "1.1.9", 64).0, 64);
    }

    #[test]
    fn of_two_versions_with_lanes_the_older_instance_goes_on() {
        let old = peer("a", "1.1.9", 5.0, 30);
        let new = Peer {
            runs_for: 1.0,
            ..peer("b", "1.2.0", 5.0, 34)
        };
        let peers = [old, new];
        assert_eq!(share(&peers, "b", "1.2.0", 64).0, 0);
        assert_eq!(share(&peers, "a", "1.1.9", 64).0, 64);
    }

    #[test]
    fn the_last_number_of_a_version_makes_no_difference() {
        let peers = [peer("a", "1.2.9", 5.0, 64), peer("b", "1.2.3", 5.0, 0)];
        assert_eq!(shares(&peers, 64), [32, 32]);
    }
}
