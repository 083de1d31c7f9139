//! `outboxd check --connect` about brokers: what their users may do, which is more or less than the relay needs, and what makes
//! acknowledgements worth less than they say. Each is planted on real servers, of every version of NATS that counts.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use async_nats::ConnectOptions;
use async_nats::jetstream::stream::{Config as Stream, PersistenceMode};
use futures_util::TryStreamExt as _;

use crate::doctor::{CLUSTER, Patient, Report, check, stream};
use crate::support::kafka::KafkaServer;
use crate::support::nats::{NatsServer, current, programs};
use crate::support::redis::RedisServer;
use crate::support::{eventually, ports, together};

/// Permissions of NATS users: what the guide says, and too much or too little of it. `{more}` is for one more user.
const USERS: &str = r#"authorization { users: [
    { user: chief, password: p }
    { user: least, password: p, permissions: {
        publish: ["orders.>", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.INFO.*"]
        subscribe: ["_INBOX.>", "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.*"] } }
    { user: purger, password: p, permissions: {
        publish: ["orders.>", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.INFO.*", "$JS.API.STREAM.PURGE.*"]
        subscribe: ["_INBOX.>"] } }
    { user: blind, password: p, permissions: {
        publish: ["orders.>", "$JS.API.STREAM.NAMES"], subscribe: ["_INBOX.>"] } }
    { user: mute, password: p, permissions: { publish: ["orders.>"], subscribe: ["_INBOX.>"] } }
    {more}
] }"#;

fn nats_as(user: &str, nats: &NatsServer) -> String {
    format!(
        "url = \"nats://{user}:p@127.0.0.1:{}\"\nack_timeout = \"5s\"",
        nats.port()
    )
}

async fn chief(nats: &NatsServer) -> async_nats::jetstream::Context {
    let login = ConnectOptions::with_user_and_password("chief".to_owned(), "p".to_owned());
    let client = login.connect(nats.url()).await.expect("it lets the chief in");
    async_nats::jetstream::new(client)
}

