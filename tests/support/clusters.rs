//! Brokers of three nodes each, as real processes: JetStream with routes, Kafka with a quorum of combined nodes.

use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use async_nats::jetstream::stream::PeerInfo;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::arrivals::{Arrival, kafka_arrivals, nats_arrivals};
use super::broker::STREAM;
use super::process::Server;
use super::{eventually, ports};

const NODES: usize = 3;

/// One server process of a cluster and how to start it again.
struct Node {
    /// Client port.
    port: u16,
    server: Mutex<Option<Server>>,
}

impl Node {
    fn kill(&self) {
        self.server
            .lock()
            .expect("no panic under the lock")
            .take()
            .expect("it runs")
            .kill();
    }

    fn runs(&self) -> bool {
        self.server.lock().expect("no panic under the lock").is_some()
    }
}

/// Three nats-servers.
pub(crate) struct NatsCluster {
    folder: tempfile::TempDir,
    nodes: Vec<Node>,
}

impl NatsCluster {
    /// Starts three and waits until they have a leader for JetStream.
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let nodes: Vec<Node> = (0..NODES)
            .map(|_| Node {
                port: ports::free(),
                server: Mutex::default(),
            })
            .collect();
        let cluster_ports: Vec<u16> = (0..NODES).map(|_| ports::free()).collect();
        let routes: Vec<String> = cluster_ports
            .iter()
            .map(|port| format!("nats://127.0.0.1:{port}"))
            .collect();
        for (index, node) in nodes.iter().enumerate() {
            let store = folder.path().join(format!("store-{index}"));
            let text = format!(
                "listen: 127.0.0.1:{}\nserver_name: n{index}\njetstream {{ store_dir: {store:?}, max_mem: 64MB, max_file: 1GB }}\n\
                 cluster {{ name: test, listen: 127.0.0.1:{}, routes: [{}] }}\n",
                node.port,
                cluster_ports[index],
                routes.join(", ")
            );
            std::fs::write(folder.path().join(format!("n{index}.conf")), text).expect("it is writable");
        }
        let cluster = Self { folder, nodes };
        for index in 0..NODES {
            cluster.bring_up(index);
        }
        cluster
    }

    /// Starts node `index` (again).
    pub(crate) fn bring_up(&self, index: usize) {
        let at = |name: String| self.folder.path().join(name);
        let config = at(format!("n{index}.conf"));
        let hint = "apt-get install nats-server (or put one on the PATH)";
        let args = ["-c", config.to_str().expect("a UTF-8 path")];
        let server = Server::start("nats-server", &args, &at(format!("n{index}.log")), hint);
        server.wait_for_port(self.nodes[index].port);
        *self.nodes[index].server.lock().expect("no panic under the lock") = Some(server);
    }

    /// `kill -9` of one node.
    pub(crate) fn kill(&self, index: usize) {
        self.nodes[index].kill();
    }

    /// All nodes' URLs, separated by commas.
    pub(crate) fn url(&self) -> String {
        let urls: Vec<String> = self
            .nodes
            .iter()
            .map(|node| format!("nats://127.0.0.1:{}", node.port))
            .collect();
        urls.join(",")
    }

    fn living(&self) -> String {
        let node = self.nodes.iter().find(|node| node.runs()).expect("some node runs");
        format!("nats://127.0.0.1:{}", node.port)
    }

    async fn jetstream(&self) -> async_nats::jetstream::Context {
        async_nats::jetstream::new(async_nats::connect(self.living()).await.expect("a node is up"))
    }

    /// Makes the test's stream over `subjects`, three copies of it, once the cluster can.
    pub(crate) async fn prepare(&self, subjects: &[&str]) {
        let config = async_nats::jetstream::stream::Config {
            name: STREAM.to_owned(),
            subjects: subjects.iter().map(|subject| (*subject).to_owned()).collect(),
            duplicate_window: Duration::from_millis(100),
            num_replicas: NODES,
            ..Default::default()
        };
        let jetstream = self.jetstream().await;
        eventually("the cluster makes a stream", Duration::from_secs(60), || async {
            jetstream.get_or_create_stream(config.clone()).await.ok()
        })
        .await;
        self.leader().await;
    }

    /// The node that leads the stream, once there is one.
    pub(crate) async fn leader(&self) -> usize {
        let jetstream = self.jetstream().await;
        eventually("the stream has a leader", Duration::from_secs(60), || async {
            let mut stream = jetstream.get_stream(STREAM).await.ok()?;
            let leader = stream.info().await.ok()?.cluster.as_ref()?.leader.clone()?;
            leader.strip_prefix('n')?.parse().ok()
        })
        .await
    }

    /// Waits until every replica has all there is: a node that came back may lead before it has caught up.
    async fn caught_up(&self) {
        let jetstream = self.jetstream().await;
        eventually("every replica is current", Duration::from_secs(60), || async {
            let mut stream = jetstream.get_stream(STREAM).await.ok()?;
            let cluster = stream.info().await.ok()?.cluster.clone()?;
            let is_current = |peer: &PeerInfo| peer.current && !peer.offline && peer.lag.unwrap_or(0) == 0;
            let all = cluster.replicas.len() == NODES - 1 && cluster.replicas.iter().all(is_current);
            (cluster.leader.is_some() && all).then_some(())
        })
        .await;
    }

    /// Everything the stream holds. All nodes are up.
    pub(crate) async fn arrivals(&self) -> Vec<Arrival> {
        self.caught_up().await;
        // A replica that is still catching up serves less than the stream holds.
        eventually("the whole stream can be read", Duration::from_secs(60), || async {
            nats_arrivals(&self.living(), STREAM).await.ok()
        })
        .await
    }
}

