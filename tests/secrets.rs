//! No secret in anything the program writes: a log of level trace, errors, `check`, HTTP, arguments, `Debug`.

use std::time::Duration;

use outboxd::config;

use crate::support::daemon::{Daemon, Site};
use crate::support::eventually;
use crate::support::nats::NatsServer;
use crate::support::ports;
use crate::support::postgres::Cluster;
use crate::support::redis::RedisServer;
use crate::support::together;
use crate::support::web::{TOKEN, with_token};

/// In every secret of these tests; in a URL `@` goes as `%40`.
const MARKER: &str = "mArKeR";
const SECRET: &str = "p@mArKeR-7";
const ENCODED: &str = "p%40mArKeR-7";

/// A configuration with a secret in every key that takes one; what is right relays, the rest is refused or not there.
fn configuration(site: &Site, url: &str, nats: (&NatsServer, &NatsServer), redis: &RedisServer) -> String {
    let secret = site.config().with_file_name("secret");
    std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
    let nkey = nkeys::KeyPair::new_user();
    std::fs::write(site.config().with_file_name("nkey"), nkey.seed().unwrap()).unwrap();
    let (named, tokened) = (nats.0.port(), nats.1.port());
    let (redis, closed) = (redis.port(), ports::free());
    let url = url.replace("postgres@", &format!("postgres:{ENCODED}@"));
    let mut text = format!(
        "[database]\nurl = \"{url}\"\nlisten_url = \"{url}\"\n\
         [lease]\ninstance = \"{}\"\n[http]\nlisten = \"127.0.0.1:{}\"\n[log]\nlevel = \"trace\"\nformat = \"text\"\n",
        site.instance(),
        site.port()
    );
    for (name, section) in [
        (
            "a",
            format!("nats]\nurl = \"nats://outbox:{ENCODED}@127.0.0.1:{named}\""),
        ),
        (
            "b",
            format!("nats]\nurl = \"nats://127.0.0.1:{named}\"\nuser = \"outbox\"\npassword_file = \"secret\""),
        ),
        (
            "c",
            format!("nats]\nurl = \"nats://127.0.0.1:{tokened}\"\ntoken_file = \"secret\""),
        ),
        (
            "d",
            format!("nats]\nurl = \"nats://127.0.0.1:{named}\"\ntoken_file = \"secret\""),
        ),
        (
            "e",
            format!("nats]\nurl = \"nats://wrong:{ENCODED}@127.0.0.1:{named}\""),
        ),
        (
            "f",
            format!("nats]\nurl = \"nats://127.0.0.1:{named}\"\nnkey_file = \"nkey\""),
        ),
        (
            "g",
            format!("redis]\nurl = \"redis://outbox:{ENCODED}@127.0.0.1:{redis}\""),
        ),
        (
            "h",
            format!("redis]\nurl = \"redis://outbox@127.0.0.1:{redis}\"\npassword_file = \"secret\""),
        ),
        (
            "i",
            format!("redis]\nurl = \"redis://wrong:{ENCODED}@127.0.0.1:{redis}\""),
        ),
        (
            "j",
            format!(
                "kafka]\nbrokers = \"127.0.0.1:{closed}\"\nsasl_mechanism = \"PLAIN\"\nsasl_username = \"u\"\n\
                 sasl_password_file = \"secret\"\nlibrdkafka = {{ \"ssl.key.password\" = \"{SECRET}\" }}"
            ),
        ),
    ] {
        text.push_str(&format!(
            "[transports.{name}.{section}\n[[routes]]\ntopic = \"{name}\"\ntransport = \"{name}\"\n"
        ));
    }
    text
}

