//! What failed messages contain: payload and headers, for those who may see them.

use std::collections::HashMap;

use serde_json::value::RawValue;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::parts;
use crate::message::Seq;
use crate::store::StoreError;
use crate::store::postgres::link::about::is_about_a_row;
use crate::store::postgres::link::answer::Legible;
use crate::store::postgres::link::database::{Database, Role};
use crate::store::postgres::link::sql::{Names, Statement};

const CONTENTS: &str = include_str!("../../../../sql/failed_contents.sql");

/// Payload and headers by seq, as JSON.
pub type Contents = HashMap<i64, (Box<RawValue>, Box<RawValue>)>;

/// The contents of those of `seqs` that are failed, in order, until they are `bytes_max` long together; the first always.
///
/// # Errors
/// See [`Database::query`].
pub async fn read(database: &Database, names: &Names, seqs: &[Seq], bytes_max: usize) -> Result<Contents, StoreError> {
    let statement = Statement {
        text: names.fill(CONTENTS),
        types: &[Type::INT8_ARRAY, Type::TEXT_ARRAY],
    };
    let seqs: Vec<i64> = seqs.iter().map(|seq| seq.0).collect();
    let (mut contents, mut bytes) = (Contents::new(), 0);
    let mut take = |row: &Row| {
        let (seq, payload, headers): (i64, Legible, Legible) = (row.get(0), row.get(1), row.get(2));
        bytes += payload.0.len() + headers.0.len();
        if bytes > bytes_max && !contents.is_empty() {
            return false;
        }
        contents.insert(seq, (parts::json(payload), parts::json(headers)));
        true
    };
    let none: Vec<&str> = Vec::new();
    let mut after = None;
    let note = |row: Row| {
        after = Some(row.get::<_, i64>(0));
        Ok(take(&row))
    };
    match database
        .query_while(Role::Side, &statement, &[&seqs, &none], note)
        .await
    {
        Err(error) if is_about_a_row(&error) => {}
        answer => return answer.map(|()| contents),
    }
    for seq in seqs.iter().filter(|seq| after.is_none_or(|after| **seq > after)) {
        let rows = parts::query((database, names), &statement, &[*seq], &[]).await?;
        if !rows.iter().all(&mut take) {
            break;
        }
    }
    Ok(contents)
}
