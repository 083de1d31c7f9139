//! One message among all: by its seq, which is the primary key, or by its message id, which has no index.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use tokio_postgres::types::Type;

use super::row_identity::message_id;
use crate::message::MessageId;
use crate::store::StoreError;
use crate::store::postgres::link::about::is_about_a_row;
use crate::store::postgres::link::answer::{legible, unreadable};
use crate::store::postgres::link::database::{Database, Role};
use crate::store::postgres::link::sql::{Names, Statement};

const STRETCH: &str = include_str!("../../../../sql/stretch.sql");
const IDS: &str = include_str!("../../../../sql/find_ids.sql");
const UNSETTLED: &str = include_str!("../../../../sql/find_unsettled.sql");
const STATES: &str = include_str!("../../../../sql/states.sql");
const PENDING: &str = include_str!("../../../../sql/pending.sql");
const PENDING_THERE: &str = include_str!("../../../../sql/foreign_pending.sql");

/// Rows one statement looks back over.
const PAGE: i64 = 10_000;

/// Where the outbox begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Lowest seq; above `last` when there is no row.
    pub first: i64,
    /// Highest seq.
    pub last: i64,
    /// The database's time.
    pub now: Timestamp,
}

impl Stretch {
    /// How many numbers that is.
    #[must_use]
    pub fn length(&self) -> u64 {
        u64::try_from(self.last.saturating_sub(self.first).saturating_add(1)).unwrap_or(0)
    }
}

/// Where the outbox begins and ends now.
///
/// # Errors
/// See [`Database::query`].
pub async fn stretch(database: &Database, names: &Names) -> Result<Stretch, StoreError> {
    let statement = Statement {
        text: names.fill(STRETCH),
        types: &[],
    };
    let rows = database.query(Role::Side, &statement, &[]).await?;
    let row = rows.first().expect("one row");
    let read = || {
        Ok(Stretch {
            first: row.try_get::<_, Option<i64>>("first")?.unwrap_or(1),
            last: row.try_get::<_, Option<i64>>("last")?.unwrap_or(0),
            now: row.try_get("now")?,
        })
    };
    read().map_err(|error: tokio_postgres::Error| unreadable(&error))
}

/// How a row stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Neither relayed nor failed.
    Pending,
    /// The broker has it.
    Relayed,
    /// Given up, with the last error.
    Failed(String),
}

/// How those of `seqs` stand that there are, and which messages they are.
///
/// # Errors
/// See [`Database::query`].
pub async fn states(
    database: &Database,
    names: &Names,
    seqs: &[i64],
) -> Result<BTreeMap<i64, (MessageId, State)>, StoreError> {
    let statement = Statement {
        text: names.fill(STATES),
        types: &[Type::INT8_ARRAY],
    };
    let rows = database.query(Role::Side, &statement, &[&seqs]).await?;
    let read = |row: &tokio_postgres::Row| {
        let state = match (row.try_get("relayed")?, row.try_get("failed")?) {
            (true, _) => State::Relayed,
            (false, true) => State::Failed(legible(row, "last_error").unwrap_or_default()),
            (false, false) => State::Pending,
        };
        Ok((row.try_get("seq")?, (message_id(row.try_get("id")?), state)))
    };
    let states: Result<_, tokio_postgres::Error> = rows.iter().map(read).collect();
    states.map_err(|error| unreadable(&error))
}

/// The seqs of those of `ids` that are among the newest `rows` rows (`None`: among all of them, which may take a while).
/// Where several rows have one id, the newest.
///
/// # Errors
/// See [`Database::query`].
pub async fn newest(
    database: &Database,
    names: &Names,
    ids: &[String],
    rows: Option<i64>,
) -> Result<HashMap<String, i64>, StoreError> {
    let statement = Statement {
        text: names.fill(IDS),
        types: &[Type::INT8, Type::INT8, Type::TEXT_ARRAY],
    };
    let wanted = texts(ids);
    let mut found = HashMap::new();
    let (mut below, mut left) = (i64::MAX, rows.unwrap_or(i64::MAX));
    while found.len() < wanted.len() && left > 0 {
        let page = PAGE.min(left);
        let answer = database
            .query(Role::Side, &statement, &[&below, &page, &wanted])
            .await?;
        let row = answer.first().expect("an aggregate has one row");
        let (first, rows): (Option<i64>, i64) = (row.get("first"), row.get("rows"));
        collect(&mut found, row.get("ids"), row.get("seqs"));
        left -= rows;
        match first {
            Some(first) if rows == page => below = first,
            Some(_) | None => break,
        }
    }
    Ok(found)
}

/// The seqs of those of `ids` that are pending or failed.
///
/// # Errors
/// See [`Database::query`].
pub async fn unsettled(database: &Database, names: &Names, ids: &[String]) -> Result<HashMap<String, i64>, StoreError> {
    let statement = Statement {
        text: names.fill(UNSETTLED),
        types: &[Type::TEXT_ARRAY],
    };
    let mut found = HashMap::new();
    for row in database.query(Role::Side, &statement, &[&texts(ids)]).await? {
        collect(&mut found, vec![row.get("id")], vec![row.get("seq")]);
    }
    Ok(found)
}

/// Whether any message (of `topic`) is due, retrying or held.
///
/// # Errors
/// See [`Database::query`].
pub async fn pending(database: &Database, names: &Names, topic: Option<&str>) -> Result<bool, StoreError> {
    let statement = Statement {
        text: names.fill(if names.is_foreign() { PENDING_THERE } else { PENDING }),
        types: &[Type::TEXT],
    };
    match database.query(Role::Side, &statement, &[&topic]).await {
        // A pending row whose topic cannot be read may be one of them.
        Err(error) if is_about_a_row(&error) => Ok(true),
        answer => Ok(answer?.first().is_some_and(|row| row.get(0))),
    }
}

/// Each once.
fn texts(ids: &[String]) -> Vec<String> {
    let mut texts = ids.to_vec();
    texts.sort_unstable();
    texts.dedup();
    texts
}

fn collect(found: &mut HashMap<String, i64>, ids: Vec<String>, seqs: Vec<i64>) {
    for (id, seq) in ids.into_iter().zip(seqs) {
        found.entry(id).or_insert(seq);
    }
}
