//! The daemon, `outboxd run`. Puts the parts together, tells systemd, and stops on a signal.
//!
//! Each outbox has an engine of its own (`tenant`). Beside it old rows are deleted (`retention`), how the outbox stands is told to metrics
//! and log (`report`), and questions about messages are answered (`inquiries`). For all of them the dashboard is served (`web`),
//! systemd is told, and SIGHUP is waited for (`reload`).
//!
//! What is wrong with the configuration or the only schema ends it at once (64). A database or broker that is away is waited
//! for: start order is nobody's business.

mod inquiries;
mod reload;
mod report;
mod retention;
pub(crate) mod settings;
mod tenant;
pub(crate) mod transports;
mod web;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use secrecy::ExposeSecret;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

use crate::config::Config;
use crate::http;
use crate::store::StoreError;
use crate::store::postgres::link::connect;
use crate::store::postgres::link::database::{ConnectOptions, Database};
use crate::store::postgres::link::way::Way;
use crate::store::postgres::outbox::{Ears, InstanceLock};
use crate::telemetry::fleet::{Fleet, Seen};
use crate::telemetry::{Telemetry, log, systemd, trace};

use reload::board::Board;
use reload::{Parts, Reload};
use settings::Usage;
use tenant::{Others, Tenant};

/// A statement of the hot path may take this long; then its connection is given up, and the next may take twice as long.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// Saying goodbye to brokers that several outboxes share may take so long.
const CLOSING: Duration = Duration::from_secs(5);

/// Runs until told to stop.
pub(crate) async fn run(config: Config, path: &Path) -> anyhow::Result<()> {
    let level = log::start(config.log.level, config.log.format)?;
    let (mut signals, hangup) = (Signals::new()?, signal(SignalKind::hangup())?);
    let parts = config.parts();
    let locks = parts
        .iter()
        .map(|part| InstanceLock::take(&part.lease.instance, &scope(part), None));
    let locks = locks.collect::<Result<Vec<_>, _>>()?;
    let (seen, exporters) = telemetry(&parts);
    let fleet = Fleet::new(seen);
    let way = way(&config)?;
    let databases = databases(&config, &parts, &way, &fleet);
    let listen = listen(&config, &way)?;
    let board = Arc::new(Board::new(&config));
    let asked = Parts {
        hangup,
        level,
        fleet: fleet.clone(),
        database: way,
        listen: listen.clone().filter(|_| config.database.listen_url.is_some()),
    };
    let mut reload = Reload::new(Arc::clone(&board), path.to_owned(), asked);
    let listener = http::bind(&config.http.listen)
        .await
        .map_err(|error| Usage(error.to_string()))?;
    let (ears, others) = (listen.map(Ears::new), Arc::new(Others::among(parts.len())));
    let tenants = parts
        .into_iter()
        .zip(locks)
        .zip(databases)
        .zip(fleet.iter())
        .enumerate();
    let tenants = tenants.map(|(index, (((config, lock), database), seen))| Tenant {
        index,
        telemetry: seen.telemetry.clone(),
        recognized: watch::Sender::new(settings::names(&config)),
        config,
        database,
        ears: ears.clone(),
        lock,
        board: Arc::clone(&board),
        fleet: fleet.clone(),
        others: Arc::clone(&others),
    });
    let tenants: Vec<Tenant> = tenants.collect();

    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    for exporter in exporters {
        tasks.spawn(exporter.run(stop.clone()));
    }
    if let Some(listener) = listener {
        let site = web::site(&config, &tenants, &fleet);
        reload.renews(config.http.token_file.clone(), site.token.clone());
        tasks.spawn(web::serve(listener, site, stop.clone()));
    }
    tasks.spawn(until_stopped(
        stop.clone(),
        async move { match reload.on_hangup().await {} },
    ));
    tasks.spawn(until_stopped(stop.clone(), async move { report::tell(&fleet).await }));
    let ended = drive(tenants, &mut signals).await;
    let shared = board.shared().await;
    let closing = join_all(shared.iter().map(|one| one.broker.transport.close()));
    if tokio::time::timeout(CLOSING, closing).await.is_err() {
        tracing::warn!("connections to brokers not closed in time: they end with the process");
    }
    end(tasks, &stop).await;
    ended
}

async fn until_stopped(stop: CancellationToken, work: impl Future<Output = ()>) {
    stop.run_until_cancelled(work).await.unwrap_or_default();
}

/// Ends what runs beside the outboxes.
async fn end(mut tasks: JoinSet<()>, stop: &CancellationToken) {
    systemd::stopping();
    stop.cancel();
    let rest = async { while tasks.join_next().await.is_some() {} };
    // A request under way is limited in time itself; nothing here is worth waiting longer for than the last spans.
    drop(tokio::time::timeout(trace::FLUSH_MAX, rest).await);
}

/// What is seen of each outbox, with traces where a collector is configured.
fn telemetry(parts: &[Config]) -> (Vec<Seen>, Vec<trace::Exporter>) {
    let mut exporters = Vec::new();
    let seen = parts.iter().map(|part| {
        let transports: Vec<_> = part.transports.iter().map(|one| Arc::clone(&one.name)).collect();
        let mut telemetry = Telemetry::new(&transports, &part.routes);
        if let Some(endpoint) = part.trace.otlp_endpoint.clone() {
            let (traced, exporter) = telemetry.traced(trace::Settings {
                endpoint,
                start_new: part.trace.start_new,
                instance: part.lease.instance.clone(),
            });
            telemetry = traced;
            exporters.push(exporter);
        }
        Seen {
            name: part.outbox.name.clone(),
            telemetry,
        }
    });
    (seen.collect(), exporters)
}

