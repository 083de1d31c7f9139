//! The statements: files of `sql/`, one each, with the schema, table and columns named by placeholder.
//!
//! A placeholder is `{name}`. `{messages}`, `{lanes}`, `{instances}`, `{attempts}`, `{audit}`, `{paused}`, `{questions}`, `{migrations}` are
//! quoted, schema-qualified tables; `{c.seq}`, `{c.topic}` ... are quoted columns of the messages table, `{text.seq}` ... their names as literals,
//! `{known.topic}` ... their values over `m` where the row can be read, null where not; `{lane}` is the lane
//! expression over the alias `m` and the lists `u` of rows that cannot be read (see `unreadable`); `{name.pending}` is `<table>_pending`, quoted (`{name_text.pending}`: as a literal), for
//! what belongs to the messages table; `{table_text}` is also what the rows of the service tables, which all outboxes of a schema
//! share, carry in `outbox`; `{lock}` tells one outbox from another for advisory locks; `{waiting}` and `{pending}` are the two conditions the partial indexes are made of;
//! `{among}`, `{fenced}`, `{listed}` and `{same_text}` are what the statements that settle have in common;
//! `{key_id}` is what tells its key from any other, `{key_hash}` does so for counting;
//! `{waits}` is a row that waits for a time, `{ready}` one that does not, whatever is null; `{due_since}` since when it may go; `{legible}` a row that did not fail for its topic or key;
//! `{message}` are the columns of a message over `m`, `{passing}` and `{passed}` those of the cursor's statements: see `rows`.
//! Of a table that is not ours (`theirs`) `{messages}` is the table of ours where its rows are enlisted, `{t.table}`, `{t.id}` ... are
//! theirs; a fragment may have a second form, `foreign_` before its name: `{bodies}` and `{later_bodies}` bring the contents of messages,
//! `{whole}` is the messages table with them.

use std::sync::Arc;

use tokio_postgres::types::{ToSql, Type};

use super::fragments::{GIVEN, fragment};
pub(crate) use super::text::{code, hex, kind};
use super::text::{cut, digest};
pub use super::text::{quote_identifier, quote_literal};
use super::theirs::{IdKind, Theirs};

/// One statement, filled in, with the types of its parameters (so that it also runs unprepared, through a pooler).
#[derive(Clone, Debug)]
pub struct Statement {
    /// The text sent.
    pub text: String,
    /// Types of `$1`, `$2` ...
    pub types: &'static [Type],
}

/// The value of one of them.
pub type Param<'a> = &'a (dyn ToSql + Sync);

