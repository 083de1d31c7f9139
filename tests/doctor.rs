//! `outboxd check --connect`: each fault planted on real servers is found by its code and goes with what the finding says to
//! do; a healthy set-up has none.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::jetstream::stream::{Config as Stream, DiscardPolicy, RetentionPolicy, StorageType};
use serde_json::Value;

use crate::support::command::fits;
use crate::support::daemon::Site;
use crate::support::kafka::KafkaServer;
use crate::support::nats::NatsServer;
use crate::support::pgbouncer::PgBouncer;
use crate::support::postgres::{Cluster, Database, Session};
use crate::support::redis::RedisServer;
use crate::support::{eventually, together};

/// With fsync, as a healthy one is.
pub(crate) static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::own);

const AN_HOUR_AHEAD: &str = "language sql as 'select pg_catalog.clock_timestamp() + interval ''1 hour'''";

/// An installation on a database of its own, and a subject of its own on the shared nats-server.
pub(crate) struct Patient {
    pub(crate) database: Database,
    pub(crate) session: Session,
    pub(crate) site: Site,
    pub(crate) subject: String,
}

/// What a check found.
pub(crate) struct Report {
    pub(crate) code: Option<i32>,
    pub(crate) findings: Vec<Value>,
}

impl Report {
    /// The codes of all findings.
    pub(crate) fn codes(&self) -> Vec<&str> {
        self.findings
            .iter()
            .filter_map(|finding| finding["code"].as_str())
            .collect()
    }

    /// What to do about the finding of this code and level, which must be there and say everything.
    #[track_caller]
    pub(crate) fn fix(&self, level: &str, code: &str) -> String {
        let found = self.findings.iter().find(|finding| finding["code"] == code);
        let found = found.unwrap_or_else(|| panic!("{code} is not found: {:#?}", self.findings));
        assert_eq!(found["level"], level, "{found}");
        let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
        assert!(!text("what").is_empty() && !text("why").is_empty(), "{found}");
        assert_eq!(self.code, Some(i32::from(self.has_fault())), "{found}");
        text("fix")
    }

    fn has_fault(&self) -> bool {
        self.findings.iter().any(|finding| finding["level"] == "fault")
    }
}

pub(crate) fn check(site: &Site) -> Report {
    let output = site.outboxd(&["check", "--connect", "--json"]);
    let said = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(&said)
        .unwrap_or_else(|error| panic!("{error}: {said}{}", String::from_utf8_lossy(&output.stderr)));
    Report {
        code: output.status.code(),
        findings: report["findings"].as_array().expect("a list").clone(),
    }
}

/// A stream for `subject`.
pub(crate) fn stream(subject: &str) -> Stream {
    Stream {
        name: subject.replace('.', "_"),
        subjects: vec![subject.to_owned()],
        storage: StorageType::File,
        ..Stream::default()
    }
}

/// One transport, `kind` with `keys`, and a route that sends `subject` there.
pub(crate) fn sections(kind: &str, keys: &str, subject: &str) -> String {
    format!("[transports.main.{kind}]\n{keys}\n[[routes]]\ntopic = \"{subject}\"\ntransport = \"main\"\n")
}

impl Patient {
    pub(crate) async fn healthy() -> Self {
        Self::on(&CLUSTER).await
    }

    async fn on(cluster: &Cluster) -> Self {
        Self::before(cluster, NatsServer::shared()).await
    }

    /// One that relays to `nats`.
    pub(crate) async fn before(cluster: &Cluster, nats: &NatsServer) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let subject = format!("doctor.{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let database = cluster.database().await;
        let keys = format!("url = \"{}\"", nats.url());
        let site = Site::new(&database, &sections("nats", &keys, &subject));
        site.migrate();
        let jetstream = nats.jetstream().await;
        jetstream.create_stream(stream(&subject)).await.expect("a new stream");
        Self {
            session: database.connect().await,
            database,
            site,
            subject,
        }
    }

    /// Runs statements one by one, as some must not be in a transaction.
    async fn run(&self, statements: &str) {
        for statement in statements.split("; ") {
            self.session.run(statement).await;
        }
    }

    /// Plants, finds, does what the finding says, finds no more.
    async fn heals(&self, level: &str, code: &str, plant: &str) {
        self.session.run(plant).await;
        let fix = check(&self.site).fix(level, code);
        self.run(&fix).await;
        let after = check(&self.site);
        assert!(
            !after.codes().contains(&code),
            "{code} stays after {fix}: {:#?}",
            after.findings
        );
    }

