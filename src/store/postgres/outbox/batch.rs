//! What a statement that settles is made of: the rows, and the way it goes.

use crate::store::postgres::link::database::{Granted, Settling};
use crate::store::postgres::link::sql::{Param, Statement};
use crate::store::{FailedAttempt, Mark, StoreError};

/// What is settled.
#[derive(Clone, Copy)]
pub(super) enum Batch<'a> {
    Marks(&'a [Mark]),
    Failures(&'a [FailedAttempt]),
}

impl Batch<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Marks(marks) => marks.len(),
            Self::Failures(failures) => failures.len(),
        }
    }

    pub(super) fn mark(&self, index: usize) -> &Mark {
        match self {
            Self::Marks(marks) => &marks[index],
            Self::Failures(failures) => &failures[index].mark,
        }
    }
}

/// The way a statement goes: on which connection, how long it may take, and how long it waits for a row's lock.
pub(super) struct Via<'a> {
    pub(super) settling: &'a Settling<'a>,
    /// `None`: somebody else looks at the time.
    pub(super) granted: Option<Granted>,
    /// `lock_timeout`.
    pub(super) lock: &'static str,
}

impl Via<'_> {
    pub(super) async fn write(&self, statement: &Statement, params: &[Param<'_>]) -> Result<u64, StoreError> {
        self.settling.write(statement, params, self.granted).await
    }
}

/// The ids as the database prints them; one that is missing is null.
pub(super) fn texts<'a>(marks: impl Iterator<Item = &'a Mark>) -> Vec<Option<String>> {
    marks.map(|mark| mark.id.text()).collect()
}
