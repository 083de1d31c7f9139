//! The laws on a real PostgreSQL, and what only it has: payload types, plans.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outboxd::message::{KeyId, Seq};
use outboxd::store::postgres::link::connect;
use outboxd::store::postgres::link::database::{self, ConnectOptions};
use outboxd::store::postgres::link::sql::Names;
use outboxd::store::postgres::outbox::{Ears, Identity, PostgresStore, StoreOptions};
use outboxd::store::postgres::schema::migrate::{PayloadType, migrate};
use outboxd::store::postgres::schema::rights::{self, Duties};
use outboxd::store::{LaneSet, Leases, Row, Scope, Store as _, Tenancy};
use uuid::Uuid;

use super::laws::{ROOM, Reader, read_all, relayed, uphold};
use super::{Facts, Fixture, Fresh, Open, keyless};
use crate::support::postgres::{Cluster, Database, Session};
use crate::support::{eventually, logins};

const APPLICATION: &str = "outboxd/conformance";

struct Real {
    database: Database,
    session: Session,
}

fn names() -> Names {
    Names::new("public", "outbox_messages", 8)
}

impl Real {
    fn store(&self, name: &str, delete_relayed: bool) -> Arc<PostgresStore> {
        let relay = logins::as_login(&self.database.url(), "tests_relay");
        let options = StoreOptions {
            instance: name.into(),
            machine: format!("machine of {name}"),
            // One each, so that names do not prove anyone dead but themselves.
            identity: Identity::by(name),
            delete_relayed,
            durable_marks: false,
            pace: (Duration::from_millis(10), Duration::from_millis(250)),
            listen: Some(Ears::new(connect::parse_url(&relay).unwrap().named("listener").into())),
        };
        Arc::new(PostgresStore::new(self.connections(&relay), names(), options))
    }

    async fn new() -> Self {
        Self::of(PayloadType::Text).await
    }

    async fn of(payload: PayloadType) -> Self {
        let database = Cluster::shared().database().await;
        let session = database.connect().await;
        // The shared cluster allows prepared transactions, which silences the wake trigger.
        session.run("set outboxd.wake = on").await;
        let real = Self { database, session };
        migrate(&real.connections(&real.database.url()), &names(), payload)
            .await
            .unwrap();
        let roles = rights::script(&names(), Duties::default());
        real.session.run(&roles).await;
        real
    }

    fn connections(&self, url: &str) -> database::Database {
        database::Database::new(&ConnectOptions {
            url: url.to_owned(),
            pool_size: 4,
            prepared_statements: true,
            application: APPLICATION.into(),
            statement_timeout: Duration::from_secs(10),
        })
        .unwrap()
    }
}

/// Inserts one row and answers its number.
async fn insert(session: &Session, row: &Fresh) -> Seq {
    let payload = "x".repeat(row.size);
    let row = session
        .query_one(
            "insert into outbox_messages (topic, key, payload, available_at, priority)
             values ($1, $2, $3, now() + $4 * interval '1 millisecond', $5) returning seq",
            &[
                &row.topic,
                &row.key,
                &payload,
                &(row.delay.as_secs_f64() * 1000.0),
                &row.priority,
            ],
        )
        .await
        .unwrap();
    Seq(row.get(0))
}

struct RealTransaction(Session);

#[async_trait]
impl Open for RealTransaction {
    async fn insert(&mut self, row: Fresh) -> Seq {
        insert(&self.0, &row).await
    }

    async fn commit(self: Box<Self>) {
        self.0.run("commit").await;
    }

    async fn rollback(self: Box<Self>) {
        self.0.run("rollback").await;
    }
}

#[async_trait]
impl Fixture for Real {
    type Store = PostgresStore;

    async fn instance(&self, name: &str) -> Arc<PostgresStore> {
        self.store(name, false)
    }

