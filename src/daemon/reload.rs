//! SIGHUP: reads the configuration again and takes up what may change while the daemon runs.
//!
//! ```text
//!  SIGHUP ──> load ──> differences ──> connect what is new ──> log level, logins ──> a plan for the engine ──> in force: said
//!                │          │                  │
//!                └──────────┴──────────────────┴─ something is wrong: one line, and everything stays as it was
//! ```
//!
//! What changed and cannot be taken up is named in one line. `running` is what is in force, or on its way there.

pub(super) mod board;
mod differences;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use secrecy::{ExposeSecret, SecretString};
use tokio::signal::unix::Signal;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{self, Config};
use crate::http::Token;
use crate::store::postgres::link::about::one_line;
use crate::store::postgres::link::connect::{Connection, parse_url};
use crate::store::postgres::link::way::Way;
use crate::telemetry::fleet::Fleet;
use crate::telemetry::log::LevelHandle;
use crate::telemetry::systemd;

use super::settings::Usage;
use super::transports::{self, Connected};
use board::Board;

/// systemd does not wait longer for what is in flight at a broker that says nothing.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// What asks for a reload, and what it changes.
pub(super) struct Parts {
    pub(super) hangup: Signal,
    pub(super) level: LevelHandle,
    pub(super) fleet: Fleet,
    /// How connections to the database are made.
    pub(super) database: Way,
    /// How the one that listens is made, where `database.listen_url` says so.
    pub(super) listen: Option<Way>,
}

/// See the module.
pub(super) struct Reload {
    path: PathBuf,
    parts: Parts,
    board: Arc<Board>,
    token: Option<(PathBuf, Token)>,
    coming: Option<Coming>,
}

/// Plans on their way.
struct Coming {
    in_force: Vec<CancellationToken>,
    news: Vec<String>,
    /// To be closed then.
    retired: Vec<Connected>,
    /// systemd is to be told that the reload is over, at the latest then.
    ready_at: Option<Instant>,
}

impl Reload {
    /// For a daemon that began with the configuration of `board`, from the file `path`.
    pub(super) fn new(board: Arc<Board>, path: PathBuf, parts: Parts) -> Self {
        Self {
            path,
            parts,
            board,
            token: None,
            coming: None,
        }
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
                () = in_force(self.coming.as_ref()) => self.arrived().await,
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
        let started = self.parts.fleet.has_started();
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
        let board = Arc::clone(&self.board);
        let mut state = board.state.lock().await;
        differences::same_outboxes(&state.running, &new)?;
        let logins = self.logins(&state.running, &new)?;
        let mut later = differences::at_next_start(&state.running, &new);
        later.extend(logins.elsewhere.iter().copied());
        let mut news = differences::for_the_relay(&state.running, &new);
        if let Some(known) = &state.connected
            && !news.is_empty()
        {
            differences::fit_the_lease(&state.running, &new)?;
            let connected = transports::connect(&new, known).await?;
            let (in_force, mut retired) = state.plan(&new, connected);
            let mut before = Vec::new();
            if let Some(coming) = self.coming.take() {
                before = coming.news;
                retired.extend(coming.retired);
            }
            self.coming = Some(Coming {
                in_force,
                news: before,
                retired,
                ready_at: deadline,
            });
        }
        self.renew(logins, &mut news);
        if state.running.log.level != new.log.level {
            self.parts.level.set(new.log.level);
            news.push("log.level".to_owned());
        }
        differences::take_over(&mut state.running, new);
        board.show_routes(&state.running);
        if !later.is_empty() {
            let keys = later.join(", ");
            tracing::warn!(keys, "these keys have changed, and take effect at the next start");
        }
        Ok(news)
    }

    fn logins(&self, running: &Config, new: &Config) -> Result<Logins, Usage> {
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
        let was_set = running.database.listen_url.is_some();
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

    async fn arrived(&mut self) {
        if let Some(coming) = self.coming.take() {
            say(&coming.news);
            if coming.ready_at.is_some() {
                systemd::ready();
            }
            let closing = coming.retired.iter().map(|one| one.broker.transport.close());
            drop(tokio::time::timeout(READY_WITHIN, join_all(closing)).await);
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
        Some(coming) => {
            for one in &coming.in_force {
                one.cancelled().await;
            }
        }
        None => std::future::pending().await,
    }
}

async fn overdue(coming: Option<&Coming>) {
    match coming.and_then(|coming| coming.ready_at) {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
