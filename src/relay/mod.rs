//! The relay: from committed rows to acknowledged messages to marks.
//!
//! ```text
//!            the store, brokers, the lease task, the clock
//!      │ events (a page, an answer, outcomes, settled, a standing, the time)      ^ effects (read, ask, publish, probe, settle)
//!      v                                                                         │
//!   driver ──────────────────────────────────────────────────────────────────────┘   the only place with futures
//!      │ handle(event)                                                      ^ next_effect()
//!      v                                                                    │
//!   core:  reading ──admission──> sending (queues) ──departure──> batches ──┘   batches ──outcomes──> settling
//!             ^                       │  ^                                                               │
//!             └── waiting (holds, ────┘  └── owning (lanes)          what is written leaves the window <─┘
//!                 topics, lags)
//! ```
//!
//! One task owns all state and does all deciding (`core`), and knows no runtime but its clock's type: an event is answered with
//! effects, and the driver carries these out. The parts (`owning`, `waiting`, `sending`, `reading`, `settling`, `window`) own their
//! fields; a flow from one to another is a view (`core::admission`, `departure`, `outcomes`) that borrows what it may touch. The
//! lease alone runs beside it (`owning::lease`). So there is no lock, and the order of events is the order this task sees them in.
//!
//! # Invariants
//! - A row is in the window from admission until what became of it is settled; the window never exceeds its limits by
//!   more than one row. That bounds memory and, per crash, duplicates.
//! - A key is in one queue, and a queue has one batch in flight.
//! - Nothing is settled that a transport did not answer for. Nothing is published without a valid lease.
//! - A lane is handed over when nothing of it is unsettled, and one taken over is read from the beginning; the other lanes'
//!   rows flow meanwhile (`owning::territory`).
//! - Whatever breaks (the database, the lease), the engine drains: queued rows are forgotten, what is in flight is
//!   answered and settled, as far as brokers answer, and only then the store is opened anew. No cursor outlives a lost
//!   connection.
//! - Routes and transports change between two openings only (`driver::plan`): nothing in memory belongs to an old one.
//!
//! The engine never names PostgreSQL or a broker, and holds no time but the monotonic clock's.

/// Whether tests have broken the engine in this way: never outside of tests. See `sabotage`.
#[cfg(feature = "testing")]
macro_rules! sabotaged {
    ($way:ident) => {
        crate::relay::sabotage::is_chosen(crate::relay::sabotage::Sabotage::$way)
    };
}
#[cfg(not(feature = "testing"))]
macro_rules! sabotaged {
    ($way:ident) => {
        false
    };
}

mod core;
mod driver;
mod event;
mod inquiry;
mod options;
mod owning;
mod reading;
#[cfg(feature = "testing")]
pub mod sabotage;
mod sending;
mod settling;
mod waiting;
mod window;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::route::Routes;
use crate::store::{Leases, Store, StoreError};
use crate::telemetry::Telemetry;
use crate::telemetry::health::{Health, chain};
use crate::transport::Transport;

use self::core::Setup;
pub use driver::plan;
use driver::{Driver, Ports};
pub use inquiry::{About, Asker, Inquiries, inquiries};
pub use options::{Options, RelayError};
use owning::lease::LeaseTask;
use owning::standing::Standing;
use plan::Plans;

/// Everything the engine works with.
pub struct Relay {
    /// The outbox.
    pub store: Arc<dyn Store>,
    /// The lease of its lanes.
    pub leases: Arc<dyn Leases>,
    /// In configuration order; routes name them by index.
    pub transports: Vec<Arc<dyn Transport>>,
    /// Where messages go.
    pub routes: Routes,
    /// Limits and times.
    pub options: Options,
    /// Metrics and health.
    pub telemetry: Telemetry,
    /// Transports, routes and limits to come.
    pub plans: Plans,
    /// What people ask about messages.
    pub inquiries: Inquiries,
}

