//! The command line: one file per verb, and what they share.
//!
//! A verb returns an error or nothing; [`main`] alone turns it into one line on standard error and an exit code: 0 done,
//! 1 failure, 2 time-out of `wait`, 64 usage or configuration. Output goes through `terminal::Out`; when its reader has gone away, that is the
//! end of the output and not an error.

mod adopt;
mod check;
mod chosen;
mod doctor;
mod enqueue;
mod export;
mod failed;
mod migrate;
mod outboxes;
mod pause;
mod person;
mod prune;
mod reference;
mod replay;
mod roles;
mod status;
mod steps;
mod terminal;
mod wait;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use secrecy::ExposeSecret;

use crate::config::{self, Config, ConfigError};
use crate::daemon;
use crate::daemon::settings::{Usage, names, outbox};
use crate::store::StoreError;
use crate::store::postgres::link::about::{About, database_error, one_line};
use crate::store::postgres::link::classify::no_answer;
use crate::store::postgres::link::database::{ConnectOptions, Database};
use crate::store::postgres::link::sql::Names;
use crate::store::postgres::schema;

use terminal::safe;

/// Usage or configuration: `EX_USAGE` of sysexits.h.
const USAGE: u8 = 64;

/// `wait` waited for as long as it was told to.
const TIMED_OUT: u8 = 2;

/// SQL is printed without a database too: it is not waited for.
const PRINT_PATIENCE: Duration = Duration::from_secs(2);

/// A statement of a person's command may take this long (listing, counting: six times as long).
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Relays committed rows of a PostgreSQL outbox table to Kafka, NATS JetStream or Redis Streams
#[derive(Debug, Parser)]
#[command(
    name = "outboxd",
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    subcommand_required = true
)]
pub struct Cli {
    /// Configuration file
    #[arg(long, global = true, value_name = "FILE", env = "OUTBOXD_CONFIG", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// The outbox, where the configuration has several ([[outboxes]])
    #[arg(long, global = true, value_name = "NAME", env = "OUTBOXD_OUTBOX")]
    outbox: Option<String>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the daemon
    Run,
    /// Check the configuration, and with --connect what it points at
    Check(check::Args),
    /// Print a configuration for an application's own table, as far as it can be guessed
    Adopt(adopt::Args),
    /// Create or update the tables
    Migrate(migrate::Args),
    /// Print the SQL that makes roles of least privilege
    Roles(roles::Args),
    /// Show how the outbox stands
    Status(status::Args),
    #[command(flatten)]
    One(OneVerb),
    #[command(flatten)]
    Reference(reference::Verb),
}

/// What is about a single outbox.
#[derive(Debug, Subcommand)]
enum OneVerb {
    /// Look at failed messages, retry or discard them
    #[command(subcommand)]
    Failed(failed::Verb),
    /// Send relayed messages again
    Replay(replay::Args),
    /// Delete relayed and failed messages older than the retention, as the daemon does all the time
    Prune(prune::Args),
    /// Insert one message by hand, its payload read from standard input; or many, with --lines
    Enqueue(enqueue::Args),
    /// Hold the messages of topics back
    Pause(pause::PauseArgs),
    /// Let the messages of paused topics go
    Resume(pause::ResumeArgs),
    /// Wait until messages are relayed or failed
    Wait(wait::Args),
}

/// What was waited for did not come in time, as one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct TimedOut(String);

/// Parses `args`, runs the verb and reports.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // Nobody reads it any more: nothing left to do.
            drop(error.print());
            return if asked {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(USAGE)
            };
        }
    };
    match dispatch(cli) {
        Ok(code) => code,
        Err(error) if reader_is_gone(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outboxd: {}", safe(one_line(&*error) + &what_to_do(&error)));
            ExitCode::from(exit_code(&error))
        }
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    // What is only about the program itself works without a configuration.
    if let Verb::Reference(verb) = cli.verb {
        return reference::print(&verb);
    }
    let config = config::load(&cli.config, std::env::vars_os())?;
    let parts = outboxes::chosen(&config, cli.outbox.as_deref())?;
    // One thread: the engine is one task, and a connection polled on its thread needs no wake-up across threads.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        match cli.verb {
            Verb::Run => {
                let config = if cli.outbox.is_some() {
                    outboxes::one(parts)?
                } else {
                    config
                };
                Box::pin(daemon::run(config, &cli.config))
                    .await
                    .map(|()| ExitCode::SUCCESS)
            }
            Verb::Check(args) => check::check(&parts, &args).await,
            Verb::Migrate(args) => {
                outboxes::each(parts, args.is_bare(), async |one| migrate::migrate(one, &args).await).await
            }
            Verb::Roles(_) => outboxes::each(parts, true, async |one| roles::print(one).await).await,
            Verb::Status(args) => status::of_all(parts, &args).await,
            Verb::Adopt(args) => adopt::adopt(&parts[0], &args).await,
            Verb::One(verb) => about_one(&outboxes::one(parts)?, verb).await,
            Verb::Reference(verb) => reference::print(&verb),
        }
    });
    // A question that a broker or a name server does not answer holds a thread: nobody waits for that.
    runtime.shutdown_background();
    ended
}

