//! How their rows say how they stand: what is pending, and what is set when a message is relayed, fails, or is tried again.

use std::collections::BTreeMap;

use super::binding::{assign, bind};
use super::catalog::Catalog;
use super::columns::Columns;
use super::{fault, shown};
use crate::store::StoreError;
use crate::store::postgres::link::database::Database;
use crate::store::postgres::link::mapping::Mapping;
use crate::store::postgres::link::sql::{Names, quote_identifier};

const CONDITION: &str = include_str!("../../../../../sql/foreign_probe_condition.sql");
const ASSIGNMENT: &str = include_str!("../../../../../sql/foreign_probe_assignment.sql");

const NOW: (&str, &str) = ("now", "now()");
const ATTEMPT: (&str, &str) = ("attempt", "w.outboxd_attempt");
const ERROR: (&str, &str) = ("error", "w.outboxd_error");
const RETRY_AT: (&str, &str) = ("retry_at", "w.outboxd_retry_at");

/// See the module. What is `None` cannot be said there.
#[derive(Clone, Debug)]
pub(super) struct Assignments {
    pending: Option<String>,
    relayed: Option<String>,
    retrying: Option<String>,
    failed: Option<String>,
    retried: Option<String>,
    /// A row can say that it has failed for good, and so a person can take it back.
    pub(super) can_fail: bool,
    /// Columns that are null in a pending row.
    pub(super) null_when_pending: Vec<String>,
    /// Relayed rows are not there any more.
    pub(super) deletes: bool,
}

/// What is set, by our names, in a table that has these columns.
fn defaults(columns: &Columns, list: &[(&str, &str)]) -> Option<String> {
    let there = list
        .iter()
        .filter_map(|(ours, value)| Some((&*columns.column(ours)?.name, *value)));
    let text = assign(there);
    (!text.is_empty()).then_some(text)
}

impl Assignments {
    pub(super) async fn of(
        database: &Database,
        names: &Names,
        mapping: &Mapping,
        catalog: &Catalog,
        columns: &Columns,
    ) -> Result<Self, StoreError> {
        let state = &mapping.state;
        let has_failed_at = columns.column("failed_at").is_some();
        let failure = [
            ("failed_at", ":now"),
            ("attempt", ":attempt"),
            ("last_error", ":error"),
            ("updated_at", ":now"),
        ];
        let retry = [
            ("available_at", ":retry_at"),
            ("attempt", ":attempt"),
            ("last_error", ":error"),
            ("updated_at", ":now"),
        ];
        let again = [
            ("attempt", ":attempt"),
            ("available_at", ":now"),
            ("updated_at", ":now"),
        ];
        let back = has_failed_at.then(|| {
            let failed_at: &str = columns.column("failed_at").map_or("", |column| &column.name);
            let rest = defaults(columns, &again).map_or_else(String::new, |rest| format!(", {rest}"));
            format!("{}{rest}", assign([(failed_at, "null")]))
        });
        let relayed_at = columns.column("relayed_at");
        let marked = relayed_at.and_then(|_| defaults(columns, &[("relayed_at", ":now"), ("updated_at", ":now")]));
        let said = |said: &Option<String>, made: Option<String>| said.clone().or(made);
        let mut made = Self {
            pending: state.pending.clone(),
            relayed: said(&state.relayed, marked),
            retrying: said(&state.retrying, defaults(columns, &retry)),
            failed: said(&state.failed, defaults(columns, &failure)),
            retried: said(&state.retried, back),
            can_fail: has_failed_at || state.failed.is_some(),
            null_when_pending: Vec::new(),
            deletes: mapping.deletes,
        };
        if state.pending.is_none() {
            made.null_when_pending
                .extend(relayed_at.map(|column| column.name.clone()));
        }
        if has_failed_at && state.failed.is_none() || state.pending.is_none() {
            made.null_when_pending
                .extend(columns.column("failed_at").map(|column| column.name.clone()));
        }
        made.bind(catalog)?;
        made.probe(database, names).await?;
        Ok(made)
    }

    fn bind(&mut self, catalog: &Catalog) -> Result<(), StoreError> {
        let first = ("attempt", "1");
        for (name, sql, values) in [
            ("pending", &mut self.pending, &[NOW][..]),
            ("relayed", &mut self.relayed, &[NOW]),
            ("retrying", &mut self.retrying, &[NOW, ATTEMPT, ERROR, RETRY_AT]),
            ("failed", &mut self.failed, &[NOW, ATTEMPT, ERROR, RETRY_AT]),
            ("retried", &mut self.retried, &[NOW, first]),
        ] {
            if let Some(text) = sql {
                match bind(text, values, catalog) {
                    Ok(bound) => *text = bound,
                    Err(problem) => return fault(format!("outbox.state.{name}: {problem}")),
                }
            }
        }
        Ok(())
    }

    /// Whether each of it can be prepared.
    async fn probe(&self, database: &Database, names: &Names) -> Result<(), StoreError> {
        for (name, file, sql) in [
            ("pending", CONDITION, &self.pending),
            ("relayed", ASSIGNMENT, &self.relayed),
            ("retrying", ASSIGNMENT, &self.retrying),
            ("failed", ASSIGNMENT, &self.failed),
            ("retried", ASSIGNMENT, &self.retried),
        ] {
            let Some(sql) = sql else { continue };
            let probe = names.fill(file).replace("{expression}", sql);
            if let Err(said) = database.describe(&probe).await? {
                return fault(format!("outbox.state.{name}: {said}"));
            }
        }
        Ok(())
    }

    /// The condition over `t` that a row is to be sent.
    pub(super) fn pending(&self, names: &Names, columns: &Columns, nullable_id: bool) -> Result<String, StoreError> {
        let says = self.deletes
            || (self.relayed.is_some() && (self.pending.is_some() || columns.column("relayed_at").is_some()));
        if !says {
            return fault(format!(
                "outbox.columns.relayed_at: table {} has none: name a column, set outbox.on_relayed = \"delete\", or say in \
                 [outbox.state] what pending and relayed mean",
                shown(names)
            ));
        }
        let mut all: Vec<String> = self.pending.iter().map(|sql| format!("({sql})")).collect();
        let is_null = |column: &String| format!("t.{} is null", quote_identifier(column));
        all.extend(self.null_when_pending.iter().map(is_null));
        if nullable_id {
            all.push(format!("{} is not null", columns.value("id")));
        }
        if all.is_empty() {
            return Ok("true".to_owned());
        }
        Ok(all.join(" and "))
    }

    /// Whether `column` stands in the condition that the configuration says.
    pub(super) fn asks_for(&self, column: &str) -> bool {
        self.pending.as_ref().is_some_and(|sql| sql.contains(column))
    }

    pub(super) fn put_into(self, sql: &mut BTreeMap<&'static str, String>) {
        for (name, text) in [
            ("relayed", self.relayed),
            ("retrying", self.retrying),
            ("failed", self.failed),
            ("retried", self.retried),
        ] {
            sql.extend(text.map(|text| (name, text)));
        }
    }
}