    async fn insert(&self, rows: &[Fresh]) -> Vec<Seq> {
        self.session.run("begin").await;
        let mut seqs = Vec::new();
        for row in rows {
            seqs.push(insert(&self.session, row).await);
        }
        self.session.run("commit").await;
        seqs
    }

    async fn insert_relayed(&self, count: usize) {
        self.session
            .run(&format!(
                "insert into outbox_messages (topic, payload, relayed_at) select 'old', '{{}}', now() from generate_series(1, {count})"
            ))
            .await;
    }

    async fn insert_at(&self, seq: i64, row: Fresh) {
        self.session
            .execute(
                "insert into outbox_messages (seq, topic, key, payload) values ($1, $2, $3, '{}')",
                &[&seq, &row.topic, &row.key],
            )
            .await
            .unwrap();
    }

    async fn begin(&self) -> Box<dyn Open> {
        let session = self.database.connect().await;
        session.run("begin").await;
        Box::new(RealTransaction(session))
    }

    async fn row(&self, seq: Seq) -> Facts {
        let row = self
            .session
            .query_one(
                "select attempt, relayed_at is not null, failed_at is not null, last_error from outbox_messages where seq = $1",
                &[&seq.0],
            )
            .await
            .unwrap();
        Facts {
            attempt: row.get(0),
            relayed: row.get(1),
            failed: row.get(2),
            last_error: row.get(3),
        }
    }

    async fn replace(&self, seq: Seq) {
        let replaced = self
            .session
            .execute(
                "update outbox_messages set id = $2 where seq = $1",
                &[&seq.0, &Uuid::new_v4()],
            )
            .await;
        assert_eq!(replaced.unwrap(), 1);
    }

    async fn replay(&self, seq: Seq) {
        let replay = format!(
            "update outbox_messages set relayed_at = null, replay = replay + 1, attempt = 1, available_at = now()
             where seq = {seq}"
        );
        self.session.run(&replay).await;
    }

