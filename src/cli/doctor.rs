//! `outboxd check --connect`: looks at the database and the brokers as the daemon would find them, and gathers what is wrong.
//!
//! Every look is somebody else's: the store's adapter knows what may be wrong with a database, each transport's what may be
//! wrong with its broker. Here they are told what the configuration is about to ask of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::config::Config;
use crate::daemon::{settings, transports};
use crate::finding::Finding;
use crate::route::{Route, Unrouted};
use crate::store::StoreError;
use crate::store::postgres::desk::doctor::{Examination, WaitingTopic};
use crate::store::postgres::link::about::{DatabaseError, database_error, one_line};
use crate::transport::Use;

/// What is right, and what is not.
pub(super) struct Diagnosis {
    /// One line for each thing that answered.
    pub(super) fine: Vec<String>,
    /// Worst first.
    pub(super) findings: Vec<Finding>,
}

/// Looks at everything.
///
/// # Errors
/// What is wrong with the configuration itself.
pub(super) async fn diagnose(config: &Config) -> anyhow::Result<Diagnosis> {
    let mut diagnosis = Diagnosis {
        fine: Vec::new(),
        findings: Vec::new(),
    };
    let topics = diagnosis.database(config).await?;
    diagnosis.brokers(config, &topics).await?;
    diagnosis.findings.sort_by_key(|finding| finding.level);
    Ok(diagnosis)
}

/// Looks at everything of several outboxes. What is wrong for all of them is told once, the rest with the outbox it is about.
///
/// # Errors
/// As [`diagnose`].
pub(super) async fn diagnose_all(parts: &[Config]) -> anyhow::Result<Diagnosis> {
    if let [only] = parts {
        return diagnose(only).await;
    }
    let mut found = Vec::with_capacity(parts.len());
    for part in parts {
        found.push((part.outbox.name.as_deref().unwrap_or_default(), diagnose(part).await?));
    }
    let mut all = Diagnosis {
        fine: Vec::new(),
        findings: Vec::new(),
    };
    let is_shared = |finding: &Finding| found.iter().all(|(_, one)| one.findings.contains(finding));
    for (name, one) in &found {
        for line in &one.fine {
            let shared = found.iter().all(|(_, other)| other.fine.contains(line));
            let line = if shared {
                line.clone()
            } else {
                format!("{name}: {line}")
            };
            if !all.fine.contains(&line) {
                all.fine.push(line);
            }
        }
        for finding in &one.findings {
            let mut finding = finding.clone();
            if !is_shared(&finding) {
                finding.what = format!("outbox {name}: {}", finding.what);
            }
            if !all.findings.contains(&finding) {
                all.findings.push(finding);
            }
        }
    }
    all.findings.sort_by_key(|finding| finding.level);
    Ok(all)
}

#[expect(
    clippy::disallowed_methods,
    reason = "this machine's clock is what is compared with the database's"
)]
fn clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The database does not answer.
fn unreachable(error: &StoreError) -> Finding {
    let todo = database_error(error)
        .map(DatabaseError::todo)
        .filter(|todo| !todo.is_empty());
    Finding::fault(
        "database_unreachable",
        one_line(error),
        "the daemon waits for it, and nothing is relayed meanwhile",
        todo.unwrap_or("check database.url and that the server runs"),
    )
}

impl Diagnosis {
    /// The database does not answer, or the outbox's table cannot be relayed.
    fn not_recognized(&mut self, error: &StoreError) -> anyhow::Result<Vec<WaitingTopic>> {
        let finding = match error {
            StoreError::Misconfigured(line) => {
                let (key, what) = line.split_once(": ").unwrap_or(("outbox.table", line));
                Finding::fault(
                    "schema",
                    line,
                    "outboxd run does not start",
                    format!("correct {key}: {what}"),
                )
            }
            StoreError::Unavailable(_) => unreachable(error),
        };
        self.findings.push(finding);
        Ok(Vec::new())
    }

