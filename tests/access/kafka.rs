//! Kafka: TLS, mutual TLS, SASL PLAIN and SCRAM-SHA-512, with and without TLS: one broker with a listener for each.

use crate::support::access::{CA, Way, assert_ways, pair};
use crate::support::certificates::Certificates;
use crate::support::kafka::KafkaServer;
use crate::support::ports;
use crate::support::together;

const PASSWORD: &str = "marker-of-the-password";
const GUESS: &str = "marker-of-a-guess";

/// Lines of server.properties: listeners `TLS`, `MUTUAL`, `OLD` (an expired certificate), `SASLPLAIN` and `SASLTLS`.
fn listeners(files: &Certificates, plain: u16, controller: u16, ports: &[(&str, u16)]) -> String {
    let bound = |ports: &[(&str, u16)]| {
        let listed = ports.iter().map(|(name, port)| format!("{name}://localhost:{port}"));
        listed.collect::<Vec<_>>().join(",")
    };
    let mut lines = format!(
        "listeners=PLAINTEXT://127.0.0.1:{plain},CONTROLLER://127.0.0.1:{controller},{all}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{plain},{all}\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,TLS:SSL,MUTUAL:SSL,OLD:SSL,\
         SASLPLAIN:SASL_PLAINTEXT,SASLTLS:SASL_SSL\n",
        all = bound(ports)
    );
    for (listener, certificate, clients) in [
        ("tls", "server", "none"),
        ("mutual", "server", "required"),
        ("old", "expired", "none"),
        ("sasltls", "server", "none"),
    ] {
        let read = |name: String| std::fs::read_to_string(files.file(&name)).unwrap().replace('\n', "\\n");
        let (chain, key, ca) = (
            read(format!("{certificate}.crt")),
            read(format!("{certificate}.key")),
            read("ca.crt".to_owned()),
        );
        let own = format!("listener.name.{listener}.ssl");
        lines.push_str(&format!(
            "{own}.keystore.type=PEM\n{own}.keystore.certificate.chain={chain}\n{own}.keystore.key={key}\n\
             {own}.truststore.type=PEM\n{own}.truststore.certificates={ca}\n{own}.client.auth={clients}\n"
        ));
    }
    for listener in ["saslplain", "sasltls"] {
        let own = format!("listener.name.{listener}");
        let module = "org.apache.kafka.common.security";
        lines.push_str(&format!(
            "{own}.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512\n\
             {own}.plain.sasl.jaas.config={module}.plain.PlainLoginModule required user_outbox=\"{PASSWORD}\";\n\
             {own}.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;\n"
        ));
    }
    lines
}

fn sasl(mechanism: &str, file: &str) -> String {
    format!("sasl_mechanism = \"{mechanism}\"\nsasl_username = \"outbox\"\nsasl_password_file = \"{{{file}}}\"\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_takes_who_it_knows_and_is_taken_only_when_it_proves_itself() {
    let _guard = together().await;
    let files = Certificates::new();
    let own = ["TLS", "MUTUAL", "OLD", "SASLPLAIN", "SASLTLS"].map(|name| (name, ports::free()));
    let port = |name: &str| own.iter().find(|(own, _)| *own == name).unwrap().1;
    let lines = |plain, controller| listeners(&files, plain, controller, &own);
    let server = tokio::task::block_in_place(|| KafkaServer::listening(("outbox", PASSWORD), lines));
    files.write("password", &format!("{PASSWORD}\n"));
    files.write("wrong", GUESS);

    let at = |listener: &str, keys: &str| {
        files.fill(&format!(
            "brokers = \"localhost:{}\"\nack_timeout = \"3s\"\n{keys}",
            port(listener)
        ))
    };
    let scram = format!("{CA}{}", sasl("SCRAM-SHA-512", "password"));
    let ways = [
        Way::open("tls", at("TLS", CA)),
        Way::open("mutual", at("MUTUAL", &pair("client"))),
        Way::open("plain", at("SASLPLAIN", &sasl("PLAIN", "password"))),
        Way::open("scram", at("SASLPLAIN", &sasl("SCRAM-SHA-512", "password"))),
        Way::open(
            "plain-in-tls",
            at("SASLTLS", &format!("{CA}{}", sasl("PLAIN", "password"))),
        ),
        Way::open("scram-in-tls", at("SASLTLS", &scram)),
        Way::refused(
            "wrong-plain",
            at("SASLPLAIN", &sasl("PLAIN", "wrong")),
            "sasl_password_file",
            "refuses",
        ),
        Way::refused(
            "wrong-scram",
            at("SASLTLS", &scram.replace("{password}", "{wrong}")),
            "sasl_password_file",
            "refuses",
        ),
        Way::refused(
            "wrong-ca",
            at("TLS", "tls_ca_file = \"{other.crt}\""),
            "tls_ca_file",
            "verified",
        ),
        Way::refused("system-ca", at("TLS", "tls = true"), "tls_ca_file", "verified"),
        Way::refused(
            "wrong-host",
            at("TLS", CA).replace("localhost", "127.0.0.1"),
            "tls_ca_file",
            "another host",
        ),
        Way::refused("expired", at("OLD", CA), "tls_ca_file", "expired"),
        Way::refused(
            "no-certificate",
            at("MUTUAL", CA),
            "tls_cert_file",
            "asks for a certificate",
        ),
        Way::refused(
            "strange-certificate",
            at("MUTUAL", &pair("stranger")),
            "tls_cert_file",
            "does not accept",
        ),
    ];
    for way in &ways {
        server.create_topic(way.name, 1).await;
    }
    assert_ways("kafka", &ways, &[PASSWORD, GUESS]).await;
}
