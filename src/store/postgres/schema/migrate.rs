//! Migrations: the numbered files of `sql/migrations/`, part of the binary.
//!
//! A run is one transaction: take an advisory lock, run what is missing, record each file with its checksum, check the
//! division into lanes. `--print` prints exactly the text that is run, so a DBA who runs it by hand ends with the same
//! database. That works because of one rule: every file can be run again on its own result. So all are where a table is gone.
//!
//! The checksum is that of the file as shipped, before names are filled in. A file that was applied and then changed is
//! refused: nobody knows what the database holds then.
//!
//! A run never waits long for a lock on the outbox, since the application's inserts would queue behind it: it gives up after
//! half a second and tries again a few times.

use std::time::Duration;

use serde::Serialize;
use tokio_postgres::error::SqlState;

use super::lanes;
use super::migrations::migrations;
pub use super::migrations::{MIGRATIONS, Migration, PayloadType};
use crate::finding::Finding;
use crate::store::StoreError;
use crate::store::postgres::link::about::{DatabaseError, database_error};
use crate::store::postgres::link::database::{Database, Role};
use crate::store::postgres::link::sql::{Names, Statement};

const BEGIN: &str = include_str!("../../../../sql/migration_begin.sql");
const LANES: &str = include_str!("../../../../sql/migration_lanes.sql");
const GONE: &str = include_str!("../../../../sql/migration_gone.sql");
const APPLIED: &str = include_str!("../../../../sql/migration_applied.sql");
const EXISTS: &str = include_str!("../../../../sql/migration_exists.sql");
const OTHERS: &str = include_str!("../../../../sql/migration_others.sql");

/// Tries to get the lock on a busy table, each for half a second, before a run gives up.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_secs(1);

/// One file, and whether the database has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MigrationStatus {
    /// Its number.
    pub version: i32,
    /// Its file name.
    pub name: String,
    /// `applied`, `pending`, `changed` (the file is not the one that was applied) or `unknown` (of a newer outboxd).
    pub state: MigrationState,
    /// When it was applied, by the database's clock; ISO 8601.
    pub applied_at: Option<String>,
}

/// See [`MigrationStatus::state`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MigrationState {
    /// The database has it.
    Applied,
    /// The database lacks it.
    Pending,
    /// The file is not the one that was applied.
    Changed,
    /// A newer outboxd applied it.
    Unknown,
}

impl MigrationState {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Pending => "pending",
            Self::Changed => "changed",
            Self::Unknown => "unknown",
        }
    }
}

/// All of the SQL, for a DBA to run by hand; it may be run on a database that has some or all of it.
#[must_use]
pub fn script(names: &Names, payload: PayloadType) -> String {
    let text = run_text(names, payload, &migrations(names), Names::fill_keeping_comments);
    format!("begin;\n{text}\ncommit;\n")
}

fn run_text(names: &Names, payload: PayloadType, files: &[Migration], fill: fn(&Names, &str) -> String) -> String {
    let mut text = fill(names, &BEGIN.replace("{payload_type}", payload.as_str()));
    text.push('\n');
    text.push_str(&fill(names, LANES));
    for file in files {
        text.push_str(&file.sql(names, payload));
    }
    text.push('\n');
    text.push_str(&fill(names, LANES));
    text
}

