//! NATS: TLS, TLS first, mutual TLS, user and password, token, nkey, credentials.

use async_nats::ConnectOptions;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::support::access::{Way, assert_ways};
use crate::support::certificates::Certificates;
use crate::support::nats::{NatsServer, current};
use crate::support::together;

/// A JWT of NATS (its ADR-14): signed by `issuer`.
fn token(issuer: &KeyPair, subject: &KeyPair, nats: Value) -> String {
    let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = encode(json!({"typ": "JWT", "alg": "ed25519-nkey"}));
    let claims = encode(json!({
        "iss": issuer.public_key(), "sub": subject.public_key(), "name": "test", "iat": 1, "jti": "test", "nats": nats,
    }));
    let signed = format!("{header}.{claims}");
    let signature = issuer.sign(signed.as_bytes()).expect("the issuer has its seed");
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A file of credentials of a new user of `account`.
fn credentials(account: &KeyPair) -> String {
    let user = KeyPair::new_user();
    let free = json!({"type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1});
    format!(
        "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        token(account, &user, free),
        user.seed().expect("a new pair has its seed")
    )
}

/// A server of an operator with one account, and the system account JetStream wants beside it.
fn operated(account: &KeyPair) -> NatsServer {
    let (operator, system) = (KeyPair::new_operator(), KeyPair::new_account());
    let own = token(&operator, &operator, json!({"type": "operator", "version": 2}));
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let free = json!({"type": "account", "version": 2, "limits": limits});
    let bare = json!({"type": "account", "version": 2, "limits": {"conn": -1}});
    NatsServer::with(&format!(
        "operator: {own}\nsystem_account: {system}\nresolver: MEMORY\nresolver_preload: {{ {user}: {}, {system}: {} }}",
        token(&operator, account, free),
        token(&operator, &system, bare),
        user = account.public_key(),
        system = system.public_key()
    ))
}

const PASSWORD: &str = "marker-of-the-password";
const TOKEN: &str = "marker-of-the-token";

#[tokio::test(flavor = "multi_thread")]
async fn nats_takes_who_it_knows_and_is_taken_only_when_it_proves_itself() {
    let _guard = together().await;
    let files = Certificates::new();
    let tls = |certificate: &str, more: &str| {
        files.fill(&format!(
            "tls {{ cert_file: \"{{{certificate}.crt}}\", key_file: \"{{{certificate}.key}}\", ca_file: \"{{ca.crt}}\"{more} }}\n"
        ))
    };
    let (nkey, account, stranger) = (KeyPair::new_user(), KeyPair::new_account(), KeyPair::new_account());
    let users = format!(
        "authorization {{ users: [ {{ user: outbox, password: {PASSWORD} }}, {{ nkey: {} }} ] }}",
        nkey.public_key()
    );
    let named = NatsServer::with(&(tls("server", "") + &users));
    let mutual = NatsServer::with(&tls("server", ", verify: true"));
    let expired = NatsServer::with(&tls("expired", ""));
    let tokened = NatsServer::with(&format!("authorization {{ token: {TOKEN} }}"));
    let operated = operated(&account);

    let creds = files.write("creds", &credentials(&account));
    files.write("stranger.creds", &credentials(&stranger));
    files.write("password", &format!("{PASSWORD}\n"));
    files.write("token", TOKEN);
    files.write("wrong", "marker-of-a-guess");
    files.write("nkey", &nkey.seed().unwrap());
    files.write("stranger.nkey", &KeyPair::new_user().seed().unwrap());
    let ca = || ConnectOptions::new().add_root_certificates(files.file("ca.crt"));
    named
        .create_stream_as(ca().user_and_password("outbox".to_owned(), PASSWORD.to_owned()))
        .await;
    let pair = (files.file("client.crt"), files.file("client.key"));
    mutual
        .create_stream_as(ca().add_client_certificate(pair.0, pair.1))
        .await;
    tokened
        .create_stream_as(ConnectOptions::with_token(TOKEN.to_owned()))
        .await;
    operated
        .create_stream_as(ConnectOptions::with_credentials_file(creds).await.unwrap())
        .await;

    let at = |server: &NatsServer, keys: &str| {
        files.fill(&format!(
            "url = \"nats://localhost:{}\"\nack_timeout = \"2s\"\n{keys}",
            server.port()
        ))
    };
    let by = |server: &NatsServer, host: &str, keys: &str| at(server, keys).replace("localhost", host);
    const USER: &str = "user = \"outbox\"\npassword_file = \"{password}\"\n";
    const CA: &str = "tls_ca_file = \"{ca.crt}\"\n";
    const CLIENT: &str = "tls_cert_file = \"{client.crt}\"\ntls_key_file = \"{client.key}\"\n";
    let url_login = format!("outbox:{PASSWORD}@localhost");
    let ways = [
        Way::open("password", at(&named, &format!("{CA}{USER}"))),
        Way::open("in-the-url", by(&named, &url_login, CA)),
        Way::open("nkey", at(&named, &format!("{CA}nkey_file = \"{{nkey}}\""))),
        Way::open("mutual", at(&mutual, &format!("{CA}{CLIENT}"))),
        Way::open("token", at(&tokened, "token_file = \"{token}\"")),
        Way::open("credentials", at(&operated, "credentials_file = \"{creds}\"")),
        Way::refused(
            "wrong-password",
            at(&named, &format!("{CA}user = \"outbox\"\npassword_file = \"{{wrong}}\"")),
            "password_file",
            "refuses this login",
        ),
        Way::refused(
            "wrong-in-the-url",
            by(&named, "outbox:marker-of-a-guess@localhost", CA),
            "url",
            "login",
        ),
        Way::refused(
            "wrong-nkey",
            at(&named, &format!("{CA}nkey_file = \"{{stranger.nkey}}\"")),
            "nkey_file",
            "login",
        ),
        Way::refused(
            "wrong-token",
            at(&tokened, "token_file = \"{wrong}\""),
            "token_file",
            "login",
        ),
        Way::refused("no-login", at(&tokened, ""), "user", "asks for a login"),
        Way::refused(
            "wrong-credentials",
            at(&operated, "credentials_file = \"{stranger.creds}\""),
            "credentials_file",
            "login",
        ),
        Way::refused(
            "wrong-ca",
            at(&named, &format!("{USER}tls_ca_file = \"{{other.crt}}\"")),
            "tls_ca_file",
            "signed",
        ),
        Way::refused("no-ca", at(&named, USER), "tls_ca_file", "no authority of the system"),
        Way::refused(
            "wrong-host",
            by(&named, "127.0.0.1", &format!("{CA}{USER}")),
            "url",
            "not for this host",
        ),
        Way::refused("expired", at(&expired, CA), "url", "out of date"),
        Way::refused(
            "no-certificate",
            at(&mutual, CA),
            "tls_cert_file",
            "asks for a certificate",
        ),
        Way::refused(
            "strange-certificate",
            at(
                &mutual,
                &format!("{CA}tls_cert_file = \"{{stranger.crt}}\"\ntls_key_file = \"{{stranger.key}}\""),
            ),
            "tls_cert_file",
            "does not accept",
        ),
    ];
    let seed = nkey.seed().unwrap();
    assert_ways("nats", &ways, &[PASSWORD, TOKEN, "marker-of-a-guess", &seed]).await;
}

/// `handshake_first` came with nats-server 2.10; Debian's is older.
#[tokio::test(flavor = "multi_thread")]
async fn nats_that_wants_tls_first_gets_it() {
    let _guard = together().await;
    let files = Certificates::new();
    let server = NatsServer::of(
        &current(),
        &files.fill("tls { cert_file: \"{server.crt}\", key_file: \"{server.key}\", handshake_first: true }"),
    );
    let own = ConnectOptions::new()
        .add_root_certificates(files.file("ca.crt"))
        .tls_first();
    server.create_stream_as(own).await;
    let at = |keys: &str| {
        files.fill(&format!(
            "url = \"tls://localhost:{}\"\nack_timeout = \"2s\"\n{keys}",
            server.port()
        ))
    };
    let ways = [
        Way::open("first", at("tls_ca_file = \"{ca.crt}\"\ntls_first = true")),
        Way::refused("second", at("tls_ca_file = \"{ca.crt}\""), "tls_first", "says nothing"),
        Way::refused(
            "wrong-ca",
            at("tls_ca_file = \"{other.crt}\"\ntls_first = true"),
            "tls_ca_file",
            "signed",
        ),
    ];
    assert_ways("nats", &ways, &[]).await;
}
