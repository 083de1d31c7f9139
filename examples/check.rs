//! The independent checker: reads the database and consumes the broker from its beginning, compares them, and prints one
//! line of counts. It is no part of outboxd and uses nothing of it.
//!
//! ```text
//! check [--json] [--max-duplicates N] DATABASE_URL nats  URL     STREAM
//! check [--json] [--max-duplicates N] DATABASE_URL kafka BROKERS TOPIC...
//! check --install-audit DATABASE_URL
//! ```
//!
//! Exit code 0: every committed row was relayed and arrived unaltered or is in `failed_at`, nothing arrived that was not
//! committed, first copies came in `seq` order per topic and key, and no more duplicates than allowed. With the audit
//! installed before the run (`--install-audit`, after `outboxd migrate`): nothing was written by an instance without the
//! lease of the row's lane. 1: it was not so. 2: the two ends could not be read.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls};

#[path = "../tests/support/arrivals.rs"]
#[expect(dead_code, reason = "shared with the tests, which wait for brokers too")]
mod arrivals;
#[path = "../tests/support/audit.rs"]
#[expect(dead_code, reason = "shared with the tests, which measure times too")]
mod audit;
#[path = "../tests/support/checker.rs"]
#[expect(dead_code, reason = "shared with the tests, which assert too")]
mod checker;

use arrivals::{Arrival, Unread};
use audit::Fencing;
use checker::Verdict;

#[derive(Parser)]
#[command(name = "check", about = "Compares an outbox with what its broker holds")]
struct Arguments {
    /// postgres://user@host:port/database
    database: String,
    /// Duplicates that are no violation; any number where it is not given.
    #[arg(long)]
    max_duplicates: Option<usize>,
    /// Print the counts as JSON.
    #[arg(long)]
    json: bool,
    /// Only install the fencing audit into the database.
    #[arg(long)]
    install_audit: bool,
    #[command(subcommand)]
    broker: Option<Broker>,
}

#[derive(Subcommand)]
enum Broker {
    /// A JetStream stream.
    Nats { url: String, stream: String },
    /// Topics of Kafka.
    Kafka {
        brokers: String,
        #[arg(required = true)]
        topics: Vec<String>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = runtime
        .map_err(Unread::from)
        .and_then(|runtime| runtime.block_on(run(arguments)));
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("check: {error}");
            ExitCode::from(2)
        }
    }
}

async fn run(arguments: Arguments) -> Result<bool, Unread> {
    let (client, connection) = tokio_postgres::connect(&arguments.database, NoTls).await?;
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    if arguments.install_audit {
        audit::install(&client).await?;
        return Ok(true);
    }
    let broker = arguments
        .broker
        .ok_or("name the broker: nats URL STREAM, or kafka BROKERS TOPIC...")?;
    let verdict = verdict(&client, broker).await?;
    let fencing = audit::fencing(&client).await?;
    let violations = violations(&verdict, fencing.as_ref(), arguments.max_duplicates);
    if arguments.json {
        println!("{}", figures(&verdict, fencing.as_ref(), &violations));
    } else {
        let fencing = fencing.map_or_else(|| "no audit".to_owned(), |fencing| fencing.to_string());
        let judged = if violations.is_empty() {
            "in order".to_owned()
        } else {
            format!("WRONG: {}", violations.join(", "))
        };
        println!("checker: {verdict}; {fencing}; {judged}");
    }
    Ok(violations.is_empty())
}

async fn verdict(client: &Client, broker: Broker) -> Result<Verdict, Unread> {
    let rows = checker::committed(client).await?;
    let arrivals: Vec<Arrival> = match broker {
        Broker::Nats { url, stream } => arrivals::nats_arrivals(&url, &stream).await?,
        Broker::Kafka { brokers, topics } => {
            let reading = tokio::task::spawn_blocking(move || {
                let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
                arrivals::kafka_arrivals(&brokers, &topics)
            });
            reading.await??
        }
    };
    Ok(checker::compare(&rows, &arrivals))
}

/// What must not be, by name, where it is.
fn violations(verdict: &Verdict, fencing: Option<&Fencing>, max_duplicates: Option<usize>) -> Vec<&'static str> {
    let fenced = |wrong: fn(&Fencing) -> bool| fencing.is_some_and(wrong);
    let found = [
        ("lost", !verdict.lost.is_empty()),
        ("pending", !verdict.pending.is_empty()),
        ("unknown", !verdict.unknown.is_empty()),
        ("altered", !verdict.altered.is_empty()),
        ("out of order", !verdict.disorder.is_empty()),
        (
            "too many duplicates",
            max_duplicates.is_some_and(|most| verdict.duplicates > most),
        ),
        (
            "written without the lease",
            fenced(|fencing| !fencing.strangers.is_empty()),
        ),
        ("marked twice", fenced(|fencing| fencing.twice > 0)),
        ("taken without a new epoch", fenced(|fencing| fencing.unraised > 0)),
    ];
    found
        .into_iter()
        .filter_map(|(name, wrong)| wrong.then_some(name))
        .collect()
}

fn figures(verdict: &Verdict, fencing: Option<&Fencing>, violations: &[&str]) -> serde_json::Value {
    json!({
        "committed": verdict.committed, "arrived": verdict.arrived, "failed": verdict.failed,
        "duplicates": verdict.duplicates, "lost": verdict.lost, "pending": verdict.pending, "unknown": verdict.unknown,
        "altered": verdict.altered, "disorder": verdict.disorder, "attempts_counted": verdict.attempts_counted,
        "fencing": fencing.map(|fencing| json!({
            "writes": fencing.writes, "without_the_lease": fencing.strangers.len(), "marked_twice": fencing.twice,
            "taken_without_a_new_epoch": fencing.unraised, "marks_that_crossed_a_takeover": fencing.crossed,
        })),
        "violations": violations,
    })
}
