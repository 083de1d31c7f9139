//! A real broker to publish to, to kill and to bring back, and the configuration that names it.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};

use super::processes::{package, run, scratch, signal};
use super::{eventually, ports};

/// Which broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// nats-server with JetStream on a file store.
    Nats,
    /// Apache Kafka, one node.
    Kafka,
}

/// A running broker; killed and removed on drop.
pub(crate) struct Broker {
    /// Which one.
    pub(crate) kind: Kind,
    dir: PathBuf,
    port: u16,
    second_port: u16,
    extra: String,
}

impl Broker {
    /// Starts a broker on free ports.
    pub(crate) fn start(kind: Kind) -> Self {
        Self::start_with(kind, "")
    }

    /// Starts a broker with lines added to its own configuration.
    pub(crate) fn start_with(kind: Kind, extra: &str) -> Self {
        let name = match kind {
            Kind::Nats => "nats",
            Kind::Kafka => "kafka",
        };
        let broker = Self {
            kind,
            dir: scratch(name),
            port: ports::free(),
            second_port: ports::free(),
            extra: extra.to_owned(),
        };
        broker.bring_back();
        broker
    }

    /// Starts it (again), on the same port with the same data; returns when it is ready.
    pub(crate) fn bring_back(&self) {
        run(&mut self.starting());
    }

    /// Starts it (again) and returns at once: wait for the answer, which comes when it is ready.
    pub(crate) fn begin_to_bring_back(&self) -> std::process::Child {
        let mut command = self.starting();
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.spawn().expect("the script starts")
    }

    fn starting(&self) -> Command {
        let script = match self.kind {
            Kind::Nats => "dev/nats",
            Kind::Kafka => "dev/kafka",
        };
        let mut command = Command::new(package().join(script));
        command
            .arg("start")
            .arg(&self.dir)
            .arg(self.port.to_string())
            .arg(self.second_port.to_string());
        command.env("NATS_EXTRA", &self.extra).env("KAFKA_EXTRA", &self.extra);
        command
    }

    /// Its port on loopback.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// `kill -9`; returns when it is gone.
    pub(crate) async fn kill9(&self) {
        let pid = self.pid().expect("the broker runs");
        signal(pid, "KILL");
        let path = PathBuf::from(format!("/proc/{pid}"));
        eventually("the broker is gone", Duration::from_secs(10), || async {
            let state = std::fs::read_to_string(path.join("stat")).unwrap_or_default();
            // Nobody may reap a zombie whose parent was the script: it no longer listens, and that is what counts.
            (state.is_empty() || state.contains(") Z ")).then_some(())
        })
        .await;
        std::fs::remove_file(self.pid_file()).ok();
    }

    /// Freezes it: connections stay open, nothing is answered.
    pub(crate) fn freeze(&self) {
        signal(self.pid().expect("the broker runs"), "STOP");
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        signal(self.pid().expect("the broker runs"), "CONT");
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Option<u32> {
        std::fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.join(match self.kind {
            Kind::Nats => "nats.pid",
            Kind::Kafka => "kafka.pid",
        })
    }

    /// Where clients connect.
    pub(crate) fn address(&self) -> String {
        match self.kind {
            Kind::Nats => format!("nats://127.0.0.1:{}", self.port),
            Kind::Kafka => format!("127.0.0.1:{}", self.port),
        }
    }

    /// The `[transports.<name>.<kind>]` section for it.
    pub(crate) fn section(&self, name: &str) -> String {
        match self.kind {
            // A header that some tests have messages refused by.
            Kind::Nats => format!(
                "[transports.{name}.nats]\nurl = \"{}\"\nallow_headers = [\"Nats-Expected-Last-Sequence\"]\n",
                self.address()
            ),
            Kind::Kafka => format!("[transports.{name}.kafka]\nbrokers = \"{}\"\n", self.address()),
        }
    }

    /// Makes `topics` ready to take messages: a stream over all of them, or one topic of three partitions each.
    ///
    /// The stream's duplicate window is 100 ms, the least there is: a consumer is to see each copy that is sent.
    pub(crate) async fn prepare(&self, topics: &[&str]) {
        match self.kind {
            Kind::Nats => {
                let client = async_nats::connect(self.address()).await.expect("nats-server is up");
                let config = async_nats::jetstream::stream::Config {
                    name: STREAM.to_owned(),
                    subjects: topics.iter().map(|topic| (*topic).to_owned()).collect(),
                    duplicate_window: Duration::from_millis(100),
                    ..Default::default()
                };
                async_nats::jetstream::new(client)
                    .create_stream(config)
                    .await
                    .expect("a new stream");
            }
            Kind::Kafka => {
                let admin: AdminClient<_> = ClientConfig::new()
                    .set("bootstrap.servers", self.address())
                    .create()
                    .expect("an admin client");
                let new: Vec<_> = topics
                    .iter()
                    .map(|topic| NewTopic::new(topic, 3, TopicReplication::Fixed(1)))
                    .collect();
                let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
                for made in admin.create_topics(&new, &options).await.expect("Kafka is up") {
                    made.expect("a new topic");
                }
            }
        }
    }
}

/// The one stream of a test's nats-server.
pub(crate) const STREAM: &str = "outbox";

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            Command::new("kill").args(["-KILL", &pid.to_string()]).status().ok();
        }
        std::fs::remove_dir_all(&self.dir).ok();
    }
}
