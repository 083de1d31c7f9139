//! `dev/chaos`: random faults on three instances and real servers, as long as one likes; `--holds`: the long form of the
//! runs whose short form is among the tests.

#[path = "support/mod.rs"]
#[expect(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "the support of the tests, and a part of it only"
)]
mod support;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use support::broker::Kind;
use support::faults::Plan;
use support::fleet::TTL;

#[derive(Parser)]
#[command(name = "dev/chaos", about = "Random faults on three instances and real servers")]
struct Arguments {
    /// How long faults go on, for each broker.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// The broker.
    #[arg(long, default_value = "both")]
    to: To,
    /// Which faults, in which order; random, and printed, where it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Rows written a second.
    #[arg(long, default_value_t = 1_000)]
    rate: usize,
    /// Only faults whose line contains this, e.g. "broker".
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    only: String,
    /// Instead: an instance killed every 5 s while 300,000 rows are written in three minutes, with the times it takes;
    /// and before, the rate of healthy rows beside others in trouble.
    #[arg(long)]
    holds: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum To {
    Kafka,
    Nats,
    Both,
}

impl To {
    fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Kafka => &[Kind::Kafka],
            Self::Nats => &[Kind::Nats],
            Self::Both => &[Kind::Nats, Kind::Kafka],
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let held = runtime.block_on(async {
        let mut held = !arguments.holds || isolation().await;
        for kind in arguments.to.kinds() {
            held &= if arguments.holds {
                holds(*kind).await
            } else {
                let plan = Plan {
                    span: Duration::from_secs_f64(arguments.minutes * 60.0),
                    seed: arguments.seed.unwrap_or_else(|| fastrand::u64(..)),
                    per_second: arguments.rate,
                    only: arguments.only.clone(),
                };
                plan.run(*kind).await
            };
        }
        held
    });
    if held { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

/// Rows in trouble leave the others their rate, within 20 %.
async fn isolation() -> bool {
    let ward = support::isolation::Ward::new().await;
    let (rates, verdict) = ward.rates(3, 60_000).await;
    println!("{rates}; {verdict}");
    verdict.assert_nothing_lost();
    verdict.assert_ordered();
    rates.ratio() >= 0.8
}

/// 300,000 rows, 2,000 keys, three minutes, a kill every 5 s.
async fn holds(kind: Kind) -> bool {
    let (rounds, _) = support::kills::under_kills(kind, 300_000, Duration::from_secs(180)).await;
    let (_, flowing) = rounds.takeover.expect("it was measured");
    let restarts = rounds.sorted();
    let late = restarts.iter().filter(|time| **time > Duration::from_secs(1)).count();
    println!(
        "{kind:?}: take-over within ttl + 2 s: {}; {late} of {} restarts took more than 1 s",
        flowing < TTL + Duration::from_secs(2),
        restarts.len()
    );
    flowing < TTL + Duration::from_secs(2) && late == 0
}
