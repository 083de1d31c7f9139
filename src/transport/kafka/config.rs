//! `[transports.<name>.kafka]`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use rdkafka::ClientConfig;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::transport::ConnectError;
use crate::transport::blame::Blame;
use crate::transport::settings::{Section, TlsFiles, duration, flag, texts};

/// Everything the Kafka transport can be told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// Bootstrap servers, `host:port`, separated by commas.
    pub brokers: String,
    /// What consumers may rely on.
    #[serde(default)]
    pub delivery: Delivery,
    /// The header that carries the message id.
    #[serde(default = "default_id_header")]
    pub id_header: String,
    /// How long one message waits for its acknowledgement.
    #[serde(default = "default_ack_timeout", deserialize_with = "duration")]
    pub ack_timeout: Duration,
    /// TLS, without any of the files below: with the system's authorities.
    #[serde(default, deserialize_with = "flag")]
    pub tls: bool,
    /// PEM file of the authorities to trust instead of the system's. Turns TLS on.
    #[serde(default)]
    pub tls_ca_file: Option<PathBuf>,
    /// PEM file of our certificate; needs `tls_key_file`. Turns TLS on.
    #[serde(default)]
    pub tls_cert_file: Option<PathBuf>,
    /// PEM file of the certificate's key.
    #[serde(default)]
    pub tls_key_file: Option<PathBuf>,
    /// `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512`. Turns SASL on.
    #[serde(default)]
    pub sasl_mechanism: Option<String>,
    /// SASL user.
    #[serde(default)]
    pub sasl_username: Option<String>,
    /// File with the SASL password.
    #[serde(default)]
    pub sasl_password_file: Option<PathBuf>,
    /// The topic of progress records (`exactly_once` only).
    #[serde(default = "default_progress_topic")]
    pub progress_topic: String,
    /// Settings of librdkafka by its own names; they win over ours, except those the promises stand on.
    /// Some hold passwords.
    #[serde(default, deserialize_with = "texts")]
    pub librdkafka: BTreeMap<String, SecretString>,
}

/// `delivery`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// Consumers dedupe on the message id.
    #[default]
    AtLeastOnce,
    /// A `read_committed` consumer sees each message once.
    ExactlyOnce,
}

fn default_id_header() -> String {
    "id".to_owned()
}

/// `ack_timeout` where the file says nothing; a shorter lease shortens it.
pub(super) fn default_ack_timeout() -> Duration {
    Duration::from_secs(10)
}

fn default_progress_topic() -> String {
    "outboxd-progress".to_owned()
}

/// Settings that promises stand on, and what to use instead.
const FIXED: [(&str, &str); 13] = [
    ("acks", "always all: an acknowledgement must be durable"),
    (
        "request.required.acks",
        "always all: an acknowledgement must be durable",
    ),
    ("enable.idempotence", "always true: order within a key needs it"),
    ("max.in.flight", "order within a key needs librdkafka's own limit"),
    (
        "max.in.flight.requests.per.connection",
        "order within a key needs librdkafka's own limit",
    ),
    ("message.timeout.ms", "set ack_timeout instead"),
    ("delivery.timeout.ms", "set ack_timeout instead"),
    ("retries", "librdkafka retries for as long as it waits"),
    ("message.send.max.retries", "librdkafka retries for as long as it waits"),
    ("transactional.id", "belongs to delivery = \"exactly_once\""),
    ("bootstrap.servers", "set brokers instead"),
    ("metadata.broker.list", "set brokers instead"),
    ("sasl.password", "set sasl_password_file instead"),
];

/// The most one produce request's record set may weigh by our own doing, bytes: below every default
/// `max.message.bytes` of a topic (1,048,588).
pub(super) const BATCH_BYTES: u64 = 1_000_000;

/// A message that librdkafka has held for so long is given up by it: as long as the Java client waits. Whatever it gives up
/// before may still be on its way to a broker that throttles, and a copy sent then would be one too many.
const MESSAGE_TIMEOUT_MIN: Duration = Duration::from_secs(120);

/// A request without an answer for so long means that the connection is dead. A quota makes a broker answer nothing on a
/// connection for as long as its window (11 seconds by default) before it knows how much is offered.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(15);

