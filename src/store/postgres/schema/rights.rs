//! What the role of a connection may do: too little stops a start, too much is a warning, and so are rows it does not see.
//!
//! `sql/roles*.sql` grant, this names what the daemon needs of it. The two are held together by a test that takes every
//! grant away once.

use tokio_postgres::types::Type;

use super::made::made_by_migrate;
use crate::finding::Finding;
use crate::store::StoreError;
use crate::store::postgres::link::database::{Database, Role};
use crate::store::postgres::link::sql::{Names, Statement, quote_identifier};

const ROLES: &str = include_str!("../../../../sql/roles.sql");
const ROLES_TABLE: &str = include_str!("../../../../sql/roles_table.sql");
const ROLES_THEIRS: &str = include_str!("../../../../sql/roles_theirs.sql");
const ROLES_THEIRS_DELETE: &str = include_str!("../../../../sql/roles_theirs_delete.sql");
const ROLES_DELETE: &str = include_str!("../../../../sql/roles_delete.sql");
const ROLES_DELETE_MADE: &str = include_str!("../../../../sql/roles_delete_made.sql");
const ROLES_HOUSEKEEPING: &str = include_str!("../../../../sql/roles_housekeeping.sql");
const ROLES_MADE: &str = include_str!("../../../../sql/roles_made.sql");
const RIGHTS: &str = include_str!("../../../../sql/validate_rights.sql");
const ROLE: &str = include_str!("../../../../sql/validate_role.sql");
const ROW_SECURITY: &str = include_str!("../../../../sql/validate_row_security.sql");

/// What the configuration asks of the daemon's role beyond relaying.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Duties {
    /// `outbox.on_relayed = "delete"`.
    pub deletes_relayed: bool,
    /// `[retention]`, or what people may ask for over HTTP.
    pub keeps_house: bool,
    /// It keeps house because of a default alone, which deletes nothing from a table that `migrate` did not make.
    pub by_default: bool,
}

/// A right on one of our tables, or on a column of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Right {
    privilege: &'static str,
    table: String,
    column: Option<String>,
}

/// The SQL that makes the roles, for whoever administers the database. May be run again.
#[must_use]
pub fn script(names: &Names, duties: Duties) -> String {
    let mut text = format!("begin;\n\n{ROLES}\n{}", of_table(names, duties));
    if duties.keeps_house {
        text.push('\n');
        text.push_str(ROLES_HOUSEKEEPING);
    }
    text.push_str("\ncommit;\n");
    names.fill_keeping_comments(&text)
}

fn of_table(names: &Names, duties: Duties) -> String {
    if names.is_foreign() {
        let deletes = duties.deletes_relayed || (duties.keeps_house && !duties.by_default);
        let deletes = if deletes { ROLES_THEIRS_DELETE } else { "" };
        return format!("{ROLES_THEIRS}\n{deletes}");
    }
    let deletes = match duties {
        Duties {
            deletes_relayed: false,
            keeps_house: false,
            ..
        } => "",
        Duties {
            deletes_relayed: false,
            by_default: true,
            ..
        } => ROLES_DELETE_MADE,
        _ => ROLES_DELETE,
    };
    format!("{ROLES_TABLE}\n{deletes}")
}

/// Grants what went with a table that was made again, where there are roles to grant it to. Answers whether there are.
///
/// # Errors
/// See [`Database::batch`].
pub async fn grant_again(database: &Database, names: &Names, duties: Duties) -> Result<bool, StoreError> {
    let statement = Statement {
        text: names.fill(ROLES_MADE),
        types: &[],
    };
    let rows = database.query(Role::Side, &statement, &[]).await?;
    let made = rows.first().is_some_and(|row| row.get(0));
    if made {
        database.batch(&names.fill(&of_table(names, duties))).await?;
    }
    Ok(made)
}

fn right(privilege: &'static str, table: &str, column: Option<&str>) -> Right {
    Right {
        privilege,
        table: table.to_owned(),
        column: column.map(str::to_owned),
    }
}

/// Without these nothing is relayed.
fn needed(names: &Names, duties: Duties) -> Vec<Right> {
    let messages = names.rows();
    let mut list = vec![right("select", messages, None)];
    let columns = if let Some(theirs) = names.theirs() {
        list.extend(["insert", "update", "delete"].map(|privilege| right(privilege, messages, None)));
        list.extend(["select", "update"].map(|privilege| right(privilege, names.table(), None)));
        list.extend(theirs.deletes.then(|| right("delete", names.table(), None)));
        &[][..]
    } else {
        &WRITTEN[..]
    };
    for ours in columns {
        list.push(right("update", messages, Some(names.column(ours))));
    }
    if duties.deletes_relayed {
        list.push(right("delete", messages, None));
    }
    list.extend(of_service_tables());
    list
}