/// What the daemon and the command line answer, by what was asked.
async fn asked(site: &Site, daemon: &Daemon) -> Vec<(String, String)> {
    let mut written = Vec::new();
    for path in [
        "/metrics",
        "/readyz",
        "/livez",
        "/",
        "/api/v1/status",
        "/api/v1/summary",
        "/api/v1/failed",
    ] {
        written.push((path.to_owned(), daemon.get(path).await.expect("an answer").1));
    }
    let arguments = std::fs::read(format!("/proc/{}/cmdline", daemon.pid())).unwrap();
    written.push(("arguments".to_owned(), String::from_utf8_lossy(&arguments).into_owned()));
    for verb in [
        &["check"][..],
        &["check", "--connect"],
        &["check", "--json"],
        &["status"],
        &["failed", "list"],
    ] {
        let output = site.outboxd(verb);
        written.push((
            format!("{verb:?}"),
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        ));
    }
    written
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_ever_written() {
    let _guard = together().await;
    let database = Cluster::shared().database().await;
    let user = format!("authorization {{ users: [ {{ user: outbox, password: \"{SECRET}\" }} ] }}");
    let nats = (
        NatsServer::with(&user),
        NatsServer::with(&format!("authorization {{ token: \"{SECRET}\" }}")),
    );
    for (server, login) in [
        (
            &nats.0,
            async_nats::ConnectOptions::with_user_and_password("outbox".to_owned(), SECRET.to_owned()),
        ),
        (&nats.1, async_nats::ConnectOptions::with_token(SECRET.to_owned())),
    ] {
        server.create_stream_as(login).await;
    }
    let redis = RedisServer::with_options(&format!("--user outbox on >{SECRET} ~* +@all"));
    let site = Site::new(&database, "");
    site.configure(&configuration(&site, &database.url(), (&nats.0, &nats.1), &redis));
    with_token(&site);
    // Its URL has a password: the owner's login stays.
    site.succeed(&["migrate"]);
    let session = database.connect().await;
    session
        .run("insert into outbox_messages (topic, payload) select unnest(string_to_array('a b c d e f g h i j', ' ')), '1'")
        .await;

    let daemon = site.launch();
    let relayed = "select count(*) from outbox_messages where relayed_at is not null";
    eventually("what can be relayed is", Duration::from_secs(30), || async {
        (session.count(relayed).await == 5).then_some(())
    })
    .await;
    for refused in ["d.nats.token_file", "e.nats.url", "f.nats.nkey_file", "i.redis.url"] {
        eventually(refused, Duration::from_secs(30), || async {
            site.log().contains(&format!("transports.{refused}: ")).then_some(())
        })
        .await;
    }
    let mut written = asked(&site, &daemon).await;
    let read = config::load(&site.config(), std::iter::empty()).expect("it started");
    written.push(("Debug".to_owned(), format!("{read:?} {read:#?}")));
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
    written.push(("log".to_owned(), site.log()));
    let seed = std::fs::read_to_string(site.config().with_file_name("nkey")).unwrap();
    for (what, text) in &written {
        assert!(!text.is_empty(), "{what} says something");
        for secret in [MARKER, TOKEN, &seed] {
            let line = text.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "a secret is in {what}");
        }
    }
    assert!(site.log().contains("TRACE"), "the log is of level trace");
}

/// What cannot be read is refused without repeating it.
#[test]
fn no_mistake_repeats_a_secret() {
    let site = Site::bare();
    let good = "[transports.out.stdout]\n";
    for mistake in [
        format!("[database]\nurl = \"postgres://u:{SECRET}@h:x/d\"\n{good}"),
        format!("[database]\nurl = \"postgres://u:{SECRET}@h/d?sslmode=nope\"\n{good}"),
        format!("[database]\nurl = \"user=u password={SECRET}' host\"\n{good}"),
        format!("[database]\nurl = [\"postgres://u:{ENCODED}@h/d\"]\n{good}"),
        format!("[database]\nurl = \"postgres://u:{ENCODED}@h/d\n{good}"),
        format!("database = \"postgres://u:{ENCODED}@h/d\"\n{good}"),
        format!("[database]\nurl = \"postgres://u@h/d\"\n[transports.a]\nredis = \"redis://:{ENCODED}@h\"\n"),
        format!("[database]\nurl = \"postgres://u@h/d\"\n[transports.a.redis]\nurl = \"rodis://:{ENCODED}@h\"\n"),
        format!("[database]\nurl = \"postgres://u@h/d\"\n[transports.a.redis]\nurl = \"redis://:{ENCODED}@h:x\"\n"),
        format!("[database]\nurl = \"postgres://u@h/d\"\n[transports.a.nats]\nurl = \"nats://u:{ENCODED}@h:x\"\n"),
        format!("[database]\nurl = \"postgres://u@h/d\"\n[transports.a.nats]\nurl = \"nots://u:{ENCODED}@h\"\n"),
        format!(
            "[database]\nurl = \"postgres://u@h/d\"\n[transports.a.kafka]\nbrokers = \"h:1\"\n\
             librdkafka = {{ \"sasl.password\" = \"{SECRET}\" }}\n"
        ),
        format!(
            "[database]\nurl = \"postgres://u@h/d\"\n[transports.a.kafka]\nbrokers = \"h:1\"\n\
             librdkafka = {{ \"security.protocol\" = \"ssl\", \"ssl.key.pem\" = \"{SECRET}\" }}\n"
        ),
        format!("[database]\nurl = \"postgres://u@h/d\"\n[trace]\notlp_endpoint = \"http://u:{ENCODED}@h\"\n{good}"),
    ] {
        site.configure(&mistake);
        let output = run_check(&site);
        assert_eq!(output.0, Some(64), "{mistake}: {}", output.1);
        assert!(!output.1.contains(MARKER), "{mistake} is answered with {}", output.1);
    }
}

fn run_check(site: &Site) -> (Option<i32>, String) {
    let output = site.outboxd(&["check"]);
    (
        output.status.code(),
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
    )
}
