//! Migrations: what they make, that a DBA can run them by hand, and that they may meet a live or a hand-made table.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::time::Duration;

use outboxd::store::StoreError;
use outboxd::store::postgres::link::database::{ConnectOptions, Database};
use outboxd::store::postgres::link::sql::Names;
use outboxd::store::postgres::schema::migrate::{
    MIGRATIONS, MigrationState, PayloadType, gone, migrate, script, status,
};

use crate::support::postgres::TestDatabase;

pub(crate) fn open(database: &TestDatabase) -> Database {
    Database::new(&ConnectOptions {
        url: database.url.clone(),
        pool_size: 2,
        prepared_statements: true,
        application: "outboxd/test".into(),
        statement_timeout: Duration::from_secs(10),
    })
    .unwrap()
}

fn names() -> Names {
    Names::new("public", "outbox_messages", 8)
}

async fn migrated(payload: PayloadType) -> (TestDatabase, Database) {
    let scratch = TestDatabase::create();
    let database = open(&scratch);
    migrate(&database, &names(), payload).await.unwrap();
    (scratch, database)
}

pub(crate) fn line(error: &StoreError) -> String {
    let StoreError::Misconfigured(line) = error else {
        panic!("{error:?}")
    };
    assert!(!line.contains('\n'), "{line}");
    line.clone()
}

#[tokio::test]
async fn a_new_database_gets_everything_once() {
    let scratch = TestDatabase::create();
    let database = open(&scratch);
    let applied = migrate(&database, &names(), PayloadType::Jsonb).await.unwrap();
    assert_eq!(applied, MIGRATIONS.map(|file| file.name));
    assert!(
        migrate(&database, &names(), PayloadType::Jsonb)
            .await
            .unwrap()
            .is_empty()
    );
    let list = status(&database, &names()).await.unwrap();
    assert!(
        list.iter()
            .all(|file| file.state == MigrationState::Applied && file.applied_at.is_some())
    );
    assert_eq!(
        scratch.psql("select count(*), min(lane), max(lane), min(epoch) from outboxd_lanes"),
        "8|0|7|0"
    );
}

