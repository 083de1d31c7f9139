//! NATS: TLS, TLS first, mutual TLS, user and password, token, nkey, credentials.

use async_nats::ConnectOptions;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::support::access::{CA, Way, assert_ways, pair};
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

const GUESS: &str = "marker-of-a-guess";
const USER: &str = "user = \"outbox\"\npassword_file = \"{password}\"\n";

/// A server for each way to insist on something, each with a stream.
struct Servers {
    files: Certificates,
    /// The user that `named` knows besides `outbox`.
    nkey: KeyPair,
    named: NatsServer,
    mutual: NatsServer,
    expired: NatsServer,
    tokened: NatsServer,
    operated: NatsServer,
}

impl Servers {
    async fn start() -> Self {
        let files = Certificates::new();
        let tls = |certificate: &str, more: &str| {
            files.fill(&format!(
                "tls {{ cert_file: \"{{{certificate}.crt}}\", key_file: \"{{{certificate}.key}}\", ca_file: \"{{ca.crt}}\"{more} }}\n"
            ))
        };
        let (nkey, account) = (KeyPair::new_user(), KeyPair::new_account());
        let users = format!(
            "authorization {{ users: [ {{ user: outbox, password: {PASSWORD} }}, {{ nkey: {} }} ] }}",
            nkey.public_key()
        );
        let servers = Self {
            named: NatsServer::with(&(tls("server", "") + &users)),
            mutual: NatsServer::with(&tls("server", ", verify: true")),
            expired: NatsServer::with(&tls("expired", "")),
            tokened: NatsServer::with(&format!("authorization {{ token: {TOKEN} }}")),
            operated: operated(&account),
            nkey,
            files,
        };
        servers.write_secrets(&account);
        servers.create_streams().await;
        servers
    }

    fn write_secrets(&self, account: &KeyPair) {
        for (name, text) in [
            ("creds", credentials(account)),
            ("stranger.creds", credentials(&KeyPair::new_account())),
            ("password", format!("{PASSWORD}\n")),
            ("token", TOKEN.to_owned()),
            ("wrong", GUESS.to_owned()),
            ("nkey", self.nkey.seed().unwrap()),
            ("stranger.nkey", KeyPair::new_user().seed().unwrap()),
        ] {
            self.files.write(name, &text);
        }
    }

    async fn create_streams(&self) {
        let ca = || ConnectOptions::new().add_root_certificates(self.files.file("ca.crt"));
        let user = ca().user_and_password("outbox".to_owned(), PASSWORD.to_owned());
        let client = ca().add_client_certificate(self.files.file("client.crt"), self.files.file("client.key"));
        let creds = ConnectOptions::with_credentials_file(self.files.file("creds"))
            .await
            .unwrap();
        for (server, login) in [
            (&self.named, user),
            (&self.mutual, client),
            (&self.tokened, ConnectOptions::with_token(TOKEN.to_owned())),
            (&self.operated, creds),
        ] {
            server.create_stream_as(login).await;
        }
    }

    fn at(&self, server: &NatsServer, keys: &str) -> String {
        self.by(server, "localhost", keys)
    }

    /// Connecting to `host`, which may begin with a login.
    fn by(&self, server: &NatsServer, host: &str, keys: &str) -> String {
        let url = format!("nats://{host}:{}", server.port());
        self.files
            .fill(&format!("url = \"{url}\"\nack_timeout = \"2s\"\n{keys}"))
    }
}

fn open(servers: &Servers) -> Vec<Way> {
    vec![
        Way::open("password", servers.at(&servers.named, &format!("{CA}{USER}"))),
        Way::open(
            "in-the-url",
            servers.by(&servers.named, &format!("outbox:{PASSWORD}@localhost"), CA),
        ),
        Way::open(
            "nkey",
            servers.at(&servers.named, &format!("{CA}nkey_file = \"{{nkey}}\"")),
        ),
        Way::open("mutual", servers.at(&servers.mutual, &pair("client"))),
        Way::open("token", servers.at(&servers.tokened, "token_file = \"{token}\"")),
        Way::open(
            "credentials",
            servers.at(&servers.operated, "credentials_file = \"{creds}\""),
        ),
    ]
}

fn refused_logins(servers: &Servers) -> Vec<Way> {
    vec![
        Way::refused(
            "wrong-password",
            servers.at(
                &servers.named,
                &format!("{CA}user = \"outbox\"\npassword_file = \"{{wrong}}\""),
            ),
            "password_file",
            "refuses this login",
        ),
        Way::refused(
            "wrong-in-the-url",
            servers.by(&servers.named, &format!("outbox:{GUESS}@localhost"), CA),
            "url",
            "login",
        ),
        Way::refused(
            "wrong-nkey",
            servers.at(&servers.named, &format!("{CA}nkey_file = \"{{stranger.nkey}}\"")),
            "nkey_file",
            "login",
        ),
        Way::refused(
            "wrong-token",
            servers.at(&servers.tokened, "token_file = \"{wrong}\""),
            "token_file",
            "login",
        ),
        Way::refused("no-login", servers.at(&servers.tokened, ""), "user", "asks for a login"),
        Way::refused(
            "wrong-credentials",
            servers.at(&servers.operated, "credentials_file = \"{stranger.creds}\""),
            "credentials_file",
            "login",
        ),
    ]
}

fn refused_certificates(servers: &Servers) -> Vec<Way> {
    vec![
        Way::refused(
            "wrong-ca",
            servers.at(&servers.named, &format!("{USER}tls_ca_file = \"{{other.crt}}\"")),
            "tls_ca_file",
            "signed",
        ),
        Way::refused(
            "no-ca",
            servers.at(&servers.named, USER),
            "tls_ca_file",
            "no authority of the system",
        ),
        Way::refused(
            "wrong-host",
            servers.by(&servers.named, "127.0.0.1", &format!("{CA}{USER}")),
            "url",
            "not for this host",
        ),
        Way::refused("expired", servers.at(&servers.expired, CA), "url", "out of date"),
        Way::refused(
            "no-certificate",
            servers.at(&servers.mutual, CA),
            "tls_cert_file",
            "asks for a certificate",
        ),
        Way::refused(
            "strange-certificate",
            servers.at(&servers.mutual, &pair("stranger")),
            "tls_cert_file",
            "does not accept",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_takes_who_it_knows_and_is_taken_only_when_it_proves_itself() {
    let _guard = together().await;
    let servers = Servers::start().await;
    let ways = [open(&servers), refused_logins(&servers), refused_certificates(&servers)];
    let seed = servers.nkey.seed().unwrap();
    assert_ways(
        "nats",
        &ways.into_iter().flatten().collect::<Vec<_>>(),
        &[PASSWORD, TOKEN, GUESS, &seed],
    )
    .await;
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