/// Three Kafka nodes, each broker and controller.
pub(crate) struct KafkaCluster {
    folder: tempfile::TempDir,
    jars: String,
    nodes: Vec<Node>,
}

impl KafkaCluster {
    /// Starts three and waits until each serves clients.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let nodes: Vec<Node> = (0..NODES)
            .map(|_| Node {
                port: ports::free(),
                server: Mutex::default(),
            })
            .collect();
        let controllers: Vec<u16> = (0..NODES).map(|_| ports::free()).collect();
        let voters: Vec<String> = controllers
            .iter()
            .enumerate()
            .map(|(index, port)| format!("{}@127.0.0.1:{port}", index + 1))
            .collect();
        let jars = dev_kafka(&["jars"], "").trim().to_owned();
        for (index, node) in nodes.iter().enumerate() {
            let extra = format!(
                "node.id={}\ncontroller.quorum.voters={}\nauto.create.topics.enable=false\n\
                 default.replication.factor=3\nmin.insync.replicas=2\noffsets.topic.replication.factor=3\n\
                 broker.session.timeout.ms=3000\nbroker.heartbeat.interval.ms=500\nlog.segment.bytes=16777216\n\
                 controller.quorum.election.timeout.ms=500\ncontroller.quorum.fetch.timeout.ms=1000",
                index + 1,
                voters.join(","),
            );
            let dir = folder.path().join(format!("k{index}"));
            let (port, controller) = (node.port.to_string(), controllers[index].to_string());
            dev_kafka(
                &["config", dir.to_str().expect("a UTF-8 path"), &port, &controller],
                &extra,
            );
        }
        let cluster = Self { folder, jars, nodes };
        for index in 0..NODES {
            cluster.launch(index);
        }
        for node in &cluster.nodes {
            let server = node.server.lock().expect("no panic under the lock");
            let server = server.as_ref().expect("just launched");
            server.wait_for_output("Kafka Server started");
            server.wait_for_port(node.port);
        }
        cluster
    }

    /// Starts node `index` (again) without waiting.
    pub(crate) fn launch(&self, index: usize) {
        let at = |name: &str| {
            let path = self.folder.path().join(format!("k{index}")).join(name);
            path.to_str().expect("a UTF-8 path").to_owned()
        };
        let logging = format!("-Dlog4j2.configurationFile={}", at("log4j2.xml"));
        let (jars, properties) = (format!("{}/*", self.jars), at("server.properties"));
        let args = [
            "-Xms128m",
            "-Xmx256m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            &logging,
            "-cp",
            &jars,
            "kafka.Kafka",
            &properties,
        ];
        let hint = "apt-get install default-jre-headless maven";
        let server = Server::start("java", &args, Path::new(&at("kafka.log")), hint);
        *self.nodes[index].server.lock().expect("no panic under the lock") = Some(server);
    }

    /// `kill -9` of one node.
    pub(crate) fn kill(&self, index: usize) {
        self.nodes[index].kill();
    }

    /// All nodes' addresses.
    pub(crate) fn brokers(&self) -> String {
        let all: Vec<String> = self
            .nodes
            .iter()
            .map(|node| format!("127.0.0.1:{}", node.port))
            .collect();
        all.join(",")
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new()
            .set("bootstrap.servers", self.brokers())
            .create()
            .expect("an admin client")
    }

    /// From now on `topic` takes messages only while so many replicas are in sync.
    pub(crate) async fn want_in_sync(&self, topic: &str, replicas: usize) {
        let (admin, replicas) = (self.admin(), replicas.to_string());
        let change = AlterConfig::new(ResourceSpecifier::Topic(topic)).set("min.insync.replicas", &replicas);
        let altered = admin.alter_configs(&[change], &AdminOptions::new()).await;
        for one in altered.expect("a majority is up") {
            one.expect("the topic is there");
        }
    }

    /// A topic of three partitions, each on all nodes.
    pub(crate) async fn prepare(&self, topic: &str) {
        let admin = self.admin();
        let new = [NewTopic::new(topic, 3, TopicReplication::Fixed(3))];
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        eventually("the cluster makes a topic", Duration::from_secs(60), || async {
            let made = admin.create_topics(&new, &options).await.ok()?;
            made.into_iter().all(|one| one.is_ok()).then_some(())
        })
        .await;
    }

    /// The node that leads partition 0 of `topic`.
    pub(crate) async fn leader(&self, topic: &str) -> usize {
        let (brokers, topic) = (self.brokers(), topic.to_owned());
        let leader = tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", brokers).create().ok()?;
            let metadata = consumer.fetch_metadata(Some(&topic), Duration::from_secs(20)).ok()?;
            let partitions = metadata.topics().first()?.partitions();
            partitions
                .iter()
                .find(|partition| partition.id() == 0)
                .map(|partition| partition.leader())
        });
        let leader = leader
            .await
            .expect("metadata can be asked for")
            .expect("partition 0 is there");
        usize::try_from(leader - 1).expect("partition 0 has a leader")
    }

    /// Everything in `topic`.
    pub(crate) async fn arrivals(&self, topic: &str) -> Vec<Arrival> {
        let (address, topic) = (self.brokers(), topic.to_owned());
        let reading =
            tokio::task::spawn_blocking(move || kafka_arrivals(&address, &[&topic]).map_err(|error| error.to_string()));
        let arrivals = reading.await.expect("the consumer ends");
        arrivals.expect("the topic can be read")
    }
}

fn dev_kafka(args: &[&str], extra: &str) -> String {
    let mut command = Command::new(super::processes::package().join("dev/kafka"));
    command
        .args(args)
        .env("KAFKA_EXTRA", extra)
        .env("KAFKA_CLUSTER_ID", "outboxd-test-cluster-0");
    super::processes::run(&mut command)
}