impl KafkaConfig {
    /// librdkafka's settings for the producer of transport `name`.
    pub(super) fn client(&self, name: &str) -> Result<ClientConfig, ConnectError> {
        let section = Section { name, kind: "kafka" };
        self.check(section)?;
        let patience = self.patience().to_string();
        let mut config = ClientConfig::new();
        config
            .set("client.id", format!("outboxd-{name}"))
            .set("bootstrap.servers", &self.brokers)
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "1")
            .set("batch.size", BATCH_BYTES.to_string())
            // The client's own check; the topic's limit is what counts, and we learn that.
            .set("message.max.bytes", "104857600")
            .set("queue.buffering.max.messages", "100000")
            .set("queue.buffering.max.kbytes", "131072")
            .set("message.timeout.ms", self.message_timeout().as_millis().to_string())
            .set("reconnect.backoff.ms", "50")
            // Recovery within a second is promised, and the next probe of a topic is to come too.
            .set("reconnect.backoff.max.ms", "200")
            .set("topic.metadata.propagation.max.ms", "1000")
            .set("socket.keepalive.enable", "true")
            // A broker that vanished without closing its sockets is noticed by a request without an answer, and the request
            // goes to its successor well before its messages expire.
            .set("socket.timeout.ms", SOCKET_TIMEOUT.as_millis().to_string())
            .set("request.timeout.ms", &patience)
            .set("socket.connection.setup.timeout.ms", &patience)
            .set("log.connection.close", "false");
        self.secure(section, &mut config)?;
        for (key, value) in &self.librdkafka {
            if let Some((_, instead)) = FIXED.iter().find(|(fixed, _)| fixed == key) {
                return Err(section.wrong(&format!("librdkafka.{key:?}"), format!("cannot be set: {instead}")));
            }
            config.set(key, value.expose_secret());
        }
        Ok(config)
    }

    /// Milliseconds: a broker that lives answers a question within them, and takes a connection.
    pub(super) fn patience(&self) -> u128 {
        (self.ack_timeout.as_millis() / 2).clamp(1_000, 10_000)
    }

    /// How long librdkafka holds a message at most.
    pub(super) fn message_timeout(&self) -> Duration {
        (3 * self.ack_timeout).max(MESSAGE_TIMEOUT_MIN)
    }

    /// Whether the operator has chosen how long record sets are gathered.
    pub(super) fn sets_linger(&self) -> bool {
        ["linger.ms", "queue.buffering.max.ms"]
            .iter()
            .any(|key| self.librdkafka.contains_key(*key))
    }

    /// Whether records are compressed: then their size on the wire is not known before sending.
    pub(super) fn compresses(&self) -> bool {
        ["compression.type", "compression.codec"].iter().any(|key| {
            self.librdkafka
                .get(*key)
                .is_some_and(|codec| codec.expose_secret() != "none")
        })
    }

    /// The largest record set the producer builds, bytes.
    pub(super) fn batch_bytes(&self) -> u64 {
        self.librdkafka
            .get("batch.size")
            .and_then(|size| size.expose_secret().parse().ok())
            .unwrap_or(BATCH_BYTES)
    }

    /// What a refused connection can be blamed on.
    pub(super) fn blame(&self, name: &str) -> Blame {
        let given = self.sasl_password_file.is_some();
        Blame {
            name: name.to_owned(),
            kind: "kafka",
            server: "brokers",
            login: given.then_some("sasl_password_file"),
            to_log_in: (
                "sasl_mechanism",
                "the broker asks for a login: set sasl_mechanism, sasl_username and sasl_password_file",
            ),
            own_authorities: self.tls_ca_file.is_some(),
            own_certificate: self.tls_cert_file.is_some(),
            waits_for_tls: false,
        }
    }

    fn check(&self, section: Section<'_>) -> Result<(), ConnectError> {
        if self.delivery == Delivery::ExactlyOnce {
            return Err(section.wrong(
                "delivery",
                "\"exactly_once\" is not available yet: use \"at_least_once\"",
            ));
        }
        if self.brokers.trim().is_empty() {
            return Err(section.wrong("brokers", "is empty: name at least one host:port"));
        }
        if self.id_header.is_empty() || self.id_header.contains(['\r', '\n', '\0']) {
            let problem = "is empty, or holds CR, LF or NUL: consumers find the message id there";
            return Err(section.wrong("id_header", problem));
        }
        if self.ack_timeout < Duration::from_millis(100) || self.ack_timeout > Duration::from_secs(600) {
            return Err(section.wrong("ack_timeout", "must be between 100ms and 10min"));
        }
        if self.sasl_mechanism.is_none() {
            for (key, given) in [
                ("sasl_username", self.sasl_username.is_some()),
                ("sasl_password_file", self.sasl_password_file.is_some()),
            ] {
                if given {
                    return Err(section.wrong(key, "needs sasl_mechanism: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"));
                }
            }
        }
        Ok(())
    }

    fn secure(&self, section: Section<'_>, config: &mut ClientConfig) -> Result<(), ConnectError> {
        section.check_tls(&TlsFiles {
            ca: self.tls_ca_file.as_deref(),
            cert: self.tls_cert_file.as_deref(),
            key: self.tls_key_file.as_deref(),
        })?;
        for (setting, path) in [
            ("ssl.ca.location", &self.tls_ca_file),
            ("ssl.certificate.location", &self.tls_cert_file),
            ("ssl.key.location", &self.tls_key_file),
        ] {
            if let Some(path) = path {
                config.set(setting, path.display().to_string());
            }
        }
        if let Some(mechanism) = &self.sasl_mechanism {
            config.set("sasl.mechanism", mechanism);
        }
        if let Some(user) = &self.sasl_username {
            config.set("sasl.username", user);
        }
        if let Some(path) = &self.sasl_password_file {
            config.set(
                "sasl.password",
                section.secret("sasl_password_file", path)?.expose_secret(),
            );
        }
        let tls = self.tls || self.tls_ca_file.is_some() || self.tls_cert_file.is_some();
        config.set(
            "security.protocol",
            match (tls, self.sasl_mechanism.is_some()) {
                (false, false) => "plaintext",
                (true, false) => "ssl",
                (false, true) => "sasl_plaintext",
                (true, true) => "sasl_ssl",
            },
        );
        Ok(())
    }
}