#[tokio::test]
async fn what_a_dba_runs_by_hand_gives_the_same_database() {
    let (by_tool, _) = migrated(PayloadType::Jsonb).await;
    let by_hand = TestDatabase::create();
    let text = script(&names(), PayloadType::Jsonb);
    by_hand.psql(&text);
    by_hand.psql(&text);
    assert_eq!(by_tool.dump(), by_hand.dump());
    let rows = "select version, name, checksum, outbox from outboxd_migrations order by 1";
    assert_eq!(by_tool.psql(rows), by_hand.psql(rows));
    assert!(
        migrate(&open(&by_hand), &names(), PayloadType::Jsonb)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_row_is_never_both_relayed_and_failed() {
    let (scratch, _) = migrated(PayloadType::Jsonb).await;
    let (ok, _, error) = scratch.try_psql(
        "insert into outbox_messages (topic, payload, relayed_at, failed_at) values ('t', '{}', now(), now())",
    );
    assert!(!ok && error.contains("outbox_messages_state"), "{error}");
}

#[tokio::test]
async fn the_partial_indexes_serve_the_conditions_of_the_statements() {
    let (scratch, _) = migrated(PayloadType::Jsonb).await;
    scratch.psql(
        "insert into outbox_messages (topic, payload, relayed_at) select 't', '{}', now() from generate_series(1, 20000);
         insert into outbox_messages (topic, payload, attempt) select 't', '{}', 1 + g % 2 from generate_series(1, 100) g;
         insert into outbox_messages (topic, payload, failed_at) select 't', '{}', now() from generate_series(1, 100);
         insert into outbox_messages (topic, payload, priority) select 't', '{}', 5 from generate_series(1, 10)",
    );
    scratch.psql("analyze outbox_messages");
    for (index, statement) in [
        (
            "outbox_messages_pending",
            "select m.seq from {messages} m where {pending} order by m.seq limit 10",
        ),
        (
            "outbox_messages_waiting",
            "select m.seq from {messages} m where {pending} and {waiting} order by m.available_at, m.seq limit 10",
        ),
        (
            "outbox_messages_failed",
            "select m.seq from {messages} m where m.failed_at is not null order by m.seq limit 10",
        ),
        (
            "outbox_messages_priority",
            "select m.seq from {messages} m where {pending} and m.priority > 0 order by m.priority desc, m.seq limit 10",
        ),
        (
            "outbox_messages_pkey",
            "select m.seq from {messages} m where m.seq > 5 order by m.seq limit 10",
        ),
    ] {
        let plan = scratch.psql(&format!("explain {}", names().fill(statement)));
        assert!(
            plan.contains(&format!("using {index} ")) && !plan.contains("Sort"),
            "{index}:\n{plan}"
        );
    }
}

/// Marking rows writes a second version of each; the primary key takes them in without another page.
#[tokio::test]
async fn the_primary_key_has_room_for_second_versions() {
    let (scratch, _database) = migrated(PayloadType::Jsonb).await;
    scratch.psql("insert into outbox_messages (topic, payload) select 't', '{}' from generate_series(1, 20000)");
    let pages = || -> u32 {
        let pages = scratch.psql("select pg_relation_size('outbox_messages_pkey') / 8192");
        pages.parse().expect("a number")
    };
    let before = pages();
    scratch.psql("update outbox_messages set relayed_at = now()");
    let after = pages();
    // The last one may be split.
    assert!(after <= before + 1, "{before} pages, then {after}");
}

#[tokio::test]
async fn concurrent_runs_come_one_after_the_other() {
    let scratch = TestDatabase::create();
    let (one, two, three) = (open(&scratch), open(&scratch), open(&scratch));
    let names = names();
    let run = |database| migrate(database, &names, PayloadType::Jsonb);
    let (one, two, three) = tokio::join!(run(&one), run(&two), run(&three));
    for result in [one, two, three] {
        result.unwrap();
    }
    assert_eq!(
        scratch.psql("select count(*) from outboxd_migrations"),
        MIGRATIONS.len().to_string()
    );
    assert_eq!(
        scratch.psql("select count(*) from pg_trigger where tgname = 'outboxd_wake'"),
        "1"
    );
}

#[tokio::test]
async fn a_changed_file_is_refused_by_its_name() {
    let (scratch, database) = migrated(PayloadType::Jsonb).await;
    scratch.psql("update outboxd_migrations set checksum = 'other' where version = 2");
    let error = migrate(&database, &names(), PayloadType::Jsonb).await.unwrap_err();
    assert!(line(&error).contains("0002_service_tables.sql was changed"), "{error}");
    assert_eq!(
        status(&database, &names()).await.unwrap()[1].state,
        MigrationState::Changed
    );
}

#[tokio::test]
async fn another_number_of_lanes_is_refused() {
    let (scratch, database) = migrated(PayloadType::Jsonb).await;
    let error = migrate(
        &database,
        &Names::new("public", "outbox_messages", 16),
        PayloadType::Jsonb,
    )
    .await
    .unwrap_err();
    assert_eq!(
        line(&error),
        "outbox.lanes is 16, but the outbox is divided into 8: set outbox.lanes = 8"
    );
    assert_eq!(scratch.psql("select count(*) from outboxd_lanes"), "8");
}

/// A clean-up between tests truncates whatever it finds. A fence compares epochs: none may come again.
#[tokio::test]
async fn lanes_that_are_gone_come_back_above_every_epoch() {
    let (scratch, database) = migrated(PayloadType::Jsonb).await;
    let other = Names::new("public", "other", 4);
    migrate(&database, &other, PayloadType::Jsonb).await.unwrap();
    scratch.psql("update outboxd_lanes set owner = 'a', epoch = 7");
    let theirs = "select count(*) from outboxd_lanes where outbox = 'other' and epoch = 7";
    let mut before = 7;
    let script = script(&names(), PayloadType::Jsonb);
    for (cleaning, by_hand) in [
        ("delete from outboxd_lanes where outbox = 'outbox_messages'", false),
        (
            "delete from outboxd_lanes where outbox = 'outbox_messages' and lane <> 7",
            false,
        ),
        ("delete from outboxd_lanes where outbox = 'outbox_messages'", true),
        (
            "delete from outboxd_lanes where outbox = 'outbox_messages'; truncate outboxd_migrations",
            false,
        ),
    ] {
        scratch.psql(cleaning);
        if cleaning.contains("lane <> 7") {
            let divided = Names::new("public", "outbox_messages", 16);
            let refused = migrate(&database, &divided, PayloadType::Jsonb).await.unwrap_err();
            assert!(line(&refused).contains("set outbox.lanes = 8"), "{refused}");
        }
        if by_hand {
            scratch.psql(&script);
        } else {
            migrate(&database, &names(), PayloadType::Jsonb).await.unwrap();
        }
        let lanes = "select count(*), min(lane), max(lane) from outboxd_lanes where outbox = 'outbox_messages'";
        assert_eq!(scratch.psql(lanes), "8|0|7", "{cleaning}");
        let lowest = "select min(epoch) from outboxd_lanes where outbox = 'outbox_messages' and lane <> 7";
        let lowest: i64 = scratch.psql(lowest).parse().expect("a number");
        assert!(lowest > before, "{cleaning}: {lowest} after {before}");
        let highest = "select max(epoch) from outboxd_lanes where outbox = 'outbox_messages'";
        before = scratch.psql(highest).parse().expect("a number");
        assert_eq!(scratch.psql(theirs), "4", "{cleaning}");
    }
    // The next run of the other one finds the way, too.
    migrate(&database, &other, PayloadType::Jsonb).await.unwrap();
    assert_eq!(scratch.psql(theirs), "4");
}

/// What is gone is made again, and what is there stays.
#[tokio::test]
async fn tables_that_are_gone_are_made_again() {
    let (scratch, database) = migrated(PayloadType::Text).await;
    let other = Names::new("public", "other", 4);
    migrate(&database, &other, PayloadType::Jsonb).await.unwrap();
    let complete = scratch.dump();
    scratch.psql("update outboxd_lanes set epoch = 7; insert into outboxd_paused (topic, who) values ('t', 'me')");
    let kept = || {
        scratch
            .psql("select (select count(*) from outboxd_lanes where epoch = 7), (select count(*) from outboxd_paused)")
    };
    for (table, names, payload) in [
        ("outbox_messages", &names(), PayloadType::Text),
        ("other", &other, PayloadType::Jsonb),
    ] {
        scratch.psql(&format!("drop table {table}"));
        assert_eq!(gone(&database, names).await.unwrap().tables, [table]);
        assert!(!migrate(&database, names, payload).await.unwrap().is_empty());
        assert!(migrate(&database, names, payload).await.unwrap().is_empty());
        assert_eq!(scratch.dump(), complete, "{table}");
        scratch.psql(&format!("drop table {table}"));
        scratch.psql(&script(names, payload));
        assert_eq!(scratch.dump(), complete, "{table}, by hand");
        assert_eq!(kept(), "12|1", "{table}");
    }
    // With another type of payload there is still one helper.
    scratch.psql("drop table outbox_messages");
    migrate(&database, &names(), PayloadType::Bytea).await.unwrap();
    scratch.psql("select outbox_enqueue('t', 'x'); select outbox_messages_enqueue('t', 'x')");
    scratch.psql("drop table outboxd_attempts");
    migrate(&database, &names(), PayloadType::Bytea).await.unwrap();
    assert_eq!(
        scratch.psql("select count(*) from outbox_messages, outboxd_paused"),
        "2"
    );
    assert_eq!(scratch.psql("select count(*) from outboxd_attempts"), "0");
}

#[tokio::test]
async fn names_may_be_odd() {
    let scratch = TestDatabase::create();
    migrate(
        &open(&scratch),
        &Names::new("second \"outbox\"", "it's", 4),
        PayloadType::Text,
    )
    .await
    .unwrap();
    assert_eq!(
        scratch.psql("select count(*) from \"second \"\"outbox\"\"\".outboxd_lanes"),
        "4"
    );
    scratch.psql("insert into \"second \"\"outbox\"\"\".\"it's\" (topic, payload) values ('t', 'x')");
}

#[tokio::test]
async fn a_hand_made_table_is_kept_with_its_rows() {
    let (by_tool, _) = migrated(PayloadType::Jsonb).await;
    let scratch = TestDatabase::create();
    scratch.psql(
        "create table outbox_messages (
            seq bigint generated by default as identity primary key, id uuid not null default gen_random_uuid(),
            topic text not null, key text, payload jsonb not null, headers jsonb not null default '{}',
            attempt integer not null default 1, max_attempts integer, priority smallint not null default 0,
            available_at timestamptz not null default now(), replay integer not null default 0, relayed_at timestamptz,
            failed_at timestamptz, last_error text, inserted_at timestamptz not null default now(),
            updated_at timestamptz not null default now(),
            constraint outbox_messages_state check (relayed_at is null or failed_at is null));
         insert into outbox_messages (topic, payload) select 't', '{}' from generate_series(1, 50);",
    );
    let before = scratch.psql("select relfilenode from pg_class where relname = 'outbox_messages'");
    let database = open(&scratch);
    migrate(&database, &names(), PayloadType::Jsonb).await.unwrap();
    assert_eq!(scratch.psql("select count(*) from outbox_messages"), "50");
    assert_eq!(
        scratch.psql("select relfilenode from pg_class where relname = 'outbox_messages'"),
        before,
        "rewritten"
    );
    let indexes = "select indexdef from pg_indexes where tablename = 'outbox_messages' order by indexname";
    assert_eq!(scratch.psql(indexes), by_tool.psql(indexes));
}

#[tokio::test]
async fn a_big_table_is_not_locked_for_an_index() {
    let scratch = TestDatabase::create();
    scratch.psql(
        "create table outbox_messages (
            seq bigint generated by default as identity primary key, id uuid not null default gen_random_uuid(),
            topic text not null, key text, payload text not null, headers jsonb not null default '{}',
            attempt integer not null default 1, max_attempts integer, priority smallint not null default 0,
            available_at timestamptz not null default now(), replay integer not null default 0, relayed_at timestamptz,
            failed_at timestamptz, last_error text, inserted_at timestamptz not null default now(),
            updated_at timestamptz not null default now());
         alter table outbox_messages alter payload set storage plain;
         insert into outbox_messages (topic, payload) select 't', repeat('x', 7000) from generate_series(1, 9000);",
    );
    let database = open(&scratch);
    for _ in 0..4 {
        let error = line(&migrate(&database, &names(), PayloadType::Text).await.unwrap_err());
        let at = error
            .find("create index concurrently outbox_messages_")
            .unwrap_or_else(|| panic!("no statement in: {error}"));
        scratch.psql(&error[at..]);
    }
    migrate(&database, &names(), PayloadType::Text).await.unwrap();
}