    async fn refuse(&self, seqs: &[Seq]) {
        let seqs: Vec<String> = seqs.iter().map(ToString::to_string).collect();
        self.session
            .run(&format!(
                "create or replace function refuse() returns trigger language plpgsql as $$ begin
                   if old.seq = any('{{{}}}'::bigint[]) then raise exception 'no: %', old.payload; end if;
                   return new;
                 end $$;
                 create or replace trigger refuse before update on outbox_messages for each row execute function refuse()",
                seqs.join(",")
            ))
            .await;
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    async fn at_rest(&self) {
        let open = format!(
            "select count(*) from pg_stat_activity where application_name like '{APPLICATION}%'
             and datname = current_database() and xact_start is not null"
        );
        // A statement whose rows are not all wanted ends a moment after its answer.
        eventually("no transaction is left open", Duration::from_secs(5), || async {
            (self.session.count(&open).await == 0).then_some(())
        })
        .await;
    }
}

uphold!([flavor = "multi_thread", worker_threads = 2] Real::new());

#[tokio::test]
async fn every_payload_type_is_read_as_stored() {
    for payload in PayloadType::ALL {
        let real = Real::of(payload).await;
        let given = "{\"b\" : [1, 2.50],  \"a\":\"\u{e9}\\u00e9\"}";
        let column = match payload {
            PayloadType::Bytea => format!("convert_to('{given}', 'UTF8')"),
            PayloadType::Jsonb | PayloadType::Json | PayloadType::Text => format!("'{given}'"),
        };
        real.session
            .run(&format!(
                "insert into outbox_messages (topic, payload) values ('t', {column})"
            ))
            .await;
        let store = real.instance("one").await;
        let lanes = store.renew(Duration::from_secs(60)).await.unwrap().lanes;
        let rows = read_all(&mut Reader::open(store, &lanes).await, ROOM).await;
        let stored = match payload {
            PayloadType::Jsonb => {
                let text = real
                    .session
                    .query_one("select payload::text from outbox_messages", &[])
                    .await;
                text.unwrap().get::<_, String>(0)
            }
            PayloadType::Json | PayloadType::Text | PayloadType::Bytea => given.to_owned(),
        };
        assert_eq!(rows[0].message.payload, stored.as_bytes(), "{payload:?}");
    }
}

/// What tells a key from another is made here and there: of what is read, whatever the column makes of it. A `character(n)` is
/// read with the spaces that a cast takes off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_told_by_the_database_as_it_is_read() {
    for column in ["text", "varchar(9000)", "character(12)", "name"] {
        let real = Real::new().await;
        let given = "array['', 'k', '\u{e9}\u{4e2d} x', ' ', repeat('long', 2000)]";
        let long = if matches!(column, "character(12)" | "name") {
            "length(key) < 12"
        } else {
            "true"
        };
        real.session
            .run(&format!(
                "alter table outbox_messages alter column key type {column};
                 insert into outbox_messages (topic, key, payload, failed_at, last_error)
                 select 't' || key, key, '1', now(), 'no' from unnest({given}) key where {long};
                 insert into outbox_messages (topic, key, payload) select topic, key, '2' from outbox_messages"
            ))
            .await;
        let store = real.instance("one").await;
        let lanes = store.renew(Duration::from_secs(60)).await.unwrap().lanes;
        let lanes = LaneSet::of(lanes.keys().copied());
        store.open().await.unwrap();
        let read = "select seq, topic::text, key from outbox_messages where failed_at is not null order by seq";
        let read = real.session.query(read, &[]).await.unwrap();
        let expected: Vec<(Seq, String, String)> = read
            .iter()
            .map(|row| (Seq(row.get(0)), row.get(1), row.get(2)))
            .collect();
        let seqs: Vec<Seq> = expected.iter().map(|(seq, ..)| *seq).collect();
        let mut found = store.holds(&lanes, None, true).await.unwrap();
        let again = store.holds(&lanes, Some(&seqs), true).await.unwrap();
        found.sort_unstable_by_key(|hold| hold.seq);
        assert_eq!(found.len(), expected.len(), "{column}");
        for (hold, (seq, topic, key)) in found.iter().zip(&expected) {
            let id = KeyId::of(topic, key);
            assert_eq!((hold.seq, hold.key), (*seq, Some(id)), "{column}: {key:?}");
            let asked = again.iter().find(|hold| hold.seq == *seq).unwrap();
            assert_eq!(asked.key, Some(id).filter(|_| key.len() <= 4096), "{column}: {key:?}");
            let scope = Scope {
                lanes: lanes.clone(),
                topics: Some(vec![(&**topic).into()]),
                key: Some(id),
            };
            let waiting = store.reread(&scope, Seq(0), Seq(i64::MAX), ROOM).await.unwrap().rows;
            let waiting: Vec<_> = waiting.iter().map(|row| row.message.key.as_deref()).collect();
            assert_eq!(waiting, [Some(&**key)], "{column}");
        }
        // Bytes that are no text fail their row, and nobody else's.
        let broken = "create cast (bytea as text) without function as assignment;
             insert into outbox_messages (topic, key, payload, failed_at, last_error) values ('t', '\\xff'::bytea::text, '3', now(), 'no')";
        if column == "text" {
            real.session.run(broken).await;
            assert_eq!(store.holds(&lanes, None, true).await.unwrap().len(), expected.len() + 1);
        }
    }
}

