//! One outbox of this process, from waiting for its table to the end of its relay.
//!
//! ```text
//!  wait for the database ──> the table is right ──> store, engine, what runs beside them ──> stopped
//!          ^                        │ no                        │ no more
//!          └── a few seconds later ─┴── among others: said, and tried again; alone: the end (64)
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::config::{Config, OnRelayed};
use crate::relay::{Inquiries, Options, Relay, RelayError};
use crate::repeat::Repeat;
use crate::route::Routes;
use crate::store::StoreError;
use crate::store::postgres::link::classify::refused_login;
use crate::store::postgres::link::database::Database;
use crate::store::postgres::link::sql::Names;
use crate::store::postgres::outbox::{Ears, InstanceLock, PostgresStore, StoreOptions};
use crate::store::postgres::schema;
use crate::telemetry::fleet::Fleet;
use crate::telemetry::{Telemetry, systemd, trace};
use crate::trouble::{self, About, Trouble, chain};

use super::inquiries::Answering;
use super::reload::board::{Begun, Board};
use super::retention::{self, OldRows};
use super::{report, settings};

/// How often a paused destination is looked at: with a client's pause between two attempts to reconnect (200 ms), catching
/// up begins within a second of the broker's return.
const PROBE_INTERVAL: Duration = Duration::from_millis(700);
/// How often rows hidden below the cursor are looked for (set back to pending by plain SQL, say), while that costs a hundredth of the
/// time at most.
const SWEEP_INTERVAL: Duration = Duration::from_millis(800);
/// Between attempts to reach a database that is away at start.
const DATABASE_RETRY: Duration = Duration::from_millis(500);
/// Between looks whether somebody has mended what keeps an outbox from being relayed.
const MENDED_LOOK: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Tenant {
    /// Its place among all.
    pub(super) index: usize,
    /// Its part of the configuration the process began with.
    pub(super) config: Config,
    pub(super) telemetry: Telemetry,
    pub(super) database: Database,
    pub(super) ears: Option<Ears>,
    pub(super) lock: InstanceLock,
    /// Told what the table is, once that is known.
    pub(super) recognized: watch::Sender<Names>,
    pub(super) board: Arc<Board>,
    pub(super) fleet: Fleet,
    pub(super) others: Arc<Others>,
}

/// How many outboxes there are, and how many of them never could be relayed.
pub(super) struct Others {
    count: usize,
    refused: AtomicUsize,
}

impl Others {
    pub(super) fn among(count: usize) -> Self {
        Self {
            count,
            refused: AtomicUsize::new(0),
        }
    }
}

impl Tenant {
    /// Until `stop`, or until what is wrong is for a person and no other outbox is the worse for the end.
    pub(super) async fn live(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut saying = Repeat::default();
        let mut refused = false;
        loop {
            let error = match self.relay(&stop).await {
                Err(error) if self.is_waited_for(&error) && !stop.is_cancelled() => error,
                ended => return ended,
            };
            let never_was = self.telemetry.health.facts().lanes.is_none();
            if never_was && !std::mem::replace(&mut refused, true) {
                // The last one: nothing is relayed at all.
                let before = self.others.refused.fetch_add(1, Ordering::AcqRel);
                if before + 1 == self.others.count {
                    return Err(self.named(error));
                }
            }
            if let Some(count) = saying.occurred(std::time::Instant::now()) {
                let error = chain(&*error);
                tracing::error!(
                    error,
                    count,
                    "this outbox cannot be relayed, and is looked at again; the others are"
                );
            }
            let about = match error.downcast_ref() {
                Some(StoreError::Misconfigured(_)) => About::Schema,
                Some(StoreError::Unavailable(_)) | None => trouble::of(&*error).0,
            };
            let trouble = Trouble {
                about,
                text: chain(&*error),
                todo: about.todo(),
            };
            self.telemetry.health.database_down(&trouble, Instant::now());
            if stop
                .run_until_cancelled(tokio::time::sleep(MENDED_LOOK))
                .await
                .is_none()
            {
                return Ok(());
            }
        }
    }

    fn name(&self) -> &str {
        self.config.outbox.name.as_deref().unwrap_or_default()
    }

    fn named(&self, error: anyhow::Error) -> anyhow::Error {
        if self.others.count == 1 {
            return error;
        }
        let name = self.name();
        match error.downcast::<StoreError>() {
            Ok(StoreError::Misconfigured(line)) => StoreError::Misconfigured(format!("outbox {name}: {line}")).into(),
            Ok(error @ StoreError::Unavailable(_)) => error.into(),
            Err(error) => error,
        }
    }

    /// Whether the process goes on for the others' sake.
    fn is_waited_for(&self, error: &anyhow::Error) -> bool {
        let store = |error: &StoreError| matches!(error, StoreError::Misconfigured(_) | StoreError::Unavailable(_));
        let of_relay = matches!(error.downcast_ref(), Some(RelayError::Store(error)) if store(error));
        self.others.count > 1 && (of_relay || error.downcast_ref().is_some_and(store))
    }

