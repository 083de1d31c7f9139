//! `[outbox]`, or `[[outboxes]]`: one table or several, and what each may have of what they share.

use super::bounds::{choice, within, wrong};
use super::raw;
use super::{Config, ConfigError, Member, OnRelayed, Outbox, Retention};
use crate::route::Routes;
use crate::store::postgres::link::mapping::{Column, Mapping, State};
use crate::store::postgres::link::sql::COLUMNS;

/// The least a window may hold, in bytes.
const BYTES_MIN: usize = 64 << 10;

impl Config {
    /// One configuration for each outbox, as if it were the only one: with its routes, and its share of the window.
    /// `database.pool_size` stays that of all.
    #[must_use]
    pub fn parts(&self) -> Vec<Self> {
        if self.outboxes.is_empty() {
            return vec![self.clone()];
        }
        let count = self.outboxes.len();
        let part = |member: &Member| {
            let mut part = self.clone();
            part.outboxes = Vec::new();
            part.outbox = member.outbox.clone();
            part.routes = member.routes.clone();
            let relay = &mut part.relay;
            relay.max_in_flight = (relay.max_in_flight / count).max(1);
            relay.batch_size = relay.batch_size.min(relay.max_in_flight);
            relay.max_in_flight_bytes = (relay.max_in_flight_bytes / count).max(BYTES_MIN);
            if part.outbox.is_foreign() {
                // `[retention]` is about the others: nothing old is deleted from a table that is not outboxd's own.
                part.retention = Retention {
                    relayed: None,
                    relayed_is_set: true,
                    failed: None,
                };
            }
            part
        };
        self.outboxes.iter().map(part).collect()
    }

    /// The names of all outboxes, where they have some.
    #[must_use]
    pub fn outbox_names(&self) -> Vec<&str> {
        let members = self.outboxes.iter().map(|member| &member.outbox);
        let all: Vec<&Outbox> = if self.outboxes.is_empty() {
            vec![&self.outbox]
        } else {
            members.collect()
        };
        all.iter().filter_map(|outbox| outbox.name.as_deref()).collect()
    }
}

impl Outbox {
    /// What it says of its table.
    #[must_use]
    pub fn mapping(&self) -> Mapping {
        Mapping {
            columns: self.columns.clone(),
            state: self.state.clone(),
            deletes: self.on_relayed == OnRelayed::Delete,
        }
    }

    /// Whether that can only be meant for a table that is not ours.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.mapping().is_foreign()
    }
}

/// All of them, at least one; `routes` answers those of one, known by its name and its `commit_order`.
pub(super) fn outboxes(
    alone: Option<raw::Outbox>,
    several: Vec<raw::Outbox>,
    written: &[raw::Route],
    routes: impl Fn((&str, bool)) -> Result<Routes, ConfigError>,
) -> Result<Vec<Member>, ConfigError> {
    let is_named = !several.is_empty();
    let raw = match (alone, is_named) {
        (Some(_), true) => return Err(wrong("outbox", "[[outboxes]] is there too: keep one of them")),
        (alone, false) => vec![alone.unwrap_or_default()],
        (None, true) => several,
    };
    let mut members: Vec<Member> = Vec::with_capacity(raw.len());
    for (index, raw) in raw.into_iter().enumerate() {
        let section = if is_named {
            format!("outboxes[{index}]")
        } else {
            "outbox".to_owned()
        };
        named(&section, &raw.name, is_named)?;
        let routes = routes((&raw.name, raw.commit_order))?;
        let outbox = outbox(&section, raw)?;
        apart(&section, &outbox, &members)?;
        members.push(Member { outbox, routes });
    }
    let known = |name: &str| members.iter().any(|one| one.outbox.name.as_deref() == Some(name));
    for (index, route) in written.iter().enumerate() {
        if let Some(name) = route.outbox.as_deref().filter(|name| !known(name)) {
            return Err(wrong(format!("routes[{index}].outbox"), unknown(name, &members)));
        }
    }
    if let Some(index) = members.iter().position(|one| one.routes.iter().next().is_none()) {
        return Err(wrong(
            format!("outboxes[{index}]"),
            "none of [[routes]] is for it: add one, or leave out its outbox = \"...\"",
        ));
    }
    Ok(members)
}

fn unknown(name: &str, members: &[Member]) -> String {
    let names: Vec<&str> = members.iter().filter_map(|one| one.outbox.name.as_deref()).collect();
    if names.is_empty() {
        return format!("{name:?} is not configured: the only outbox has no name (outbox.name)");
    }
    format!("{name:?} is not configured; outboxes: {}", names.join(", "))
}

