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
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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

    /// Starts one that also listens with SASL (PLAIN) on port `sasl`, for user `outbox`; `more`: further lines.
    pub fn with_login(sasl: u16, password: &str, more: &str) -> Self {
        let module = "org.apache.kafka.common.security.plain.PlainLoginModule";
        Self::listening(("outbox", password), |plain, controller| {
            format!(
                "listeners=PLAINTEXT://127.0.0.1:{plain},CONTROLLER://127.0.0.1:{controller},OURS://127.0.0.1:{sasl}\n\
                 advertised.listeners=PLAINTEXT://127.0.0.1:{plain},OURS://127.0.0.1:{sasl}\n\
                 listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,OURS:SASL_PLAINTEXT\n\
                 listener.name.ours.sasl.enabled.mechanisms=PLAIN\n\
                 listener.name.ours.plain.sasl.jaas.config={module} required user_outbox=\"{password}\";\n{more}"
            )
        })
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

    /// Replaces `old` by `new` in its `server.properties`, and starts it anew.
    pub fn reconfigure(&self, old: &str, new: &str) {
        let file = self.folder.path().join("server.properties");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(old), "{text}");
        std::fs::write(&file, text.replace(old, new)).unwrap();
        self.kill();
        self.up();
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

/// Makes the Kafka at `address` take `bytes` a second of each client: an AlterClientQuotas request (KIP-546, version 0), which
/// rdkafka does not know.
pub async fn limit_producers(address: &str, bytes: f64) {
    let mut body = Frame::request(49, 0);
    // One entry: the default of client ids; one change, which sets the rate; not only a check.
    body.number(1).number(1).text("client-id").short(-1);
    body.number(1)
        .text("producer_byte_rate")
        .raw(&bytes.to_be_bytes())
        .raw(&[0, 0]);
    let answer = body.send(address).await;
    // Throttle time, number of entries, code.
    assert_eq!(answer[8..10], [0, 0], "the quota is refused: {answer:?}");
}

/// Lets `user` write to `topic`, and nothing else: a CreateAcls request (version 1).
pub async fn allow_writing(address: &str, user: &str, topic: &str) {
    let mut body = Frame::request(30, 1);
    // One entry: a topic by its literal name, everywhere, Write, Allow.
    body.number(1)
        .raw(&[2])
        .text(topic)
        .raw(&[3])
        .text(&format!("User:{user}"))
        .text("*")
        .raw(&[4, 3]);
    let answer = body.send(address).await;
    assert_eq!(answer[8..10], [0, 0], "the rule is refused: {answer:?}");
}

/// A request in Kafka's own protocol.
struct Frame(Vec<u8>);

impl Frame {
    fn request(key: i16, version: i16) -> Self {
        let mut frame = Self(Vec::new());
        frame.short(key).short(version).number(1).text("outboxd-tests");
        frame
    }

    fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn short(&mut self, value: i16) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    fn number(&mut self, value: i32) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.short(i16::try_from(text.len()).unwrap()).raw(text.as_bytes())
    }

    /// Sends it; answers what comes behind the correlation id.
    async fn send(&self, address: &str) -> Vec<u8> {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let length = u32::try_from(self.0.len()).unwrap();
        stream
            .write_all(&[&length.to_be_bytes(), &self.0[..]].concat())
            .await
            .unwrap();
        let mut answer = vec![0; usize::try_from(stream.read_u32().await.unwrap()).unwrap()];
        stream.read_exact(&mut answer).await.unwrap();
        answer.split_off(4)
    }
}
