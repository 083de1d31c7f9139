//! Least privilege: what the three roles may do and what not, and that too little, too much and hidden rows are said.

use std::time::Duration;

use crate::support::command::Site as Called;
use crate::support::daemon::Site;
use crate::support::logins::as_login;
use crate::support::postgres::{Cluster, Database, psql};
use crate::support::{eventually, together};

const NOWHERE: &str = "[transports.main.stdout]\n";

async fn granted() -> (Database, Site) {
    let database = Cluster::shared().database().await;
    let site = Site::new(&database, NOWHERE);
    site.migrate();
    (database, site)
}

/// What `login` is answered: its output, or the first line of the error.
fn says(database: &Database, login: &str, sql: &str) -> Result<String, String> {
    let output = psql(&as_login(&database.url(), login), sql);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr).lines().next().unwrap_or_default().to_owned())
    }
}

#[track_caller]
fn assert_refused(database: &Database, login: &str, statements: &[&str]) {
    let allowed: Vec<_> = statements
        .iter()
        .filter(|sql| !matches!(says(database, login, sql), Err(said) if said.contains("permission denied")))
        .collect();
    assert!(allowed.is_empty(), "{login} is not refused: {allowed:#?}");
}

#[tokio::test]
async fn the_writer_may_insert_and_nothing_else() {
    let _guard = together().await;
    let (database, _site) = granted().await;
    let session = database.connect().await;
    session.run("create table secrets (word text)").await;
    let all = "insert into outbox_messages (id, topic, key, payload, headers, priority, available_at, max_attempts)
               values (gen_random_uuid(), 'orders', 'k', '1', '{}', 1, now(), 3)";
    says(&database, "tests_writer", all).expect("every column of the application's");
    let id = says(
        &database,
        "tests_writer",
        "select outbox_enqueue('orders', '2', key => 'k')",
    )
    .expect("the helper");
    assert_eq!(
        session.count("select count(*) from outbox_messages").await,
        2,
        "both are there"
    );
    let found = format!("select count(*) from outbox_messages where id = '{id}' and key = 'k' and payload = '2'");
    assert_eq!(session.count(&found).await, 1, "the helper answers the row's id");
    assert_refused(
        &database,
        "tests_writer",
        &[
            "select * from outbox_messages",
            "select id from outbox_messages",
            "insert into outbox_messages (topic, payload) values ('a', '1') returning id",
            "insert into outbox_messages (topic, payload, relayed_at) values ('a', '1', now())",
            "insert into outbox_messages (topic, payload, failed_at) values ('a', '1', now())",
            "insert into outbox_messages (topic, payload, seq) values ('a', '1', 1)",
            "insert into outbox_messages (topic, payload, attempt) values ('a', '1', 9)",
            "insert into outbox_messages (topic, payload, replay) values ('a', '1', 9)",
            "update outbox_messages set payload = '3'",
            "delete from outbox_messages",
            "truncate outbox_messages",
            "begin; lock table outbox_messages in access exclusive mode",
            "select nextval('outbox_messages_seq_seq')",
            "select * from outboxd_lanes",
            "select * from outboxd_instances",
            "select * from outboxd_attempts",
            "select * from outboxd_audit",
            "select * from outboxd_migrations",
            "insert into outboxd_paused (topic, who) values ('a', 'me')",
            "delete from outboxd_paused",
            "insert into outboxd_questions (instance, seq) values ('a', 1)",
            "select * from outboxd_questions",
            "select * from secrets",
        ],
    );
}

