//! Tables that are not ours: which of our columns they have, and the SQL over their rows that the statements are filled with.
//!
//! A table with all our columns, of our types, is as good as ours. Any other is relayed by enlisting its rows (`outbox::enlist`), if it
//! has an id with a unique index, a topic, a payload, and a way to say that a message was relayed. What the configuration says of
//! it is prepared, so that a mistake is found at the start and named; nothing is written here.

pub mod adopt;
mod assignments;
mod binding;
mod catalog;
mod columns;
mod looks;
mod words;

use std::collections::BTreeMap;

use super::columns::OUTBOX;
use super::made::made_by_migrate;
use crate::finding::Finding;
use crate::store::StoreError;
use crate::store::postgres::link::database::Database;
use crate::store::postgres::link::mapping::{Column, Mapping};
use crate::store::postgres::link::sql::{Names, quote_identifier};
use crate::store::postgres::link::theirs::{IdKind, Place, Theirs};
use assignments::Assignments;
use catalog::Catalog;
use columns::{Columns, Known};
use looks::Looks;

/// What may be wrong with the configuration of such a table: one line that names the key.
pub(crate) fn fault<T>(line: String) -> Result<T, StoreError> {
    Err(StoreError::Misconfigured(line))
}

/// The outbox that `names` and `mapping` mean, after a look at its table. One that is yet to be made is ours.
///
/// # Errors
/// [`StoreError::Misconfigured`] with one line that names the key; [`StoreError::Unavailable`].
pub async fn recognize(database: &Database, names: Names, mapping: &Mapping) -> Result<Names, StoreError> {
    let catalog = Catalog::read(database, &names).await?;
    if catalog.columns.is_empty() {
        if mapping.is_foreign() {
            return fault(format!("outbox.table: table {} does not exist", shown(&names)));
        }
        return Ok(names);
    }
    if !mapping.is_foreign() && (has_ours(&names, &catalog) || made_by_migrate(database, &names).await?) {
        return Ok(names);
    }
    let theirs = describe(database, &names, mapping, &catalog).await?;
    Ok(names.of_theirs(theirs))
}

/// The table's name for people.
fn shown(names: &Names) -> String {
    format!("{}.{}", names.schema(), names.table())
}

fn has_ours(names: &Names, catalog: &Catalog) -> bool {
    OUTBOX.iter().all(|(ours, types)| {
        let found = catalog.column(names.column(ours));
        found.is_some_and(|column| types.contains(&&*column.kind))
    })
}

async fn describe(
    database: &Database,
    names: &Names,
    mapping: &Mapping,
    catalog: &Catalog,
) -> Result<Theirs, StoreError> {
    let columns = Columns::find(database, names, mapping, catalog).await?;
    let id = unique_id(names, &columns, catalog)?;
    let assignments = Assignments::of(database, names, mapping, catalog, &columns).await?;
    let pending = assignments.pending(names, &columns, id.nullable)?;
    let looks = Looks::of(&columns, catalog, &assignments)?;
    let mut sql: BTreeMap<&'static str, String> = BTreeMap::new();
    sql.insert("table", names.messages());
    sql.insert("id", quote_identifier(&id.name));
    sql.insert("id_type", widened(&id.kind).to_owned());
    sql.insert("id_collation", collation(&id));
    for (name, alias) in [("same_m", "m"), ("same_p", "p"), ("same_r", "r")] {
        sql.insert(name, columns.same(alias)?);
    }
    sql.insert("topic", columns.text("topic"));
    sql.insert("key", columns.text("key"));
    sql.insert("payload", columns.value("payload"));
    let headers = if columns.known("headers").is_none() {
        "null::jsonb".to_owned()
    } else {
        columns.value("headers")
    };
    sql.insert("headers", headers);
    sql.insert(
        "attempt",
        columns.number("attempt", "greatest(coalesce(({}), 1), 1)::int", "1"),
    );
    sql.insert("max_attempts", columns.number("max_attempts", "({})::int", "null::int"));
    let priority = "greatest(least(coalesce(({}), 0), 32767), -32768)::smallint";
    sql.insert("priority", columns.number("priority", priority, "0::smallint"));
    let inserted_at = columns.time("inserted_at")?;
    let read = inserted_at.as_ref().map_or("now()", |time| &time.read);
    let available_at = columns.time("available_at")?;
    let available = available_at
        .as_ref()
        .map_or_else(String::new, |time| format!("{}, ", time.read));
    sql.insert("inserted_at", format!("coalesce({read}, now())"));
    sql.insert("available_at", format!("coalesce({available}{read}, now())"));
    let can_fail = assignments.can_fail;
    // A row that cannot say that it failed is pending there whatever happens.
    let stays = if can_fail {
        format!("({pending})")
    } else {
        "false".to_owned()
    };
    sql.insert("stays", stays);
    sql.insert("pending", pending);
    let (place, served_by) = (looks.place, looks.served_by.clone());
    looks.put_into(&mut sql);
    assignments.put_into(&mut sql);
    Ok(Theirs {
        rows: Names::rows_of(names.table()),
        id: match &*id.kind {
            "uuid" => IdKind::Uuid,
            "bigint" | "integer" => IdKind::Number,
            _text => IdKind::Text,
        },
        payload: columns.kind("payload"),
        place,
        served_by,
        deletes: mapping.deletes,
        can_fail,
        sql,
    })
}

