//! What failed messages contain: payload and headers, for those who may see them.

use std::collections::HashMap;

use serde_json::value::RawValue;
use tokio_postgres::types::Type;

use super::database::{Database, Role};
use super::sql::{Names, Statement};
use crate::message::Seq;
use crate::store::StoreError;

const CONTENTS: &str = include_str!("../../../sql/failed_contents.sql");

/// Payload and headers by seq, as JSON.
pub type Contents = HashMap<i64, (Box<RawValue>, Box<RawValue>)>;

/// The contents of those of `seqs` that are failed, in order, until they are `bytes_max` long together; the first always.
///
/// # Errors
/// See [`Database::query`].
pub async fn read(database: &Database, names: &Names, seqs: &[Seq], bytes_max: usize) -> Result<Contents, StoreError> {
    let statement = Statement {
        text: names.fill(CONTENTS),
        types: &[Type::INT8_ARRAY],
    };
    let seqs: Vec<i64> = seqs.iter().map(|seq| seq.0).collect();
    let (mut contents, mut bytes) = (Contents::new(), 0);
    let raw = |text: String| RawValue::from_string(text).expect("the database's JSON is JSON");
    database
        .query_while(Role::Side, &statement, &[&seqs], |row| {
            let (seq, payload, headers): (i64, String, String) = (row.get(0), row.get(1), row.get(2));
            bytes += payload.len() + headers.len();
            if bytes > bytes_max && !contents.is_empty() {
                return Ok(false);
            }
            contents.insert(seq, (raw(payload), raw(headers)));
            Ok(true)
        })
        .await?;
    Ok(contents)
}