/// Deleted are the messages named, close together and far apart, by who holds their lanes: none that stand between them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_is_what_was_sent() {
    let real = Real::new().await;
    let all = real.insert(&vec![keyless(); 260]).await;
    let duties = Duties {
        deletes_relayed: true,
        ..Duties::default()
    };
    real.session.run(&rights::script(&names(), duties)).await;
    let store = real.store("one", true);
    let lanes = store.renew(Duration::from_secs(60)).await.unwrap().lanes;
    let rows = read_all(&mut Reader::open(Arc::clone(&store), &lanes).await, ROOM).await;
    let older: Tenancy = lanes.iter().map(|(lane, epoch)| (*lane, epoch - 1)).collect();
    let kept = |n: usize| if n < 200 { n % 7 == 3 } else { ![210, 240].contains(&n) };
    for part in [0..200, 200..260] {
        let named: Vec<Row> = part.filter(|n| !kept(*n)).map(|n| rows[n].clone()).collect();
        for (lanes, written) in [(&older, 0), (&lanes, named.len()), (&lanes, 0)] {
            let settled = store.settle(&relayed(&named, lanes)).await.unwrap();
            assert_eq!(settled.written, written, "fenced, then deleted, once");
        }
    }
    let left = real
        .session
        .query("select seq from outbox_messages order by seq", &[])
        .await;
    let left: Vec<i64> = left.unwrap().iter().map(|row| row.get(0)).collect();
    let kept: Vec<i64> = (0..260).filter(|n| kept(*n)).map(|n| all[n].0).collect();
    assert_eq!(left, kept);
}

/// A file of `sql/`, filled in, that ends where the sequence does.
fn up_to_the_sequence(file: &str) -> String {
    let given = "(select case when q.is_called then q.last_value else 0 end from outbox_messages_seq_seq q)";
    names().fill(file).replace("{ceiling}", given)
}

/// The plan of a file of `sql/`, filled in, with these parameters.
async fn plan(real: &Real, file: &str, params: &[&str]) -> String {
    let mut text = up_to_the_sequence(file);
    for (index, param) in params.iter().enumerate().rev() {
        text = text.replace(&format!("${}", index + 1), param);
    }
    let rows = real.session.query(&format!("explain {text}"), &[]).await.unwrap();
    rows.iter()
        .map(|row| row.get::<_, String>(0))
        .collect::<Vec<_>>()
        .join("\n")
}

/// 200,000 relayed rows, and pending and waiting ones behind them.
async fn big_table() -> Real {
    let real = Real::new().await;
    real.insert_relayed(200_000).await;
    real.session
        .run(
            "insert into outbox_messages (topic, key, payload) select 't', g::text, '{}' from generate_series(1, 20000) g;
             insert into outbox_messages (topic, payload, attempt) select 't', '{}', 2 from generate_series(1, 200);
             insert into outbox_messages (topic, payload, available_at) select 't', '{}', now() + interval '1 h' from generate_series(1, 200);
             analyze outbox_messages",
        )
        .await;
    real
}