/// Names of the tables and columns in the database.
#[derive(Clone, Debug)]
pub struct Names {
    schema: String,
    table: String,
    columns: Vec<(&'static str, String)>,
    lanes: u16,
    source: Source,
}

/// Whose table it is.
#[derive(Clone, Debug)]
pub enum Source {
    /// Ours, or made as ours is: it has all our columns.
    Own,
    /// Somebody else's.
    Foreign(Arc<Theirs>),
}

/// The columns of the messages table, by our names.
pub const COLUMNS: [&str; 16] = [
    "seq",
    "id",
    "topic",
    "key",
    "payload",
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

/// The tables that all outboxes of a schema share.
pub const SERVICE_TABLES: [&str; 7] = [
    "outboxd_lanes",
    "outboxd_instances",
    "outboxd_attempts",
    "outboxd_audit",
    "outboxd_paused",
    "outboxd_questions",
    "outboxd_migrations",
];

/// PostgreSQL cuts longer names.
const NAME_MAX: usize = 63;

/// Functions that belong to the first outbox of a schema.
const TAKEN: [&str; 2] = ["outbox_enqueue", "outboxd_wake"];

impl Statement {
    /// With what is known of the sequence (its quoted, qualified name; `None`: nobody may read it): `{last}` is the last number it
    /// has given, 0 for none, null when unknown; `{ceiling}` the same, without end when unknown.
    #[must_use]
    pub(crate) fn with_sequence(&self, name: Option<&str>) -> Self {
        let given = name.map(|name| code(GIVEN).replace("{given_by}", name));
        let ceiling = given.as_deref().unwrap_or("9223372036854775807");
        let last = given.as_deref().unwrap_or("null::bigint");
        Self {
            text: self.text.replace("{ceiling}", ceiling).replace("{last}", last),
            types: self.types,
        }
    }
}
impl Names {
    /// Names for `schema.table` with every column called as we call it.
    #[must_use]
    pub fn new(schema: &str, table: &str, lanes: u16) -> Self {
        let columns = COLUMNS.iter().map(|name| (*name, (*name).to_owned())).collect();
        Self {
            schema: schema.to_owned(),
            table: table.to_owned(),
            columns,
            lanes,
            source: Source::Own,
        }
    }

    /// The same outbox, whose table is not ours.
    #[must_use]
    pub fn of_theirs(&self, theirs: Theirs) -> Self {
        Self {
            source: Source::Foreign(Arc::new(theirs)),
            ..Self::new(&self.schema, &self.table, self.lanes)
        }
    }

    /// Their table, where it is not ours.
    #[must_use]
    pub fn theirs(&self) -> Option<&Theirs> {
        match &self.source {
            Source::Own => None,
            Source::Foreign(theirs) => Some(theirs),
        }
    }

    /// Whether the table is not ours.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.theirs().is_some()
    }

    /// Whether message ids are numbers, as places in the outbox are.
    #[must_use]
    pub fn has_numbered_ids(&self) -> bool {
        self.theirs().is_some_and(|theirs| theirs.id == IdKind::Number)
    }

    /// The table that `{messages}` is, unquoted.
    #[must_use]
    pub fn rows(&self) -> &str {
        self.theirs().map_or(&self.table, |theirs| &theirs.rows)
    }

    /// The name of the table in which rows of a table that is not ours are enlisted, unquoted.
    #[must_use]
    pub fn rows_of(table: &str) -> String {
        let plain = format!("outboxd_rows_{table}");
        if plain.len() <= NAME_MAX {
            return plain;
        }
        let ending = format!("_{}", digest(table));
        format!("{}{ending}", cut(&plain, NAME_MAX - ending.len()))
    }

    /// Calls our column `ours` `theirs` in the database. Unknown names are ignored: the configuration has checked them.
    #[must_use]
    pub fn with_column(mut self, ours: &str, theirs: &str) -> Self {
        for (name, actual) in &mut self.columns {
            if *name == ours {
                theirs.clone_into(actual);
            }
        }
        self
    }

    /// The schema, unquoted.
    #[must_use]
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// The messages table, unquoted.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.table
    }

    /// How many lanes the table is divided into.
    #[must_use]
    pub fn lanes(&self) -> u16 {
        self.lanes
    }

    /// What the database calls our column `ours`, unquoted.
    #[must_use]
    pub fn column(&self, ours: &str) -> &str {
        self.columns
            .iter()
            .find(|(name, _)| *name == ours)
            .map_or("", |(_, actual)| actual)
    }

    /// The messages table, quoted and qualified.
    #[must_use]
    pub fn messages(&self) -> String {
        self.qualified(self.rows())
    }

    /// The channel the wake trigger notifies, at most 63 bytes: no two outboxes have the same one.
    #[must_use]
    pub fn channel(&self) -> String {
        let plain = self.plain_channel();
        // `a_b` and `c` would be called as `a` and `b_c` are.
        if plain.len() <= NAME_MAX && !self.schema.contains('_') {
            return plain;
        }
        let ending = format!("_{}", digest(&self.qualified(&self.table)));
        format!("{}{ending}", cut(&plain, NAME_MAX - ending.len()))
    }

    fn plain_channel(&self) -> String {
        format!("outboxd_{}_{}", self.schema, self.table)
    }

    /// The name of something that belongs to the messages table (an index, a function): `<table>_<suffix>`, at most 63
    /// bytes, another one for each table of a schema.
    #[must_use]
    pub fn beside(&self, suffix: &str) -> String {
        let table = self.rows();
        let plain = format!("{table}_{suffix}");
        if TAKEN.contains(&&*plain) {
            return format!("{suffix}_{table}");
        }
        if plain.len() <= NAME_MAX {
            return plain;
        }
        let ending = format!("_{}_{suffix}", digest(table));
        format!("{}{ending}", cut(table, NAME_MAX - ending.len()))
    }

    /// What versions before 0.3 called it: long names were cut, and so not always told apart.
    fn beside_cut(&self, suffix: &str) -> String {
        format!("{}_{suffix}", cut(self.rows(), NAME_MAX - 1 - suffix.len()))
    }