/// Brings the database up to date and returns the names of the files it applied: none when there was nothing to do.
/// Changes nothing when it fails.
///
/// # Errors
/// [`StoreError::Misconfigured`] when an applied file was changed, an older daemon is in the way of a second outbox, `lanes` does not
/// fit, a hand-made table is too big to be indexed while inserts wait, or a right is missing; [`StoreError::Unavailable`]
/// when the database is, or the outbox stayed locked.
pub async fn migrate(
    database: &Database,
    names: &Names,
    payload: PayloadType,
) -> Result<Vec<&'static str>, StoreError> {
    is_free(names)?;
    let status = status(database, names).await?;
    if let Some(changed) = status.iter().find(|file| file.state == MigrationState::Changed) {
        return Err(StoreError::Misconfigured(changed_line(&changed.name)));
    }
    let waiting = status.iter().filter(|file| file.state == MigrationState::Pending);
    let is_pending = |file: &Migration| waiting.clone().any(|known| known.version == file.version);
    let mut pending: Vec<Migration> = migrations(names).into_iter().filter(is_pending).collect();
    if !gone(database, names).await?.tables.is_empty() {
        // Every file can be run again: what is there stays.
        pending = migrations(names);
    }
    if pending.is_empty() {
        // Only the lanes, without asking for any right to create.
        return database
            .batch(&names.fill(LANES))
            .await
            .map(|()| Vec::new())
            .map_err(refusal);
    }
    let text = run_text(names, payload, &pending, Names::fill);
    let mut tries = 1;
    loop {
        match database.batch(&text).await {
            Ok(()) => return Ok(pending.iter().map(|file| file.name).collect()),
            Err(error) if sql_state(&error) == Some(&SqlState::LOCK_NOT_AVAILABLE) && tries < LOCK_TRIES => {
                tracing::info!("the outbox is locked by another transaction: trying again");
                tries += 1;
                tokio::time::sleep(LOCK_PAUSE).await;
            }
            Err(error) => return Err(refusal(error)),
        }
    }
}

/// What was made once and is gone since.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gone {
    /// Tables, the outbox before others.
    pub tables: Vec<String>,
    /// Rows of the table of lanes.
    pub lanes: i64,
}

/// What [`migrate`] will make again: nothing where a file is yet to be applied, or a newer outboxd applied one.
///
/// # Errors
/// See [`Database::query`].
pub async fn gone(database: &Database, names: &Names) -> Result<Gone, StoreError> {
    let status = status(database, names).await?;
    if status.iter().any(|file| file.state != MigrationState::Applied) {
        return Ok(Gone::default());
    }
    let rows = ask(database, names, GONE).await?;
    let tables: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let lanes = if tables.is_empty() {
        lanes::division(database, names).await?.missing
    } else {
        0
    };
    Ok(Gone { tables, lanes })
}

/// What to say of an applied file that is not the one shipped.
pub(super) fn changed_line(name: &str) -> String {
    format!("migration {name} was changed after it was applied: install the outboxd that applied it, or a newer one")
}

/// Files in `status` that only a newer outboxd knows.
#[must_use]
pub fn newer(status: &[MigrationStatus]) -> Option<Finding> {
    let unknown = status.iter().filter(|file| file.state == MigrationState::Unknown);
    let names: Vec<&str> = unknown.map(|file| file.name.as_str()).collect();
    (!names.is_empty()).then(|| {
        Finding::warning(
            "newer_schema",
            format!("the database was migrated by a newer outboxd ({})", names.join(", ")),
            "this one does not do what that brought; migrations are never undone",
            "install the newer one",
        )
    })
}

/// Each file known here or there, oldest first. Of a database never migrated, all are pending.
///
/// # Errors
/// See [`Database::query`].
pub async fn status(database: &Database, names: &Names) -> Result<Vec<MigrationStatus>, StoreError> {
    let migrated: bool = ask(database, names, EXISTS)
        .await?
        .first()
        .is_some_and(|row| row.get(0));
    let rows = if migrated {
        ask(database, names, APPLIED).await?
    } else {
        Vec::new()
    };
    let files = migrations(names);
    let mut list: Vec<MigrationStatus> = Vec::with_capacity(files.len());
    for row in rows {
        let (version, name, checksum): (i32, String, String) = (row.get(0), row.get(1), row.get(2));
        let state = match files.iter().find(|file| file.version == version) {
            Some(file) if file.checksum() == checksum => MigrationState::Applied,
            Some(_) => MigrationState::Changed,
            None => MigrationState::Unknown,
        };
        list.push(MigrationStatus {
            version,
            name,
            state,
            applied_at: Some(row.get(3)),
        });
    }
    for file in files {
        if !list.iter().any(|known| known.version == file.version) {
            let (name, state) = (file.name.to_owned(), MigrationState::Pending);
            list.push(MigrationStatus {
                version: file.version,
                name,
                state,
                applied_at: None,
            });
        }
    }
    list.sort_by_key(|file| file.version);
    Ok(list)
}