async fn uses_index(real: &Real, name: &str, file: &str, params: &[&str], index: &str) {
    let plan = plan(real, file, params).await;
    let uses = |index: &str| plan.contains(&format!("outbox_messages_{index}"));
    assert!(index.split('|').any(uses), "{name} does not use {index}:\n{plan}");
    assert!(!plan.contains("Seq Scan on outbox_messages "), "{name}:\n{plan}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hot_statements_use_their_indexes_on_a_big_table() {
    let real = big_table().await;
    let mask = "'\\xff'::bytea";
    let range = "'{5, 1000}'::bigint[]";
    let none = "'{}'";
    for (name, file, params, index) in [
        (
            "fetch",
            include_str!("../../../sql/fetch.sql"),
            vec!["199000", "1000", mask, none, none],
            "pkey",
        ),
        (
            "fetch_with_gaps",
            include_str!("../../../sql/fetch_with_gaps.sql"),
            vec!["199000", "1000", mask, range, range, none, none],
            "pkey",
        ),
        (
            "skim",
            include_str!("../../../sql/skim.sql"),
            vec!["199000", "1000", mask],
            "pkey",
        ),
        (
            "fetch_late",
            include_str!("../../../sql/fetch_late.sql"),
            vec![range, range, mask, "1000", none, none],
            "pkey",
        ),
        (
            "fetch_ahead",
            include_str!("../../../sql/fetch_ahead.sql"),
            vec!["1000", mask, "0", none, none],
            "pending",
        ),
        (
            "reread",
            include_str!("../../../sql/reread.sql"),
            vec!["0", "300000", "1000", mask, "null", "null", none, none],
            "pending",
        ),
        (
            "reread of a topic",
            include_str!("../../../sql/reread.sql"),
            vec!["0", "300000", "1000", mask, "'{t}'", "null", none, none],
            "pending",
        ),
        (
            "due",
            include_str!("../../../sql/due.sql"),
            vec!["0", "0", "300000", "1000", mask, none, none],
            "waiting",
        ),
        ("next_due", include_str!("../../../sql/next_due.sql"), vec![], "waiting"),
        (
            "recall",
            include_str!("../../../sql/recall.sql"),
            vec![range, mask, none, none],
            "pkey|pending",
        ),
    ] {
        uses_index(&real, name, file, &params, index).await;
    }
}

/// What was relayed ends by its index too, close together or far apart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn marks_and_deletes_use_their_indexes_on_a_big_table() {
    let real = big_table().await;
    let fence = ["'{1}'", "'{1}'", "'one'", "'off'", "'100ms'"];
    let ids = "'{00000000-0000-0000-0000-000000000001, 00000000-0000-0000-0000-000000000002}'";
    let (uuids, texts) = (&*format!("{ids}::uuid[]"), &*format!("{ids}::text[]"));
    let close = [
        &["'\\xff'::bytea"],
        &fence[..],
        &["200001::bigint", "200008::bigint", uuids],
    ]
    .concat();
    let far = |ids| [&["'{5, 1000}'::bigint[]"], &fence[..], &[ids, "'{0, 0}'::int[]"]].concat();
    let standing = vec!["'{5, 1000}'::bigint[]", texts, "'{0, 0}'::int[]", "null"];
    let free = vec!["'{5, 1000}'::bigint[]"];
    for (name, file, params) in [
        ("mark", include_str!("../../../sql/mark.sql"), &close),
        ("mark_listed", include_str!("../../../sql/mark_listed.sql"), &far(uuids)),
        ("mark_texts", include_str!("../../../sql/mark_texts.sql"), &far(texts)),
        ("delete", include_str!("../../../sql/delete.sql"), &close),
        (
            "delete_listed",
            include_str!("../../../sql/delete_listed.sql"),
            &far(uuids),
        ),
        (
            "delete_texts",
            include_str!("../../../sql/delete_texts.sql"),
            &far(texts),
        ),
        ("standing", include_str!("../../../sql/standing.sql"), &standing),
        ("locked_by", include_str!("../../../sql/locked_by.sql"), &free),
        ("free_to_update", include_str!("../../../sql/free_to_update.sql"), &free),
        ("free_to_delete", include_str!("../../../sql/free_to_delete.sql"), &free),
    ] {
        uses_index(&real, name, file, params, "pkey|pending").await;
    }
}

/// A backlog whose rows lie anywhere in the heap, planned without knowing the parameters: a page of it comes from the index, in
/// order. Sorting what is pending for each page would take longer the longer the backlog is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_a_backlog_is_not_sorted() {
    let real = Real::new().await;
    let reread = names().fill(include_str!("../../../sql/reread.sql"));
    real.session
        .run(
            "insert into outbox_messages (seq, topic, key, payload)
             select g, 't', 'k' || g % 1000, '{}' from generate_series(1, 300000) g order by random()",
        )
        .await;
    real.session.run("vacuum analyze outbox_messages").await;
    real.session.run("set plan_cache_mode = force_generic_plan").await;
    let prepare = format!("prepare page (bigint, bigint, bigint, bytea, text[], text, bigint[], bigint[]) as {reread}");
    real.session.run(&prepare).await;
    let execute = "explain execute page (1000, 300000, 1000, '\\xff', null, null, '{}', '{}')";
    let rows = real.session.query(execute, &[]).await.unwrap();
    let plan: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let plan = plan.join("\n");
    assert!(plan.contains("Index Scan using outbox_messages_pending"), "{plan}");
    assert!(!plan.contains("Sort"), "{plan}");
}