#[tokio::test]
async fn the_relay_and_the_operator_have_their_limits() {
    let _guard = together().await;
    let (database, _site) = granted().await;
    database.connect().await.run("create table secrets (word text)").await;
    let nobodys = [
        "truncate outbox_messages",
        "alter table outbox_messages add column more text",
        "drop table outboxd_audit",
        "insert into outbox_messages (topic, payload, relayed_at) values ('a', '1', now())",
        "update outbox_messages set payload = '3'",
        "update outbox_messages set topic = 'b'",
        "update outbox_messages set id = gen_random_uuid()",
        "update outboxd_audit set who = 'somebody else'",
        "delete from outboxd_audit",
        "insert into outboxd_audit (who, action, count, role) values ('me', 'retry', 1, 'somebody else')",
        "insert into outboxd_audit (who, action, count, at) values ('me', 'retry', 1, now())",
        "update outboxd_attempts set error = ''",
        "delete from outboxd_lanes",
        "insert into outboxd_migrations (version, name, checksum, outbox) values (99, 'x', 'x', 'x')",
        "select * from secrets",
    ];
    let refused = |statement: &&&str| {
        let said = says(&database, "tests_relay", statement);
        !matches!(said, Err(said) if said.contains("permission denied") || said.contains("must be owner"))
    };
    let allowed: Vec<_> = nobodys.iter().filter(refused).collect();
    assert!(allowed.is_empty(), "the relay is not refused: {allowed:#?}");
    let refused = |statement: &&&str| {
        let said = says(&database, "tests_operator", statement);
        !matches!(said, Err(said) if said.contains("permission denied") || said.contains("must be owner"))
    };
    let allowed: Vec<_> = nobodys.iter().filter(refused).collect();
    assert!(allowed.is_empty(), "the operator is not refused: {allowed:#?}");
    assert_refused(
        &database,
        "tests_relay",
        &[
            "insert into outbox_messages (topic, payload) values ('a', '1')",
            "update outbox_messages set replay = 1",
            "update outboxd_questions set seq = 2",
            "select * from outboxd_audit",
            "insert into outboxd_paused (topic, who) values ('a', 'me')",
            "select nextval('outbox_messages_seq_seq')",
        ],
    );
    assert_refused(
        &database,
        "tests_operator",
        &[
            "update outboxd_lanes set owner = 'me'",
            "delete from outboxd_instances",
            "update outboxd_questions set answer = '{}'",
            "delete from outboxd_questions",
            "begin; lock table outboxd_questions in access exclusive mode",
            "insert into outboxd_attempts (seq, message_id, attempt, class, code) values (1, '', 1, '', '')",
        ],
    );
}

/// One grant after the other is taken away: the daemon does not start, and names what it lacks.
#[tokio::test]
async fn a_start_without_a_right_names_it() {
    let _guard = together().await;
    let (database, site) = granted().await;
    let session = database.connect().await;
    let mut rights: Vec<(String, &str)> = vec![("select".into(), "outbox_messages")];
    for column in [
        "attempt",
        "last_error",
        "available_at",
        "relayed_at",
        "failed_at",
        "updated_at",
    ] {
        rights.push((format!("update ({column})"), "outbox_messages"));
    }
    for table in ["lanes", "instances", "attempts", "paused", "migrations"] {
        let table: &'static str = format!("outboxd_{table}").leak();
        rights.push(("select".into(), table));
    }
    rights.extend([
        ("update (owner)".into(), "outboxd_lanes"),
        ("update (epoch)".into(), "outboxd_lanes"),
    ]);
    for privilege in ["insert", "update", "delete"] {
        rights.push((privilege.into(), "outboxd_instances"));
    }
    rights.push(("insert".into(), "outboxd_attempts"));
    for (privilege, table) in &rights {
        session
            .run(&format!("revoke {privilege} on {table} from outboxd_relay"))
            .await;
        let said = refused(&site, &format!("role tests_relay lacks {privilege} on public.{table}")).await;
        assert!(said.contains("outboxd roles --print"), "{said}");
        site.grant();
    }
    session
        .run("revoke usage on schema public from public, outboxd_relay")
        .await;
    refused(&site, "role tests_relay lacks usage on schema public").await;
    site.grant();
    // Without these it relays; what it cannot do is a warning.
    for (privilege, table) in [
        ("delete", "outbox_messages"),
        ("delete", "outboxd_attempts"),
        ("insert (who)", "outboxd_audit"),
    ] {
        session
            .run(&format!("revoke {privilege} on {table} from outboxd_relay"))
            .await;
        let said = flat(&site.succeed(&["check", "--connect"]));
        assert!(
            said.contains(&format!("lacks {privilege} on public.{table}")),
            "{privilege} on {table}: {said}"
        );
        site.grant();
    }
    let people = site.outboxd(&["status"]);
    assert!(people.status.success(), "people come in again with the last grant");
    session
        .run("revoke select on outbox_messages from outboxd_operator")
        .await;
    let people = site.outboxd(&["status"]);
    let said = String::from_utf8_lossy(&people.stderr).into_owned();
    assert_eq!(
        (people.status.code(), said.contains("member of outboxd_operator")),
        (Some(64), true),
        "{said}"
    );
}

