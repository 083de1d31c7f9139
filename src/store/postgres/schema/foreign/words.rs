//! Columns that say in words, or small numbers, how a row stands.

use super::catalog::Catalog;
use crate::store::StoreError;
use crate::store::postgres::link::database::{Database, Role};
use crate::store::postgres::link::sql::{Names, Statement, quote_literal};

const WORDS: &str = include_str!("../../../../../sql/foreign_words.sql");

const CALLED: [&str; 6] = ["status", "state", "statusname", "published", "processed", "dispatched"];
const PENDING: [&str; 6] = ["pending", "new", "scheduled", "created", "ready", "unpublished"];
const RELAYED: [&str; 8] = [
    "delivered",
    "completed",
    "succeeded",
    "published",
    "processed",
    "sent",
    "done",
    "relayed",
];
const FAILED: [&str; 4] = ["dead", "failed", "discarded", "abandoned"];

/// What a column may hold.
#[derive(Clone, Debug)]
pub(super) struct Words {
    pub(super) name: String,
    /// Its default, as SQL.
    pub(super) initial: String,
    known: Vec<String>,
}

/// Which values mean what, as literals.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) column: String,
    pub(super) pending: String,
    pub(super) relayed: String,
    pub(super) failed: Option<String>,
}

pub(super) async fn read(database: &Database, names: &Names) -> Result<Vec<Words>, StoreError> {
    let statement = Statement {
        text: names.fill(WORDS),
        types: &[],
    };
    let rows = database.query(Role::Side, &statement, &[]).await?;
    let words = |row: &tokio_postgres::Row| {
        let (initial, checks): (String, String) = (row.get("initial"), row.get("checks"));
        let (labels, common): (Vec<String>, Vec<String>) = (row.get("labels"), row.get("common"));
        let quoted = quoted(&checks).chain(quoted(&initial)).map(str::to_owned);
        Words {
            name: row.get("name"),
            known: quoted.chain(labels).chain(common).collect(),
            initial,
        }
    };
    Ok(rows.iter().map(words).collect())
}

/// What stands in quotes.
fn quoted(sql: &str) -> impl Iterator<Item = &str> {
    sql.split('\'').skip(1).step_by(2)
}

/// The column that says how a row stands, if one does.
pub(super) fn standing(catalog: &Catalog, words: &[Words]) -> Option<Standing> {
    CALLED.iter().find_map(|called| {
        let named = |words: &&Words| words.name.replace('_', "").to_lowercase() == *called;
        let words = words.iter().find(named)?;
        let kind = &*catalog.column(&words.name)?.kind;
        let of = |pending: &str, relayed: &str| Standing {
            column: words.name.clone(),
            pending: pending.to_owned(),
            relayed: relayed.to_owned(),
            failed: None,
        };
        let is_flag = !["status", "state", "statusname"].contains(called);
        match kind {
            "boolean" if is_flag => Some(of("false", "true")),
            "smallint" | "integer" if is_flag => Some(of("0", "1")),
            "text" | "character varying" => Some(in_words(words)),
            _ if words.known.len() > 1 => Some(in_words(words)),
            _ => None,
        }
    })
}

/// The words that are known, else those that are most common elsewhere.
fn in_words(words: &Words) -> Standing {
    let find = |meant: &[&str]| {
        let known = |word: &&str| words.known.iter().find(|known| known.to_lowercase() == **word);
        meant.iter().find_map(known).map(|word| quote_literal(word))
    };
    Standing {
        column: words.name.clone(),
        pending: find(&PENDING).unwrap_or_else(|| quote_literal("PENDING")),
        relayed: find(&RELAYED).unwrap_or_else(|| quote_literal("DELIVERED")),
        failed: find(&FAILED).or_else(|| words.known.is_empty().then(|| quote_literal("FAILED"))),
    }
}