    /// Whether the messages table is called like something of the service tables.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        let ours = |service: &&str| {
            let rest = self.table.strip_prefix(service);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        };
        SERVICE_TABLES.iter().chain(&["outboxd_rows"]).any(ours)
    }

    pub(crate) fn qualified(&self, table: &str) -> String {
        format!("{}.{}", quote_identifier(&self.schema), quote_identifier(table))
    }

    /// Fills a statement file's placeholders. Comment lines are dropped.
    ///
    /// # Panics
    /// On an unknown placeholder: the files are part of the binary, and a test fills every one of them.
    #[must_use]
    pub fn fill(&self, file: &str) -> String {
        self.fill_keeping_comments(code(file).trim())
    }

    /// As [`Self::fill`], for migrations, which are shown to people.
    ///
    /// # Panics
    /// On an unknown placeholder.
    #[must_use]
    pub fn fill_keeping_comments(&self, file: &str) -> String {
        let mut filled = String::with_capacity(file.len() * 2);
        let mut rest = file;
        while let Some(open) = rest.find('{') {
            let Some(close) = rest[open..].find('}').map(|at| at + open) else {
                break;
            };
            let name = &rest[open + 1..close];
            filled.push_str(&rest[..open]);
            match self.value(name) {
                Some(value) => filled.push_str(&value),
                // An array or JSON literal, not one of ours.
                None if !name
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || matches!(byte, b'.' | b'_'))
                    || name.is_empty() =>
                {
                    filled.push_str(&rest[open..=close]);
                }
                None => panic!("the statement files name no placeholder {{{name}}}"),
            }
            rest = &rest[close + 1..];
        }
        filled.push_str(rest);
        filled
    }

    /// What all outboxes of a schema share, and what tells them apart there.
    fn shared(&self, name: &str) -> Option<String> {
        Some(match name {
            "lanes" => self.qualified("outboxd_lanes"),
            "instances" => self.qualified("outboxd_instances"),
            "attempts" => self.qualified("outboxd_attempts"),
            "paused" => self.qualified("outboxd_paused"),
            "questions" => self.qualified("outboxd_questions"),
            "audit" => self.qualified("outboxd_audit"),
            "migrations" => self.qualified("outboxd_migrations"),
            "enqueue" => self.qualified(&self.beside("enqueue")),
            "wake" => self.qualified(&self.beside("wake")),
            "first_enqueue" => self.qualified(TAKEN[0]),
            "enqueue_text" => quote_literal(&self.qualified(&self.beside("enqueue"))),
            "wake_text" => quote_literal(&self.qualified(&self.beside("wake"))),
            "first_enqueue_text" => quote_literal(&self.qualified(TAKEN[0])),
            "first_wake_text" => quote_literal(&self.qualified(TAKEN[1])),
            "attempts_text" => quote_literal(&self.qualified("outboxd_attempts")),
            "lanes_text" => quote_literal(&self.qualified("outboxd_lanes")),
            "instances_text" => quote_literal(&self.qualified("outboxd_instances")),
            "migrations_text" => quote_literal(&self.qualified("outboxd_migrations")),
            "lock" => quote_literal(&self.messages()),
            "alike" => quote_literal(&format!("{}.%", kind(env!("CARGO_PKG_VERSION")))),
            _ => return None,
        })
    }

    fn value(&self, name: &str) -> Option<String> {
        if let Some(column) = name.strip_prefix("c.") {
            return COLUMNS.contains(&column).then(|| quote_identifier(self.column(column)));
        }
        if let Some(column) = name.strip_prefix("known.") {
            let known = format!("case when m.{{c.seq}} <> all(u.contents) then m.{{c.{column}}} end");
            return COLUMNS.contains(&column).then(|| self.fill(&known));
        }
        if let (Some(name), Some(theirs)) = (name.strip_prefix("t."), self.theirs()) {
            return theirs.sql.get(name).cloned();
        }
        if let Some(column) = name.strip_prefix("text.") {
            return COLUMNS.contains(&column).then(|| quote_literal(self.column(column)));
        }
        if let Some(suffix) = name.strip_prefix("name.") {
            return Some(quote_identifier(&self.beside(suffix)));
        }
        if let Some(suffix) = name.strip_prefix("name_text.") {
            return Some(quote_literal(&self.beside(suffix)));
        }
        if let Some(suffix) = name.strip_prefix("cut_text.") {
            return Some(quote_literal(&self.beside_cut(suffix)));
        }
        if let Some(value) = self.shared(name) {
            return Some(value);
        }
        Some(match name {
            "schema" => quote_identifier(&self.schema),
            "schema_text" => quote_literal(&self.schema),
            "table" => quote_identifier(&self.table),
            "table_text" => quote_literal(&self.table),
            "rows_text" => quote_literal(self.rows()),
            "messages" => self.messages(),
            "messages_text" => quote_literal(&self.messages()),
            // The table in which it is written what became of a message.
            "written_text" => quote_literal(&self.qualified(&self.table)),
            "seq_text" => quote_literal(self.column("seq")),
            "channel" => quote_literal(&self.channel()),
            "channel_name" => quote_identifier(&self.channel()),
            "lanes_count" => self.lanes.to_string(),
            // Filled in once the sequence is known (see `with_sequence`), or for each look (`outbox::enlist`).
            "ceiling" | "last" | "since" | "most" | "expression" => format!("{{{name}}}"),
            _ => {
                let text = match &self.source {
                    Source::Own => fragment(name),
                    Source::Foreign(theirs) => theirs.fragment(name),
                };
                return text.map(|text| self.fill(text));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_and_literals_are_quoted() {
        let names = Names::new("we\"ird", "outbox", 64).with_column("key", "aggregateid");
        assert_eq!(
            names.fill("-- no\nselect {c.key} from {messages}"),
            "select \"aggregateid\" from \"we\"\"ird\".\"outbox\""
        );
        assert_eq!(names.fill("select {channel}"), "select 'outboxd_we\"ird_outbox'");
        assert_eq!(quote_literal("it's"), "'it''s'");
    }

    #[test]
    fn no_two_outboxes_share_a_channel_a_lock_or_a_name() {
        let long = "a_table_with_a_very_long_name_that_postgresql_would_cut_somewhere";
        let mut seen = std::collections::BTreeSet::new();
        let tables = [
            ("a", "b_c"),
            ("a_b", "c"),
            ("a", &format!("{}1", &long[..62])),
            ("a", &format!("{}2", &long[..62])),
            ("a", &"ä".repeat(31)),
            ("a", &format!("{}ö", "ä".repeat(30))),
            ("a", "Orders"),
            ("a", "orders"),
            ("a", "ord\"ers"),
            ("a\".\"b", "c"),
            ("a", "b\".\"c"),
        ];
        for (schema, table) in tables {
            let names = Names::new(schema, table, 64);
            assert!(names.channel().len() <= 63, "{}", names.channel());
            assert!(seen.insert(names.channel()), "{}", names.channel());
            assert!(seen.insert(names.fill("{lock}")), "{table}");
            for suffix in ["pending", "waiting", "failed", "priority", "enqueue", "wake"] {
                let name = names.beside(suffix);
                assert!(name.len() <= 63 && seen.insert(format!("{schema} {name}")), "{name}");
            }
        }
        let plain = Names::new("public", "outbox_messages", 64);
        assert_eq!(plain.channel(), "outboxd_public_outbox_messages");
        assert_eq!(plain.fill("{enqueue}"), "\"public\".\"outbox_messages_enqueue\"");
        assert_eq!(Names::new("a", "outbox", 64).beside("enqueue"), "enqueue_outbox");
        assert_eq!(Names::new("a", "outboxd", 64).beside("wake"), "wake_outboxd");
    }

    #[test]
    fn tables_named_like_ours_are_known() {
        let taken = |table| Names::new("public", table, 64).is_taken();
        for table in [
            "outboxd_lanes",
            "outboxd_lanes_pkey",
            "outboxd_attempts_at",
            "outboxd_migrations",
        ] {
            assert!(taken(table), "{table}");
        }
        for table in ["outboxd", "outboxd_messages", "outboxd_lanesx", "outbox_messages"] {
            assert!(!taken(table), "{table}");
        }
    }

    /// Every statement that touches a table all outboxes share says whose rows it means, each time.
    #[test]
    fn statements_touch_only_rows_of_their_outbox() {
        const SHARED: [&str; 6] = ["lanes", "instances", "attempts", "audit", "paused", "migrations"];
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/sql");
        let mut looked_at = 0;
        for file in std::fs::read_dir(folder).unwrap().flatten() {
            let path = file.path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let of_all = ["migration_begin.sql", "migration_lanes.sql"].contains(&&*name);
            if !path.is_file() || name.starts_with("roles") || of_all {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let code = code(&text);
            let touched: usize = SHARED
                .iter()
                .map(|table| code.matches(&format!("{{{table}}}")).count())
                .sum();
            assert!(
                code.matches("{table_text}").count() >= touched,
                "{name} touches service tables {touched} times, and says less often whose rows"
            );
            looked_at += touched;
        }
        assert!(looked_at > 30, "{looked_at}");
        let fence = fragment("fenced").unwrap();
        assert!(fence.contains("l.outbox = {table_text}"));
    }

    #[test]
    fn literals_of_sql_survive() {
        let names = Names::new("public", "outbox_messages", 64);
        assert_eq!(
            names.fill("select '{}'::jsonb, '{1,2}'::int[]"),
            "select '{}'::jsonb, '{1,2}'::int[]"
        );
    }
}
