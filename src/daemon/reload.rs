//! SIGHUP: reads the configuration again and takes up what may change while the daemon runs.
//!
//! ```text
//!  SIGHUP ──> load ──> differences ──> connect what is new ──> log level, logins ──> a plan for the engine ──> in force: said
//!                │          │                  │
//!                └──────────┴──────────────────┴─ something is wrong: one line, and everything stays as it was
//! ```
//!
//! What changed and cannot be taken up is named in one line. `running` is what is in force, or on its way there.

mod differences;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::signal::unix::Signal;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{self, Config};
use crate::http::Token;
use crate::relay::plan::{Plan, Plans};
use crate::route::Routes;
use crate::store::Room;
use crate::store::postgres::link::about::one_line;
use crate::store::postgres::link::connect::{Connection, parse_url};
use crate::store::postgres::link::way::Way;
use crate::telemetry::health::Health;
use crate::telemetry::log::LevelHandle;
use crate::telemetry::systemd;

use super::settings::Usage;
use super::transports::{self, Connected};

/// systemd does not wait longer for what is in flight at a broker that says nothing.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// What asks for a reload, and what it changes.
pub(super) struct Parts {
    pub(super) hangup: Signal,
    pub(super) level: LevelHandle,
    pub(super) health: Arc<Health>,
    /// How connections to the database are made.
    pub(super) database: Way,
    /// How the one that listens is made, where `database.listen_url` says so.
    pub(super) listen: Option<Way>,
}

/// See the module.
pub(super) struct Reload {
    path: PathBuf,
    parts: Parts,
    running: Config,
    routes: watch::Sender<Arc<Routes>>,
    token: Option<(PathBuf, Token)>,
    relay: Option<ToRelay>,
    coming: Option<Coming>,
}

/// The engine, once it runs.
struct ToRelay {
    transports: Vec<Connected>,
    plans: UnboundedSender<Plan>,
}

/// A plan on its way.
struct Coming {
    in_force: CancellationToken,
    news: Vec<String>,
    /// systemd is to be told that the reload is over, at the latest then.
    ready_at: Option<Instant>,
}

impl Reload {
    /// For a daemon that begins with the configuration `running`, from the file `path`.
    pub(super) fn new(running: &Config, path: PathBuf, parts: Parts) -> Self {
        Self {
            path,
            parts,
            routes: watch::Sender::new(Arc::new(running.routes.clone())),
            running: running.clone(),
            token: None,
            relay: None,
            coming: None,
        }
    }

    /// The configuration in force.
    pub(super) fn running(&self) -> &Config {
        &self.running
    }

    /// The routes in force, for those who only look.
    pub(super) fn routes(&self) -> watch::Receiver<Arc<Routes>> {
        self.routes.subscribe()
    }

    /// The engine is about to start with these transports: answers where it gets its plans from.
    pub(super) fn begin(&mut self, transports: Vec<Connected>) -> Plans {
        let names = transports.iter().map(|one| Arc::clone(&one.broker.name)).collect();
        let (plans, coming) = Plans::channel(names);
        self.relay = Some(ToRelay { transports, plans });
        coming
    }

    /// The token of the HTTP server is read again too, whatever becomes of the configuration.
    pub(super) fn renews(&mut self, file: Option<PathBuf>, token: Token) {
        self.token = file.map(|file| (file, token));
    }

    /// Reads the token and the configuration again on each SIGHUP.
    pub(super) async fn on_hangup(&mut self) -> Infallible {
        loop {
            tokio::select! {
                Some(()) = self.parts.hangup.recv() => {
                    self.renew_token();
                    self.reload().await;
                }
                () = in_force(self.coming.as_ref()) => self.arrived(),
                () = overdue(self.coming.as_ref()) => self.late(),
            }
        }
    }

    fn renew_token(&self) {
        let Some((file, token)) = &self.token else { return };
        match config::http_token(file) {
            Ok(new) => {
                token.replace(new);
                tracing::info!("http.token_file reloaded");
            }
            Err(error) => tracing::error!(%error, "http.token_file was not reloaded: the old token stays"),
        }
    }

    async fn reload(&mut self) {
        // Before, READY=1 would say that the start is over.
        let started = self.parts.health.facts().lanes.is_some();
        if started {
            systemd::reloading();
        }
        let deadline = started.then(|| Instant::now() + READY_WITHIN);
        // Boxed: connecting is large, and hardly ever done.
        match Box::pin(self.take_up(deadline)).await {
            Ok(news) if self.coming.is_none() => say(&news),
            Ok(news) => self.coming.iter_mut().for_each(|coming| add(&mut coming.news, &news)),
            Err(error) => {
                let error = one_line(&*error);
                tracing::error!(error, "the configuration was not reloaded: the old one stays");
            }
        }
        match &mut self.coming {
            Some(coming) => coming.ready_at = coming.ready_at.or(deadline),
            None if started => systemd::ready(),
            None => {}
        }
    }

