//! The division of the outbox into lanes, as the database has it.

use crate::store::StoreError;
use crate::store::postgres::link::database::{Database, Role};
use crate::store::postgres::link::sql::{Names, Statement};

const LANES: &str = include_str!("../../../../sql/validate_lanes.sql");

/// Whether the division fits. Lanes that are missing are put back, by whoever may: `daemon` is asked about by its role.
pub(super) async fn fit(database: &Database, names: &Names, daemon: bool) -> Result<(), StoreError> {
    let division = division(database, names).await?;
    if division.lanes != i64::from(names.lanes()) {
        return Err(StoreError::Misconfigured(format!(
            "outbox.lanes is {}, but the outbox is divided into {actual}: set outbox.lanes = {actual}",
            names.lanes(),
            actual = division.lanes
        )));
    }
    if daemon && division.missing > 0 && !division.restores {
        return Err(StoreError::Misconfigured(format!(
            "{} of {} rows of {}.outboxd_lanes are missing: run: outboxd migrate",
            division.missing,
            division.lanes,
            names.schema()
        )));
    }
    Ok(())
}

/// The lanes of an outbox.
pub(super) struct Division {
    lanes: i64,
    /// Lanes without a row.
    pub(super) missing: i64,
    /// Whether the current role may make one.
    restores: bool,
}

pub(super) async fn division(database: &Database, names: &Names) -> Result<Division, StoreError> {
    let statement = Statement {
        text: names.fill(LANES),
        types: &[],
    };
    let rows = database.query(Role::Side, &statement, &[]).await?;
    let row = rows.first().expect("a count");
    Ok(Division {
        lanes: row.get("lanes"),
        missing: row.get("missing"),
        restores: row.get("restores"),
    })
}