    /// Plants, finds, undoes it in the way given.
    async fn finds(&self, level: &str, code: &str, plant: &str, undo: &str) {
        self.session.run(plant).await;
        check(&self.site).fix(level, code);
        self.run(undo).await;
    }

    /// Puts a function of this body in the place of the server's clock, for this database.
    async fn trick(&self, body: &str) {
        let name = &self.database.name;
        let statements = format!(
            "create schema trick; grant usage on schema trick to public;
             create function trick.clock_timestamp() returns timestamptz {body};
             alter database {name} set search_path = trick, pg_catalog, public"
        );
        self.session.run(&statements).await;
    }

    /// Relays to another broker instead: `kind` with `keys`.
    pub(crate) fn relays_to(&self, kind: &str, keys: &str) {
        let text = format!("{}{}", self.head(), sections(kind, keys, &self.subject));
        self.site.configure(&text);
    }

    /// The configuration before its transports.
    fn head(&self) -> String {
        let text = std::fs::read_to_string(self.site.config()).expect("a configuration");
        let (head, _) = text.split_once("[transports").expect("its sections");
        head.to_owned()
    }

    #[track_caller]
    pub(crate) fn is_healthy(&self) {
        let report = check(&self.site);
        assert_eq!(
            (report.code, report.codes()),
            (Some(0), vec![]),
            "{:#?}",
            report.findings
        );
    }
}

#[tokio::test]
async fn a_healthy_set_up_has_no_findings() {
    let _guard = together().await;
    let patient = Patient::healthy().await;
    let insert = format!(
        "insert into outbox_messages (topic, key, payload) select '{}', 'k', '1' from generate_series(1, 100)",
        patient.subject
    );
    patient.session.run(&insert).await;
    patient.is_healthy();
    let said = patient.site.succeed(&["check", "--connect"]);
    fits(&said);
    assert_eq!(said.lines().count(), 3, "{said}");
    assert!(
        said.contains("ok database") && said.contains("ok transports.main: nats answers, 1 destination"),
        "{said}"
    );
}

#[tokio::test]
async fn findings_fit_a_terminal() {
    let _guard = together().await;
    let patient = Patient::healthy().await;
    patient
        .session
        .run("drop index outbox_messages_waiting; alter sequence outbox_messages_seq_seq cache 20; drop trigger outboxd_wake on outbox_messages")
        .await;
    let said = patient.site.succeed(&["check", "--connect"]);
    fits(&said);
    for part in [
        "warning index_missing\n",
        "warning sequence_cache\n",
        "  why: ",
        "  do:  ",
    ] {
        assert!(said.contains(part), "{said}");
    }
}

/// What stops a start.
#[tokio::test]
async fn faults_of_the_schema_and_of_the_role() {
    let _guard = together().await;
    let patient = Patient::healthy().await;
    let undo = "grant update (relayed_at) on outbox_messages to outboxd_relay";
    let plant = "revoke update (relayed_at) on outbox_messages from outboxd_relay";
    patient.finds("fault", "grants", plant, undo).await;
    let plant = "alter table outbox_messages enable row level security";
    patient.heals("fault", "row_security", plant).await;
    patient
        .run("alter table outbox_messages disable row level security")
        .await;
    let plant = "update outboxd_migrations set checksum = 'another' || checksum where version = 1";
    let undo = "update outboxd_migrations set checksum = replace(checksum, 'another', '')";
    patient.finds("fault", "migrations", plant, undo).await;
    let plant = "alter table outbox_messages rename last_error to last_trouble";
    let undo = "alter table outbox_messages rename last_trouble to last_error";
    patient.finds("fault", "schema", plant, undo).await;
    let undo = "insert into outboxd_lanes values (63)";
    patient
        .finds("fault", "lanes", "delete from outboxd_lanes where lane = 63", undo)
        .await;
    let plant = "grant truncate on outbox_messages to tests_relay";
    let undo = "revoke truncate on outbox_messages from tests_relay";
    patient.finds("warning", "over_privileged", plant, undo).await;
    let plant = "alter table outbox_messages owner to tests_relay";
    let undo = "alter table outbox_messages owner to postgres";
    patient.finds("warning", "owner", plant, undo).await;
    patient.is_healthy();
}

