//! Does the database hold what the relay needs? Asked once, at start and by `check`.
//!
//! A missing table, column or type, another number of lanes, or a migration not applied is for a person: one line that
//! names it. What merely costs speed or a promise's margin is a warning. Nothing is locked or written.

use std::collections::BTreeMap;

use super::columns::OUTBOX;
use super::foreign;
use super::lanes;
use super::migrate::{self, MigrationState, PayloadType};
use super::rights::{self, Duties};
use crate::finding::Finding;
use crate::store::StoreError;
use crate::store::postgres::link::database::{Database, Role};
use crate::store::postgres::link::sql::{Names, Statement};
use crate::store::postgres::link::theirs::Theirs;

const COLUMNS: &str = include_str!("../../../../sql/validate_columns.sql");
const SEQUENCE: &str = include_str!("../../../../sql/validate_sequence.sql");
const INDEXES: &str = include_str!("../../../../sql/validate_indexes.sql");

/// Columns of the service tables. Their types are ours: the migrations made them.
const SERVICE: [(&str, &[&str]); 6] = [
    ("outboxd_lanes", &["outbox", "lane", "owner", "epoch"]),
    (
        "outboxd_instances",
        &[
            "outbox",
            "instance",
            "session",
            "machine",
            "version",
            "lanes",
            "started_at",
            "renewed_at",
            "expires_at",
            "proof",
        ],
    ),
    (
        "outboxd_attempts",
        &[
            "outbox",
            "seq",
            "message_id",
            "attempt",
            "at",
            "instance",
            "class",
            "code",
            "error",
            "latency_ms",
        ],
    ),
    (
        "outboxd_audit",
        &[
            "outbox", "id", "at", "who", "role", "command", "action", "filter", "count", "detail",
        ],
    ),
    ("outboxd_paused", &["outbox", "topic", "at", "who"]),
    (
        "outboxd_questions",
        &["outbox", "id", "instance", "seq", "at", "answer"],
    ),
];

/// A schema the relay can work with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    /// Type of the payload column.
    pub payload: PayloadType,
    /// The sequence behind `seq`, quoted and qualified as `regclass` prints it.
    pub sequence: String,
    /// Numbers a session takes from it at a time. Above 1, late rows are found by the sweep instead of at once.
    pub sequence_cache: i64,
    /// What works, but not well.
    pub warnings: Vec<Finding>,
}

type Columns = BTreeMap<String, BTreeMap<String, String>>;

/// Why the daemon would not start, and of what kind that is.
pub(crate) struct Wrong {
    pub(crate) code: &'static str,
    pub(crate) error: StoreError,
}

/// Says of what kind an error is.
fn of(code: &'static str) -> impl Fn(StoreError) -> Wrong {
    move |error| Wrong { code, error }
}

/// Checks everything, and that the role may do what the daemon does where `duties` are its own.
///
/// # Errors
/// [`StoreError::Misconfigured`] with one line that names what is missing and what to do; [`StoreError::Unavailable`].
pub async fn validate(database: &Database, names: &Names, duties: Option<Duties>) -> Result<Schema, StoreError> {
    examine(database, names, duties).await.map_err(|wrong| wrong.error)
}

pub(crate) async fn examine(database: &Database, names: &Names, duties: Option<Duties>) -> Result<Schema, Wrong> {
    migrate::is_free(names).map_err(of("schema"))?;
    let role = rights::enters(database, names).await.map_err(of("grants"))?;
    let columns = columns(database, names).await.map_err(of("schema"))?;
    let payload = outbox(names, &columns).map_err(of("schema"))?;
    migrate::is_an_outbox(database, names).await.map_err(of("migrations"))?;
    let mut warnings = Vec::new();
    if let Some(duties) = duties {
        let found = rights::warnings(database, names, duties, &role).await;
        warnings = found.map_err(of("grants"))?;
        let sees = rights::sees_all(database, names, &role).await;
        sees.map_err(of("row_security"))?;
    }
    warnings.extend(migrations(database, names).await.map_err(of("migrations"))?);
    service(names, &columns).map_err(of("schema"))?;
    lanes::fit(database, names, duties.is_some())
        .await
        .map_err(of("lanes"))?;
    let (sequence, sequence_cache, increment) = sequence(database, names).await.map_err(of("schema"))?;
    warnings.extend(indexes(database, names).await.map_err(of("schema"))?);
    warnings.extend(foreign::warnings(names));
    if sequence_cache > 1 {
        warnings.push(Finding::warning(
            "sequence_cache",
            format!("sequence {sequence} has CACHE {sequence_cache}"),
            "sessions keep numbers for later, so rows are found late (by the sweep) and out of order",
            format!("alter sequence {sequence} cache 1"),
        ));
    }
    if increment > 1 {
        warnings.push(Finding::warning(
            "sequence_increment",
            format!("sequence {sequence} has INCREMENT {increment}"),
            "an application that fills the numbers between, as Hibernate's pooled optimizer does, keeps some for later: rows are \
             found late (by the sweep) and out of order",
            format!(
                "have the application take each number from the sequence (Hibernate: allocationSize = 1), and only then: alter \
                 sequence {sequence} increment 1"
            ),
        ));
    }
    Ok(Schema {
        payload,
        sequence,
        sequence_cache,
        warnings,
    })
}