#[tokio::test]
async fn an_insert_never_waits_long_for_a_migration() {
    let scratch = TestDatabase::create();
    let database = open(&scratch);
    migrate(&database, &names(), PayloadType::Jsonb).await.unwrap();
    scratch.psql("drop trigger outboxd_wake on outbox_messages; delete from outboxd_migrations where version = 3");
    // A transaction of the application holds the table: the migration must step back again and again, then succeed.
    let (mut client, connection) = tokio_postgres::connect(&scratch.url, tokio_postgres::NoTls)
        .await
        .unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(connection);
    let transaction = client.transaction().await.unwrap();
    transaction
        .execute("insert into outbox_messages (topic, payload) values ('t', '{}')", &[])
        .await
        .unwrap();
    let names = names();
    let run = migrate(&database, &names, PayloadType::Jsonb);
    tokio::pin!(run);
    tokio::select! {
        result = &mut run => panic!("the table was free? {result:?}"),
        // Another session's insert gets through although the migration waits in front of it.
        () = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let url = scratch.url.clone();
            tokio::task::spawn_blocking(move || TestDatabase { url }.psql("set statement_timeout = '2s'; insert into outbox_messages (topic, payload) values ('t', '{}')")).await.unwrap();
        } => {}
    }
    transaction.commit().await.unwrap();
    assert_eq!(run.await.unwrap(), ["0003_enqueue_and_wake.sql"]);
}