#[tokio::test]
async fn faults_of_the_table() {
    let _guard = together().await;
    let patient = Patient::healthy().await;
    for (level, code, plant) in [
        (
            "fault",
            "sequence_behind",
            "insert into outbox_messages (seq, topic, payload) values (500, 'doctor', '1')",
        ),
        (
            "warning",
            "unlogged",
            "delete from outbox_messages; alter table outbox_messages set unlogged",
        ),
        (
            "warning",
            "key_missing",
            "alter table outbox_messages drop constraint outbox_messages_pkey",
        ),
        (
            "warning",
            "autovacuum_off",
            "alter table outbox_messages set (autovacuum_enabled = off)",
        ),
        (
            "warning",
            "autovacuum_late",
            "alter table outbox_messages reset (autovacuum_vacuum_scale_factor);
             update pg_class set reltuples = 5000000 where oid = 'outbox_messages'::regclass",
        ),
        (
            "warning",
            "sequence_cache",
            "alter sequence outbox_messages_seq_seq cache 20",
        ),
        (
            "warning",
            "index_invalid",
            "update pg_index set indisvalid = false where indexrelid = 'outbox_messages_pending'::regclass",
        ),
        (
            "warning",
            "index_differs",
            "drop index outbox_messages_failed; create index outbox_messages_failed on outbox_messages (failed_at)",
        ),
        (
            "warning",
            "wake_trigger",
            "alter table outbox_messages disable trigger outboxd_wake",
        ),
        (
            "warning",
            "wake_trigger",
            "drop trigger outboxd_wake on outbox_messages",
        ),
    ] {
        patient.heals(level, code, plant).await;
    }
    let undo = "create index outbox_messages_waiting on outbox_messages (available_at, seq) where relayed_at is null
                and failed_at is null and (attempt > 1 or replay > 0 or available_at > inserted_at)";
    patient
        .finds("warning", "index_missing", "drop index outbox_messages_waiting", undo)
        .await;
    let plant = "create function foreigner() returns trigger language plpgsql as 'begin return new; end';
                 create trigger foreigner before insert on outbox_messages for each row execute function foreigner()";
    let undo = "drop trigger foreigner on outbox_messages";
    patient.finds("warning", "foreign_trigger", plant, undo).await;
    patient.is_healthy();
}

/// Of a table that migrate did not make: which rows a first pass would delete, and which key decides.
#[tokio::test]
async fn what_retention_would_delete_and_which_key_says_so() {
    let _guard = together().await;
    let patient = Patient::healthy().await;
    let head = std::fs::read_to_string(patient.site.config()).expect("a configuration");
    let retention = |relayed: &str| {
        patient
            .site
            .configure(&format!("{head}\n[retention]\nrelayed = \"{relayed}\"\n"));
        patient.site.grant();
    };
    patient
        .session
        .run(
            "insert into outbox_messages (topic, payload, relayed_at) select 'old', '1', now() - g * interval '3 days'
             from generate_series(1, 5) g; alter table outbox_messages drop constraint outbox_messages_state",
        )
        .await;
    let off = check(&patient.site);
    assert!(
        off.fix("warning", "retention_off")
            .contains("retention.relayed = \"7days\"")
    );
    let what = off.findings[0]["what"].as_str().unwrap_or_default();
    assert!(what.contains("would delete 3 relayed rows older than 7days"), "{what}");
    retention("4d");
    let first = check(&patient.site);
    assert!(
        first
            .fix("warning", "retention_first_pass")
            .contains("retention.relayed = \"0s\"")
    );
    let what = first.findings[0]["what"].as_str().unwrap_or_default();
    assert_eq!(
        what,
        "retention.relayed = \"4days\": the first pass deletes 4 relayed rows older than 4days"
    );
    retention("0s");
    patient.is_healthy();
    // One that migrate made: as expected, and said.
    patient
        .session
        .run("alter table outbox_messages add constraint outbox_messages_state check (relayed_at is null or failed_at is null)")
        .await;
    patient.site.configure(&head);
    patient.site.grant();
    patient.is_healthy();
    let said = patient.site.succeed(&["check", "--connect"]);
    let line = "ok retention.relayed = \"7days\", by default: the next pass deletes 3 relayed rows older than 7days";
    assert!(said.contains(line), "{said}");
}