/// The columns of the outbox that are written.
const WRITTEN: [&str; 6] = [
    "attempt",
    "last_error",
    "available_at",
    "relayed_at",
    "failed_at",
    "updated_at",
];

fn of_service_tables() -> Vec<Right> {
    let mut list = Vec::new();
    for table in ["lanes", "instances", "attempts", "paused", "migrations"] {
        list.push(right("select", &format!("outboxd_{table}"), None));
    }
    for column in ["owner", "epoch"] {
        list.push(right("update", "outboxd_lanes", Some(column)));
    }
    for privilege in ["insert", "update", "delete"] {
        list.push(right(privilege, "outboxd_instances", None));
    }
    list.push(right("insert", "outboxd_attempts", None));
    list
}

/// Without these old rows stay, and people's requests over HTTP are refused.
fn housekeeping(names: &Names) -> Vec<Right> {
    let mut list = vec![
        right("delete", names.table(), None),
        right("delete", "outboxd_attempts", None),
    ];
    for column in ["outbox", "who", "command", "action", "filter", "count", "detail"] {
        list.push(right("insert", "outboxd_audit", Some(column)));
    }
    list
}

/// Without these nobody learns from this instance why a message was not sent.
fn answering() -> Vec<Right> {
    let table = "outboxd_questions";
    let mut list = vec![
        right("select", table, None),
        right("update", table, Some("answer")),
        right("delete", table, None),
    ];
    list.extend(["outbox", "instance", "seq"].map(|column| right("insert", table, Some(column))));
    list
}

/// The current role, which gets as far as the schema: without that nothing else can be looked at.
///
/// # Errors
/// [`StoreError::Misconfigured`] with one line; [`StoreError::Unavailable`].
pub(super) async fn enters(database: &Database, names: &Names) -> Result<Current, StoreError> {
    let role = role(database, names).await?;
    if role.enters {
        return Ok(role);
    }
    lacks(&role.name, &format!("usage on schema {}", names.schema()))
}

/// Rights `role` should have beyond those it needs and does not, and rights it should not have.
///
/// # Errors
/// [`StoreError::Misconfigured`] with one line that names a right it needs; [`StoreError::Unavailable`].
pub(super) async fn warnings(
    database: &Database,
    names: &Names,
    duties: Duties,
    role: &Current,
) -> Result<Vec<Finding>, StoreError> {
    let needed = needed(names, duties);
    let mut wanted = Vec::new();
    if duties.keeps_house {
        wanted = housekeeping(names);
    }
    let deletes_nothing = names.is_foreign() || !made_by_migrate(database, names).await?;
    if duties.by_default && deletes_nothing {
        wanted.retain(|right| right.table != names.table());
    }
    let answering = answering();
    let missing = missing(database, names, &[needed.clone(), wanted, answering.clone()].concat()).await?;
    let (fatal, bearable): (Vec<&Right>, Vec<&Right>) = missing.iter().partition(|right| needed.contains(right));
    let (mute, bearable): (Vec<&Right>, Vec<&Right>) =
        bearable.into_iter().partition(|right| answering.contains(right));
    if let Some(first) = fatal.first() {
        let more = fatal.len() - 1;
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        return lacks(&role.name, &format!("{}{more}", first.words(names)));
    }
    let mut warnings = role.warnings();
    warnings.extend(bearable.first().map(|right| {
        Finding::warning(
            "grants_housekeeping",
            format!("role {} lacks {}", role.name, right.words(names)),
            "rows older than [retention] stay for ever, and what people ask for over HTTP is refused",
            "outboxd roles --print | psql",
        )
    }));
    warnings.extend(mute.first().map(|right| {
        Finding::warning(
            "grants_questions",
            format!("role {} lacks {}", role.name, right.words(names)),
            "outboxd status --row cannot ask this instance why a message was not sent",
            "outboxd roles --print | psql",
        )
    }));
    Ok(warnings)
}

/// Whether row-level security lets `role` see every row.
///
/// # Errors
/// [`StoreError::Misconfigured`] with one line that names the table and what to run; [`StoreError::Unavailable`].
pub(super) async fn sees_all(database: &Database, names: &Names, role: &Current) -> Result<(), StoreError> {
    let Some((table, policy)) = hidden(database, names).await?.into_iter().next() else {
        return Ok(());
    };
    Err(StoreError::Misconfigured(format!(
        "row-level security of {table} may hide rows from {}: run: {}",
        role.name,
        show_all(&table, policy.as_deref())
    )))
}

fn lacks<T>(role: &str, what: &str) -> Result<T, StoreError> {
    Err(StoreError::Misconfigured(format!(
        "database.url: role {role} lacks {what}: run outboxd roles --print | psql, then grant outboxd_relay to {}",
        quote_identifier(role)
    )))
}

