//! Keys whose messages wait behind one of them, for people and gauges.

use std::collections::HashMap;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::rules::{HELD_SEARCH, Rules, unless_unreadable};
use crate::backlog::HeldKey;
use crate::delivery::Order;
use crate::store::StoreError;
use crate::store::postgres::link::answer::legible;
use crate::store::postgres::link::database::{Database, Role};
use crate::store::postgres::link::sql::{Names, Param, Statement};

const HOLDERS: &str = include_str!("../../../../sql/status_holders.sql");
const HELD: &str = include_str!("../../../../sql/status_held.sql");
const KEYS: &str = include_str!("../../../../sql/status_keys.sql");

/// Held keys looked for and reported at most.
const HOLDERS_MAX: i64 = 1_000;
/// Retrying and failed messages looked at for them.
const HOLDERS_SEARCH: i64 = 20_000;

/// A message that holds its key.
pub(super) struct KeyHolder {
    pub(super) topic: String,
    /// Of its key: keys may be long.
    pub(super) hash: i64,
    seq: i64,
    failed: bool,
    pub(super) waiting: u64,
}

/// Those behind whom messages wait.
pub(super) async fn holders(
    database: &Database,
    names: &Names,
    rules: Rules<'_>,
) -> Result<Vec<KeyHolder>, StoreError> {
    let statement = Statement {
        text: names.fill(HOLDERS),
        types: &[Type::INT8, Type::INT8],
    };
    let rows = unless_unreadable(
        database
            .query(Role::Side, &statement, &[&HOLDERS_MAX, &HOLDERS_SEARCH])
            .await,
    )?;
    let mut held: Vec<KeyHolder> = rows.iter().filter_map(|row| holder(row, rules)).collect();
    if held.is_empty() {
        return Ok(held);
    }
    let types = &[Type::TEXT_ARRAY, Type::INT8_ARRAY, Type::INT8_ARRAY, Type::INT8];
    let statement = Statement {
        text: names.fill(HELD),
        types,
    };
    let (topics, hashes, seqs) = arrays(&held);
    let params: [Param<'_>; 4] = [&topics, &hashes, &seqs, &HELD_SEARCH];
    let rows = unless_unreadable(database.query(Role::Side, &statement, &params).await)?;
    let waiting = rows
        .iter()
        .map(|row| ((row.get(0), row.get(1)), row.get::<_, i64>(2).unsigned_abs()));
    let waiting: HashMap<(&str, i64), u64> = waiting.collect();
    for holder in &mut held {
        holder.waiting = waiting.get(&(&*holder.topic, holder.hash)).copied().unwrap_or(0);
    }
    held.retain(|holder| holder.waiting > 0);
    Ok(held)
}

fn holder(row: &Row, rules: Rules<'_>) -> Option<KeyHolder> {
    let topic: String = legible(row, 0).unwrap_or_default();
    let (hash, seq, failed): (i64, i64, bool) = (row.get(1), row.get(2), row.get(3));
    let holds = match (rules.of)(&topic).order {
        Order::Strict => true,
        Order::Key => !failed,
        Order::None => false,
    };
    holds.then_some(KeyHolder {
        topic,
        hash,
        seq,
        failed,
        waiting: 0,
    })
}

/// The same with their keys, for people.
pub(super) async fn held_keys(
    database: &Database,
    names: &Names,
    holders: Vec<KeyHolder>,
) -> Result<Vec<HeldKey>, StoreError> {
    if holders.is_empty() {
        return Ok(Vec::new());
    }
    let statement = Statement {
        text: names.fill(KEYS),
        types: &[Type::INT8_ARRAY],
    };
    let (_, _, seqs) = arrays(&holders);
    let rows = unless_unreadable(database.query(Role::Side, &statement, &[&seqs]).await)?;
    let keys: HashMap<i64, String> = rows
        .iter()
        .filter_map(|row| Some((row.get(0), legible(row, 1)?)))
        .collect();
    let named = |held: KeyHolder| HeldKey {
        key: keys.get(&held.seq).cloned().unwrap_or_default(),
        topic: held.topic,
        seq: held.seq,
        reason: if held.failed { "failed" } else { "retrying" },
        waiting: held.waiting,
    };
    Ok(holders.into_iter().map(named).collect())
}

/// Topics, hashes of keys, numbers.
pub(super) fn arrays(held: &[KeyHolder]) -> (Vec<&str>, Vec<i64>, Vec<i64>) {
    let topics = held.iter().map(|held| held.topic.as_str()).collect();
    let hashes = held.iter().map(|held| held.hash).collect();
    (topics, hashes, held.iter().map(|held| held.seq).collect())
}