/// Without line breaks.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A start that is refused; the last line of what it said.
async fn refused(site: &Site, words: &str) -> String {
    let mut daemon = site.launch();
    let status = daemon.ended(Duration::from_secs(20)).await;
    let said = site.log();
    let last = said.lines().last().unwrap_or_default();
    assert_eq!(status.code(), Some(64), "{words}: {said}");
    assert!(last.contains(words), "{words}: {said}");
    last.to_owned()
}

/// What the configuration does not ask for is not granted, and is taken back.
#[tokio::test]
async fn rights_follow_the_configuration() {
    let _guard = together().await;
    let (database, site) = granted().await;
    let session = database.connect().await;
    let text = std::fs::read_to_string(site.config()).expect("the configuration");
    let deletes = "select (has_table_privilege('outboxd_relay', 'outbox_messages', 'delete')::int * 4
                           + has_table_privilege('outboxd_relay', 'outboxd_attempts', 'delete')::int * 2
                           + has_column_privilege('outboxd_relay', 'outboxd_audit', 'who', 'insert')::int)::bigint";
    let mut seen = Vec::new();
    for more in [
        "",
        "[retention]\nrelayed = \"0s\"\n",
        "[retention]\nrelayed = \"0s\"\n[outbox]\non_relayed = \"delete\"\n",
        "[retention]\nrelayed = \"0s\"\nfailed = \"1d\"\n",
    ] {
        site.configure(&format!("{text}\n{more}"));
        site.grant();
        seen.push(session.count(deletes).await);
    }
    assert_eq!(seen, [7, 0, 4, 7]);
}

#[tokio::test]
async fn rows_hidden_by_row_security_refuse_the_start() {
    let _guard = together().await;
    let (database, site) = granted().await;
    let session = database.connect().await;
    session
        .run(
            "alter table outbox_messages enable row level security;
             create policy tenant on outbox_messages using (topic = 'mine')",
        )
        .await;
    let said = refused(&site, "row-level security").await;
    let (_, fix) = said.split_once("run: ").expect("the line ends with what to run");
    session.run(fix).await;
    site.succeed(&["check", "--connect"]);
    session
        .run("create policy narrow on outbox_messages as restrictive using (topic = 'mine')")
        .await;
    assert!(refused(&site, "row-level security").await.contains("\"narrow\""));
    session
        .run("alter policy narrow on outbox_messages to outboxd_writer; drop policy outboxd_relay on outbox_messages")
        .await;
    refused(&site, "row-level security").await;
    site.grant();
    site.succeed(&["check", "--connect"]);
    let said = says(&database, "tests_operator", "select count(*) from outbox_messages");
    assert_eq!(said.as_deref(), Ok("0"), "the operator has a policy too");
}

/// On a cluster that has none of the roles yet; a second run changes nothing.
#[tokio::test]
async fn roles_are_made_once_and_too_much_is_said() {
    let _guard = together().await;
    let cluster = Cluster::own();
    let database = cluster.database().await;
    let session = database.connect().await;
    session
        .run("drop role outboxd_writer, outboxd_relay, outboxd_operator")
        .await;
    let site = Site::new(&database, NOWHERE);
    site.migrate();
    let rights = "select coalesce(string_agg(c.relname || c.relacl::text, ' ' order by c.relname), '') from pg_class c
                  where c.relacl is not null and c.relnamespace = 'public'::regnamespace";
    let first: String = session.query_one(rights, &[]).await.expect("a row").get(0);
    site.grant();
    let second: String = session.query_one(rights, &[]).await.expect("a row").get(0);
    assert_eq!(first, second);
    let groups = "select count(*) from pg_roles where rolname like 'outboxd\\_%' and not rolcanlogin and not rolsuper
                  and not rolcreaterole and not rolcreatedb and not rolbypassrls";
    assert_eq!(session.count(groups).await, 3);
    session
        .run("grant outboxd_relay to tests_relay; grant outboxd_operator to tests_operator")
        .await;
    let warnings = || flat(&site.succeed(&["check", "--connect"]));
    let healthy = warnings();
    assert!(!healthy.contains("warning"), "{healthy}");
    for (more, less, words) in [
        (
            "alter role tests_relay superuser",
            "alter role tests_relay nosuperuser",
            "is a superuser",
        ),
        (
            "alter role tests_relay bypassrls",
            "alter role tests_relay nobypassrls",
            "has bypassrls",
        ),
        (
            "grant truncate on outbox_messages to tests_relay",
            "revoke truncate on outbox_messages from tests_relay",
            "may truncate",
        ),
        (
            "revoke pg_read_all_stats from outboxd_relay",
            "grant pg_read_all_stats to outboxd_relay",
            "does not see whose transactions",
        ),
        (
            "alter table outbox_messages owner to tests_relay",
            "alter table outbox_messages owner to postgres",
            "owns the outbox",
        ),
    ] {
        session.run(more).await;
        let said = warnings();
        assert!(said.contains(words), "{more}: {said}");
        session.run(less).await;
    }
}