fn way(config: &Config) -> Result<Way, StoreError> {
    let wrong = |problem| StoreError::Misconfigured(format!("database.url: {problem}"));
    let connection = connect::parse_url(config.database.url.expose_secret()).map_err(wrong)?;
    Ok(Way::from(connection))
}

/// The connections of each outbox: its share of `database.pool_size`, so that none waits for another's statements. Where there are more
/// outboxes than connections, some have the same.
fn databases(config: &Config, parts: &[Config], way: &Way, fleet: &Fleet) -> Vec<Database> {
    let (size, outboxes) = (config.database.pool_size, parts.len());
    let pools = size.min(outboxes);
    if pools < outboxes {
        tracing::warn!(
            pool_size = size,
            outboxes,
            "database.pool_size is below the number of outboxes: some share a connection, and wait for each other; two for each are best"
        );
    }
    let made: Vec<Database> = (0..pools)
        .map(|index| {
            let database = Database::along(
                way.clone(),
                &ConnectOptions {
                    url: String::new(),
                    pool_size: size / pools + usize::from(index < size % pools),
                    prepared_statements: config.database.prepared_statements,
                    application: application(&parts[index]),
                    statement_timeout: STATEMENT_TIMEOUT,
                },
            );
            tell_locks(&database, fleet, (index, pools));
            database
        })
        .collect();
    (0..outboxes)
        .map(|index| match made.get(index) {
            Some(own) => own.clone(),
            None => made[index % pools].shared(),
        })
        .collect()
}

/// Statements that wait for somebody's lock are seen in health, log and status line, from the start on: of every outbox that has
/// these connections.
fn tell_locks(database: &Database, fleet: &Fleet, (first, step): (usize, usize)) {
    let all = fleet.clone();
    database.observe_locks(move |lock| {
        for seen in all.iter().skip(first).step_by(step) {
            seen.telemetry.health.waits_for_lock(lock);
        }
        systemd::status(&all.status_line());
    });
}

fn application(config: &Config) -> String {
    let instance = &config.lease.instance;
    match &config.outbox.name {
        Some(outbox) => format!("outboxd/{instance}/{outbox}"),
        None => format!("outboxd/{instance}"),
    }
}

/// Where notifications are listened for: where the rows are committed, unless `database.listen_url` says otherwise.
fn listen(config: &Config, database: &Way) -> anyhow::Result<Option<Way>> {
    let way = match (settings::listen(config)?, &config.database.listen_url) {
        (Some(connection), Some(_)) => Way::from(connection),
        (Some(_), None) => database.clone(),
        (None, _) => return Ok(None),
    };
    Ok(Some(way.named(&format!("outboxd/{}/listen", config.lease.instance))))
}

/// What log lines about an outbox say beside: its name, where it has one.
fn span(tenant: &Tenant) -> Span {
    match &tenant.config.outbox.name {
        Some(outbox) => tracing::error_span!("outbox", outbox = %outbox),
        None => Span::none(),
    }
}

/// Runs the outboxes until a signal stops them, or one ends; a second signal ends it at once.
async fn drive(mut tenants: Vec<Tenant>, signals: &mut Signals) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    // The only one is polled without a way through the scheduler.
    let alone = (tenants.len() == 1).then(|| tenants.remove(0));
    let mut running = JoinSet::new();
    for tenant in tenants {
        let span = span(&tenant);
        running.spawn(tenant.live(stop.clone()).instrument(span));
    }
    let all = async {
        if let Some(tenant) = alone {
            let span = span(&tenant);
            return Box::pin(tenant.live(stop.clone())).instrument(span).await;
        }
        let mut ended = Ok(());
        while let Some(one) = running.join_next().await {
            let one = one.map_err(anyhow::Error::from).flatten();
            if one.is_err() && ended.is_ok() {
                // What ends one for good is for a person; the others stop in order.
                ended = one;
                stop.cancel();
            }
        }
        ended
    };
    tokio::pin!(all);
    loop {
        tokio::select! {
            ended = &mut all => return ended,
            name = signals.next() => {
                if stop.is_cancelled() {
                    anyhow::bail!("stopped at once by a second {name}: acknowledged messages may be sent again");
                }
                tracing::info!(signal = name, "stopping: finishing what is in flight");
                systemd::stopping();
                stop.cancel();
            }
        }
    }
}

/// Tells one outbox from another on this machine: where the database is, and which table.
fn scope(config: &Config) -> String {
    let place = connect::parse_url(config.database.url.expose_secret()).map(|connection| {
        let target = connection.config;
        format!(
            "{:?} {:?} {:?}",
            target.get_hosts(),
            target.get_ports(),
            target.get_dbname()
        )
    });
    format!(
        "{} {}.{}",
        place.unwrap_or_default(),
        config.outbox.schema,
        config.outbox.table
    )
}

/// The signals that ask for a stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next of them.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
