//! What stands for each of our columns in their table.

use std::collections::BTreeMap;

use super::catalog::{Catalog, TheirColumn};
use super::{fault, shown, wanted};
use crate::store::StoreError;
use crate::store::postgres::link::database::Database;
use crate::store::postgres::link::mapping::{Column, Mapping};
use crate::store::postgres::link::sql::{COLUMNS, Names, quote_identifier};

const VALUE: &str = include_str!("../../../../../sql/foreign_probe_value.sql");

/// Columns that may be missing; the others are needed, or have to be made up for.
const DISPENSABLE: [&str; 13] = [
    "seq",
    "key",
    "headers",
    "attempt",
    "max_attempts",
    "priority",
    "available_at",
    "replay",
    "relayed_at",
    "failed_at",
    "last_error",
    "inserted_at",
    "updated_at",
];
/// Types of contents that are brought as they are stored.
const PAYLOADS: [&str; 5] = ["jsonb", "json", "text", "character varying", "bytea"];
const NUMBERS: [&str; 3] = ["bigint", "integer", "smallint"];

/// What stands for a column of ours.
#[derive(Clone, Debug)]
pub(super) enum Known {
    Column(TheirColumn),
    /// An expression over `t`, and its type.
    Sql(String, String),
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Columns(BTreeMap<&'static str, Known>);

/// A time of theirs.
#[derive(Clone, Debug)]
pub(super) struct Time {
    /// As it stands: what an index is made of.
    pub(super) raw: String,
    /// As a point in time.
    pub(super) read: String,
    /// It has no zone: that of our sessions is not asked, it is UTC.
    pub(super) zoneless: bool,
}

impl Columns {
    pub(super) async fn find(
        database: &Database,
        names: &Names,
        mapping: &Mapping,
        catalog: &Catalog,
    ) -> Result<Self, StoreError> {
        let mut found = BTreeMap::new();
        for ours in COLUMNS {
            let (said, name) = wanted(mapping, ours);
            let known = match (said, catalog.column(name)) {
                (Some(Column::Missing), _) => None,
                (Some(Column::Sql(sql)), _) => {
                    let probe = names.fill(VALUE).replace("{expression}", sql);
                    match database.describe(&probe).await? {
                        Ok(types) => Some(Known::Sql(sql.clone(), types.concat())),
                        Err(said) => return fault(format!("outbox.columns.{ours}: {said}")),
                    }
                }
                (Some(Column::Named(_)) | None, Some(column)) => Some(Known::Column(column.clone())),
                (Some(Column::Named(name)), None) => {
                    let table = shown(names);
                    return fault(format!("outbox.columns.{ours}: table {table} has no column {name}"));
                }
                (None, None) if DISPENSABLE.contains(&ours) => None,
                (None, None) => {
                    return fault(format!(
                        "outbox.columns.{ours}: table {} has no column {ours}: add it, or name it in [outbox.columns] {ours} = \"...\"",
                        shown(names)
                    ));
                }
            };
            if let Some(known) = known {
                found.insert(ours, known);
            }
        }
        let columns = Self(found);
        for (ours, types) in [
            ("payload", &PAYLOADS[..]),
            ("headers", &PAYLOADS[..4]),
            ("attempt", &NUMBERS),
            ("max_attempts", &NUMBERS),
            ("priority", &NUMBERS),
            ("seq", &NUMBERS),
        ] {
            columns.has_type(names, ours, types)?;
        }
        Ok(columns)
    }

    pub(super) fn known(&self, ours: &str) -> Option<&Known> {
        self.0.get(ours)
    }

    /// The column of theirs, where it is one.
    pub(super) fn column(&self, ours: &str) -> Option<&TheirColumn> {
        match self.known(ours)? {
            Known::Column(column) => Some(column),
            Known::Sql(..) => None,
        }
    }

    /// Its type, as `format_type` prints it; empty: there is none.
    pub(super) fn kind(&self, ours: &str) -> String {
        match self.known(ours) {
            Some(Known::Column(column)) => column.kind.clone(),
            Some(Known::Sql(_, kind)) => match &**kind {
                "varchar" => "character varying",
                "int8" => "bigint",
                "int4" => "integer",
                "int2" => "smallint",
                "timestamptz" => "timestamp with time zone",
                "timestamp" => "timestamp without time zone",
                "unknown" => "text",
                other => other,
            }
            .to_owned(),
            None => String::new(),
        }
    }

    /// The expression over `t`; nothing where there is none.
    pub(super) fn value(&self, ours: &str) -> String {
        match self.known(ours) {
            Some(Known::Column(column)) => format!("t.{}", quote_identifier(&column.name)),
            Some(Known::Sql(sql, _)) => format!("({sql})"),
            None => "null".to_owned(),
        }
    }

    pub(super) fn text(&self, ours: &str) -> String {
        format!("{}::text", self.value(ours))
    }

    /// A number made of it as `shape` says, or `otherwise`.
    pub(super) fn number(&self, ours: &str, shape: &str, otherwise: &str) -> String {
        match self.known(ours) {
            Some(_) => shape.replace("{}", &self.value(ours)),
            None => otherwise.to_owned(),
        }
    }

    /// # Errors
    /// It is no time.
    pub(super) fn time(&self, ours: &str) -> Result<Option<Time>, StoreError> {
        if self.known(ours).is_none() {
            return Ok(None);
        }
        let raw = self.value(ours);
        let (read, zoneless) = match &*self.kind(ours) {
            "timestamp with time zone" => (raw.clone(), false),
            "timestamp without time zone" => (format!("({raw} at time zone 'utc')"), true),
            other => {
                return fault(format!(
                    "outbox.columns.{ours}: it is {other}, and a timestamp is needed: {ours} = \"\", or {{ sql = \"to_timestamp(...)\" }}"
                ));
            }
        };
        Ok(Some(Time { raw, read, zoneless }))
    }

    /// Whether a row is still what was enlisted as `alias`, as far as columns can tell: somebody may have corrected where it goes, or
    /// put it off. Without a topic something of it could not be made. Once it was tried, or somebody has retried it, its time is ours.
    ///
    /// # Errors
    /// As [`Self::time`].
    pub(super) fn same(&self, alias: &str) -> Result<String, StoreError> {
        let mut all = Vec::new();
        for ours in ["topic", "key"] {
            if self.column(ours).is_some() {
                all.push(format!(
                    "{} is not distinct from {alias}.{}",
                    self.text(ours),
                    quote_identifier(ours)
                ));
            }
        }
        let is_column = self.column("available_at").is_some();
        if let Some(Time { read, .. }) = self.time("available_at")?.filter(|_| is_column) {
            let ours = format!("{alias}.{}", quote_identifier("available_at"));
            let tried = format!("{alias}.{} > 1", quote_identifier("attempt"));
            all.push(format!(
                "({tried} or {read} is null or {read} = {ours} or greatest({read}, {ours}) <= now())"
            ));
        }
        if all.is_empty() {
            return Ok("true".to_owned());
        }
        let topic = format!("{alias}.{}", quote_identifier("topic"));
        Ok(format!("({topic} is null or {})", all.join(" and ")))
    }

    fn has_type(&self, names: &Names, ours: &str, types: &[&str]) -> Result<(), StoreError> {
        let kind = self.kind(ours);
        if self.known(ours).is_none() || types.contains(&&*kind) {
            return Ok(());
        }
        fault(format!(
            "outbox.columns.{ours}: {} of table {} is {kind}: {} is needed, or {{ sql = \"...\" }} that makes one of it",
            self.column(ours).map_or("the expression", |column| &column.name),
            shown(names),
            types.join(" or ")
        ))
    }
}