#[tokio::test]
async fn rows_that_cannot_be_sent_or_read() {
    let _guard = together().await;
    let patient = Patient::healthy().await;
    let plant =
        "alter table outbox_messages alter column payload drop not null, alter column inserted_at drop not null";
    patient.heals("warning", "nullable_column", plant).await;
    let plant = "insert into outbox_messages (seq, topic, payload, failed_at, last_error)
                 values (7, 'doctor', '1', now(), 'key, payload cannot be read: missing chunk number 0')";
    let undo = "delete from outbox_messages where seq = 7";
    patient.finds("warning", "unreadable_rows", plant, undo).await;
    patient.is_healthy();
}

#[tokio::test]
async fn a_swollen_table_and_one_without_statistics() {
    let _guard = together().await;
    let patient = Patient::healthy().await;
    patient
        .session
        .run(
            "alter table outbox_messages set (autovacuum_enabled = off);
             insert into outbox_messages (topic, payload) select 'doctor', '1' from generate_series(1, 101000);
             delete from outbox_messages",
        )
        .await;
    let found = eventually("the dead rows are counted", Duration::from_secs(20), || async {
        let report = check(&patient.site);
        report.codes().contains(&"dead_rows").then_some(report)
    })
    .await;
    found.fix("warning", "dead_rows");
    found.fix("warning", "statistics");
}

#[tokio::test]
async fn a_wrong_clock_and_transactions_open_for_an_hour() {
    let _guard = together().await;
    let patient = Patient::healthy().await;
    let (open, idle) = (patient.database.connect().await, patient.database.connect().await);
    idle.run("begin; select 1 from outbox_messages").await;
    open.run("set application_name = 'report'; begin").await;
    patient.trick(AN_HOUR_AHEAD).await;
    let sleeping = open.run("select pg_sleep(60)");
    let report = tokio::select! {
        report = async {
            let started = "select count(*) from pg_stat_activity where application_name = 'report' and state = 'active'";
            eventually("it runs", Duration::from_secs(10), || async {
                (patient.session.count(started).await == 1).then_some(())
            })
            .await;
            check(&patient.site)
        } => report,
        () = sleeping => panic!("the check took a minute"),
    };
    report.fix("warning", "clock_skew");
    let fix = report.fix("warning", "long_transaction");
    assert!(fix.contains("pg_terminate_backend("), "{fix}");
    report.fix("warning", "idle_in_transaction");
}

#[tokio::test]
async fn a_database_that_takes_no_writes_or_no_connections() {
    let _guard = together().await;
    let patient = Patient::healthy().await;
    let name = &patient.database.name;
    let plant = format!("alter database {name} set default_transaction_read_only = on");
    patient.session.run(&plant).await;
    let fix = check(&patient.site).fix("fault", "read_only");
    patient
        .session
        .run(&format!("set default_transaction_read_only = off; {fix}"))
        .await;
    let plant = format!("alter database {name} connection limit 3");
    let undo = format!("alter database {name} connection limit -1");
    patient.finds("warning", "connections", &plant, &undo).await;
    patient.is_healthy();
}

/// Hibernate takes a block of numbers at a time; a plain `alter sequence` would give numbers out twice then.
#[tokio::test]
async fn a_sequence_whose_numbers_are_taken_in_blocks() {
    let _guard = together().await;
    let patient = Patient::healthy().await;
    let plant = "alter sequence outbox_messages_seq_seq increment 50";
    let undo = "alter sequence outbox_messages_seq_seq increment 1";
    patient.finds("warning", "sequence_increment", plant, undo).await;
    patient.session.run(plant).await;
    let fix = check(&patient.site).fix("warning", "sequence_increment");
    assert!(
        fix.contains("allocationSize = 1") && fix.ends_with(" increment 1"),
        "{fix}"
    );
}

#[tokio::test]
async fn a_look_that_fails_is_said_and_the_others_go_on() {
    let _guard = together().await;
    let patient = Patient::healthy().await;
    patient
        .session
        .run("alter sequence outbox_messages_seq_seq cache 20")
        .await;
    let body = "language plpgsql as 'begin raise exception ''no clock''; end'";
    patient.trick(body).await;
    let report = check(&patient.site);
    report.fix("warning", "not_examined");
    report.fix("warning", "sequence_cache");
    let said = report
        .findings
        .iter()
        .any(|finding| finding["what"].to_string().contains("function clock_timestamp (P0001)"));
    assert!(said, "{:#?}", report.findings);
}