/// One grant after the other is taken away from the operators: a verb that needs it is refused, and says what to do.
#[test]
fn each_right_of_the_operator_is_some_verbs_own() {
    let site = Called::migrated();
    site.one(
        "insert into outbox_messages (topic, payload, failed_at) values ('a', '1', now());
         insert into outbox_messages (topic, payload, relayed_at) values ('a', '1', now() - interval '1 minute')",
    );
    let line = r#"{"topic": "a", "payload": 1, "priority": 1, "max_attempts": 3, "headers": {}}"#;
    let mut cases: Vec<(String, &str, &[&str], &str)> = Vec::new();
    let mut add = |privilege: &str, names: &[&str], table, verb, stdin| {
        let one = |name: &&str| match *name {
            "" => privilege.to_owned(),
            column => format!("{privilege} ({column})"),
        };
        cases.extend(names.iter().map(|name| (one(name), table, verb, stdin)));
    };
    let messages = "outbox_messages";
    add("select", &[""], messages, &["status"], "");
    for table in ["outboxd_lanes", "outboxd_instances", "outboxd_paused"] {
        add("select", &[""], table, &["status"], "");
    }
    add("select", &[""], "outboxd_attempts", &["failed", "show", "1"], "");
    let columns = ["topic", "key", "payload", "headers", "available_at"];
    add("insert", &columns, messages, &["enqueue", "a"], "1");
    let columns = ["id", "priority", "max_attempts", "replay"];
    add("insert", &columns, messages, &["enqueue", "--lines"], line);
    let columns = ["failed_at", "attempt", "available_at", "updated_at"];
    add("update", &columns, messages, &["failed", "retry", "--all"], "");
    let columns = ["relayed_at", "replay", "last_error"];
    add("update", &columns, messages, &["replay", "--all"], "");
    add("delete", &[""], messages, &["failed", "discard", "--all"], "");
    add(
        "insert",
        &["detail"],
        "outboxd_audit",
        &["failed", "discard", "--all"],
        "",
    );
    let columns = ["who", "command", "action", "filter", "count"];
    add("insert", &columns, "outboxd_audit", &["pause", "a"], "");
    add("insert", &["topic", "who"], "outboxd_paused", &["pause", "a"], "");
    add("delete", &[""], "outboxd_paused", &["resume", "--all"], "");
    add("delete", &[""], "outboxd_attempts", &["prune"], "");
    for (right, table, verb, stdin) in cases {
        site.one(&format!("revoke {right} on {table} from outboxd_operator"));
        let called = site.call_with(verb, stdin.as_bytes());
        assert_eq!(
            called.code, 64,
            "{verb:?} without {right} on {table}: {}{}",
            called.out, called.err
        );
        assert!(
            called.err.contains("member of outboxd_operator"),
            "{verb:?} without {right} on {table}: {}",
            called.err
        );
        site.grant();
    }
}

/// What keeps a role that may create objects in `public` from putting its own functions in the place of the server's.
#[tokio::test]
async fn a_relay_needs_no_search_path() {
    let _guard = together().await;
    let (database, site) = granted().await;
    let session = database.connect().await;
    let name = &database.name;
    session
        .run(&format!(
            "alter role tests_relay in database {name} set search_path = ''"
        ))
        .await;
    session
        .run("insert into outbox_messages (topic, payload) select 'orders', '1' from generate_series(1, 10)")
        .await;
    let daemon = site.start().await;
    eventually("all are relayed", Duration::from_secs(30), || async {
        let relayed = "select count(*) from outbox_messages where relayed_at is not null";
        (session.count(relayed).await == 10).then_some(())
    })
    .await;
    assert!(daemon.terminate(Duration::from_secs(30)).await.success());
    site.succeed(&["check", "--connect"]);
}