async fn migrations(database: &Database, names: &Names) -> Result<Option<Finding>, StoreError> {
    let files = migrate::status(database, names).await?;
    for file in &files {
        match file.state {
            MigrationState::Applied | MigrationState::Unknown => {}
            MigrationState::Pending => {
                return fault(format!("migration {} was not applied: run: outboxd migrate", file.name));
            }
            MigrationState::Changed => return fault(migrate::changed_line(&file.name)),
        }
    }
    Ok(migrate::newer(&files))
}

/// The type of the payload column, after a look at the outbox's columns alone.
///
/// # Errors
/// As [`validate`].
pub async fn payload_type(database: &Database, names: &Names) -> Result<PayloadType, StoreError> {
    outbox(names, &columns(database, names).await?)
}

fn fault<T>(line: String) -> Result<T, StoreError> {
    Err(StoreError::Misconfigured(line))
}

async fn columns(database: &Database, names: &Names) -> Result<Columns, StoreError> {
    let mut columns = Columns::new();
    for row in database
        .query(
            Role::Side,
            &Statement {
                text: names.fill(COLUMNS),
                types: &[],
            },
            &[],
        )
        .await?
    {
        columns.entry(row.get(0)).or_default().insert(row.get(1), row.get(2));
    }
    Ok(columns)
}

fn outbox(names: &Names, columns: &Columns) -> Result<PayloadType, StoreError> {
    let table = format!("{}.{}", names.schema(), names.table());
    if let Some(theirs) = names.theirs() {
        return of_theirs(names, theirs, columns);
    }
    let Some(found) = columns.get(names.table()) else {
        return fault(format!(
            "outbox.table: table {table} does not exist: run: outboxd migrate"
        ));
    };
    for (ours, types) in OUTBOX {
        let theirs = names.column(ours);
        match found.get(theirs) {
            None => {
                return fault(format!(
                    "table {table} has no column {theirs}: add it, or name it in [outbox.columns] {ours} = \"...\""
                ));
            }
            Some(actual) if !types.contains(&actual.as_str()) => {
                return fault(format!(
                    "column {theirs} of table {table} is {actual}: {} is needed",
                    types.join(" or ")
                ));
            }
            Some(_) => {}
        }
    }
    let payload = &found[names.column("payload")];
    Ok(PayloadType::ALL
        .into_iter()
        .find(|kind| kind.as_str() == payload)
        .expect("the type was checked"))
}

/// As [`outbox`], where the table is not ours.
fn of_theirs(names: &Names, theirs: &Theirs, columns: &Columns) -> Result<PayloadType, StoreError> {
    let (schema, rows) = (names.schema(), &theirs.rows);
    let Some(found) = columns.get(rows) else {
        return fault(format!("table {schema}.{rows} does not exist: run: outboxd migrate"));
    };
    let made = theirs.sql.get("id_type");
    if found.get("id") != made {
        let (made, is) = (
            made.map_or("", |kind| kind),
            found.get("id").map_or("missing", |kind| kind),
        );
        return fault(format!(
            "column id of table {schema}.{rows} is {is}, that of {} is {made}: drop {rows} once it is empty, then run: outboxd migrate",
            names.table()
        ));
    }
    let text = ["text", "character varying"]
        .contains(&&*theirs.payload)
        .then_some("text");
    let payload = text.unwrap_or(&theirs.payload);
    Ok(PayloadType::ALL
        .into_iter()
        .find(|kind| kind.as_str() == payload)
        .expect("the type was checked"))
}

fn service(names: &Names, columns: &Columns) -> Result<(), StoreError> {
    for (table, needed) in SERVICE {
        let Some(found) = columns.get(table) else {
            return fault(format!(
                "table {}.{table} does not exist: run: outboxd migrate",
                names.schema()
            ));
        };
        if let Some(missing) = needed.iter().find(|column| !found.contains_key(**column)) {
            return fault(format!(
                "table {}.{table} has no column {missing}: it was not made by outboxd migrate; drop it and run that",
                names.schema()
            ));
        }
    }
    Ok(())
}

async fn sequence(database: &Database, names: &Names) -> Result<(String, i64, i64), StoreError> {
    let rows = database
        .query(
            Role::Side,
            &Statement {
                text: names.fill(SEQUENCE),
                types: &[],
            },
            &[],
        )
        .await?;
    let Some(row) = rows.first() else {
        return fault(format!(
            "column {} of table {}.{} owns no sequence: make it an identity column, or alter the sequence owned by it",
            names.column("seq"),
            names.schema(),
            names.table()
        ));
    };
    Ok((row.get("name"), row.get("cache"), row.get("increment")))
}

async fn indexes(database: &Database, names: &Names) -> Result<Vec<Finding>, StoreError> {
    let rows = database
        .query(
            Role::Side,
            &Statement {
                text: names.fill(INDEXES),
                types: &[],
            },
            &[],
        )
        .await?;
    let finding = |row: &tokio_postgres::Row| {
        const WHY: &str = "starts, retries, sweeps and status read the whole table instead";
        let (name, exists): (String, bool) = (row.get(0), row.get(1));
        if exists {
            let fix = format!("reindex index concurrently {}", names.qualified(&name));
            Finding::warning("index_invalid", format!("index {name} is invalid"), WHY, fix)
        } else {
            let fix = "create it concurrently, as sql/migrations/0001_outbox.sql does";
            Finding::warning("index_missing", format!("index {name} is missing"), WHY, fix)
        }
    };
    Ok(rows.iter().map(finding).collect())
}