#[tokio::test]
async fn prepared_transactions_and_a_server_without_fsync() {
    let _guard = together().await;
    let patient = Patient::on(Cluster::two_phase()).await;
    let name = &patient.database.name;
    patient
        .session
        .run(&format!(
            "begin; insert into outbox_messages (topic, payload) values ('doctor', '1'); prepare transaction '{name}'"
        ))
        .await;
    patient.trick(AN_HOUR_AHEAD).await;
    let report = check(&patient.site);
    report.fix("warning", "prepared_transaction");
    report.fix("warning", "durability_off");
    report.fix("warning", "wake_silent");
    patient.session.run(&format!("rollback prepared '{name}'")).await;
}

#[tokio::test]
async fn slots_that_hold_wal_and_snapshots() {
    let _guard = together().await;
    let cluster = Cluster::own();
    cluster.wait();
    cluster.stop_immediately();
    cluster.configure(&["wal_level=logical"]);
    cluster.start();
    cluster.wait();
    let patient = Patient::on(&cluster).await;
    patient
        .session
        .run(
            "create table burnt (n integer);
             select pg_create_physical_replication_slot('standby', true)",
        )
        .await;
    for _ in 0..17 {
        patient.session.run("insert into burnt values (1)").await;
        patient.session.run("select pg_switch_wal()").await;
    }
    let fix = check(&patient.site).fix("warning", "slot_wal");
    let (_, drop_it) = fix.split_once("or: ").expect("what to do ends with the statement");
    patient.session.run(drop_it).await;
    patient
        .session
        .run("select pg_create_logical_replication_slot('stream', 'test_decoding')")
        .await;
    let burn = "do $$ begin for i in 1..50100 loop
                    begin insert into burnt values (i); exception when others then null; end;
                end loop; end $$";
    patient.session.run(burn).await;
    let fix = check(&patient.site).fix("warning", "slot_snapshot");
    let (_, drop_it) = fix.split_once("or: ").expect("what to do ends with the statement");
    patient.session.run(drop_it).await;
}

#[tokio::test]
async fn a_pooler_that_swallows_notifications() {
    let _guard = together().await;
    let patient = Patient::healthy().await;
    let bouncer = PgBouncer::before(CLUSTER.port(), 5);
    let through = bouncer.to(&patient.database);
    let text = std::fs::read_to_string(patient.site.config()).expect("a configuration");
    patient
        .site
        .configure(&text.replace(&patient.database.url(), &through.url()));
    check(&patient.site).fix("warning", "listen");
    let both = format!("{}\"\nlisten_url = \"{}", through.url(), patient.database.url());
    patient.site.configure(&text.replace(&patient.database.url(), &both));
    let codes = check(&patient.site);
    assert!(!codes.codes().contains(&"listen"), "{:?}", codes.findings);
}

#[tokio::test]
async fn faults_of_jetstream() {
    let _guard = together().await;
    for nats in NatsServer::every_version() {
        have_faults(nats).await;
    }
}

async fn have_faults(nats: &NatsServer) {
    let patient = Patient::before(&CLUSTER, nats).await;
    let jetstream = nats.jetstream().await;
    let base = stream(&patient.subject);
    let size = format!(
        "insert into outbox_messages (topic, payload) values ('{}', to_jsonb(repeat('x', 2000)))",
        patient.subject
    );
    patient.session.run(&size).await;
    let cases: [(&str, &str, Stream); 6] = [
        (
            "warning",
            "duplicate_window",
            Stream {
                duplicate_window: Duration::from_secs(10),
                ..base.clone()
            },
        ),
        (
            "fault",
            "stream_no_ack",
            Stream {
                no_ack: true,
                ..base.clone()
            },
        ),
        (
            "warning",
            "message_size",
            Stream {
                max_message_size: 1024,
                ..base.clone()
            },
        ),
        (
            "warning",
            "stream_memory",
            Stream {
                storage: StorageType::Memory,
                ..base.clone()
            },
        ),
        (
            "warning",
            "stream_discards",
            Stream {
                retention: RetentionPolicy::WorkQueue,
                discard: DiscardPolicy::Old,
                ..base.clone()
            },
        ),
        ("fault", "stream_sealed", base.clone()),
    ];
    for (level, code, config) in cases {
        jetstream.delete_stream(&base.name).await.expect("it was there");
        // What is deleted may be on the disk still.
        eventually("there is a stream", Duration::from_secs(10), || async {
            jetstream.create_stream(&config).await.ok().map(drop)
        })
        .await;
        if code == "stream_sealed" {
            let sealed = Stream { sealed: true, ..config };
            jetstream.update_stream(&sealed).await.expect("it can be sealed");
        }
        let report = check(&patient.site);
        report.fix(level, code);
        assert_eq!(report.codes(), [code], "nothing else is wrong");
    }
}

