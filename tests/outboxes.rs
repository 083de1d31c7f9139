//! Several outboxes in one schema: each has lanes, instances, pauses, failures and history of its own, and a table that was never
//! made an outbox is refused.

use std::collections::BTreeSet;
use std::time::Duration;

use outboxd::store::postgres::link::sql::Names;
use outboxd::store::postgres::schema::migrate::{MIGRATIONS, PayloadType, migrate, script};
use uuid::Uuid;

use crate::migrate::{line, open};
use crate::support::broker::{Broker, Kind};
use crate::support::daemon::{Daemon, Site};
use crate::support::postgres::{self, Cluster, Session, TestDatabase};
use crate::support::{eventually, together};

/// Both outboxes have messages of both.
const TOPICS: [&str; 2] = ["orders", "bills"];

/// Two installations for one table of a schema, called alike in both outboxes: a host has one name.
fn pair(database: &postgres::Database, names: [&str; 2], rest: &str) -> [Site; 2] {
    names.map(|name| {
        let site = Site::with_lease(database, "ttl = \"3s\"\n", rest);
        let text = std::fs::read_to_string(site.config()).unwrap();
        site.configure(&text.replace(&site.instance(), name));
        site
    })
}

async fn load(session: &Session, tables: &[&str], rounds: usize) {
    for round in 0..rounds {
        for table in tables {
            session
                .run(&format!(
                    "insert into {table} (topic, key, payload)
                     select case when g % 2 = 0 then 'orders' else 'bills' end, 'k' || g % 7, to_jsonb({round} * 100 + g)
                     from generate_series(1, 50) g"
                ))
                .await;
        }
    }
}

async fn drained(session: &Session, table: &str, but: &str) {
    let pending =
        format!("select count(*) from {table} where relayed_at is null and failed_at is null and topic <> '{but}'");
    eventually(&format!("{table} is relayed"), Duration::from_secs(60), || async {
        (session.count(&pending).await == 0).then_some(())
    })
    .await;
}

fn status(site: &Site) -> serde_json::Value {
    serde_json::from_str(&site.succeed(&["status", "--json"])).unwrap()
}

async fn each_shows_its_own(first: &Site, second: &Site, session: &Session) {
    let (one, two) = (status(first), status(second));
    for (status, held, failed) in [(&one, 0, 0), (&two, 500, 1)] {
        assert_eq!(status["pending"]["held"], held, "{status}");
        assert_eq!(status["pending"]["due"], 0, "{status}");
        assert_eq!(status["failed"], failed, "{status}");
        assert_eq!(status["instances"].as_array().unwrap().len(), 2, "{status}");
        assert_eq!(status["lanes"].as_array().unwrap().len(), 64, "{status}");
    }
    assert_eq!(one["paused_topics"].as_array().unwrap().len(), 0);
    assert_eq!(two["paused_topics"].as_array().unwrap().len(), 1);
    assert_eq!(
        session
            .count("select count(*) from outboxd_audit where outbox = 'Bills out'")
            .await,
        1
    );
    assert_eq!(session.count("select count(*) from outboxd_audit").await, 1);
    assert_eq!(
        session
            .count("select count(*) from outboxd_attempts where outbox = 'Bills out'")
            .await,
        1
    );
    assert_eq!(session.count("select count(*) from outboxd_attempts").await, 1);
}

async fn each_arrived_once(session: &Session, broker: &Broker) {
    let rows = session
        .query(
            "select id from outbox_messages union all select id from \"Bills out\" where failed_at is null",
            &[],
        )
        .await
        .unwrap();
    let sent: BTreeSet<Uuid> = rows.iter().map(|row| row.get(0)).collect();
    let arrivals = broker.arrivals(&TOPICS).await;
    assert_eq!(arrivals.len(), 2_500, "each once");
    assert_eq!(arrivals.iter().map(|arrival| arrival.id).collect::<BTreeSet<_>>(), sent);
    assert_eq!(
        session.count("select count(*) from outboxd_instances").await,
        0,
        "all have left"
    );
}

