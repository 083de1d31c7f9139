//! Several instances of the daemon on one outbox: processes of their own names and ports, each of which can be killed,
//! frozen, asked to leave and started again.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_postgres::Client;

use super::daemon::{Daemon, Site};
use super::eventually;
use super::postgres::Database;

/// `lease.ttl` of a fleet.
pub(crate) const TTL: Duration = Duration::from_secs(3);

/// Instances, some of them running.
pub(crate) struct Fleet {
    members: Vec<Member>,
}

struct Member {
    site: Site,
    daemon: Option<Daemon>,
}

impl Fleet {
    /// `size` installations on `database`, none running; its tables are made.
    pub(crate) fn new(database: &Database, size: usize, rest: &str) -> Self {
        let lease = format!("ttl = \"{}s\"\n", TTL.as_secs());
        let member = |_| Member {
            site: Site::with_lease(database, &lease, rest),
            daemon: None,
        };
        let fleet = Self {
            members: (0..size).map(member).collect(),
        };
        fleet.members[0].site.migrate();
        fleet
    }

    /// How many installations there are.
    pub(crate) fn size(&self) -> usize {
        self.members.len()
    }

    /// The name of one.
    pub(crate) fn name(&self, number: usize) -> String {
        self.members[number].site.instance()
    }

    /// The installation of one.
    pub(crate) fn site(&self, number: usize) -> &Site {
        &self.members[number].site
    }

    /// One that runs.
    pub(crate) fn daemon(&self, number: usize) -> &Daemon {
        self.members[number].daemon.as_ref().expect("this instance runs")
    }

    /// Names of those that run.
    pub(crate) fn live(&self) -> Vec<String> {
        let live = self.members.iter().filter(|member| member.daemon.is_some());
        live.map(|member| member.site.instance()).collect()
    }

    /// Starts one and waits until it is ready: it holds lanes, or stands by.
    pub(crate) async fn start(&mut self, number: usize) {
        let daemon = self.members[number].site.start().await;
        self.members[number].daemon = Some(daemon);
    }

    /// Starts one without waiting for it.
    pub(crate) fn launch(&mut self, number: usize) {
        self.members[number].daemon = Some(self.members[number].site.launch());
    }

    /// Starts all that do not run.
    pub(crate) async fn start_all(&mut self) {
        for number in 0..self.size() {
            if self.members[number].daemon.is_none() {
                self.start(number).await;
            }
        }
    }

    /// `kill -9`.
    pub(crate) fn kill9(&mut self, number: usize) {
        self.members[number].daemon.take().expect("this instance runs").kill9();
    }

    /// SIGTERM; it must end with 0.
    pub(crate) async fn leave(&mut self, number: usize) {
        let daemon = self.members[number].daemon.take().expect("this instance runs");
        let status = daemon.terminate(Duration::from_secs(30)).await;
        assert!(status.success(), "{} ended with {status}", self.name(number));
    }

    /// SIGTERM to each in turn.
    pub(crate) async fn leave_all(&mut self) {
        for number in 0..self.size() {
            if self.members[number].daemon.is_some() {
                self.leave(number).await;
            }
        }
    }

    /// Waits until the lanes are divided evenly, within one, among exactly those that run.
    pub(crate) async fn even(&self, client: &Client, deadline: Duration) {
        let live = self.live();
        let done = eventually("lanes are even", deadline * 2, || async {
            let shares = shares(client).await;
            let own: Vec<i64> = live
                .iter()
                .map(|name| shares.get(name).copied().unwrap_or_default())
                .collect();
            let (least, most) = (own.iter().min()?, own.iter().max()?);
            let all: i64 = shares.values().sum();
            (own.iter().sum::<i64>() == all && most - least <= 1).then_some(())
        });
        if tokio::time::timeout(deadline, done).await.is_err() {
            panic!(
                "lanes are not even among {live:?} after {deadline:?}: {:?}",
                shares(client).await
            );
        }
    }
}

/// Lanes by owner; the empty name has those of nobody.
pub(crate) async fn shares(client: &Client) -> BTreeMap<String, i64> {
    let query = "select coalesce(owner, ''), count(*) from outboxd_lanes group by owner";
    let rows = client.query(query, &[]).await.expect("the lanes can be read");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}
