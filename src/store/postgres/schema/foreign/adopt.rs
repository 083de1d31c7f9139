//! What the configuration of somebody's table might be: guessed from the names and types of its columns, for a person to check.

use std::fmt::Write as _;

use super::catalog::{Catalog, TheirColumn};
use super::words::{self, Words};
use super::{fault, shown};
use crate::store::StoreError;
use crate::store::postgres::link::database::Database;
use crate::store::postgres::link::mapping::{Column, Mapping, State};
use crate::store::postgres::link::sql::{COLUMNS, Names, quote_identifier};

/// What others call our columns, the surest first; without underscores, in small letters.
const CALLED: [(&str, &[&str]); 13] = [
    ("id", &["id", "eventid", "messageid", "outboxid", "uuid"]),
    (
        "topic",
        &[
            "topic",
            "aggregatetype",
            "eventtype",
            "messagetype",
            "destination",
            "recordtype",
            "channel",
            "queue",
            "kind",
            "eventname",
            "name",
            "type",
        ],
    ),
    (
        "key",
        &[
            "key",
            "partitionkey",
            "aggregateid",
            "messagekey",
            "recordkey",
            "eventkey",
            "segment",
            "userid",
        ],
    ),
    (
        "payload",
        &[
            "payload",
            "body",
            "content",
            "data",
            "value",
            "eventpayload",
            "serializedevent",
            "message",
            "args",
        ],
    ),
    ("headers", &["headers", "metadata", "meta", "options", "context"]),
    ("attempt", &["attempt"]),
    ("max_attempts", &["maxattempts"]),
    (
        "available_at",
        &["availableat", "dueat", "scheduledat", "nextattemptat", "nextretryat"],
    ),
    (
        "relayed_at",
        &[
            "relayedat",
            "processedat",
            "publishedat",
            "deliveredat",
            "sentat",
            "dispatchedat",
            "completedat",
            "completiondate",
            "processedonutc",
            "processed",
        ],
    ),
    (
        "failed_at",
        &["failedat", "deadletteredat", "abandonedat", "discardedat"],
    ),
    ("last_error", &["lasterror", "error", "errorlog", "failurereason"]),
    (
        "inserted_at",
        &[
            "insertedat",
            "createdat",
            "occurredat",
            "occurredonutc",
            "occurredon",
            "added",
            "publicationdate",
            "creationtime",
        ],
    ),
    ("updated_at", &["updatedat"]),
];
/// Counters that begin with 0.
const FROM_ZERO: [&str; 8] = [
    "attempts",
    "attemptcount",
    "attemptscount",
    "retries",
    "retry",
    "failurecount",
    "errorscount",
    "completionattempts",
];
const TIMES: [&str; 2] = ["timestamp with time zone", "timestamp without time zone"];
const TEXTS: [&str; 3] = ["text", "character varying", "character"];

/// What was found.
#[derive(Clone, Debug)]
pub struct Adopted {
    /// What to relay it with.
    pub mapping: Mapping,
    /// The same, to paste.
    pub sections: String,
    /// What is to be checked, or known.
    pub notes: Vec<String>,
}

fn plain(name: &str) -> String {
    name.replace('_', "").to_lowercase()
}

/// Guesses.
///
/// # Errors
/// [`StoreError::Misconfigured`] with one line that names what could not be found; [`StoreError::Unavailable`].
pub async fn adopt(database: &Database, names: &Names) -> Result<Adopted, StoreError> {
    let catalog = Catalog::read(database, names).await?;
    if catalog.columns.is_empty() {
        return fault(format!("table {} does not exist", shown(names)));
    }
    let guess = Guess {
        catalog: &catalog,
        words: &words::read(database, names).await?,
        mapping: Mapping::default(),
        notes: Vec::new(),
    };
    guess.all(names)
}

struct Guess<'a> {
    catalog: &'a Catalog,
    words: &'a [Words],
    mapping: Mapping,
    notes: Vec<String>,
}

