//! A table that is not ours, as the statements see it. Its rows are enlisted in a table of ours (`{messages}`), which carries our
//! columns but the contents of messages; those are read from their table whenever a message is brought.
//!
//! The SQL in here is made by `schema::foreign`, once, from the configuration and the catalog.

use std::collections::BTreeMap;

use super::fragments::fragment;

/// The type of their ids, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdKind {
    /// `uuid`.
    Uuid,
    /// `bigint`, `integer`.
    Number,
    /// `text`, `character varying`.
    Text,
}

/// By what their rows are found in the order they were inserted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A number out of a sequence.
    Number,
    /// A time, in microseconds since 1970.
    Time,
    /// Nothing: every look is one at all of them.
    Nowhere,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Theirs {
    /// Ours, where their rows are enlisted; unquoted.
    pub rows: String,
    /// Type of the id.
    pub id: IdKind,
    /// Type of the payload, as PostgreSQL calls it.
    pub payload: String,
    /// What they are found by.
    pub place: Place,
    /// The index that serves the looks; `None`: each reads the whole table.
    pub served_by: Option<String>,
    /// `on_relayed = "delete"`.
    pub deletes: bool,
    /// Its rows can say that they have failed: a person may take that back.
    pub can_fail: bool,
    /// SQL over the row `t`, by the name of its placeholder, `{t.pending}` for one.
    pub sql: BTreeMap<&'static str, String>,
}

impl Theirs {
    /// What is filled in for a placeholder that is another one here.
    pub(super) fn fragment(&self, name: &str) -> Option<&'static str> {
        let has = |name: &str| self.sql.contains_key(name);
        match name {
            "theirs_end" if self.deletes => fragment("theirs_deleted"),
            "theirs_end" => fragment("theirs_marked"),
            "theirs_retrying" if !has("retrying") => fragment("theirs_retrying_unsaid"),
            "theirs_failed" if !has("failed") => fragment("theirs_failed_unsaid"),
            "theirs_retried" if !has("retried") => fragment("theirs_retried_unsaid"),
            "unless_failed" if !self.can_fail => Some(""),
            "honour" if !self.can_fail => fragment("honour_nothing"),
            "newest" => fragment(match (self.place, &self.served_by) {
                (Place::Number, _) => "newest_number",
                (Place::Time, Some(_)) => "newest_time",
                (Place::Time, None) | (Place::Nowhere, _) => "newest_unknown",
            }),
            _ => fragment(&format!("foreign_{name}")).or_else(|| fragment(name)),
        }
    }
}