    /// Once: from waiting for the table on.
    async fn relay(&self, stop: &CancellationToken) -> anyhow::Result<()> {
        let Some(names) = stop.run_until_cancelled(self.validated()).await else {
            return Ok(());
        };
        let names = names?;
        let store = PostgresStore::new(self.database.clone(), names.clone(), self.store_options());
        let store = Arc::new(store);
        let (answering, inquiries) = Answering::of(&self.config, &store, (&self.database, &names));
        let begun = Box::pin(self.board.begin(self.index)).await?;
        let beside = CancellationToken::new();
        let mut tasks = self.beside(&store, names, &beside);
        tasks.spawn(answering.run(beside.clone()).in_current_span());
        let relay = engine(begun, store, self.telemetry.clone(), inquiries);
        let ended = Box::pin(relay.run(stop.clone())).await;
        self.board.left(self.index).await;
        beside.cancel();
        let rest = async { while tasks.join_next().await.is_some() {} };
        // A statement under way is limited in time itself; nothing here is worth waiting longer for.
        drop(tokio::time::timeout(trace::FLUSH_MAX, rest).await);
        ended.map_err(Into::into)
    }

    /// What runs beside the engine, on the outbox's connections, until `stop`.
    fn beside(&self, store: &Arc<PostgresStore>, names: Names, stop: &CancellationToken) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let (learning, until) = (self.database.clone(), stop.clone());
        let learning = async move {
            let learnt = until.run_until_cancelled(learning.learn_naming()).await;
            learnt.unwrap_or_default();
        };
        tasks.spawn(learning.in_current_span());
        let stuck = report::report_stuck(Arc::clone(store), self.telemetry.clone(), stop.clone());
        tasks.spawn(stuck.in_current_span());
        let old_rows = OldRows::of(&self.config, self.database.clone(), names.clone());
        tasks.spawn(retention::delete_old_rows(old_rows, stop.clone()).in_current_span());
        let watched = report::Watched {
            database: self.database.clone(),
            names,
            routes: self.routes(),
        };
        let standing = report::report_standing(watched, self.telemetry.clone(), stop.clone());
        tasks.spawn(standing.in_current_span());
        tasks
    }

    pub(super) fn routes(&self) -> watch::Receiver<Arc<Routes>> {
        self.board.routes(self.index)
    }

    fn store_options(&self) -> StoreOptions {
        let config = &self.config;
        StoreOptions {
            instance: config.lease.instance.clone(),
            machine: config.lease.machine.clone(),
            identity: self.lock.identity(),
            delete_relayed: config.outbox.on_relayed == OnRelayed::Delete,
            durable_marks: config.relay.durable_marks,
            pace: (config.relay.poll_interval_min, config.relay.poll_interval_max),
            listen: self.ears.clone(),
        }
    }

    /// Waits for the database, then for nothing: what is wrong with the schema is an error.
    async fn validated(&self) -> anyhow::Result<Names> {
        let (config, database, telemetry) = (&self.config, &self.database, &self.telemetry);
        let duties = settings::duties(config);
        loop {
            let examined = async {
                let names = settings::outbox(config, database).await?;
                let schema = schema::validate(database, &names, Some(duties)).await?;
                Ok((names, schema))
            };
            match examined.await {
                Ok((names, schema)) => {
                    telemetry.health.database_up();
                    database.settled_in();
                    for warning in schema.warnings {
                        tracing::warn!("{warning}");
                    }
                    self.recognized.send_replace(names.clone());
                    return Ok(names);
                }
                Err(error) if refused_login(&error).is_some() => {
                    return Err(StoreError::Misconfigured(refused_login(&error).unwrap_or_default()).into());
                }
                Err(StoreError::Unavailable(error)) => {
                    telemetry.health.database_down(&*error, Instant::now());
                    systemd::status(&self.fleet.status_line());
                    tokio::time::sleep(DATABASE_RETRY).await;
                }
                Err(error @ StoreError::Misconfigured(_)) => return Err(error.into()),
            }
        }
    }
}

/// The engine as the configuration in force says, which may be another by now than at the start.
fn engine(begun: Begun, store: Arc<PostgresStore>, mut telemetry: Telemetry, inquiries: Inquiries) -> Relay {
    let Begun { config, brokers, plans } = begun;
    let (names, systems) = brokers
        .iter()
        .map(|one| (Arc::clone(&one.name), one.system))
        .unzip::<_, _, Vec<_>, Vec<_>>();
    telemetry.rename(&names, &systems, &config.routes);
    Relay {
        leases: Arc::clone(&store) as _,
        store,
        transports: brokers.iter().map(|one| Arc::clone(&one.transport)).collect(),
        options: options(&config),
        routes: config.routes,
        telemetry,
        plans,
        inquiries,
    }
}

fn options(config: &Config) -> Options {
    Options {
        lanes: config.outbox.lanes,
        batch_size: config.relay.batch_size,
        max_in_flight: config.relay.max_in_flight,
        max_in_flight_bytes: config.relay.max_in_flight_bytes,
        poll_interval_min: config.relay.poll_interval_min,
        poll_interval_max: config.relay.poll_interval_max,
        count_outages: config.relay.count_outages,
        unrouted: config.relay.unrouted,
        shutdown_timeout: config.relay.shutdown_timeout,
        lease_ttl: config.lease.ttl,
        probe_interval: PROBE_INTERVAL,
        sweep_interval: SWEEP_INTERVAL,
    }
}