#[tokio::test]
async fn messages_that_go_nowhere_and_a_broker_that_is_away() {
    let _guard = together().await;
    let patient = Patient::healthy().await;
    let jetstream = NatsServer::shared().jetstream().await;
    let base = stream(&patient.subject);
    jetstream.delete_stream(&base.name).await.expect("it was there");
    check(&patient.site).fix("fault", "destination");
    jetstream.create_stream(&base).await.expect("a stream");
    patient.is_healthy();
    patient
        .session
        .run("insert into outbox_messages (topic, payload) values ('nowhere', '1')")
        .await;
    check(&patient.site).fix("warning", "no_destination");
    let text = std::fs::read_to_string(patient.site.config()).expect("a configuration");
    let away = text.replace(&NatsServer::shared().url(), "nats://127.0.0.1:1");
    patient
        .site
        .configure(&away.replace("nats://127.0.0.1:1\"", "nats://127.0.0.1:1\"\nack_timeout = \"1s\""));
    check(&patient.site).fix("fault", "broker_unreachable");
}

#[tokio::test]
async fn faults_of_kafka() {
    let _guard = together().await;
    let patient = Patient::healthy().await;
    let kafka = KafkaServer::shared();
    let topic = patient.subject.replace('.', "-");
    let head = patient.head();
    let brokers = kafka.brokers();
    patient.site.configure(&format!(
        "{head}[transports.main.kafka]\nbrokers = \"{brokers}\"\n[[routes]]\ntopic = \"*\"\ntransport = \"main\"\ndestination = \"{topic}\"\n"
    ));
    check(&patient.site).fix("fault", "destination");
    kafka.create_topic(&topic, 1).await;
    eventually("the topic is known", Duration::from_secs(20), || async {
        check(&patient.site).codes().is_empty().then_some(())
    })
    .await;
    patient
        .session
        .run("insert into outbox_messages (topic, payload) values ('doctor', to_jsonb(repeat('x', 2000)))")
        .await;
    for (code, key, value, healthy) in [
        ("min_insync_replicas", "min.insync.replicas", "2", "1"),
        ("topic_compacted", "cleanup.policy", "compact", "delete"),
        ("message_size", "max.message.bytes", "1500", "1048588"),
    ] {
        kafka.alter_topic(&topic, key, value).await;
        let report = eventually("the broker says it", Duration::from_secs(20), || async {
            let report = check(&patient.site);
            report.codes().contains(&code).then_some(report)
        })
        .await;
        let fix = report.fix("warning", code);
        assert!(fix.contains("kafka-configs.sh") && fix.contains(key), "{fix}");
        kafka.alter_topic(&topic, key, healthy).await;
    }
}

#[tokio::test]
async fn faults_of_redis() {
    let _guard = together().await;
    let patient = Patient::healthy().await;
    let redis = RedisServer::start();
    let head = patient.head();
    let url = redis.url();
    patient.site.configure(&format!(
        "{head}[transports.main.redis]\nurl = \"{url}\"\n[[routes]]\ntopic = \"orders\"\ntransport = \"main\"\n"
    ));
    patient.is_healthy();
    let client = redis::Client::open(url).expect("its URL");
    let mut connection = client.get_connection().expect("it runs");
    let mut set = |name: &str, value: &str| {
        let mut command = redis::cmd("CONFIG");
        command
            .arg("SET")
            .arg(name)
            .arg(value)
            .exec(&mut connection)
            .expect("allowed");
    };
    set("maxmemory", "100mb");
    set("maxmemory-policy", "allkeys-lru");
    check(&patient.site).fix("fault", "redis_evicts");
    set("maxmemory-policy", "noeviction");
    set("appendonly", "no");
    set("save", "");
    check(&patient.site).fix("warning", "redis_not_persistent");
    set("appendonly", "yes");
    redis::cmd("SET")
        .arg("orders")
        .arg("1")
        .exec(&mut connection)
        .expect("allowed");
    check(&patient.site).fix("fault", "destination");
    redis::cmd("DEL").arg("orders").exec(&mut connection).expect("allowed");
    patient.is_healthy();
}