async fn about_one(config: &Config, verb: OneVerb) -> anyhow::Result<ExitCode> {
    let ended = match verb {
        OneVerb::Failed(verb) => failed::failed(config, verb).await,
        OneVerb::Replay(args) => replay::replay(config, args).await,
        OneVerb::Prune(args) => prune::prune(config, &args).await,
        OneVerb::Enqueue(args) => enqueue::enqueue(config, args).await,
        OneVerb::Pause(args) => pause::pause(config, &args).await,
        OneVerb::Resume(args) => pause::resume(config, &args).await,
        OneVerb::Wait(args) => wait::wait(config, args).await,
    };
    explain(config, ended).await
}

/// Where the database or the role lacks something, says what and what to do, instead of what the statement that noticed said.
async fn explain<T>(config: &Config, result: anyhow::Result<T>) -> anyhow::Result<T> {
    let error = match result {
        Err(error) if matches!(error.downcast_ref(), Some(StoreError::Misconfigured(_))) => error,
        Ok(_) | Err(_) => return result,
    };
    if let Some(refused) = refused_right(&error) {
        return Err(StoreError::Misconfigured(refused).into());
    }
    let database = database(config)?;
    let names = match outbox(config, &database).await {
        Ok(names) => names,
        Err(better @ StoreError::Misconfigured(_)) => return Err(better.into()),
        Err(StoreError::Unavailable(_)) => return Err(error),
    };
    match schema::validate(&database, &names, None).await {
        Err(better @ StoreError::Misconfigured(_)) => Err(better.into()),
        Ok(_) | Err(StoreError::Unavailable(_)) => Err(error),
    }
}

/// `error`, where the role may not do what the command does, with what to do about it.
fn refused_right(error: &anyhow::Error) -> Option<String> {
    match error.downcast_ref() {
        Some(StoreError::Misconfigured(line)) if line.ends_with("(42501)") => Some(format!(
            "{line}: connect as a member of outboxd_operator (outboxd roles --print)"
        )),
        Some(StoreError::Misconfigured(_) | StoreError::Unavailable(_)) | None => None,
    }
}

/// The database, and the outbox as it is there.
async fn opened(config: &Config) -> Result<(Database, Names), StoreError> {
    let database = database(config)?;
    let names = outbox(config, &database).await?;
    Ok((database, names))
}

/// What SQL that is printed is about. Where the database does not answer, a table of ours.
async fn printed(config: &Config) -> Result<Names, StoreError> {
    let database = database(config)?.within(PRINT_PATIENCE);
    match outbox(config, &database).await {
        Err(StoreError::Unavailable(_)) if !config.outbox.is_foreign() => Ok(names(config)),
        answer => answer,
    }
}

/// `error`, where this is a table that is not ours, and the verb is nothing for such a one.
fn only_ours(names: &Names, verb: &str, instead: &str) -> Result<(), Usage> {
    if names.is_foreign() {
        let table = names.table();
        return Err(Usage(format!("{verb}: table {table} is not outboxd's own: {instead}")));
    }
    Ok(())
}

/// The database as a person's command uses it: one connection, and no waiting for locks.
fn database(config: &Config) -> Result<Database, StoreError> {
    Ok(patient_database(config)?.hasty())
}

/// As [`database`], for a command with a time limit of its own.
fn patient_database(config: &Config) -> Result<Database, StoreError> {
    Database::new(&ConnectOptions {
        url: config.database.url.expose_secret().to_owned(),
        pool_size: 1,
        prepared_statements: config.database.prepared_statements,
        // The number tells its sessions from those of other commands.
        application: format!("outboxd/cli/{}", std::process::id()),
        statement_timeout: STATEMENT_TIMEOUT,
    })
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<TimedOut>() {
        return TIMED_OUT;
    }
    let misconfigured = error.chain().any(|cause| {
        cause.is::<Usage>()
            || cause.is::<ConfigError>()
            || matches!(cause.downcast_ref::<StoreError>(), Some(StoreError::Misconfigured(_)))
    });
    if misconfigured { USAGE } else { 1 }
}

fn reader_is_gone(error: &anyhow::Error) -> bool {
    let broken = |io: &std::io::Error| io.kind() == std::io::ErrorKind::BrokenPipe;
    error.downcast_ref::<std::io::Error>().is_some_and(broken)
}

/// What to do about a server that does not answer.
const CHECK_SERVER: &str = "; check the server and database.url";

fn what_to_do(error: &anyhow::Error) -> String {
    let Some(error) = error.chain().find_map(|cause| cause.downcast_ref::<StoreError>()) else {
        return String::new();
    };
    if no_answer(error) {
        return CHECK_SERVER.to_owned();
    }
    match database_error(error) {
        Some(said) if said.is_away() || said.about() == About::Role => format!("; {}", said.todo()),
        Some(_) | None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn an_error_is_one_line_that_repeats_nothing() {
        let inner = StoreError::Unavailable("connection refused\n(os error 111)".into());
        let error = anyhow::Error::new(inner).context("status");
        assert_eq!(
            one_line(&*error),
            "status: database unavailable: connection refused (os error 111)"
        );
        assert_eq!(exit_code(&error), 1);
        let error = anyhow::Error::new(StoreError::Misconfigured("table x does not exist".into()));
        assert_eq!(
            (one_line(&*error).as_str(), exit_code(&error)),
            ("table x does not exist", USAGE)
        );
    }
}