#[tokio::test]
async fn two_outboxes_in_one_schema_relay_everything_and_nothing_of_each_other() {
    let _guard = together().await;
    let broker = Broker::start(Kind::Nats);
    broker.prepare(&TOPICS).await;
    let database = Cluster::shared().database().await;
    let transport = broker.section("main");
    let unique = Uuid::new_v4().simple().to_string();
    let instances = [format!("a-{unique}"), format!("b-{unique}")];
    let instances = [&*instances[0], &*instances[1]];
    let first = pair(&database, instances, &transport);
    let second = pair(
        &database,
        instances,
        &format!("{transport}[outbox]\ntable = \"Bills out\"\n"),
    );
    first[0].migrate();
    let session = database.connect().await;
    let tables = ["outbox_messages", "\"Bills out\""];
    let mut daemons: Vec<Daemon> = Vec::new();
    for site in &first {
        daemons.push(site.start().await);
    }
    // The keys of the service tables change under daemons that are at work.
    load(&session, &tables[..1], 5).await;
    second[0].migrate();
    load(&session, &tables[..1], 5).await;
    second[0].succeed(&["pause", "orders"]);
    for site in &second {
        daemons.push(site.start().await);
    }
    load(&session, &tables, 20).await;
    session
        .run("insert into \"Bills out\" (topic, payload, headers) values ('bills', '{}', '[]')")
        .await;
    drained(&session, tables[0], "").await;
    drained(&session, tables[1], "orders").await;
    eventually("lanes are even", Duration::from_secs(20), || async {
        let even = "select count(*) from (select from outboxd_lanes group by outbox, owner having count(*) = 32) even";
        (session.count(even).await == 4).then_some(())
    })
    .await;

    each_shows_its_own(&first[0], &second[0], &session).await;
    first[0].succeed(&["resume", "--all"]);
    assert_eq!(
        session.count("select count(*) from outboxd_paused").await,
        1,
        "the other's pause stays"
    );
    second[1].succeed(&["resume", "--all"]);
    drained(&session, tables[1], "").await;
    for daemon in daemons {
        assert!(daemon.terminate(Duration::from_secs(30)).await.success());
    }
    each_arrived_once(&session, &broker).await;
}

const LONG: &str = "orders_of_the_department_of_everything_that_is_sold_somewhere_";

fn outboxes() -> Vec<Names> {
    let named = |table: &str, lanes| Names::new("public", table, lanes);
    vec![
        named("outbox_messages", 8),
        named("outbox", 4),
        named("outboxd", 2),
        named("It's \"odd\" ünd 50%", 3),
        named(&format!("{LONG}1"), 5),
        named(&format!("{LONG}2"), 6),
    ]
}

#[tokio::test]
async fn every_outbox_of_a_schema_has_tables_functions_and_indexes_of_its_own() {
    let (by_tool, by_hand) = (TestDatabase::create(), TestDatabase::create());
    let database = open(&by_tool);
    for names in outboxes() {
        let applied = migrate(&database, &names, PayloadType::Jsonb).await.unwrap();
        assert_eq!(applied, MIGRATIONS.map(|file| file.name), "{}", names.table());
    }
    for names in outboxes() {
        let applied = migrate(&database, &names, PayloadType::Jsonb).await.unwrap();
        assert!(applied.is_empty(), "{applied:?}");
        by_hand.psql(&script(&names, PayloadType::Jsonb));
    }
    let before = by_hand.dump();
    for names in outboxes().iter().rev() {
        by_hand.psql(&script(names, PayloadType::Jsonb));
    }
    assert_eq!(by_hand.dump(), before, "every file can be run again on its own result");
    assert_eq!(by_tool.dump(), before);
    let lanes = "select outbox, count(*) from outboxd_lanes group by 1 order by 2";
    assert_eq!(by_tool.psql(lanes), by_hand.psql(lanes));
    assert_eq!(
        by_tool.psql("select count(*) from outboxd_lanes"),
        (8 + 4 + 2 + 3 + 5 + 6).to_string()
    );

    let mut channels = BTreeSet::new();
    for names in outboxes() {
        let id = by_hand.psql(&names.fill("select {enqueue}('t', '{}')"));
        let there = names.fill("select count(*) from {messages} where id = '") + &id + "'";
        assert_eq!(by_hand.psql(&there), "1", "{}", names.table());
        let heard = by_hand
            .psql(&names.fill("listen {channel_name}; insert into {messages} (topic, payload) values ('t', '{}')"));
        assert!(
            heard.contains("Asynchronous notification"),
            "{}: {heard}",
            names.table()
        );
        assert!(channels.insert(names.channel()));
        let indexes = names.fill("select count(*) from pg_indexes where tablename = {table_text}");
        assert_eq!(by_hand.psql(&indexes), "5", "{}", names.table());
    }
    // The first one's own name goes on to mean the first one.
    by_hand.psql("select outbox_enqueue('t', '{}')");
    assert_eq!(by_hand.psql("select count(*) from outbox_messages"), "3");
}

/// What a version before 0.3 does all the time.
const OLD_RENEWAL: &str = "insert into outboxd_instances as i (instance, session, machine, version, lanes, expires_at)
    values ('old', gen_random_uuid(), 'm', '0.2.0', 8, now() + interval '1 second')
    on conflict (instance) do update set expires_at = excluded.expires_at";