impl Relay {
    /// Relays until `stop` is cancelled, then drains: finishes what is in flight, settles everything, hands the lanes back.
    ///
    /// # Errors
    /// See [`RelayError`]. An outage of the database or a broker is not an error: it is waited for.
    pub async fn run(self, stop: CancellationToken) -> Result<(), RelayError> {
        let (sender, standing) = watch::channel(Standing::none(Instant::now()));
        let leases = Arc::clone(&self.leases);
        let ttl = self.options.lease_ttl;
        let shutdown_timeout = self.options.shutdown_timeout;
        let health = Arc::clone(&self.telemetry.health);
        let release = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let (left, lanes_left) = mpsc::unbounded_channel();
        let lease = LeaseTask {
            leases: Arc::clone(&leases),
            ttl,
            standing: sender,
            left: lanes_left,
        };
        tasks.spawn(lease.keep(release.clone()).in_current_span());

        let setup = Setup {
            routes: self.routes,
            options: self.options,
            telemetry: self.telemetry,
        };
        let ports = Ports {
            store: self.store,
            transports: self.transports,
            plans: self.plans,
            inquiries: self.inquiries,
            standing,
            left,
        };
        let mut driver = Driver::new(setup, ports);
        let ended = tokio::select! {
            biased;
            ended = driver.run(stop.clone()) => ended,
            Some(lease) = tasks.join_next() => match lease? {
                Ok(()) => unreachable!("the lease task ends only when released"),
                Err(error) => Err(error.into()),
            },
            () = overdue(&stop, shutdown_timeout) => Err(RelayError::ShutdownTimedOut(driver.unmarked())),
            lock = locked_out(&stop, &health) => match driver.unmarked() {
                0 => Ok(()),
                unmarked => Err(RelayError::Locked(unmarked, lock)),
            },
        };
        release.cancel();
        while tasks.join_next().await.is_some() {}
        let patience = match &ended {
            Err(RelayError::ShutdownTimedOut(_)) => ENDING_OVERDUE,
            Ok(()) | Err(RelayError::Store(_) | RelayError::Locked(..) | RelayError::Task(_)) => ENDING,
        };
        // First, so that nothing is sent any more when others have the lanes.
        let transports = driver.all_transports();
        let closing = async {
            join_all(transports.iter().map(|transport| transport.close())).await;
            driver.transports_closed().await;
        };
        let (closed, ()) = tokio::join!(
            tokio::time::timeout(patience, closing),
            hand_back(&*leases, patience.min(ttl), &health)
        );
        if closed.is_err() {
            tracing::warn!("connections to brokers not closed in time: they end with the process");
        }
        ended
    }
}

/// Saying goodbye to database and brokers may take so long ...
const ENDING: Duration = Duration::from_secs(5);
/// ... and so long where the time for the stop is over: somebody does not answer.
const ENDING_OVERDUE: Duration = Duration::from_millis(500);

async fn hand_back(leases: &dyn Leases, patience: Duration, health: &Health) {
    let left = tokio::select! {
        left = tokio::time::timeout(patience, leases.leave()) => left,
        _ = lock_after(LEAVING_MIN, health) => Ok(Err(StoreError::Unavailable("a lock is held".into()))),
    };
    match left {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(
            error = chain(&error),
            "lanes not handed back: others take them when the lease ends"
        ),
        Err(_) => tracing::warn!("lanes not handed back in time: others take them when the lease ends"),
    }
}

/// A stop waits so long for a lock that somebody else holds: it may be hours.
const LOCKED_STOP_MAX: Duration = Duration::from_millis(1_500);
/// Handing lanes back may take so long although some lock is waited for.
const LEAVING_MIN: Duration = Duration::from_millis(300);
/// How often to see whether a lock is waited for.
const LOCK_LOOK: Duration = Duration::from_millis(50);

/// Told to stop, and waiting for a lock that somebody else holds: answers what is known of it.
async fn locked_out(stop: &CancellationToken, health: &Health) -> String {
    stop.cancelled().await;
    lock_after(LOCKED_STOP_MAX, health).await
}

/// From `pause` on: returns when statements wait for a lock.
async fn lock_after(pause: Duration, health: &Health) -> String {
    tokio::time::sleep(pause).await;
    loop {
        let (facts, now) = (health.facts(), Instant::now());
        if let Some(locked) = facts.locked(now) {
            return locked.sentence(now);
        }
        tokio::time::sleep(LOCK_LOOK).await;
    }
}

async fn overdue(stop: &CancellationToken, timeout: Duration) {
    stop.cancelled().await;
    tokio::time::sleep(timeout).await;
}
