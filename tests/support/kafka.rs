//! A real single-node Apache Kafka. `dev/kafka` fetches and formats it, the test runs it.

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::ports;
use super::process::Server;

const HINT: &str = "apt-get install default-jre-headless maven";

/// One record as a consumer sees it.
pub struct Record {
    /// Record key; `None`: a null key.
    pub key: Option<Vec<u8>>,
    /// Headers in their order.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Record value.
    pub value: Vec<u8>,
}

/// A broker of its own folder and port. Topics are created by tests, never by itself.
pub struct KafkaServer {
    port: u16,
    jars: String,
    folder: tempfile::TempDir,
    server: Mutex<Option<Server>>,
}

impl KafkaServer {
    /// Starts one.
    pub fn start() -> Self {
        Self::with(false)
    }

    /// Starts one with lines of `server.properties` that depend on its two ports (clients, controller), and a SCRAM user.
    pub fn listening((user, password): (&str, &str), lines: impl Fn(u16, u16) -> String) -> Self {
        let (port, controller) = (ports::free(), ports::free());
        let more = [
            ("KAFKA_EXTRA", lines(port, controller)),
            (
                "KAFKA_SCRAM",
                format!("SCRAM-SHA-512=[name={user},password={password}]"),
            ),
        ];
        Self::of(port, controller, &more)
    }

    /// Starts one that also listens with TLS and SASL (PLAIN and SCRAM-SHA-512) on `port() + 1000`, for user `outbox`
    /// with password `outbox-secret`.
    pub fn secure() -> Self {
        Self::with(true)
    }

    /// The authority of the certificate of a [`secure`](Self::secure) broker, PEM.
    pub fn authority(&self) -> std::path::PathBuf {
        self.folder.path().join("tls/ca.pem")
    }

    fn with(secure: bool) -> Self {
        let secure = if secure { "1" } else { "0" };
        Self::of(ports::free(), ports::free(), &[("KAFKA_SECURE", secure.to_owned())])
    }

    fn of(port: u16, controller: u16, environment: &[(&str, String)]) -> Self {
        let extra = environment.iter().find(|(name, _)| *name == "KAFKA_EXTRA");
        let extra = extra.map_or("", |(_, lines)| lines);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("dev/kafka");
        let run = |args: &[&str]| {
            let output = Command::new(&script)
                .args(args)
                .envs(environment.iter().map(|(name, value)| (name, value)))
                .env(
                    "KAFKA_EXTRA",
                    format!("auto.create.topics.enable=false\nnum.partitions=3\n{extra}"),
                )
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "dev/kafka {args:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        let jars = run(&["jars"]);
        let folder = tempfile::tempdir().unwrap();
        run(&[
            "config",
            folder.path().to_str().unwrap(),
            &port.to_string(),
            &controller.to_string(),
        ]);
        let server = Self {
            port,
            jars,
            folder,
            server: Mutex::new(None),
        };
        server.up();
        server
    }

    /// The broker all tests share that do not stop it.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<KafkaServer> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// `127.0.0.1:<port>`.
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts it (again) on the same port and data.
    pub fn up(&self) {
        let at = |name: &str| self.folder.path().join(name).to_str().unwrap().to_owned();
        let logging = format!("-Dlog4j2.configurationFile={}", at("log4j2.xml"));
        let jars = format!("{}/*", self.jars);
        let properties = at("server.properties");
        let args = [
            "-Xms192m",
            "-Xmx384m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            &logging,
            "-cp",
            &jars,
            "kafka.Kafka",
            &properties,
        ];
        let server = Server::start("java", &args, Path::new(&at("kafka.log")), HINT);
        server.wait_for_output("Kafka Server started");
        server.wait_for_port(self.port);
        *self.server.lock().unwrap() = Some(server);
    }

    /// Kills it as `kill -9` does.
    pub fn kill(&self) {
        self.server.lock().unwrap().take().expect("running").kill();
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: &str) {
        self.server.lock().unwrap().as_ref().expect("running").signal(signal);
    }

    /// Creates a topic.
    pub async fn create_topic(&self, name: &str, partitions: i32) {
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let results = self
            .admin()
            .create_topics(&[topic], &AdminOptions::new())
            .await
            .unwrap();
        results.into_iter().for_each(|result| drop(result.unwrap()));
    }

    /// Changes one setting of a topic.
    pub async fn alter_topic(&self, name: &str, key: &str, value: &str) {
        let change = AlterConfig::new(ResourceSpecifier::Topic(name)).set(key, value);
        let results = self
            .admin()
            .alter_configs(&[change], &AdminOptions::new())
            .await
            .unwrap();
        results.into_iter().for_each(|result| drop(result.unwrap()));
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new()
            .set("bootstrap.servers", self.brokers())
            .create()
            .unwrap()
    }

    /// Every record of a topic, partition by partition. Blocks.
    pub fn read(&self, topic: &str) -> Vec<Record> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.brokers())
            .set("group.id", "reader")
            .set("fetch.wait.max.ms", "20")
            .create()
            .unwrap();
        let patience = Duration::from_secs(20);
        let metadata = consumer.fetch_metadata(Some(topic), patience).unwrap();
        let mut records = Vec::new();
        for partition in metadata.topics()[0].partitions() {
            let (_, end) = consumer.fetch_watermarks(topic, partition.id(), patience).unwrap();
            let mut from = TopicPartitionList::new();
            from.add_partition_offset(topic, partition.id(), Offset::Beginning)
                .unwrap();
            consumer.assign(&from).unwrap();
            let mut next = 0;
            let until = Instant::now() + patience;
            while next < end {
                assert!(
                    Instant::now() < until,
                    "{topic}/{}: record {next} of {end} does not come",
                    partition.id()
                );
                let Some(message) = consumer.poll(Duration::from_millis(200)) else {
                    continue;
                };
                let message = message.unwrap();
                next = message.offset() + 1;
                let headers = message.headers().map_or_else(Vec::new, |headers| {
                    let pair = |header: rdkafka::message::Header<'_, &[u8]>| {
                        (header.key.to_owned(), header.value.unwrap_or_default().to_vec())
                    };
                    headers.iter().map(pair).collect()
                });
                let value = message.payload().unwrap_or_default().to_vec();
                records.push(Record {
                    key: message.key().map(<[u8]>::to_vec),
                    headers,
                    value,
                });
            }
        }
        records
    }
}