/// The column that tells one of their rows from all others.
fn unique_id(names: &Names, columns: &Columns, catalog: &Catalog) -> Result<catalog::TheirColumn, StoreError> {
    let table = shown(names);
    let Some(Known::Column(id)) = columns.known("id") else {
        return fault("outbox.columns.id: must be a column".to_owned());
    };
    const KINDS: [&str; 5] = ["uuid", "bigint", "integer", "character varying", "text"];
    if !KINDS.contains(&&*id.kind) {
        return fault(format!(
            "outbox.columns.id: column {} of table {table} is {}: {} is needed",
            id.name,
            id.kind,
            KINDS.join(" or ")
        ));
    }
    if !catalog.is_unique(&id.name) {
        return fault(format!(
            "outbox.columns.id: column {} of table {table} has no unique index of its own: name another column, or make one: create \
             unique index concurrently on {} ({})",
            id.name,
            names.messages(),
            quote_identifier(&id.name)
        ));
    }
    Ok(id.clone())
}

/// The type that holds their ids, and those they may have when the column is made wider.
fn widened(kind: &str) -> &str {
    match kind {
        "integer" => "bigint",
        "character varying" => "text",
        other => other,
    }
}

/// Compared by the same rules as theirs, so that the indexes of both serve.
fn collation(id: &catalog::TheirColumn) -> String {
    id.collation
        .as_ref()
        .map_or_else(String::new, |name| format!("collate {name}"))
}

/// What of a table that is not ours costs speed, or order.
#[must_use]
pub fn warnings(names: &Names) -> Vec<Finding> {
    let Some(theirs) = names.theirs() else {
        return Vec::new();
    };
    let (table, mut found) = (names.table(), Vec::new());
    if theirs.place == Place::Nowhere {
        found.push(Finding::warning(
            "foreign_no_place",
            format!("table {table} has no column for inserted_at or seq"),
            "each look for new rows passes all that are pending (about 5 us each): with a million waiting for a broker, new ones are \
             found every few minutes",
            sequence_recipe(names),
        ));
    } else if theirs.served_by.is_none() {
        found.push(Finding::warning(
            "foreign_index_missing",
            format!("no index of table {table} finds its pending rows in order"),
            "each look for new rows reads the whole table: about 0.3 s for a million rows",
            index_recipe(names, theirs),
        ));
    }
    found
}

/// How their rows are numbered without the table being rewritten.
#[must_use]
pub fn sequence_recipe(names: &Names) -> String {
    let (table, sequence) = (
        quote_identifier(names.table()),
        quote_identifier(&format!("{}_seq", names.table())),
    );
    let text = include_str!("../../../../../sql/advice_sequence.sql");
    advice(text, &[("table", &table), ("sequence", &sequence)])
}

/// The index that finds pending rows.
#[must_use]
pub fn index_recipe(names: &Names, theirs: &Theirs) -> String {
    let place = if theirs.place == Place::Number {
        "number"
    } else {
        "time"
    };
    let (table, place) = (
        quote_identifier(names.table()),
        theirs.sql.get(place).map_or("", |sql| sql),
    );
    let pending = theirs.sql.get("pending").map_or("", |sql| sql).replace("t.", "");
    let text = include_str!("../../../../../sql/advice_index.sql");
    advice(
        text,
        &[
            ("table", &table),
            ("place", &place.replace("t.", "")),
            ("condition", &pending),
        ],
    )
}

/// SQL to be run by a person, in one line.
fn advice(text: &str, values: &[(&str, &str)]) -> String {
    let code = crate::store::postgres::link::sql::code(text);
    let filled = values
        .iter()
        .fold(code, |text, (name, value)| text.replace(&format!("{{{name}}}"), value));
    filled.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What the configuration says of our column, or the column of that name.
fn wanted<'a>(mapping: &'a Mapping, ours: &'a str) -> (Option<&'a Column>, &'a str) {
    let said = mapping.column(ours);
    let name = match said {
        Some(Column::Named(name)) => name,
        Some(Column::Missing | Column::Sql(_)) | None => ours,
    };
    (said, name)
}