/// The words of the finding of this code.
fn what(report: &Report, code: &str) -> String {
    let found = report.findings.iter().find(|finding| finding["code"] == code);
    let found = found.unwrap_or_else(|| panic!("no {code}: {:#?}", report.findings));
    found["what"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_nats_login_that_could_delete_streams_was_not_said() {
    let _guard = together().await;
    for program in programs() {
        let mut patient = Patient::healthy().await;
        patient.subject = "orders.created".to_owned();
        let nats = NatsServer::of(&program, &USERS.replace("{more}", ""));
        let jetstream = chief(&nats).await;
        jetstream
            .create_stream(stream("orders.created"))
            .await
            .expect("a stream");
        let sent = jetstream.publish("orders.created", "1".into()).await.expect("sent");
        sent.await.expect("stored");

        patient.relays_to("nats", &nats_as("chief", &nats));
        let report = check(&patient.site);
        let fix = report.fix("warning", "stream_admin");
        assert_eq!(report.codes(), ["stream_admin"], "{program}");
        let said = what(&report, "stream_admin");
        for verb in ["DELETE", "PURGE", "MSG.DELETE", "UPDATE", "CREATE"] {
            assert!(said.contains(&format!("$JS.API.STREAM.{verb}.>")), "{program}: {said}");
        }
        patient.relays_to("nats", &nats_as("purger", &nats));
        let said = what(&check(&patient.site), "stream_admin");
        assert!(said.contains("PURGE") && !said.contains("CREATE"), "{program}: {said}");

        // Nothing was done by asking.
        let mut held = jetstream.get_stream("orders_created").await.expect("it is there");
        assert_eq!(held.info().await.expect("it answers").state.messages, 1, "{program}");
        let streams: Vec<String> = jetstream.stream_names().try_collect().await.expect("it answers");
        assert_eq!(streams, ["orders_created"], "{program}: no other stream was made");

        let more = format!("{{ user: mended, password: p, {fix} }}");
        let mended = NatsServer::of(&program, &USERS.replace("{more}", &more));
        let made = chief(&mended).await.create_stream(stream("orders.created")).await;
        made.expect("a stream");
        patient.relays_to("nats", &nats_as("mended", &mended));
        patient.is_healthy();
    }
}

/// `blind` was a fault of the destination, and `mute` a broker that cannot be reached: a refused question is never answered.
#[tokio::test]
async fn rights_a_nats_user_lacks_were_taken_for_a_broker_that_is_away() {
    let _guard = together().await;
    for program in programs() {
        let mut patient = Patient::healthy().await;
        patient.subject = "orders.created".to_owned();
        let nats = NatsServer::of(&program, &USERS.replace("{more}", ""));
        let made = chief(&nats).await.create_stream(stream("orders.created")).await;
        made.expect("a stream");
        patient.relays_to("nats", &nats_as("least", &nats));
        patient.is_healthy();
        for (user, right) in [("blind", "$JS.API.STREAM.INFO.*"), ("mute", "$JS.API.STREAM.NAMES")] {
            patient.relays_to("nats", &nats_as(user, &nats));
            let report = check(&patient.site);
            let fix = report.fix("warning", "broker_rights");
            assert!(fix.contains(right), "{program}, {user}: {fix}");
            assert_eq!(report.codes(), ["broker_rights"], "{program}, {user}");
        }
    }
}

/// A hub, and a server that joins it by a leaf connection; each with a JetStream.
fn hub_and_leaf(program: &str, domains: [&str; 2]) -> (NatsServer, NatsServer) {
    let port = ports::free();
    let listen = format!("leafnodes {{ listen: \"127.0.0.1:{port}\" }}");
    let hub = NatsServer::in_domain(program, domains[0], &listen);
    let join = format!("leafnodes {{ remotes: [{{ url: \"nats-leaf://127.0.0.1:{port}\" }}] }}");
    (hub, NatsServer::in_domain(program, domains[1], &join))
}

async fn check_until(patient: &Patient, what: &str, is_so: impl Fn(&Report) -> bool) -> Report {
    eventually(what, Duration::from_secs(30), || async {
        let report = check(&patient.site);
        is_so(&report).then_some(report)
    })
    .await
}

/// Both acknowledge each message, so a second acknowledgement comes when nobody waits for it any more.
#[tokio::test]
async fn two_streams_that_take_one_subject_were_not_found() {
    let _guard = together().await;
    for program in programs() {
        let (hub, leaf) = hub_and_leaf(&program, ["HUB", "LEAF"]);
        let patient = Patient::before(&CLUSTER, &hub).await;
        let jetstream = leaf.jetstream().await;
        let rival = Stream {
            name: "rival".to_owned(),
            ..stream(&patient.subject)
        };
        jetstream.create_stream(&rival).await.expect("a second stream");
        let report = check_until(&patient, "both streams are seen", |report| {
            report.codes().contains(&"streams_overlap")
        })
        .await;
        report.fix("fault", "streams_overlap");
        let said = what(&report, "streams_overlap");
        assert!(
            said.contains("rival of domain LEAF") && said.contains(&patient.subject),
            "{program}: {said}"
        );

        let insert = format!(
            "insert into outbox_messages (topic, key, payload) select '{}', 'k' || g % 7, '1' from generate_series(1, 300) g",
            patient.subject
        );
        patient.session.run(&insert).await;
        let daemon = patient.site.start().await;
        eventually("all are relayed", Duration::from_secs(60), || async {
            let relayed = "select count(*) from outbox_messages where relayed_at is not null and attempt = 1";
            (patient.session.count(relayed).await == 300).then_some(())
        })
        .await;
        assert!(daemon.terminate(Duration::from_secs(30)).await.success());
        for (context, name) in [
            (hub.jetstream().await, patient.subject.replace('.', "_")),
            (jetstream.clone(), "rival".to_owned()),
        ] {
            let mut held = context.get_stream(&name).await.expect("it is there");
            assert_eq!(
                held.info().await.expect("it answers").state.messages,
                300,
                "{program}: {name}"
            );
        }

        let elsewhere = Stream {
            subjects: vec!["elsewhere".to_owned()],
            ..rival
        };
        jetstream.update_stream(&elsewhere).await.expect("it changes");
        patient.is_healthy();
    }
}

#[tokio::test]
async fn a_second_jetstream_that_nobody_can_ask_is_said() {
    let _guard = together().await;
    for program in programs() {
        let (hub, _leaf) = hub_and_leaf(&program, ["", ""]);
        let patient = Patient::before(&CLUSTER, &hub).await;
        let report = check_until(&patient, "the other server is seen", |report| {
            !report.codes().is_empty()
        })
        .await;
        let fix = report.fix("warning", "not_examined");
        assert!(fix.contains("domain"), "{program}: {fix}");
    }
}

/// Such streams came with nats-server 2.12. What the finding says is true: everything acknowledged is gone.
#[tokio::test]
async fn a_stream_that_acknowledges_before_it_writes_was_not_found() {
    let _guard = together().await;
    if programs().len() < 2 {
        return;
    }
    let nats = NatsServer::of(&current(), "");
    let patient = Patient::before(&CLUSTER, &nats).await;
    patient.is_healthy();
    let jetstream = nats.jetstream().await;
    let config = Stream {
        persist_mode: Some(PersistenceMode::Async),
        ..stream(&patient.subject)
    };
    jetstream.delete_stream(&config.name).await.expect("it was there");
    jetstream.create_stream(&config).await.expect("a stream");
    let report = check(&patient.site);
    report.fix("fault", "stream_async");
    assert_eq!(report.codes(), ["stream_async"]);
    for _ in 0..30 {
        let sent = jetstream
            .publish(patient.subject.clone(), "1".into())
            .await
            .expect("sent");
        sent.await.expect("acknowledged");
    }
    nats.kill();
    nats.up();
    let mut held = nats
        .jetstream()
        .await
        .get_stream(&config.name)
        .await
        .expect("it is there");
    let messages = held.info().await.expect("it answers").state.messages;
    assert!(messages < 30, "the finding claims too much: {messages} of 30 are there");
}

/// Each right that is missing, and everything else of that check goes on: it ended with the first refusal.
#[tokio::test]
async fn rights_a_redis_user_lacks_ended_the_look_at_it() {
    let _guard = together().await;
    let patient = Patient::healthy().await;
    let redis = RedisServer::start();
    let client = redis::Client::open(redis.url()).expect("its URL");
    let mut connection = client.get_connection().expect("it runs");
    let mut run = |words: &str| {
        let mut words = words.split_whitespace().map(|word| word.trim_matches('\''));
        let mut command = redis::cmd(words.next().expect("a command"));
        words.for_each(|word| {
            command.arg(word);
        });
        command.exec(&mut connection).expect("allowed");
    };
    let whole = format!(
        "acl setuser outbox reset on >p ~{} +xadd +role +type +info +config|get",
        patient.subject
    );
    run(&whole);
    patient.relays_to(
        "redis",
        &format!("url = \"redis://outbox:p@127.0.0.1:{}\"", redis.port()),
    );
    patient.is_healthy();
    for (right, level, code) in [
        ("info", "warning", "broker_rights"),
        ("role", "warning", "broker_rights"),
        ("type", "warning", "broker_rights"),
        ("xadd", "fault", "destination"),
    ] {
        run(&format!("acl setuser outbox -{right}"));
        let report = check(&patient.site);
        let fix = report.fix(level, code);
        assert_eq!(report.codes(), [code], "{right}: {:#?}", report.findings);
        assert!(fix.contains(&format!("+{right}")), "{right}: {fix}");
        run(&fix.replace("redis-cli", "").replace("NAME", "outbox"));
        patient.is_healthy();
    }
    // It matters only where nothing else is written.
    run("acl setuser outbox -config|get");
    patient.is_healthy();
    run("config set appendonly no");
    let fix = check(&patient.site).fix("warning", "broker_rights");
    run(&fix.replace("redis-cli", "").replace("NAME", "outbox"));
    patient.is_healthy();
    run("acl setuser outbox resetkeys ~other");
    let report = check(&patient.site);
    let fix = report.fix("fault", "destination");
    assert_eq!(report.codes(), ["destination"]);
    run(&fix.replace("redis-cli", "").replace("NAME", "outbox"));
    patient.is_healthy();
}

const KAFKA_PASSWORD: &str = "p";

/// A broker whose user `outbox` may do nothing until it is told.
fn guarded_kafka(sasl: u16) -> KafkaServer {
    let authorizer = "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
                      super.users=User:ANONYMOUS\n";
    KafkaServer::with_login(sasl, KAFKA_PASSWORD, authorizer)
}

/// Operations of Kafka's rules of access (its `AclOperation`).
const WRITE: u8 = 4;
const DESCRIBE_CONFIGS: u8 = 10;

/// Allows `outbox` one operation on `topic`: CreateAcls, version 1 (Kafka's protocol guide), which no client of ours knows.
fn allow(kafka: &KafkaServer, topic: &str, operation: u8) {
    let mut body = Vec::new();
    let text = |body: &mut Vec<u8>, text: &str| {
        let length = u16::try_from(text.len()).expect("a short text");
        body.extend(length.to_be_bytes());
        body.extend(text.as_bytes());
    };
    // Key 30, version 1, correlation 7, a client's name; one rule: a topic, its name, literally.
    body.extend([0, 30, 0, 1, 0, 0, 0, 7]);
    text(&mut body, "tests");
    body.extend([0, 0, 0, 1, 2]);
    text(&mut body, topic);
    body.push(3);
    text(&mut body, "User:outbox");
    text(&mut body, "*");
    // ... to be allowed.
    body.extend([operation, 3]);
    let mut stream = TcpStream::connect(kafka.brokers()).expect("it runs");
    let length = u32::try_from(body.len()).expect("a short request");
    stream.write_all(&length.to_be_bytes()).expect("it reads");
    stream.write_all(&body).expect("it reads");
    // Length, correlation, throttle time, one result: its code.
    let mut answer = [0; 18];
    stream.read_exact(&mut answer).expect("it answers");
    assert_eq!(answer[16..18], [0, 0], "no error");
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_a_kafka_user_lacks_are_named() {
    let _guard = together().await;
    let mut patient = Patient::healthy().await;
    patient.subject = patient.subject.replace('.', "-");
    let sasl = ports::free();
    let kafka = tokio::task::block_in_place(|| guarded_kafka(sasl));
    let topic = patient.subject.clone();
    kafka.create_topic(&topic, 1).await;
    let password = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&password, KAFKA_PASSWORD).expect("it is writable");
    patient.relays_to(
        "kafka",
        &format!(
            "brokers = \"127.0.0.1:{sasl}\"\nack_timeout = \"5s\"\nsasl_mechanism = \"PLAIN\"\nsasl_username = \"outbox\"\nsasl_password_file = {:?}",
            password.path()
        ),
    );
    let fix = check(&patient.site).fix("fault", "destination");
    assert!(fix.contains("kafka-acls.sh") && fix.contains("--producer"), "{fix}");
    allow(&kafka, &topic, WRITE);
    let report = check_until(&patient, "it may write", |report| {
        !report.codes().contains(&"destination")
    })
    .await;
    let fix = report.fix("warning", "broker_rights");
    assert!(fix.contains("DescribeConfigs"), "{fix}");
    assert_eq!(report.codes(), ["broker_rights"]);
    allow(&kafka, &topic, DESCRIBE_CONFIGS);
    check_until(&patient, "it may read the settings", |report| report.codes().is_empty()).await;
}
