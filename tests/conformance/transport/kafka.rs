//! Kafka against a real broker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outboxd::delivery::{FailureClass, Order, Outcome};
use outboxd::transport::kafka::Kafka;
use outboxd::transport::kafka::config::KafkaConfig;
use outboxd::transport::{Envelope, Probe, Transport};
use uuid::Uuid;

use super::laws::uphold;
use super::{Fixture, Seen, acknowledged, message};
use crate::support::kafka::KafkaServer;

enum Server {
    Shared(&'static KafkaServer),
    Own(KafkaServer),
}

struct OverKafka {
    server: Server,
    transport: Arc<Kafka>,
}

impl OverKafka {
    async fn on(server: Server) -> Self {
        let brokers = match &server {
            Server::Shared(server) => server.brokers(),
            Server::Own(server) => server.brokers(),
        };
        let config: KafkaConfig =
            serde_json::from_value(serde_json::json!({ "brokers": brokers, "ack_timeout": "2s" })).unwrap();
        Self {
            server,
            transport: Arc::new(Kafka::connect("main", &config).await.unwrap()),
        }
    }

    async fn shared() -> Self {
        Self::on(Server::Shared(
            tokio::task::spawn_blocking(KafkaServer::shared).await.unwrap(),
        ))
        .await
    }

    async fn own() -> Self {
        Self::on(Server::Own(
            tokio::task::spawn_blocking(KafkaServer::start).await.unwrap(),
        ))
        .await
    }

    fn server(&self) -> &KafkaServer {
        match &self.server {
            Server::Shared(server) => server,
            Server::Own(server) => server,
        }
    }
}

#[async_trait]
impl Fixture for OverKafka {
    fn transport(&self) -> Arc<dyn Transport> {
        Arc::clone(&self.transport) as Arc<dyn Transport>
    }

    async fn destination(&self) -> Arc<str> {
        let name = format!("orders.{}", Uuid::new_v4().simple());
        self.server().create_topic(&name, 3).await;
        while self.transport.probe(&name).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        name.into()
    }

    fn missing(&self) -> Option<Arc<str>> {
        Some("nobody.created.this".into())
    }

    async fn visible(&self, destination: &str) -> Vec<Seen> {
        tokio::task::block_in_place(|| self.server().read(destination))
            .into_iter()
            .map(|record| {
                let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
                let headers: BTreeMap<_, _> = record
                    .headers
                    .into_iter()
                    .map(|(name, value)| (name, text(value)))
                    .collect();
                Seen {
                    id: headers["id"].clone(),
                    key: record.key.map(text),
                    headers,
                    payload: record.value,
                }
            })
            .collect()
    }

    fn spoil(&self, envelope: &mut Envelope) {
        envelope.message.payload = vec![b'x'; 2 << 20].into();
    }

    fn added(&self, id: &str, _key: Option<&str>) -> BTreeMap<String, String> {
        BTreeMap::from([("id".to_owned(), id.to_owned())])
    }

    async fn hang(&self) {
        self.server().signal("STOP");
    }

    async fn stop(&self) {
        self.server().kill();
    }

    async fn heal(&self) {
        let Server::Own(server) = &self.server else {
            panic!("a shared broker is never stopped")
        };
        if std::net::TcpStream::connect(("127.0.0.1", server.port())).is_ok() {
            server.signal("CONT");
        } else {
            tokio::task::block_in_place(|| server.up());
        }
    }

    fn bound(&self) -> Duration {
        Duration::from_millis(3_700)
    }
}

uphold!(OverKafka::shared(), OverKafka::own());

/// The broker refuses a whole record set for its one big record; the limit known to the client is out of date.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_record_too_large_for_its_topic_takes_no_other_with_it() {
    let fixture = OverKafka::shared().await;
    let destination = fixture.destination().await;
    let first = [message(&destination, None, Order::Key)];
    assert!(acknowledged(&fixture.transport.publish(&first).await[0]));
    fixture
        .server()
        .alter_topic(&destination, "max.message.bytes", "2000")
        .await;
    let mut batch: Vec<_> = (0..60)
        .map(|n| message(&destination, Some(&format!("key-{n}")), Order::Key))
        .collect();
    batch[20].message.payload = vec![b'x'; 5_000].into();
    let outcomes = fixture.transport.publish(&batch).await;
    for (index, outcome) in outcomes.iter().enumerate() {
        match outcome {
            Outcome::Refused(failure) if index == 20 => {
                assert_eq!(
                    (failure.class, &*failure.code),
                    (FailureClass::Rejected, "MSG_SIZE_TOO_LARGE")
                );
            }
            outcome @ (Outcome::Acknowledged { .. } | Outcome::Withheld | Outcome::Refused(_)) => {
                assert!(acknowledged(outcome), "{index}: {outcome:?}")
            }
        }
    }
    let seen = fixture.visible(&destination).await;
    assert_eq!(seen.len(), 60, "everything else once");
}

/// An operator raises the limit and sends again what had been turned away by it: it is not turned away from memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_was_raised_turns_nothing_away() {
    let fixture = OverKafka::shared().await;
    let destination = fixture.destination().await;
    let limit = async |bytes: &str| {
        fixture
            .server()
            .alter_topic(&destination, "max.message.bytes", bytes)
            .await
    };
    limit("2000").await;
    let mut large = message(&destination, None, Order::Key);
    large.message.payload = vec![b'x'; 5_000].into();
    for (bytes, taken) in [("3000", false), ("10000", true), ("4000", false)] {
        limit(bytes).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let outcomes = fixture.transport.publish(std::slice::from_ref(&large)).await;
        assert_eq!(acknowledged(&outcomes[0]), taken, "{bytes}: {:?}", outcomes[0]);
    }
}