impl Guess<'_> {
    fn all(mut self, names: &Names) -> Result<Adopted, StoreError> {
        for (ours, called) in CALLED {
            let found = called.iter().find_map(|called| self.find(ours, called)).cloned();
            if let Some(found) = found {
                self.set(ours, Column::Named(found.name));
            }
        }
        for needed in ["id", "topic", "payload"] {
            if self.mapping.column(needed).is_none() {
                return fault(format!(
                    "no column of table {} looks like {needed}: name it in [outbox.columns] {needed} = \"...\"",
                    shown(names)
                ));
            }
        }
        self.headers();
        self.time();
        self.number();
        let counter = self.counter();
        self.state(&counter);
        for ours in COLUMNS {
            if self.mapping.column(ours).is_none() && self.catalog.column(ours).is_some() {
                // A column of that name that is something else.
                self.set(ours, Column::Missing);
            }
        }
        let sections = self.sections(names);
        Ok(Adopted {
            mapping: self.mapping,
            sections,
            notes: self.notes,
        })
    }

    fn set(&mut self, ours: &str, column: Column) {
        self.mapping.columns.push((ours.to_owned(), column));
    }

    fn named(&self, ours: &str) -> Option<&str> {
        match self.mapping.column(ours)? {
            Column::Named(name) => Some(name),
            Column::Missing | Column::Sql(_) => None,
        }
    }

    /// A column called so that has a type for it.
    fn find(&self, ours: &str, called: &str) -> Option<&TheirColumn> {
        let fits = |column: &&TheirColumn| {
            let kind = &*column.kind;
            let is_number = ["bigint", "integer", "smallint"].contains(&kind);
            plain(&column.name) == called
                && match ours {
                    "id" => {
                        self.catalog.is_unique(&column.name)
                            && ["uuid", "bigint", "integer", "character varying", "text"].contains(&kind)
                    }
                    "topic" | "last_error" => TEXTS.contains(&kind),
                    "key" => TEXTS.contains(&kind) || is_number || kind == "uuid",
                    "payload" => ["jsonb", "json", "text", "character varying", "bytea"].contains(&kind),
                    "headers" => ["jsonb", "json", "text", "character varying"].contains(&kind),
                    "attempt" | "max_attempts" => is_number,
                    _time => TIMES.contains(&kind),
                }
        };
        self.catalog.columns.iter().find(fits)
    }

    /// A `type` beside an aggregate's type is the event's: a header.
    fn headers(&mut self) {
        let is_type = |column: &&TheirColumn| plain(&column.name) == "type" && TEXTS.contains(&&*column.kind);
        let Some(kind) = self.catalog.columns.iter().find(is_type) else {
            return;
        };
        if self.mapping.column("headers").is_none() && self.named("topic") != Some(&kind.name) {
            let sql = format!("jsonb_build_object('eventType', t.{})", quote_identifier(&kind.name));
            self.set("headers", Column::Sql(sql));
        }
    }

    /// A time as a number of milliseconds.
    fn time(&mut self) {
        let called = |column: &&TheirColumn| {
            ["creationtime", "insertedat", "createdat"].contains(&&*plain(&column.name)) && column.kind == "bigint"
        };
        if self.mapping.column("inserted_at").is_none()
            && let Some(column) = self.catalog.columns.iter().find(called)
        {
            let sql = format!("to_timestamp(t.{} / 1000.0)", quote_identifier(&column.name));
            self.notes.push(format!(
                "{} was taken for milliseconds since 1970: check inserted_at",
                column.name
            ));
            self.set("inserted_at", Column::Sql(sql));
        }
    }

    /// A number out of a sequence orders them exactly.
    fn number(&mut self) {
        let is_numbered = |column: &&TheirColumn| {
            let mut words = self.words.iter();
            column.kind == "bigint"
                && words.any(|words| words.name == column.name && words.initial.starts_with("nextval("))
        };
        if let Some(column) = self.catalog.columns.iter().find(is_numbered) {
            let name = column.name.clone();
            self.set("seq", Column::Named(name));
        }
    }

    /// The column that counts attempts from 0.
    fn counter(&mut self) -> Option<String> {
        let counts = |column: &&TheirColumn| {
            FROM_ZERO.contains(&&*plain(&column.name)) && ["integer", "bigint", "smallint"].contains(&&*column.kind)
        };
        let column = self.catalog.columns.iter().find(counts)?;
        let quoted = quote_identifier(&column.name);
        self.set("attempt", Column::Sql(format!("t.{quoted} + 1")));
        self.notes.push(format!(
            "{} was taken for a number of attempts made, from 0: check attempt",
            column.name
        ));
        Some(quoted)
    }

    fn state(&mut self, counter: &Option<String>) {
        let quoted = |ours: &str| self.named(ours).map(quote_identifier);
        let set = |column: Option<String>, value: &str| column.map(|column| format!("{column} = {value}"));
        let tried = counter.as_ref().map(|counter| format!("{counter} = :attempt - 1"));
        let zero = counter.as_ref().map(|counter| format!("{counter} = 0"));
        let list = |parts: Vec<Option<String>>| {
            let text = parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
            (!text.is_empty()).then_some(text)
        };
        let (error, updated) = (set(quoted("last_error"), ":error"), set(quoted("updated_at"), ":now"));
        let retry_at = set(quoted("available_at"), ":retry_at");
        let retrying = list(vec![tried.clone(), error.clone(), retry_at, updated.clone()]);
        let mut state = State::default();
        if let Some(said) = words::standing(self.catalog, self.words) {
            let column = quote_identifier(&said.column);
            let stands = |value: &str| Some(format!("{column} = {value}"));
            state.pending = Some(format!("t.{column} = {}", said.pending));
            let relayed_at = set(quoted("relayed_at"), ":now");
            state.relayed = list(vec![stands(&said.relayed), relayed_at, updated.clone()]);
            state.retrying = retrying;
            if let Some(failed) = &said.failed {
                state.failed = list(vec![stands(failed), tried, error, updated]);
                state.retried = list(vec![stands(&said.pending), zero]);
                self.mapping.columns.retain(|(ours, _)| ours != "failed_at");
                self.set("failed_at", Column::Missing);
            }
            self.notes.push(format!(
                "which values of {} mean pending, relayed and failed was guessed: check [outbox.state]",
                said.column
            ));
        } else if counter.is_some() {
            state.retrying = retrying;
            if let Some(failed_at) = quoted("failed_at") {
                let failed_at = |value: &str| Some(format!("{failed_at} = {value}"));
                state.failed = list(vec![failed_at(":now"), tried, error, updated]);
                state.retried = list(vec![failed_at("null"), zero]);
            }
        }
        let is_marked = state.relayed.is_some() || self.named("relayed_at").is_some();
        if !is_marked {
            self.mapping.deletes = true;
            self.notes
                .push("no column says that a row was relayed: relayed rows are deleted (on_relayed)".to_owned());
        }
        self.mapping.state = state;
    }

    fn sections(&self, names: &Names) -> String {
        let mut text = format!(
            "[outbox]\nschema = {}\ntable = {}\n",
            toml(names.schema()),
            toml(names.table())
        );
        if self.mapping.deletes {
            text.push_str("on_relayed = \"delete\"\n");
        }
        text.push_str("\n[outbox.columns]\n");
        for ours in COLUMNS {
            let written = match self.mapping.column(ours) {
                Some(Column::Named(name)) if name != ours => toml(name),
                Some(Column::Missing) => toml(""),
                Some(Column::Sql(sql)) => format!("{{ sql = {} }}", toml(sql)),
                Some(Column::Named(_)) | None => continue,
            };
            writeln!(text, "{ours} = {written}").expect("a string takes everything");
        }
        let state: Vec<String> = self
            .mapping
            .state
            .all()
            .iter()
            .filter_map(|(name, sql)| Some(format!("{name} = {}\n", toml(sql.as_ref()?))))
            .collect();
        if !state.is_empty() {
            write!(text, "\n[outbox.state]\n{}", state.concat()).expect("a string takes everything");
        }
        text
    }
}

/// A TOML string.
fn toml(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
