//! The outbox's table: how it is kept, its indexes and its triggers.

use tokio_postgres::types::Type;

use super::Examination;
use crate::finding::Finding;
use crate::store::StoreError;
use crate::store::postgres::link::sql::{quote_identifier, quote_literal};

/// Dead rows that are no concern, whatever else is in the table.
const DEAD_MAX: i64 = 100_000;
/// Pages from which on a table without statistics is one.
const PAGES_UNKNOWN: i64 = 1_000;
/// Rows from which on compiling statements, and vacuuming by a share of the table, hurt.
const MANY_ROWS: f64 = 1_000_000.0;
/// Pending messages among which ids are compared.
const TWINS_SEARCH: i64 = 20_000;

pub(super) async fn look(examination: &Examination<'_>) -> Result<Vec<Finding>, StoreError> {
    let table = examination.names.messages();
    let rows = examination
        .query(include_str!("../../../../../sql/doctor_table.sql"), &[], &[])
        .await?;
    let row = rows.first().expect("the outbox exists");
    let is = |column: &str| row.get::<_, bool>(column);
    let (dead, live): (i64, i64) = (row.get("dead"), row.get("live"));
    let (known, pages): (f64, i64) = (row.get("rows"), row.get("pages"));
    let mut found = Vec::new();
    let mut warn = |code, what: String, why, fix: String| found.push(Finding::warning(code, what, why, fix));
    if is("unlogged") {
        let why = "it is empty after a crash of the server: committed messages are lost";
        let fix = format!("alter table {table} set logged");
        warn("unlogged", format!("{table} is unlogged"), why, fix);
    }
    if !is("has_key") {
        let seq = quote_identifier(examination.names.column("seq"));
        let why = "every fetch and every mark reads the whole table, and two messages may have one number";
        let fix = format!("alter table {table} add primary key ({seq})");
        warn(
            "key_missing",
            format!("{table} has no valid unique index on {seq}"),
            why,
            fix,
        );
    }
    if is("autovacuum_off") {
        let why = "every mark leaves a dead row: the table and its indexes swell, and reads slow down";
        let fix = format!("alter table {table} reset (autovacuum_enabled)");
        warn(
            "autovacuum_off",
            format!("autovacuum is switched off for {table}"),
            why,
            fix,
        );
    }
    if row.get::<_, f64>("scale_factor") > 0.0 && known > MANY_ROWS {
        let why = "a table of millions of relayed rows waits for a share of them to be dead before it is vacuumed";
        let fix = format!(
            "alter table {table} set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000)"
        );
        warn("autovacuum_late", format!("{table} is vacuumed by its size"), why, fix);
    }
    if dead > DEAD_MAX && dead > live {
        let why = "vacuum does not keep up or is kept from removing them: reads of pending rows slow down";
        let fix = format!("vacuum {table}; if they stay, something holds an old snapshot");
        warn(
            "dead_rows",
            format!("{table} has {dead} dead rows and {live} live ones"),
            why,
            fix,
        );
    }
    if known < 0.0 && pages > PAGES_UNKNOWN {
        let why = "the planner does not know the table and may read all of it instead of an index";
        warn(
            "statistics",
            format!("{table} was never analyzed"),
            why,
            format!("analyze {table}"),
        );
    }
    Ok(found)
}

/// Failed messages looked at for what cannot be read.
const FAILED_SEARCH: i64 = 10_000;

pub(super) async fn columns(examination: &Examination<'_>) -> Result<Vec<Finding>, StoreError> {
    let file = include_str!("../../../../../sql/doctor_columns.sql");
    let rows = examination.query(file, &[], &[]).await?;
    let columns: Vec<String> = rows.first().map(|row| row.get("columns")).unwrap_or_default();
    if columns.is_empty() {
        return Ok(Vec::new());
    }
    let table = examination.names.messages();
    let alters = columns
        .iter()
        .map(|column| format!("alter column {} set not null", quote_identifier(column)));
    Ok(vec![Finding::warning(
        "nullable_column",
        format!("{table} takes nulls in {}", columns.join(", ")),
        "a message without id, topic or payload fails; without the other columns one is sent, but delayed and retried ones may be \
         found half a minute late",
        format!("alter table {table} {}", alters.collect::<Vec<_>>().join(", ")),
    )])
}