/// A name is a metric label, a word on the command line and part of a URL.
fn named(section: &str, name: &str, is_needed: bool) -> Result<(), ConfigError> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    match name {
        "" if is_needed => Err(wrong(
            format!("{section}.name"),
            "is required: lower-case letters, digits, '_' and '-'",
        )),
        name if name.len() > 63 || !name.bytes().all(fits) => Err(wrong(
            format!("{section}.name"),
            format!("{name:?} is no name: lower-case letters, digits, '_' and '-', 63 at most"),
        )),
        _ => Ok(()),
    }
}

/// Neither the name nor the table is another's.
fn apart(section: &str, outbox: &Outbox, others: &[Member]) -> Result<(), ConfigError> {
    for (index, Member { outbox: other, .. }) in others.iter().enumerate() {
        if other.name == outbox.name {
            return Err(wrong(
                format!("{section}.name"),
                format!("outboxes[{index}] has it already"),
            ));
        }
        if (&other.schema, &other.table) == (&outbox.schema, &outbox.table) {
            let (schema, table) = (&outbox.schema, &outbox.table);
            let problem = format!("{schema}.{table} is that of outboxes[{index}] already");
            return Err(wrong(format!("{section}.table"), problem));
        }
    }
    Ok(())
}

/// One, whose keys stand under `section`.
fn outbox(section: &str, raw: raw::Outbox) -> Result<Outbox, ConfigError> {
    let sub = |key: &str| format!("{section}.{key}");
    for (key, name) in [("schema", &raw.schema), ("table", &raw.table)] {
        identifier(&sub(key), name)?;
    }
    let mut columns = Vec::new();
    for (ours, raw::MappedColumn(theirs)) in raw.columns {
        let key = sub(&format!("columns.{ours}"));
        if !COLUMNS.contains(&ours.as_str()) {
            return Err(wrong(key, format!("unknown column; known: {}", COLUMNS.join(", "))));
        }
        match &theirs {
            Column::Named(name) => identifier(&key, name)?,
            Column::Sql(sql) => fragment(&key, sql)?,
            Column::Missing if NEEDED.contains(&ours.as_str()) => {
                return Err(wrong(key, "a message needs it: a name, or { sql = \"...\" }"));
            }
            Column::Missing => {}
        }
        if matches!(theirs, Column::Sql(_)) && PLAIN.contains(&ours.as_str()) {
            return Err(wrong(key, "must be a column: say in [outbox.state] what cannot be one"));
        }
        if theirs != Column::Named(ours.clone()) {
            columns.push((ours, theirs));
        }
    }
    let state = state(section, raw.state)?;
    let on_relayed = [("mark", OnRelayed::Mark), ("delete", OnRelayed::Delete)];
    Ok(Outbox {
        name: (!raw.name.is_empty()).then(|| raw.name.into()),
        on_relayed: choice(&sub("on_relayed"), &raw.on_relayed, &on_relayed)?,
        lanes: within(&sub("lanes"), raw.lanes, 1..=1024)?,
        schema: raw.schema,
        table: raw.table,
        columns,
        state,
    })
}

/// Columns without which there is no message.
const NEEDED: [&str; 3] = ["id", "topic", "payload"];
/// Columns that are written, or looked up by an index.
const PLAIN: [&str; 3] = ["id", "relayed_at", "failed_at"];

fn state(section: &str, raw: raw::OutboxState) -> Result<State, ConfigError> {
    let state = State {
        pending: raw.pending,
        relayed: raw.relayed,
        retrying: raw.retrying,
        failed: raw.failed,
        retried: raw.retried,
    };
    for (name, sql) in state.all() {
        if let Some(sql) = sql {
            fragment(&format!("{section}.state.{name}"), sql)?;
        }
    }
    Ok(state)
}

/// A piece of SQL. What is wrong with it the database says; a second statement it is not.
fn fragment(key: &str, sql: &str) -> Result<(), ConfigError> {
    if sql.trim().is_empty() || sql.contains(['\0', ';']) || sql.contains("--") || sql.contains("/*") {
        return Err(wrong(
            key,
            format!("{sql:?} is no piece of one SQL statement, without comments"),
        ));
    }
    Ok(())
}

/// PostgreSQL cuts names at 63 bytes, silently.
fn identifier(key: &str, name: &str) -> Result<(), ConfigError> {
    if name.is_empty() || name.len() > 63 || name.contains('\0') {
        return Err(wrong(
            key,
            format!("{name:?} is no name of PostgreSQL: 1 to 63 bytes, written as in the catalog"),
        ));
    }
    Ok(())
}