fn show_all(table: &str, restrictive: Option<&str>) -> String {
    match restrictive {
        Some(policy) => format!(
            "alter policy {} on {table} to <the roles it is meant for>, without outboxd_relay",
            quote_identifier(policy)
        ),
        None => format!("create policy outboxd_relay on {table} to outboxd_relay using (true) with check (true)"),
    }
}

impl Right {
    fn words(&self, names: &Names) -> String {
        let (schema, table) = (names.schema(), &self.table);
        match &self.column {
            Some(column) => format!("{} ({column}) on {schema}.{table}", self.privilege),
            None => format!("{} on {schema}.{table}", self.privilege),
        }
    }
}

/// Who a connection is.
pub(super) struct Current {
    name: String,
    superuser: bool,
    bypasses: bool,
    owner: bool,
    enters: bool,
    truncates: bool,
    sees_sessions: bool,
}

impl Current {
    fn warnings(&self) -> Vec<Finding> {
        const WHY: &str = "whoever gets hold of the daemon's connection could do as much; it needs to read messages and write how they stand";
        let instead = || {
            let fix =
                "outboxd roles --print | psql, then put a role into database.url that is a member of outboxd_relay";
            format!("{fix} and nothing else")
        };
        let says = |what: &str| format!("role {} in database.url {what}", self.name);
        let mut found = Vec::new();
        if self.superuser {
            found.push(Finding::warning("superuser", says("is a superuser"), WHY, instead()));
        } else if self.owner {
            found.push(Finding::warning("owner", says("owns the outbox"), WHY, instead()));
        } else if self.truncates {
            let what = says("may truncate the outbox or put triggers on it");
            found.push(Finding::warning("over_privileged", what, WHY, instead()));
        }
        if self.bypasses && !self.superuser {
            let fix = format!("alter role {} nobypassrls", quote_identifier(&self.name));
            found.push(Finding::warning("bypasses_rls", says("has bypassrls"), WHY, fix));
        }
        if !self.sees_sessions {
            found.push(Finding::warning(
                "sessions_hidden",
                format!("role {} does not see whose transactions are open", self.name),
                "outboxd_oldest_transaction_seconds stays 0, and nobody is named who keeps rows or vacuum waiting",
                "grant pg_read_all_stats to outboxd_relay",
            ));
        }
        found
    }
}

async fn role(database: &Database, names: &Names) -> Result<Current, StoreError> {
    let statement = Statement {
        text: names.fill(ROLE),
        types: &[],
    };
    let rows = database.query(Role::Side, &statement, &[]).await?;
    let row = rows.first().expect("the current role exists");
    Ok(Current {
        name: row.get("role"),
        superuser: row.get("superuser"),
        bypasses: row.get("bypasses"),
        owner: row.get("owner"),
        enters: row.get("enters"),
        truncates: row.get("truncates"),
        sees_sessions: row.get("sees_sessions"),
    })
}

async fn missing(database: &Database, names: &Names, rights: &[Right]) -> Result<Vec<Right>, StoreError> {
    let statement = Statement {
        text: names.fill(RIGHTS),
        types: const { &[Type::TEXT_ARRAY, Type::TEXT_ARRAY, Type::TEXT_ARRAY] },
    };
    let tables: Vec<&str> = rights.iter().map(|right| &*right.table).collect();
    let columns: Vec<Option<&str>> = rights.iter().map(|right| right.column.as_deref()).collect();
    let privileges: Vec<&str> = rights.iter().map(|right| right.privilege).collect();
    let rows = database
        .query(Role::Side, &statement, &[&tables, &columns, &privileges])
        .await?;
    let lacked = |right: &&Right| {
        rows.iter().any(|row| {
            let (privilege, table, column): (&str, &str, Option<&str>) = (row.get(0), row.get(1), row.get(2));
            (privilege, table, column) == (right.privilege, &*right.table, right.column.as_deref())
        })
    };
    Ok(rights.iter().filter(lacked).cloned().collect())
}

/// Tables, quoted and qualified, whose rows row-level security may hide, with the restrictive policy that does.
async fn hidden(database: &Database, names: &Names) -> Result<Vec<(String, Option<String>)>, StoreError> {
    let statement = Statement {
        text: names.fill(ROW_SECURITY),
        types: &[],
    };
    let rows = database.query(Role::Side, &statement, &[]).await?;
    let schema = quote_identifier(names.schema());
    let table = |row: &tokio_postgres::Row| format!("{schema}.{}", quote_identifier(row.get(0)));
    Ok(rows.iter().map(|row| (table(row), row.get(1))).collect())
}