pub(super) async fn unreadable(examination: &Examination<'_>) -> Result<Vec<Finding>, StoreError> {
    let file = include_str!("../../../../../sql/doctor_unreadable.sql");
    let rows = examination
        .query(file, const { &[Type::INT8] }, &[&FAILED_SEARCH])
        .await?;
    let Some((count, Some(first))) = rows
        .first()
        .map(|row| (row.get::<_, i64>("rows"), row.get::<_, Option<i64>>("first")))
    else {
        return Ok(Vec::new());
    };
    let table = examination.names.messages();
    Ok(vec![Finding::warning(
        "unreadable_rows",
        format!("{count} messages failed because the server cannot read them, the first is seq {first}"),
        "their storage is damaged, and other rows may be",
        format!(
            "check the disk and {table} (pg_amcheck); restore the columns named in last_error, then: outboxd failed retry"
        ),
    )])
}

pub(super) async fn sequence(examination: &Examination<'_>) -> Result<Vec<Finding>, StoreError> {
    let file = include_str!("../../../../../sql/doctor_sequence.sql");
    let rows = examination.query(file, &[], &[]).await?;
    let behind = |row: &tokio_postgres::Row| {
        let (sequence, used, last): (String, i64, i64) = (row.get("sequence"), row.get("used"), row.get("last"));
        Finding::fault(
            "sequence_behind",
            format!("sequence {sequence} stands at {last}, but number {used} is in use"),
            "inserts fail when it gets there, and rows below the cursor are found late",
            format!("select setval({}, {used})", quote_literal(&sequence)),
        )
    };
    Ok(rows.iter().map(behind).collect())
}

pub(super) async fn indexes(examination: &Examination<'_>) -> Result<Vec<Finding>, StoreError> {
    let file = include_str!("../../../../../sql/doctor_indexes.sql");
    let rows = examination.query(file, &[], &[]).await?;
    let differs = |row: &tokio_postgres::Row| {
        let (name, definition, wanted): (&str, String, String) =
            (row.get("name"), row.get("definition"), row.get("wanted"));
        let index = examination.names.qualified(name);
        Finding::warning(
            "index_differs",
            format!("index {name} is another one: {definition}"),
            "the statements do not fit it and read the whole table instead",
            format!(
                "drop index concurrently {index}; create index concurrently {} on {} {wanted}",
                quote_identifier(name),
                examination.names.messages()
            ),
        )
    };
    Ok(rows.iter().map(differs).collect())
}

pub(super) async fn triggers(examination: &Examination<'_>) -> Result<Vec<Finding>, StoreError> {
    let table = examination.names.messages();
    let file = include_str!("../../../../../sql/doctor_triggers.sql");
    let rows = examination.query(file, &[], &[]).await?;
    let mut found = Vec::new();
    let wake = rows.iter().find(|row| row.get("is_wake"));
    let enabled = |row: &tokio_postgres::Row| matches!(row.get::<_, &str>("enabled"), "O" | "A");
    if examination.listen.is_some() && !wake.is_some_and(enabled) {
        let why = "messages wait for the next poll (relay.poll_interval_max) instead of waking the daemon";
        let (state, fix) = match wake {
            Some(_) => ("disabled", format!("alter table {table} enable trigger outboxd_wake")),
            None => (
                "missing",
                format!(
                    "create trigger outboxd_wake after insert on {table} for each statement execute function {}()",
                    examination.names.fill("{wake}")
                ),
            ),
        };
        let what = format!("the wake trigger of {table} is {state}");
        found.push(Finding::warning("wake_trigger", what, why, fix));
    }
    for row in rows.iter().filter(|row| !row.get::<_, bool>("is_wake") && enabled(row)) {
        let (name, function): (&str, String) = (row.get("name"), row.get("function"));
        found.push(Finding::warning(
            "foreign_trigger",
            format!("trigger {name} on {table} calls {function}"),
            "it runs within inserts or marks: what it costs or refuses is in the way of every message",
            format!("if it is not meant: drop trigger {} on {table}", quote_identifier(name)),
        ));
    }
    Ok(found)
}

/// Rows that have one message id, of those that wait.
pub(super) async fn twins(examination: &Examination<'_>) -> Result<Vec<Finding>, StoreError> {
    let file = include_str!("../../../../../sql/doctor_twins.sql");
    let rows = examination
        .query(file, const { &[Type::INT8] }, &[&TWINS_SEARCH])
        .await?;
    let finding = |row: &tokio_postgres::Row| {
        let (id, rows): (String, i64) = (row.get("id"), row.get("rows"));
        let (first, last): (i64, i64) = (row.get("first"), row.get("last"));
        Finding::warning(
            "duplicate_ids",
            format!("{rows} pending messages, from seq {first} to {last}, have the id {id}"),
            "a broker that tells copies by the id, as JetStream does, stores the first and drops the others, which then fail",
            "have the application draw an id for each message, and give these others one: update ... set id = gen_random_uuid()",
        )
    };
    Ok(rows.iter().map(finding).collect())
}
