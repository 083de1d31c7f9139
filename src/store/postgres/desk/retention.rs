//! What `[retention]` asks for, and from which tables it may be taken for granted: those that `migrate` made.

use std::time::Duration;

use tokio_postgres::types::Type;

use crate::store::StoreError;
use crate::store::postgres::link::answer::unreadable;
use crate::store::postgres::link::database::{Database, Role};
use crate::store::postgres::link::sql::{Names, Statement};
use crate::store::postgres::outbox::transactions::holder;

const LOCK: &str = include_str!("../../../../sql/prune_lock.sql");

/// Longer than any table is old, and short enough to be taken off the time it is.
pub(super) const AGE_MAX: Duration = Duration::from_secs(1_000 * 366 * 86_400);

/// Which rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Those a broker has.
    Relayed,
    /// Those given up.
    Failed,
}

impl Settled {
    /// Their name, and that of their key in `[retention]`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Relayed => "relayed",
            Self::Failed => "failed",
        }
    }
}

/// What is deleted, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Which rows.
    pub settled: Settled,
    /// How long after they were settled.
    pub age: Duration,
    /// Somebody said so, and it is no default: a default deletes nothing from a table that `migrate` did not make.
    pub said: bool,
}

/// Who keeps `instance`, whose turn it is, from deleting: whoever holds the lock under which that is done. `None`: nobody, or it is
/// not its turn.
///
/// # Errors
/// See [`Database::query`].
pub async fn kept_by(database: &Database, names: &Names, instance: &str) -> Result<Option<String>, StoreError> {
    let statement = Statement {
        text: names.fill(LOCK),
        types: const { &[Type::TEXT] },
    };
    let rows = database.query(Role::Side, &statement, &[&instance]).await?;
    let holder = rows.first().map(holder).transpose();
    holder.map_err(|error| unreadable(&error))
}

/// Why `rule` deletes nothing from a table that `migrate` did not make, and what to do.
#[must_use]
pub fn off(names: &Names, rule: Rule) -> (String, String) {
    let (word, age) = (rule.settled.word(), humantime::format_duration(rule.age));
    let (schema, table) = (names.schema(), names.table());
    let what = format!(
        "retention is off for {schema}.{table}: outboxd migrate did not make it, and retention.{word} is not set (its default, \
         {age}, counts for a table that migrate made)"
    );
    let fix = format!(
        "set retention.{word} = \"{age}\" to have {word} rows deleted after that time, or \"0s\" to say that they stay"
    );
    (what, fix)
}