async fn ask(database: &Database, names: &Names, file: &str) -> Result<Vec<tokio_postgres::Row>, StoreError> {
    let statement = Statement {
        text: names.fill(file),
        types: &[],
    };
    database.query(Role::Side, &statement, &[]).await
}

/// Whether the outbox is called like something of ours.
///
/// # Errors
/// [`StoreError::Misconfigured`] with one line.
pub(super) fn is_free(names: &Names) -> Result<(), StoreError> {
    if names.is_taken() {
        return Err(StoreError::Misconfigured(format!(
            "outbox.table: {} is a name of outboxd's own tables: call the outbox something else",
            names.table()
        )));
    }
    Ok(())
}

/// Whether the table was migrated, where another one of its schema was. What the role may not see is not this one's complaint.
///
/// # Errors
/// [`StoreError::Misconfigured`] with one line; [`StoreError::Unavailable`].
pub(super) async fn is_an_outbox(database: &Database, names: &Names) -> Result<(), StoreError> {
    let row = ask(database, names, EXISTS).await?;
    if !row.first().is_some_and(|row| row.get("readable")) || !ask(database, names, APPLIED).await?.is_empty() {
        return Ok(());
    }
    let others = ask(database, names, OTHERS).await?;
    let Some(other) = others.first().and_then(|row| row.get::<_, Option<String>>(0)) else {
        return Ok(());
    };
    let (schema, table) = (names.schema(), names.table());
    Err(StoreError::Misconfigured(format!(
        "outbox.table: {schema}.{table} was never made an outbox beside {schema}.{other}: run: outboxd migrate, then \
         outboxd roles --print | psql"
    )))
}

pub(super) fn sql_state(error: &StoreError) -> Option<&SqlState> {
    database_error(error).and_then(DatabaseError::code)
}

/// What the files refuse themselves (`raise exception`) is for a person, and already one line that says what to do.
fn refusal(error: StoreError) -> StoreError {
    let state = sql_state(&error);
    if state == Some(&SqlState::LOCK_NOT_AVAILABLE) {
        return StoreError::Unavailable(
            "the outbox is locked by a long transaction: end it (pg_stat_activity shows it) and migrate again".into(),
        );
    }
    let prerequisite = state == Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
    match error {
        StoreError::Unavailable(source) if prerequisite => {
            let line = source.to_string();
            StoreError::Misconfigured(line.strip_suffix(" (55000)").unwrap_or(&line).to_owned())
        }
        StoreError::Unavailable(_) | StoreError::Misconfigured(_) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_numbered_without_holes_and_named_after_their_number() {
        for (index, file) in MIGRATIONS.iter().enumerate() {
            assert_eq!(file.version, i32::try_from(index).unwrap() + 1);
            assert!(file.name.starts_with(&format!("{:04}_", file.version)), "{}", file.name);
        }
    }

    #[test]
    fn what_a_dba_runs_is_what_migrate_runs_and_comments() {
        let names = Names::new("public", "outbox_messages", 64);
        let printed = script(&names, PayloadType::Jsonb);
        let run = run_text(&names, PayloadType::Jsonb, &MIGRATIONS, Names::fill);
        let code = |text: &str| {
            text.lines()
                .filter(|l| !l.trim_start().starts_with("--") && !l.trim().is_empty())
                .collect::<Vec<_>>()
                .join("\n")
        };
        assert_eq!(code(&printed), format!("begin;\n{}\ncommit;", code(&run)));
        assert!(!printed.contains("{payload_type}") && !printed.contains("{version}"));
    }

    #[test]
    fn a_long_table_name_still_gives_distinct_object_names() {
        let names = Names::new("public", &"ä".repeat(31), 64);
        assert!(names.beside("pending").len() <= 63 && names.beside("pending").ends_with("_pending"));
        assert_ne!(names.beside("pending"), names.beside("waiting"));
    }
}
