//! Measures the daemon from outside on scratch servers: how fast a backlog drains, how long a commit takes to reach a
//! consumer, what it costs to have nothing to do. `dev/bench` sets up what it needs.
//!
//! The database runs with fsync on; writer and consumer live in this process, next to the daemon's, and everything
//! shares one machine. A drain counts only when the independent consumer found every row, in order, once.

#[path = "../../tests/support/mod.rs"]
#[expect(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "the support of the tests, and a part of it only"
)]
mod support;

mod drain;
mod floor;
mod idle;
mod outboxes;
mod peer;
mod scene;
mod steady;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use support::broker::Kind;

#[derive(Parser)]
#[command(name = "dev/bench", about = "Rates, latencies and CPU of outboxd on scratch servers")]
struct Arguments {
    #[command(subcommand)]
    what: What,
    /// Write the figures to this file too, as JSON.
    #[arg(long, global = true)]
    json: Option<PathBuf>,
    /// Lines added to the daemon's configuration, e.g. '[relay]' and its keys.
    #[arg(long, global = true, default_value = "")]
    config: String,
    /// Given by `cargo bench`.
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum What {
    /// A backlog, committed at once, beside the floor: rows per second until the last one is marked.
    Drain {
        #[arg(long, default_value_t = 300_000)]
        rows: usize,
        #[arg(long, default_value = "nats")]
        to: To,
        #[arg(long, default_value_t = 3)]
        runs: usize,
    },
    /// A long backlog: the rate of its first and of its last tenth, and memory.
    Backlog {
        #[arg(long, default_value_t = 10_000_000)]
        rows: usize,
        #[arg(long, default_value = "kafka")]
        to: To,
    },
    /// Payloads of 100 kB.
    Large {
        #[arg(long, default_value_t = 20_000)]
        rows: usize,
        #[arg(long, default_value = "kafka")]
        to: To,
    },
    /// All rows of one key.
    HotKey {
        #[arg(long, default_value_t = 100_000)]
        rows: usize,
        #[arg(long, default_value = "kafka")]
        to: To,
    },
    /// One, two and three instances.
    Scale {
        #[arg(long, default_value_t = 300_000)]
        rows: usize,
        #[arg(long, default_value = "kafka")]
        to: To,
    },
    /// A drain and latencies after many relayed rows whose dead versions a snapshot keeps, and without.
    HeldSnapshot {
        #[arg(long, default_value_t = 2_000_000)]
        relayed: usize,
        #[arg(long, default_value_t = 300_000)]
        rows: usize,
        #[arg(long, default_value = "kafka")]
        to: To,
    },
    /// Single-row transactions at a steady rate: time from commit to the consumer.
    Steady {
        #[arg(long, default_value_t = 200)]
        rate: usize,
        #[arg(long, default_value_t = 20)]
        seconds: usize,
        #[arg(long, default_value = "nats")]
        to: To,
    },
    /// One of five outboxes of a daemon, beside a backlog, a table of another program and a schema that is not there: its latency
    /// beside what it is alone.
    Outboxes {
        #[arg(long, default_value_t = 1_000_000)]
        backlog: usize,
        #[arg(long, default_value_t = 200)]
        rate: usize,
        #[arg(long, default_value_t = 10)]
        seconds: usize,
        #[arg(long, default_value = "nats")]
        to: To,
    },
    /// Debezium Server on the same rows: rates, CPU, memory, latencies.
    Peers {
        #[arg(long, default_value_t = 500_000)]
        rows: usize,
        /// Drains of each, in turn; the latencies are taken once.
        #[arg(long, default_value_t = 3)]
        runs: usize,
        #[arg(long, default_value_t = 20)]
        seconds: usize,
        #[arg(long, default_value = "kafka")]
        to: To,
    },
    /// Nothing to do: CPU and statements per second; how fast the first rows after it arrive.
    Idle {
        #[arg(long, default_value_t = 30)]
        seconds: u64,
        /// Seconds without rows before it counts.
        #[arg(long, default_value_t = 60)]
        after: u64,
        #[arg(long, default_value = "nats")]
        to: To,
    },
    /// What trigger and indexes cost the application.
    InsertCost {
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// Fetch, publish, mark, and nothing else.
    #[command(hide = true)]
    Floor {
        #[arg(long)]
        url: Option<String>,
        #[arg(long)]
        mark: floor::Mark,
        #[arg(long)]
        rows: usize,
        #[arg(long)]
        to: Option<To>,
        #[arg(long)]
        address: Option<String>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum To {
    Kafka,
    Nats,
}

impl To {
    fn kind(self) -> Kind {
        match self {
            Self::Kafka => Kind::Kafka,
            Self::Nats => Kind::Nats,
        }
    }
}

fn main() {
    let arguments = Arguments::parse();
    if let What::Floor {
        url,
        mark,
        rows,
        to,
        address,
    } = &arguments.what
    {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let broker = to.map(To::kind).zip(address.as_deref());
        return runtime.block_on(floor::run(url.as_deref(), broker, *mark, *rows));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let config = &*arguments.config;
    let figures = runtime.block_on(async {
        match arguments.what {
            What::Drain { rows, to, runs } => drain::drain(rows, to.kind(), runs, config).await,
            What::Backlog { rows, to } => drain::backlog(rows, to.kind(), config).await,
            What::Large { rows, to } => drain::large(rows, to.kind(), config).await,
            What::HotKey { rows, to } => drain::hot_key(rows, to.kind(), config).await,
            What::Scale { rows, to } => drain::scale(rows, to.kind(), config).await,
            What::HeldSnapshot { relayed, rows, to } => drain::held_snapshot(relayed, rows, to.kind(), config).await,
            What::Steady { rate, seconds, to } => steady::steady(rate, seconds, to.kind(), config).await,
            What::Idle { seconds, after, to } => {
                let (span, rest) = (Duration::from_secs(seconds), Duration::from_secs(after));
                idle::idle(span, rest, to.kind(), config).await
            }
            What::Outboxes {
                backlog,
                rate,
                seconds,
                to,
            } => outboxes::outboxes(backlog, (rate, seconds), to.kind(), config).await,
            What::Peers {
                rows,
                runs,
                seconds,
                to,
            } => peer::peers((rows, runs), seconds, to.kind(), config).await,
            What::InsertCost { seconds } => steady::insert_cost(seconds).await,
            What::Floor { .. } => unreachable!("handled above"),
        }
    });
    let text = serde_json::to_string_pretty(&figures).expect("figures are JSON");
    if let Some(path) = arguments.json {
        std::fs::write(&path, text + "\n").unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }
}
