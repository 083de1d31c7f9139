//! The daemon, `outboxd run`. Puts the parts together, tells systemd, and stops on a signal.
//!
//! Beside the relay old rows are deleted (`retention`), how the outbox stands is told to metrics, log and systemd (`report`), the
//! dashboard is served (`web`), questions about messages are answered (`inquiries`), and SIGHUP is waited for (`reload`).
//!
//! What is wrong with the configuration or the schema ends it at once (64). A database or broker that is away is waited
//! for: start order is nobody's business.

mod inquiries;
mod reload;
mod report;
mod retention;
pub(crate) mod settings;
pub(crate) mod transports;
mod web;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, OnRelayed};
use crate::http;
use crate::relay::{Inquiries, Options, Relay};
use crate::store::StoreError;
use crate::store::postgres::link::classify::refused_login;
use crate::store::postgres::link::connect;
use crate::store::postgres::link::database::{ConnectOptions, Database};
use crate::store::postgres::link::sql::Names;
use crate::store::postgres::link::way::Way;
use crate::store::postgres::outbox::{Identity, InstanceLock, PostgresStore, StoreOptions};
use crate::store::postgres::schema;
use crate::telemetry::{Telemetry, log, systemd, trace};

use inquiries::Answering;
use reload::{Parts, Reload};
use retention::OldRows;
use settings::Usage;

/// A statement of the hot path may take this long; then its connection is given up, and the next may take twice as long.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a paused destination is looked at: with a client's pause between two attempts to reconnect (200 ms), catching
/// up begins within a second of the broker's return.
const PROBE_INTERVAL: Duration = Duration::from_millis(700);
/// How often rows hidden below the cursor are looked for (set back to pending by plain SQL, say), while that costs a hundredth of the
/// time at most.
const SWEEP_INTERVAL: Duration = Duration::from_millis(800);
/// Between attempts to reach a database that is away at start.
const DATABASE_RETRY: Duration = Duration::from_millis(500);

/// Runs until told to stop.
pub(crate) async fn run(config: Config, path: &Path) -> anyhow::Result<()> {
    let level = log::start(config.log.level, config.log.format)?;
    let transport_names: Vec<_> = config.transports.iter().map(|one| Arc::clone(&one.name)).collect();
    let (telemetry, exporter) = traced(Telemetry::new(&transport_names, &config.routes), &config);
    let (mut signals, hangup) = (Signals::new()?, signal(SignalKind::hangup())?);
    let lock = InstanceLock::take(&config.lease.instance, &scope(&config), None)?;
    let database = database(&config)?;
    tell_locks(&database, &telemetry);
    let listen = listen(&config, &database)?;
    let parts = Parts {
        hangup,
        level,
        health: Arc::clone(&telemetry.health),
        database: database.way().clone(),
        listen: listen.clone().filter(|_| config.database.listen_url.is_some()),
    };
    let mut reload = Reload::new(&config, path.to_owned(), parts);
    let listener = http::bind(&config.http.listen)
        .await
        .map_err(|error| Usage(error.to_string()))?;

    let recognized = watch::Sender::new(settings::names(&config));
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    if let Some(exporter) = exporter {
        tasks.spawn(exporter.run(stop.clone()));
    }
    if let Some(listener) = listener {
        let state = web::state(
            &config,
            (reload.routes(), recognized.subscribe()),
            &database,
            &telemetry,
        );
        reload.renews(config.http.token_file.clone(), state.token.clone());
        tasks.spawn(web::serve(listener, state, stop.clone()));
    }
    let names = tokio::select! {
        valid = validated(&database, &config, &telemetry, &recognized) => valid?,
        _ = signals.next() => return Ok(()),
        never = reload.on_hangup() => match never {},
    };
    tasks.spawn(learn_naming(database.clone(), stop.clone()));
    let store = Arc::new(PostgresStore::new(
        database.clone(),
        names.clone(),
        store_options(&config, listen, lock.identity()),
    ));
    let (answering, inquiries) = Answering::of(&config, &store, (&database, &names));
    tasks.spawn(report::report_stuck(
        Arc::clone(&store),
        telemetry.clone(),
        stop.clone(),
    ));
    let old_rows = OldRows::of(&config, database.clone(), names.clone());
    let watched = report::Watched {
        database,
        names,
        routes: reload.routes(),
    };
    let beside = Box::pin(beside_the_relay(old_rows, watched, telemetry.clone(), stop.clone()));
    let relay = Box::pin(relay(&mut reload, store, telemetry, inquiries)).await?;
    tasks.spawn(beside);
    tasks.spawn(answering.run(stop.clone()));
    tasks.spawn(reload_until_stopped(reload, stop.clone()));
    let ended = drive(relay, &mut signals).await;
    end(tasks, &stop).await;
    drop(lock);
    ended
}

/// Ends what runs beside the relay.
async fn end(mut tasks: JoinSet<()>, stop: &CancellationToken) {
    systemd::stopping();
    stop.cancel();
    let rest = async { while tasks.join_next().await.is_some() {} };
    // A request under way is limited in time itself; nothing here is worth waiting longer for than the last spans.
    drop(tokio::time::timeout(trace::FLUSH_MAX, rest).await);
}