#[tokio::test]
async fn enqueue_takes_every_payload_type() {
    for payload in PayloadType::ALL {
        let (scratch, _) = migrated(payload).await;
        let id = scratch.psql("select outbox_enqueue('orders.created', '{\"a\": 1}', key => 'o-1', headers => '{\"h\": \"v\"}', priority => 3)");
        let row = scratch.psql(&format!("select topic, key, headers, priority, attempt, available_at = inserted_at from outbox_messages where id = '{id}'"));
        assert_eq!(row, "orders.created|o-1|{\"h\": \"v\"}|3|1|t", "{payload:?}");
        scratch.psql("select outbox_enqueue('t', '{}', available_at => now() + interval '1 hour', max_attempts => 2, id => gen_random_uuid())");
        assert_eq!(
            scratch.psql("select count(*) from outbox_messages where available_at > inserted_at and max_attempts = 2"),
            "1"
        );
    }
}

#[tokio::test]
async fn one_open_transaction_at_a_time_wakes_the_relay() {
    let (scratch, _) = migrated(PayloadType::Jsonb).await;
    let insert = "insert into outbox_messages (topic, payload) values ('t', '{}')";
    let listen = format!("listen {}", names().fill("{channel}").replace('\'', "\""));
    let heard = scratch.psql(&format!("{listen}; {insert}; {insert}"));
    assert!(
        heard.contains("Asynchronous notification \"outboxd_public_outbox_messages\""),
        "{heard}"
    );
    // While another transaction that has notified is open, nobody else does.
    let (mut client, connection) = tokio_postgres::connect(&scratch.url, tokio_postgres::NoTls)
        .await
        .unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(connection);
    let transaction = client.transaction().await.unwrap();
    transaction.execute(insert, &[]).await.unwrap();
    assert_eq!(scratch.psql(&format!("{listen}; {insert}")), "");
    transaction.commit().await.unwrap();
    // And anyone can be told to keep silent.
    assert_eq!(scratch.psql(&format!("{listen}; set outboxd.wake = off; {insert}")), "");
}