    /// Answers what was taken up, or is on its way.
    async fn take_up(&mut self, deadline: Option<Instant>) -> anyhow::Result<Vec<String>> {
        let new = config::load(&self.path, std::env::vars_os())?;
        let logins = self.logins(&new)?;
        let mut later = differences::at_next_start(&self.running, &new);
        later.extend(logins.elsewhere.iter().copied());
        let mut news = differences::for_the_relay(&self.running, &new);
        if let Some(relay) = &mut self.relay
            && !news.is_empty()
        {
            differences::fit_the_lease(&self.running, &new)?;
            relay.transports = transports::connect(&new, &relay.transports).await?;
            let plan = plan(&new, &relay.transports);
            self.coming = Some(Coming {
                in_force: plan.in_force.clone(),
                news: self.coming.take().map_or_else(Vec::new, |coming| coming.news),
                ready_at: deadline,
            });
            // The engine has ended, and the process is about to.
            drop(relay.plans.send(plan));
        }
        self.renew(logins, &mut news);
        if self.running.log.level != new.log.level {
            self.parts.level.set(new.log.level);
            news.push("log.level".to_owned());
        }
        differences::take_over(&mut self.running, new);
        self.routes.send_replace(Arc::new(self.running.routes.clone()));
        if !later.is_empty() {
            let keys = later.join(", ");
            tracing::warn!(keys, "these keys have changed, and take effect at the next start");
        }
        Ok(news)
    }

    fn logins(&self, new: &Config) -> Result<Logins, Usage> {
        let read = |key: &str, url: &SecretString| {
            parse_url(url.expose_secret()).map_err(|problem| Usage(format!("{key}: {problem}")))
        };
        let mut logins = Logins {
            database: Some(read("database.url", &new.database.url)?),
            listen: None,
            elsewhere: Vec::new(),
        };
        let stays = |way: &Way, connection: &Connection| way.leads_where(connection);
        if !logins
            .database
            .as_ref()
            .is_some_and(|new| stays(&self.parts.database, new))
        {
            logins.database = None;
            logins.elsewhere.push("database.url");
        }
        logins.listen = match (&self.parts.listen, &new.database.listen_url) {
            (Some(way), Some(url)) => Some(read("database.listen_url", url)?).filter(|new| stays(way, new)),
            (Some(_) | None, _) => None,
        };
        let was_set = self.running.database.listen_url.is_some();
        let moved = new.database.listen_url.is_some() && self.parts.listen.is_some() && logins.listen.is_none();
        if moved || new.database.listen_url.is_some() != was_set {
            logins.elsewhere.push("database.listen_url");
        }
        Ok(logins)
    }

    fn renew(&mut self, logins: Logins, news: &mut Vec<String>) {
        let ways = [
            ("database.url", Some(&self.parts.database), logins.database),
            ("database.listen_url", self.parts.listen.as_ref(), logins.listen),
        ];
        for (key, way, connection) in ways {
            // What certificate files hold is taken up too, where nothing else is new.
            if let (Some(way), Some(connection)) = (way, connection)
                && way.renew(connection)
            {
                news.push(key.to_owned());
            }
        }
    }

    fn arrived(&mut self) {
        if let Some(coming) = self.coming.take() {
            say(&coming.news);
            if coming.ready_at.is_some() {
                systemd::ready();
            }
        }
    }

    fn late(&mut self) {
        if let Some(coming) = &mut self.coming {
            coming.ready_at = None;
            tracing::info!("the new configuration is in force once everything in flight is answered and marked");
            systemd::ready();
        }
    }
}

/// What is new of the URLs; `None`: nothing that can be taken up.
struct Logins {
    database: Option<Connection>,
    listen: Option<Connection>,
    /// Keys that lead to another place now.
    elsewhere: Vec<&'static str>,
}

/// What the engine is told.
fn plan(config: &Config, transports: &[Connected]) -> Plan {
    Plan {
        brokers: transports.iter().map(|one| one.broker.clone()).collect(),
        routes: config.routes.clone(),
        batch_size: config.relay.batch_size,
        window: Room {
            rows: config.relay.max_in_flight,
            bytes: config.relay.max_in_flight_bytes,
        },
        unrouted: config.relay.unrouted,
        in_force: CancellationToken::new(),
    }
}

fn say(news: &[String]) {
    let what = if news.is_empty() {
        "nothing to take up".to_owned()
    } else {
        news.join(", ")
    };
    tracing::info!("configuration reloaded: {what}");
}

fn add(news: &mut Vec<String>, more: &[String]) {
    for one in more {
        if !news.contains(one) {
            news.push(one.clone());
        }
    }
}

async fn in_force(coming: Option<&Coming>) {
    match coming {
        Some(coming) => coming.in_force.cancelled().await,
        None => std::future::pending().await,
    }
}

async fn overdue(coming: Option<&Coming>) {
    match coming.and_then(|coming| coming.ready_at) {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
