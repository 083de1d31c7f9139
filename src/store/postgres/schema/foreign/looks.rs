//! By what new rows of theirs are found, and in which order: a number out of a sequence, else the time they were inserted at, else what
//! PostgreSQL itself knows of their order. `cmin` orders the rows of one transaction, through savepoints too.

use std::collections::BTreeMap;

use super::assignments::Assignments;
use super::catalog::{Catalog, Index};
use super::columns::Columns;
use crate::store::StoreError;
use crate::store::postgres::link::sql::{quote_identifier, quote_literal};
use crate::store::postgres::link::theirs::Place;

/// See the module.
pub(super) struct Looks {
    pub(super) place: Place,
    pub(super) served_by: Option<String>,
    sql: Vec<(&'static str, String)>,
}

/// The rows of one transaction as they were inserted; then as they lie.
const TIES: &str = "t.cmin::text::bigint, t.ctid";

impl Looks {
    /// # Errors
    /// `inserted_at` is no time.
    pub(super) fn of(columns: &Columns, catalog: &Catalog, assignments: &Assignments) -> Result<Self, StoreError> {
        if columns.known("seq").is_some() {
            return Ok(Self::by_number(columns, catalog));
        }
        let Some(time) = columns.time("inserted_at")? else {
            return Ok(Self {
                place: Place::Nowhere,
                served_by: None,
                sql: vec![
                    ("place", "null::bigint".to_owned()),
                    ("order", format!("age(t.xmin) desc, {TIES}")),
                    ("since", "true".to_owned()),
                    ("seqscan", quote_literal("on")),
                ],
            });
        };
        let column = columns.column("inserted_at").map(|column| &*column.name);
        let serving = column.and_then(|column| {
            let serves = |index: &&Index| serves(index, column, assignments);
            catalog.indexes.iter().find(serves)
        });
        let before = serving.map_or_else(Vec::new, |index| {
            let leading = index
                .columns
                .iter()
                .flatten()
                .take_while(|name| Some(&***name) != column);
            leading
                .filter(|name| assignments.null_when_pending.contains(name))
                .collect()
        });
        let quoted: Vec<String> = before
            .iter()
            .map(|name| format!("t.{}", quote_identifier(name)))
            .collect();
        let (raw, read) = (&time.raw, &time.read);
        let order: Vec<&str> = quoted.iter().chain([raw]).map(|sql| &**sql).collect();
        let back: Vec<String> = order.iter().map(|sql| format!("{sql} desc")).collect();
        let bound = "(timestamptz 'epoch' + {from} * interval '1 microsecond')";
        let bound = if time.zoneless {
            format!("({bound} at time zone 'utc')")
        } else {
            bound.to_owned()
        };
        let served_by = serving.map(|index| index.name.clone());
        Ok(Self {
            place: Place::Time,
            sql: vec![
                // What a clock that is ahead has written is now, and no time of before 1970 is one that anybody means.
                (
                    "place",
                    format!(
                        "(extract(epoch from least(greatest({read}, timestamptz 'epoch'), now())) * 1000000)::bigint"
                    ),
                ),
                ("time", raw.clone()),
                ("order", format!("{}, {TIES}", order.join(", "))),
                ("back", back.join(", ")),
                ("since", format!("{raw} >= {bound}")),
                ("seqscan", quote_literal(if served_by.is_some() { "off" } else { "on" })),
            ],
            served_by,
        })
    }

    fn by_number(columns: &Columns, catalog: &Catalog) -> Self {
        let number = columns.value("seq");
        let column = columns.column("seq").map(|column| &*column.name);
        let leads = |index: &&Index| column.is_some() && index.plain && index.columns[0].as_deref() == column;
        let served_by = catalog.indexes.iter().find(leads).map(|index| index.name.clone());
        Self {
            place: Place::Number,
            sql: vec![
                ("place", format!("({number})::bigint")),
                ("number", number.clone()),
                ("order", number.clone()),
                ("since", format!("{number} >= {{from}}")),
                ("seqscan", quote_literal(if served_by.is_some() { "off" } else { "on" })),
            ],
            served_by,
        }
    }

    pub(super) fn put_into(self, sql: &mut BTreeMap<&'static str, String>) {
        sql.extend(self.sql);
    }
}

/// Whether an index has the pending rows in the order of `column`: what stands before it there is the same in all of them.
fn serves(index: &Index, column: &str, assignments: &Assignments) -> bool {
    let mut leading = index.columns.iter().take_while(|name| name.as_deref() != Some(column));
    let is_there = index.columns.iter().any(|name| name.as_deref() == Some(column));
    let is_fixed = |name: &Option<String>| {
        let fixed = |name: &String| assignments.null_when_pending.contains(name) || assignments.asks_for(name);
        name.as_ref().is_some_and(fixed)
    };
    // Over all rows, an index of the time alone passes all that are relayed.
    let is_narrow = assignments.deletes || !index.whole || index.columns[0].as_deref() != Some(column);
    index.plain && is_there && is_narrow && leading.all(is_fixed)
}