    /// The topics that wait, where the database can be read.
    async fn database(&mut self, config: &Config) -> anyhow::Result<Vec<WaitingTopic>> {
        let database = super::database(config)?;
        let names = match super::outbox(config, &database).await {
            Ok(names) => names,
            Err(error) => return self.not_recognized(&error),
        };
        let listen = settings::listen(config)?;
        let connections = config.database.pool_size + usize::from(listen.is_some());
        let mut rules = settings::pruned(config.retention);
        rules.retain(|_| !names.is_foreign());
        let examination = Examination {
            rules: &rules,
            database: &database,
            names: &names,
            duties: settings::duties(config),
            connections: u32::try_from(connections).unwrap_or(u32::MAX),
            listen: listen.map(|connection| connection.named("outboxd/cli/listen")),
            clock,
        };
        let examined = match examination.run().await {
            Ok(examined) => examined,
            Err(error @ (StoreError::Unavailable(_) | StoreError::Misconfigured(_))) => {
                self.findings.push(unreachable(&error));
                return Ok(Vec::new());
            }
        };
        if let Some(schema) = examined.schema {
            let (table, payload) = (names.messages(), schema.payload.as_str());
            self.fine.push(format!("database: {table} holds {payload} payloads"));
        }
        self.fine.extend(examined.retention);
        self.findings.extend(examined.findings);
        Ok(examined.topics)
    }

    async fn brokers(&mut self, config: &Config, topics: &[WaitingTopic]) -> anyhow::Result<()> {
        let mut uses = self.uses(config, topics);
        let connected = transports::connect(config, &[]).await?;
        let connected: Vec<_> = connected.into_iter().map(|one| one.broker.transport).collect();
        for (index, (transport, configured)) in connected.iter().zip(&config.transports).enumerate() {
            let uses = uses.remove(&index).unwrap_or_default();
            let subject = format!("transports.{}", configured.name);
            match transport.inspect(&uses).await {
                Ok(found) => {
                    let kind = configured.config.settings().kind();
                    self.fine.push(format!(
                        "{subject}: {kind} answers, {} destination(s) known",
                        uses.len()
                    ));
                    self.findings.extend(found);
                }
                Err(failure) => self.findings.push(Finding::fault(
                    "broker_unreachable",
                    format!("{subject}: {} ({})", failure.error, failure.code),
                    "its messages wait in the database until it answers",
                    format!(
                        "check the keys of [{subject}.{}] and that the broker runs",
                        configured.config.settings().kind()
                    ),
                )),
            }
            transport.close().await;
        }
        Ok(())
    }

    /// Where messages are going to be sent, as far as that is known: by transport.
    fn uses(&mut self, config: &Config, topics: &[WaitingTopic]) -> BTreeMap<usize, Vec<Use>> {
        let mut uses: BTreeMap<usize, Vec<Use>> = BTreeMap::new();
        let mut add = |route: &Route, destination: Arc<str>, largest| {
            let list = uses.entry(route.transport).or_default();
            let retry_span = retry_span(config, route);
            match list.iter_mut().find(|used| used.destination == destination) {
                Some(known) => {
                    known.retry_span = known.retry_span.max(retry_span);
                    known.largest = known.largest.max(largest);
                }
                None => list.push(Use {
                    destination,
                    retry_span,
                    largest,
                }),
            }
        };
        for route in config.routes.iter() {
            if let Some(destination) = route.known_destination() {
                add(route, destination, 0);
            }
        }
        for waiting in topics {
            match config
                .routes
                .resolve(&waiting.topic.as_str().into(), waiting.key.as_deref())
            {
                Ok(found) => add(config.routes.get(found.route), found.destination, waiting.largest),
                Err(problem) => self.findings.push(Finding::warning(
                    "no_destination",
                    format!("topic {} is waiting: {problem}", waiting.topic),
                    match problem.is_missing && config.relay.unrouted == Unrouted::Wait {
                        true => "its messages wait until there is a route",
                        false => "its messages are set aside as failed as soon as they are looked at",
                    },
                    "add a route for it ([[routes]]), then: systemctl reload outboxd",
                )),
            }
        }
        uses
    }
}

/// From the first attempt to the last, every one of them ending in a timeout.
fn retry_span(config: &Config, route: &Route) -> Duration {
    if route.max_attempts < 2 {
        return Duration::ZERO;
    }
    let timeout = config.transports[route.transport]
        .config
        .settings()
        .ack_timeout()
        .unwrap_or_default();
    let timeouts = timeout.saturating_mul(u32::try_from(route.max_attempts - 1).unwrap_or_default());
    route.backoff.span(route.max_attempts).saturating_add(timeouts)
}