async fn learn_naming(database: Database, stop: CancellationToken) {
    let learnt = stop.run_until_cancelled(database.learn_naming()).await;
    learnt.unwrap_or_default();
}

/// The relay as the configuration in force says, which may be another by now than at the start.
async fn relay(
    reload: &mut Reload,
    store: Arc<PostgresStore>,
    mut telemetry: Telemetry,
    inquiries: Inquiries,
) -> anyhow::Result<Relay> {
    let config = reload.running();
    let connected = transports::connect(config, &[]).await?;
    let (routes, options) = (config.routes.clone(), options(config));
    let (names, systems) = connected
        .iter()
        .map(|one| (Arc::clone(&one.broker.name), one.broker.system))
        .unzip::<_, _, Vec<_>, Vec<_>>();
    telemetry.rename(&names, &systems, &routes);
    Ok(Relay {
        leases: Arc::clone(&store) as _,
        store,
        transports: connected.iter().map(|one| Arc::clone(&one.broker.transport)).collect(),
        routes,
        options,
        telemetry,
        plans: reload.begin(connected),
        inquiries,
    })
}

async fn reload_until_stopped(mut reload: Reload, stop: CancellationToken) {
    let ended = stop.run_until_cancelled(reload.on_hangup()).await;
    match ended {
        None => {}
        Some(never) => match never {},
    }
}

/// What runs beside the relay on the database's connections.
async fn beside_the_relay(old_rows: OldRows, watched: report::Watched, telemetry: Telemetry, stop: CancellationToken) {
    let deleting = retention::delete_old_rows(old_rows, stop.clone());
    tokio::join!(deleting, report::report_standing(watched, telemetry, stop));
}

/// With traces, where a collector is configured.
fn traced(telemetry: Telemetry, config: &Config) -> (Telemetry, Option<trace::Exporter>) {
    let Some(endpoint) = config.trace.otlp_endpoint.clone() else {
        return (telemetry, None);
    };
    let (telemetry, exporter) = telemetry.traced(trace::Settings {
        endpoint,
        start_new: config.trace.start_new,
        instance: config.lease.instance.clone(),
    });
    (telemetry, Some(exporter))
}

fn database(config: &Config) -> anyhow::Result<Database> {
    Ok(Database::new(&ConnectOptions {
        url: config.database.url.expose_secret().to_owned(),
        pool_size: config.database.pool_size,
        prepared_statements: config.database.prepared_statements,
        application: application(config),
        statement_timeout: STATEMENT_TIMEOUT,
    })?)
}

/// Statements that wait for somebody's lock are seen in health, log and status line, from the start on.
fn tell_locks(database: &Database, telemetry: &Telemetry) {
    let telemetry = telemetry.clone();
    database.observe_locks(move |lock| {
        telemetry.health.waits_for_lock(lock);
        systemd::status(&telemetry.status_line());
    });
}

fn application(config: &Config) -> String {
    format!("outboxd/{}", config.lease.instance)
}

/// Where notifications are listened for: where the rows are committed, unless `database.listen_url` says otherwise.
fn listen(config: &Config, database: &Database) -> anyhow::Result<Option<Way>> {
    let way = match (settings::listen(config)?, &config.database.listen_url) {
        (Some(connection), Some(_)) => Way::from(connection),
        (Some(_), None) => database.way().clone(),
        (None, _) => return Ok(None),
    };
    Ok(Some(way.named(&format!("{}/listen", application(config)))))
}

fn store_options(config: &Config, listen: Option<Way>, identity: Identity) -> StoreOptions {
    StoreOptions {
        instance: config.lease.instance.clone(),
        machine: config.lease.machine.clone(),
        identity,
        delete_relayed: config.outbox.on_relayed == OnRelayed::Delete,
        durable_marks: config.relay.durable_marks,
        pace: (config.relay.poll_interval_min, config.relay.poll_interval_max),
        listen,
    }
}

/// Runs the relay until a signal stops it; a second signal ends it at once.
async fn drive(relay: Relay, signals: &mut Signals) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let running = relay.run(stop.clone());
    tokio::pin!(running);
    loop {
        tokio::select! {
            ended = &mut running => return ended.map_err(Into::into),
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

/// Waits for the database, then for nothing: what is wrong with the schema is an error.
async fn validated(
    database: &Database,
    config: &Config,
    telemetry: &Telemetry,
    recognized: &watch::Sender<Names>,
) -> anyhow::Result<Names> {
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
                recognized.send_replace(names.clone());
                return Ok(names);
            }
            Err(error) if refused_login(&error).is_some() => {
                return Err(StoreError::Misconfigured(refused_login(&error).unwrap_or_default()).into());
            }
            Err(StoreError::Unavailable(error)) => {
                telemetry.health.database_down(&*error, Instant::now());
                systemd::status(&telemetry.status_line());
                tokio::time::sleep(DATABASE_RETRY).await;
            }
            Err(error @ StoreError::Misconfigured(_)) => return Err(error.into()),
        }
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
