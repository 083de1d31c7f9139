//! Redis: TLS, mutual TLS, password, a user of the ACL.

use crate::support::access::{CA, Way, assert_ways, pair};
use crate::support::certificates::Certificates;
use crate::support::redis::RedisServer;
use crate::support::together;

const PASSWORD: &str = "marker-of-the-password";
const DEFAULT: &str = "marker-of-the-default";
const GUESS: &str = "marker-of-a-guess";

fn options(certificate: &str, clients: &str) -> String {
    format!(
        "--tls-cert-file {{{certificate}.crt}} --tls-key-file {{{certificate}.key}} --tls-ca-cert-file {{ca.crt}} \
         --tls-auth-clients {clients}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_takes_who_it_knows_and_is_taken_only_when_it_proves_itself() {
    let _guard = together().await;
    let files = Certificates::new();
    let tls = |certificate: &str, clients: &str| files.fill(&options(certificate, clients));
    let user = format!("--user outbox on >{PASSWORD} ~* +xadd +role +type +client");
    let named = RedisServer::with_tls(&format!("{} --requirepass {DEFAULT} {user}", tls("server", "no")));
    let mutual = RedisServer::with_tls(&tls("server", "yes"));
    let expired = RedisServer::with_tls(&tls("expired", "no"));
    files.write("password", &format!("{PASSWORD}\n"));
    files.write("wrong", GUESS);
    files.write(
        "url",
        &format!("rediss://outbox:{PASSWORD}@localhost:{}/0\n", named.tls_port()),
    );

    let at = |server: &RedisServer, login: &str, keys: &str| {
        files.fill(&format!(
            "url = \"rediss://{login}localhost:{}\"\nack_timeout = \"2s\"\n{keys}",
            server.tls_port()
        ))
    };
    let with = |file: &str| format!("{CA}password_file = \"{{{file}}}\"\n");
    let ways = [
        Way::open("user", at(&named, "outbox@", &with("password"))),
        Way::open("url-file", files.fill(&format!("url_file = \"{{url}}\"\n{CA}"))),
        Way::open("password", at(&named, &format!(":{DEFAULT}@"), CA)),
        Way::open("mutual", at(&mutual, "", &pair("client"))),
        Way::open(
            "plain",
            format!("url = \"redis://outbox:{PASSWORD}@127.0.0.1:{}\"", named.port()),
        ),
        Way::refused(
            "wrong-password",
            at(&named, "outbox@", &with("wrong")),
            "password_file",
            "refuses this login",
        ),
        Way::refused(
            "wrong-in-the-url",
            at(&named, &format!("outbox:{GUESS}@"), CA),
            "url",
            "refuses this login",
        ),
        Way::refused("no-login", at(&named, "", CA), "password_file", "asks for a login"),
        Way::refused(
            "wrong-ca",
            at(&named, "outbox@", &with("password")).replace("ca.crt", "other.crt"),
            "tls_ca_file",
            "signed",
        ),
        Way::refused(
            "wrong-host",
            at(&named, "outbox@", &with("password")).replace("localhost", "127.0.0.1"),
            "url",
            "not for this host",
        ),
        Way::refused("expired", at(&expired, "", CA), "url", "out of date"),
        Way::refused(
            "no-certificate",
            at(&mutual, "", CA),
            "tls_cert_file",
            "asks for a certificate",
        ),
        Way::refused(
            "strange-certificate",
            at(&mutual, "", &pair("stranger")),
            "tls_cert_file",
            "does not accept",
        ),
    ];
    assert_ways("redis", &ways, &[PASSWORD, DEFAULT, GUESS]).await;
}