/// librdkafka refused the settings.
pub(super) fn client_error(name: &str, error: &rdkafka::error::KafkaError) -> ConnectError {
    let section = Section { name, kind: "kafka" };
    if let rdkafka::error::KafkaError::ClientConfig(_, problem, key, _) = error {
        return section.wrong(&format!("librdkafka.{key:?}"), problem);
    }
    section.wrong("librdkafka", error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::settings::Settings;

    fn parse(json: &str) -> Result<KafkaConfig, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn defaults_and_own_settings_reach_librdkafka() {
        let config = parse(r#"{"brokers":"h:9092","librdkafka":{"linger.ms":5,"compression.type":"lz4"}}"#).unwrap();
        config.validate("main").unwrap();
        let client = config.client("main").unwrap();
        assert_eq!(client.get("linger.ms"), Some("5"));
        assert_eq!(client.get("partitioner"), Some("murmur2_random"));
        assert_eq!(client.get("message.timeout.ms"), Some("120000"));
        assert_eq!(client.get("security.protocol"), Some("plaintext"));
        assert!(config.compresses());
        assert_eq!(
            (config.id_header.as_str(), config.progress_topic.as_str()),
            ("id", "outboxd-progress")
        );
    }

    #[test]
    fn keys_with_dots_survive_the_config_crate_and_the_environment_is_text() {
        let text = "[kafka]\nbrokers = \"h:1\"\nack_timeout = \"2s\"\nlibrdkafka = { \"linger.ms\" = 7, \"batch.size\" = \"5000\" }";
        let file = ::config::Config::builder().add_source(::config::File::from_str(text, ::config::FileFormat::Toml));
        let config: KafkaConfig = file.build().unwrap().get("kafka").unwrap();
        assert_eq!(config.client("main").unwrap().get("linger.ms"), Some("7"));
        assert_eq!(config.batch_bytes(), 5000);
    }

    #[test]
    fn what_is_wrong_names_its_key() {
        for (json, line) in [
            (
                r#"{"brokers":"h:1","delivery":"exactly_once"}"#,
                "transports.main.kafka.delivery: ",
            ),
            (r#"{"brokers":" "}"#, "transports.main.kafka.brokers: "),
            (
                r#"{"brokers":"h:1","librdkafka":{"acks":1}}"#,
                "transports.main.kafka.librdkafka.\"acks\": cannot be set",
            ),
            (
                r#"{"brokers":"h:1","librdkafka":{"nope":1}}"#,
                "transports.main.kafka.librdkafka.\"nope\": No such",
            ),
            (
                r#"{"brokers":"h:1","tls_ca_file":"/nonexistent"}"#,
                "transports.main.kafka.tls_ca_file: cannot read",
            ),
            (
                r#"{"brokers":"h:1","sasl_username":"u"}"#,
                "transports.main.kafka.sasl_username: needs",
            ),
            (
                r#"{"brokers":"h:1","sasl_mechanism":"WRONG"}"#,
                "transports.main.kafka.librdkafka: ",
            ),
        ] {
            let error = parse(json).unwrap().validate("main").unwrap_err().to_string();
            assert!(error.starts_with(line) && !error.contains('\n'), "{error}");
        }
        assert!(
            parse(r#"{"brokers":"h:1","nope":1}"#)
                .unwrap_err()
                .to_string()
                .contains("nope")
        );
    }
}
