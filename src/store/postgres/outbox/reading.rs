//! The statements of reading, which end where the sequence does.

use tokio_postgres::types::Type;

use crate::store::postgres::link::sql::{Names, Statement};

/// The statements that end where the sequence does, or look beyond.
pub(super) struct Reading {
    pub(super) fetch: Statement,
    pub(super) fetch_with_gaps: Statement,
    pub(super) fetch_ahead: Statement,
    pub(super) skim: Statement,
    pub(super) look: Statement,
    pub(super) due: Statement,
}

impl Reading {
    pub(super) fn new(names: &Names, sequence: Option<&str>) -> Self {
        let fill = |statement: Statement| statement.with_sequence(sequence);
        Self {
            fetch: fill(statement!(names, "fetch", [INT8, INT8, BYTEA, INT8_ARRAY, INT8_ARRAY])),
            fetch_with_gaps: fill(statement!(
                names,
                "fetch_with_gaps",
                [INT8, INT8, BYTEA, INT8_ARRAY, INT8_ARRAY, INT8_ARRAY, INT8_ARRAY]
            )),
            fetch_ahead: fill(statement!(
                names,
                "fetch_ahead",
                [INT8, BYTEA, INT8, INT8_ARRAY, INT8_ARRAY]
            )),
            skim: fill(statement!(names, "skim", [INT8, INT8, BYTEA])),
            look: fill(statement!(names, "look", [])),
            due: fill(statement!(
                names,
                "due",
                [INT8, INT8, INT8, INT8, BYTEA, INT8_ARRAY, INT8_ARRAY]
            )),
        }
    }
}