/// Pages a statement touches, as EXPLAIN (ANALYZE, BUFFERS) says.
async fn pages_of(real: &Real, file: &str, params: &[&str]) -> u64 {
    let mut text = up_to_the_sequence(file);
    for (index, param) in params.iter().enumerate().rev() {
        text = text.replace(&format!("${}", index + 1), param);
    }
    let explain = format!("explain (analyze, buffers, timing off, summary off) {text}");
    let rows = real.session.query(&explain, &[]).await.unwrap();
    let lines = rows.iter().map(|row| row.get::<_, String>(0));
    let first = lines.into_iter().find(|line| line.contains("Buffers: shared")).unwrap();
    let counts = first.split([' ', '=']).filter_map(|word| word.parse::<u64>().ok());
    counts.sum()
}

/// A snapshot held open keeps the dead versions of 100,000 relayed rows. The cursor's fetch does not meet them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn held_xmin_does_not_slow_claims() {
    let real = Real::new().await;
    let holder = real.database.connect().await;
    holder
        .run("begin isolation level repeatable read; select count(*) from outbox_messages")
        .await;
    let fetch = include_str!("../../../sql/fetch.sql");
    let fill =
        "insert into outbox_messages (topic, key, payload) select 't', g::text, '{}' from generate_series(1, 1000) g";
    let mask = "'\\xff'::bytea";
    real.session.run(fill).await;
    let before = pages_of(&real, fetch, &["0", "1000", mask, "'{}'", "'{}'"]).await;
    real.session
        .run(
            "insert into outbox_messages (topic, key, payload) select 't', g::text, '{}' from generate_series(1, 100000) g;
             update outbox_messages set relayed_at = now()",
        )
        .await;
    real.session.run(fill).await;
    let after = pages_of(&real, fetch, &["101000", "1000", mask, "'{}'", "'{}'"]).await;
    println!("pages of one fetch: {before} at first, {after} behind 101,000 dead versions");
    assert!(after <= before * 2, "{after} pages, {before} at first");
    holder.run("commit").await;
}

/// A page of the backlog costs at its end what it costs at its beginning, although everything before is dead by then.
/// `OUTBOXD_BACKLOG_ROWS` (200,000) may be ten million; `dev/bench backlog` measures the rates.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_million_backlog_drains_at_steady_rate() {
    let rows: i64 = std::env::var("OUTBOXD_BACKLOG_ROWS").map_or(200_000, |rows| rows.parse().unwrap());
    let real = Real::new().await;
    real.session
        .run(&format!(
            "insert into outbox_messages (topic, key, payload) select 't', g::text, '{{}}' from generate_series(1, {rows}) g;
             analyze outbox_messages"
        ))
        .await;
    let reread = include_str!("../../../sql/reread.sql");
    let page = async |after: i64| {
        let (after, upto) = (after.to_string(), rows.to_string());
        let params = [&*after, &upto, "1000", "'\\xff'::bytea", "null", "null", "'{}'", "'{}'"];
        pages_of(&real, reread, &params).await
    };
    let first = page(0).await;
    let last = rows - 2_000;
    real.session
        .run(&format!(
            "update outbox_messages set relayed_at = now() where seq <= {last}"
        ))
        .await;
    let end = page(last).await;
    println!("pages touched by 1,000 rows of {rows}: {first} at the beginning, {end} at the end");
    // A thousand small rows stand on some twenty pages; dead ones before them are not walked.
    assert!(end <= 100, "{end} pages at the end, {first} at the beginning");
}