#[tokio::test]
async fn a_second_outbox_waits_for_daemons_that_know_only_one() {
    let scratch = TestDatabase::create();
    let database = open(&scratch);
    let [first, second] =
        [("outbox_messages", 8), ("other", 4)].map(|(table, lanes)| Names::new("public", table, lanes));
    migrate(&database, &first, PayloadType::Jsonb).await.unwrap();
    // Daemons of before work on with one outbox, and share its lanes with the second table if somebody made one by hand.
    scratch.psql(OLD_RENEWAL);
    scratch.psql(
        "insert into outboxd_paused (topic, who) values ('held', 'me') on conflict (topic) do nothing;
         insert into outboxd_audit (who, action, count) values ('me', 'pause', 1);
         create table other (like outbox_messages including all);
         insert into other (topic, payload) values ('t', '{}');
         insert into outbox_messages (topic, payload) values ('t', '{}');
         insert into outboxd_attempts (seq, message_id, attempt, class, code) select seq, id::text, 1, 'failed', 'a' from outbox_messages;
         insert into outboxd_attempts (seq, message_id, attempt, class, code) select seq, id::text, 1, 'failed', 'b' from other",
    );
    let refused = line(&migrate(&database, &second, PayloadType::Jsonb).await.unwrap_err());
    for part in ["instance old", "0.2.0", "outbox_messages", "migrate again"] {
        assert!(refused.contains(part), "{refused}");
    }
    scratch.psql(OLD_RENEWAL);
    scratch.psql("update outboxd_instances set expires_at = now() - interval '1 second'");
    migrate(&database, &second, PayloadType::Jsonb).await.unwrap();
    let count = |what: &str| scratch.psql(&format!("select outbox, count(*) from {what} group by 1 order by 1"));
    assert_eq!(count("outboxd_lanes"), "other|4\noutbox_messages|8");
    assert_eq!(count("outboxd_paused"), "outbox_messages|1");
    assert_eq!(count("outboxd_audit"), "outbox_messages|1");
    assert_eq!(
        scratch.psql("select outbox, code from outboxd_attempts order by 1"),
        "other|b\noutbox_messages|a"
    );
    let trigger =
        "select tgfoid::regproc from pg_trigger where tgrelid = 'other'::regclass and tgname = 'outboxd_wake'";
    assert_eq!(scratch.psql(trigger), "other_wake");
    // From now on they find out by themselves.
    let (ok, _, _) = scratch.try_psql(OLD_RENEWAL);
    assert!(!ok);
}

#[tokio::test]
async fn names_of_the_service_tables_are_refused() {
    let scratch = TestDatabase::create();
    let database = open(&scratch);
    for table in ["outboxd_lanes", "outboxd_migrations", "outboxd_audit_id_seq"] {
        let names = Names::new("public", table, 8);
        let refused = line(&migrate(&database, &names, PayloadType::Jsonb).await.unwrap_err());
        assert!(refused.starts_with("outbox.table: "), "{refused}");
    }
    migrate(&database, &Names::new("public", "a", 8), PayloadType::Jsonb)
        .await
        .unwrap();
    let refused = migrate(&database, &Names::new("public", "a_pending", 8), PayloadType::Jsonb).await;
    let refused = line(&refused.unwrap_err());
    assert!(refused.contains("is no table"), "{refused}");
}

/// What somebody made by hand beside an outbox would have no lanes of its own.
#[tokio::test]
async fn a_table_that_was_never_migrated_ends_the_start() {
    let _guard = together().await;
    let database = Cluster::shared().database().await;
    let first = Site::new(&database, "[transports.out.stdout]\n");
    first.migrate();
    let second = Site::new(&database, "[transports.out.stdout]\n[outbox]\ntable = \"second\"\n");
    let refused = second.outboxd(&["run"]);
    assert_eq!(refused.status.code(), Some(64));
    let session = database.connect().await;
    session
        .run("create table second (like outbox_messages including all); grant all on second to tests_relay")
        .await;
    let refused = second.outboxd(&["run"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(64), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    for part in ["outbox.table", "second", "outbox_messages", "outboxd migrate"] {
        assert!(said.contains(part), "{said}");
    }
    session.run("drop table second").await;
    second.migrate();
    let daemon = second.start().await;
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
    let other = Site::new(
        &database,
        "[transports.out.stdout]\n[outbox]\ntable = \"second\"\nlanes = 16\n",
    );
    let refused = other.outboxd(&["run"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        refused.status.code() == Some(64) && said.contains("set outbox.lanes = 64"),
        "{said}"
    );
}

/// Rights go with a table that is dropped, and come back with it.
#[tokio::test]
async fn a_dropped_outbox_is_made_again_with_its_grants() {
    let _guard = together().await;
    let database = Cluster::shared().database().await;
    let first = Site::new(&database, "[transports.out.stdout]\n");
    first.migrate();
    let second = Site::new(&database, "[transports.out.stdout]\n[outbox]\ntable = \"second\"\n");
    second.migrate();
    let session = database.connect().await;
    for (site, table) in [(&first, "outbox_messages"), (&second, "second")] {
        let rights = format!(
            "select count(*) from information_schema.column_privileges
             where table_name = '{table}' and grantee in ('outboxd_writer', 'outboxd_relay', 'outboxd_operator')"
        );
        let granted = session.count(&rights).await;
        assert!(granted > 0);
        session.run(&format!("drop table {table}")).await;
        let said = site.succeed(&["migrate"]);
        assert_eq!(said.trim_end(), format!("made again: table public.{table}"));
        assert_eq!(session.count(&rights).await, granted, "{table}");
        assert!(site.succeed(&["migrate"]).contains("nothing to do"));
        let daemon = site.start().await;
        session
            .run(&format!("insert into {table} (topic, payload) values ('t', '{{}}')"))
            .await;
        drained(&session, table, "").await;
        assert!(daemon.terminate(Duration::from_secs(30)).await.success());
    }
}