/// A broker nobody can reach is no bare timeout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_down_at_start_is_waited_for_and_publish_answers_quickly() {
    let config: KafkaConfig = serde_json::from_value(serde_json::json!({
        "brokers": format!("127.0.0.1:{}", crate::support::ports::free()), "ack_timeout": "2s",
    }))
    .unwrap();
    let kafka = Kafka::connect("main", &config).await.unwrap();
    let batch = [message(&"orders".into(), Some("k"), Order::Key)];
    let Outcome::Refused(failure) = &kafka.publish(&batch).await[0] else {
        panic!("acknowledged by nobody")
    };
    assert_eq!(failure.class, FailureClass::Unavailable, "{failure:?}");
    let start = std::time::Instant::now();
    let Outcome::Refused(failure) = &kafka.publish(&batch).await[0] else {
        panic!("acknowledged by nobody")
    };
    assert_eq!(failure.class, FailureClass::Unavailable, "{failure:?}");
    crate::support::assert_within("the second answer", start.elapsed(), Duration::from_millis(100));
}

/// A wrong password reaches only librdkafka's error callback; the operator reads it in the outcome, and the right one works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_an_outage_that_says_so() {
    let server = tokio::task::spawn_blocking(KafkaServer::secure).await.unwrap();
    server.create_topic("orders", 1).await;
    let secrets = tempfile::tempdir().unwrap();
    let password = secrets.path().join("password");
    let connect = async |text: &str| {
        std::fs::write(&password, text).unwrap();
        let config: KafkaConfig = serde_json::from_value(serde_json::json!({
            "brokers": format!("127.0.0.1:{}", server.port() + 1000),
            "ack_timeout": "2s",
            "tls_ca_file": server.authority(),
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_username": "outbox",
            "sasl_password_file": password,
        }))
        .unwrap();
        Kafka::connect("main", &config).await.unwrap()
    };
    let batch = [message(&"orders".into(), Some("k"), Order::Key)];
    let wrong = connect("not-it\n").await;
    for outcome in [wrong.publish(&batch).await, wrong.publish(&batch).await].concat() {
        let Outcome::Refused(failure) = outcome else {
            panic!("acknowledged with a wrong password")
        };
        assert_eq!(failure.class, FailureClass::Unavailable, "{failure:?}");
        assert!(
            failure.error.contains("kafka.sasl_password_file: the server refuses"),
            "{failure:?}"
        );
        assert!(!failure.error.contains("not-it"), "{failure:?}");
    }
    assert_eq!(
        wrong.probe("orders").await.unwrap_err().class,
        FailureClass::Unavailable
    );
    let right = connect("outbox-secret\n").await;
    let outcomes = right.publish(&batch).await;
    assert!(acknowledged(&outcomes[0]), "{outcomes:?}");
}

/// A login that may write to its topic, and nothing else: not read its settings either. It works, after a hiccup too; and a
/// topic it may not write to is no message's fault.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_may_only_write_recovers_from_a_hiccup() {
    let sasl = crate::support::ports::free();
    let lines = |port: u16, controller: u16| {
        format!(
            "listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller},LOGIN://127.0.0.1:{sasl}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port},LOGIN://127.0.0.1:{sasl}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,LOGIN:SASL_PLAINTEXT\n\
             listener.name.login.sasl.enabled.mechanisms=SCRAM-SHA-512\n\
             listener.name.login.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
             authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
             super.users=User:ANONYMOUS\n"
        )
    };
    let server = tokio::task::block_in_place(|| KafkaServer::listening(("outbox", "outbox-secret"), lines));
    for topic in ["orders", "payments"] {
        server.create_topic(topic, 1).await;
    }
    crate::support::kafka::allow_writing(&server.brokers(), "outbox", "orders").await;
    let secrets = tempfile::tempdir().unwrap();
    let password = secrets.path().join("password");
    std::fs::write(&password, "outbox-secret").unwrap();
    let config: KafkaConfig = serde_json::from_value(serde_json::json!({
        "brokers": format!("127.0.0.1:{sasl}"),
        "ack_timeout": "2s",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_username": "outbox",
        "sasl_password_file": password,
    }))
    .unwrap();
    let kafka = Kafka::connect("main", &config).await.unwrap();
    let batch = [message(&"orders".into(), Some("k"), Order::Key)];
    crate::support::eventually("the right arrives", Duration::from_secs(20), || async {
        acknowledged(&kafka.publish(&batch).await[0]).then_some(())
    })
    .await;
    assert_eq!(kafka.probe("orders").await, Ok(Probe::Ready));
    let outcomes = kafka
        .publish(&[message(&"payments".into(), Some("k"), Order::Key)])
        .await;
    let Outcome::Refused(failure) = &outcomes[0] else {
        panic!("{outcomes:?}")
    };
    assert_eq!(
        (failure.class, &*failure.code),
        (FailureClass::Unavailable, "TOPIC_AUTHORIZATION_FAILED")
    );
    assert_eq!(
        kafka.probe("payments").await.unwrap_err().code,
        "TOPIC_AUTHORIZATION_FAILED"
    );
    server.kill();
    let outcomes = kafka.publish(&batch).await;
    assert!(!acknowledged(&outcomes[0]), "{outcomes:?}");
    tokio::task::block_in_place(|| server.up());
    crate::support::eventually("the probe succeeds", Duration::from_secs(20), || async {
        kafka.probe("orders").await.ok()
    })
    .await;
    crate::support::eventually("it writes again", Duration::from_secs(10), || async {
        acknowledged(&kafka.publish(&batch).await[0]).then_some(())
    })
    .await;
}
