//! What an error of PostgreSQL is about, and what may be said of it.
//!
//! An error that is about a row (its value, a constraint, somebody's trigger) says nothing about the server: the row is set
//! aside and everything else goes on. And whatever is about rows may quote them: of such an error only the class, the code and
//! the names of database objects are ever repeated. DETAIL, HINT and CONTEXT never are. A function of the application may make even
//! names of what rows hold: of what happens while one runs, only the class, the code and the function's name are repeated.
//!
//! Source of the classes: PostgreSQL manual, appendix A.

use tokio_postgres::error::{DbError, Severity, SqlState};

use crate::store::StoreError;
pub use crate::trouble::About;
use crate::trouble::{LockWait, Trouble, chain};

/// What an error of the driver is about.
#[must_use]
pub fn about(error: &tokio_postgres::Error) -> About {
    let Some(code) = error.code() else {
        return About::Connection;
    };
    from(of_state(code), error.as_db_error().map_or(Origin::Server, origin_of))
}

/// Whether a function or trigger of the application met it, whatever its code, and the connection lives on.
pub(crate) fn is_of_a_function(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|said| {
        let ends = matches!(said.parsed_severity(), Some(Severity::Fatal | Severity::Panic));
        !ends && origin_of(said) != Origin::Server
    })
}

/// Where an error comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// The server itself, about a statement of ours.
    Server,
    /// The server, about what a function or trigger of the application does.
    WithinFunction,
    /// A function or trigger of the application, which may say anything under any code.
    Function,
}

/// A frame of a block: no function is called so, because of the space.
const BLOCK: &str = "PL/pgSQL function inline_code_block ";

/// What the server says of its own work, for a statement of ours as for a function's.
const OWN_FRAMES: [&str; 3] = ["while ", "parallel worker", "unnamed portal "];

/// Whether nothing but a block of ours was running, which migrations are made of. One that a function runs has the function around
/// it, and the outermost frame comes last.
fn is_block_of_ours(context: &str) -> bool {
    let is_function =
        |line: &str| (line.starts_with("PL/") && !line.starts_with(BLOCK)) || line.starts_with("SQL function ");
    context.lines().last().is_some_and(|line| line.starts_with(BLOCK)) && !context.lines().any(is_function)
}

fn origin_of(said: &DbError) -> Origin {
    origin(said.where_(), said.routine())
}

/// Read off CONTEXT, whose innermost frame comes first. Its words are in the server's language: what is not known to be the
/// server's own is a function's.
fn origin(context: Option<&str>, routine: Option<&str>) -> Origin {
    let context = context.unwrap_or_default();
    let is_own = |line: &str| OWN_FRAMES.iter().any(|frame| line.starts_with(frame));
    let innermost = context.lines().next().unwrap_or_default();
    if innermost.starts_with(BLOCK) && is_block_of_ours(context) {
        return Origin::Server;
    }
    let raised = innermost.ends_with(" at RAISE")
        || (innermost.starts_with("PL/") && !innermost.starts_with("PL/pgSQL"))
        || innermost.starts_with("Traceback")
        || routine == Some("exec_stmt_raise");
    if raised {
        Origin::Function
    } else if context.lines().all(is_own) {
        Origin::Server
    } else {
        Origin::WithinFunction
    }
}

/// What a function of the application lacks or refuses, it lacks or refuses for the rows it is called for.
fn from(about: About, origin: Origin) -> About {
    match (origin, about) {
        (Origin::Function, _) | (Origin::WithinFunction, About::Role | About::Schema) => About::Row,
        (Origin::Server | Origin::WithinFunction, about) => about,
    }
}

fn of_state(code: &SqlState) -> About {
    let state = code.code();
    match state {
        "42501" => return About::Role,
        "55P03" | "40P01" => return About::Lock,
        "57014" => return About::Duration,
        // Serialization failures of somebody's stricter isolation; a statement that is too complex or too big for a row.
        "40001" | "40002" | "40003" | "54000" => return About::Row,
        // A constraint or trigger function of the application may be missing something of its own; what we name ourselves is
        // checked at the start.
        "55000" | "55006" => return About::Schema,
        "26000" | "42P05" | "25P02" | "25P03" => return About::Connection,
        "25006" => return About::Server,
        _ => {}
    }
    match &state[..2] {
        // Triggered data change violation, no data, cardinality, data exception, integrity, triggers, functions that raise,
        // with check option, damaged storage or a bug of the server that a row may call forth.
        "02" | "09" | "20" | "21" | "22" | "23" | "27" | "2F" | "38" | "39" | "3B" | "44" | "45" | "P0" | "XX" => {
            About::Row
        }
        "08" => About::Connection,
        "28" => About::Role,
        "0A" | "2B" | "3D" | "3F" | "42" => About::Schema,
        // Invalid state of a transaction, resources, limits, operators, system errors, configuration files.
        "25" | "2D" | "40" | "53" | "54" | "55" | "57" | "58" | "F0" => About::Server,
        // No class of PostgreSQL's own: a trigger or function of the application has chosen it.
        _ => About::Row,
    }
}

/// Whether the message of an error of this kind speaks of objects and states only. What a row's value, a trigger or a function
/// may have put into it stays unsaid.
fn is_safe_to_repeat(code: &SqlState) -> bool {
    let state = code.code();
    let quotes_literals = ["42601", "42804", "42846"].contains(&state);
    !quotes_literals
        && [
            "08", "0A", "25", "26", "28", "3D", "3F", "40", "42", "53", "55", "57", "58", "XX",
        ]
        .contains(&&state[..2])
}

/// An error of PostgreSQL or of the way there, without anything that may quote a row. Its source is what is shown of it, and says
/// the same.
#[derive(Debug, thiserror::Error)]
#[error("{trouble}")]
pub struct DatabaseError {
    code: Option<SqlState>,
    #[source]
    trouble: Trouble,
    lock: Option<LockWait>,
    of_a_function: bool,
    lacks_right: bool,
}

impl DatabaseError {
    /// What is to be kept of the driver's error.
    #[must_use]
    pub fn of(error: &tokio_postgres::Error) -> Self {
        let about = about(error);
        let text = error.as_db_error().map_or_else(|| chain(error), said);
        let code = error.code().cloned();
        let todo = code.as_ref().map_or(about.todo(), |code| todo(code, about));
        Self {
            code,
            trouble: Trouble { about, text, todo },
            lock: None,
            of_a_function: is_of_a_function(error),
            lacks_right: error.as_db_error().is_some_and(lacks_right),
        }
    }

    /// A lock was waited for long enough.
    #[must_use]
    pub fn locked(lock: &LockWait) -> Self {
        Self {
            code: Some(SqlState::LOCK_NOT_AVAILABLE),
            trouble: Trouble {
                about: About::Lock,
                text: lock.to_string(),
                todo: "",
            },
            lock: Some(lock.clone()),
            of_a_function: false,
            lacks_right: false,
        }
    }

    /// Row-level security may hide rows of `table`.
    pub(crate) fn hidden(table: &str) -> Self {
        Self {
            code: None,
            trouble: Trouble {
                about: About::Role,
                text: format!("row-level security of {table} may hide rows from the relay's role"),
                todo: "create a policy for outboxd_relay using (true) with check (true), and no restrictive one; outboxd check --connect prints it",
            },
            lock: None,
            of_a_function: false,
            lacks_right: false,
        }
    }

    /// The SQLSTATE; `None`: the server said nothing.
    #[must_use]
    pub fn code(&self) -> Option<&SqlState> {
        self.code.as_ref()
    }

    /// What it is about.
    #[must_use]
    pub fn about(&self) -> About {
        self.trouble.about
    }

    /// The lock that was waited for, where its holder is known.
    #[must_use]
    pub fn lock(&self) -> Option<&LockWait> {
        self.lock.as_ref()
    }

    /// See [`is_of_a_function`].
    pub(crate) fn is_of_a_function(&self) -> bool {
        self.of_a_function
    }

    /// A statement of ours itself lacks a right: the role's, or that of another role that a trigger has left the connection with.
    pub(crate) fn lacks_right(&self) -> bool {
        self.lacks_right
    }

    /// Whether nothing can be asked of the database at all, as against one thing that it refuses or that waits for others.
    #[must_use]
    pub fn is_away(&self) -> bool {
        match self.about() {
            About::Connection | About::Server => true,
            About::Row | About::Lock | About::Duration | About::Role | About::Schema => false,
        }
    }

    /// What to do; empty: the text says so itself.
    #[must_use]
    pub fn todo(&self) -> &'static str {
        self.trouble.todo
    }
}

/// A row that a policy refuses has the same code, and is no lack of rights.
pub(crate) fn lacks_right(said: &DbError) -> bool {
    let is_checked = said
        .routine()
        .is_some_and(|routine| routine.starts_with("aclcheck_error"));
    *said.code() == SqlState::INSUFFICIENT_PRIVILEGE && is_checked && origin_of(said) == Origin::Server
}

fn todo(code: &SqlState, about: About) -> &'static str {
    match code.code() {
        "3D000" => "create the database, or correct database.url and restart outboxd",
        "53100" => "free space on the server's disk",
        "53300" => "end sessions that are not needed, or raise max_connections",
        state if state.starts_with("28") => {
            "correct the login in database.url (or the file it comes from) and restart outboxd"
        }
        _ => about.todo(),
    }
}

/// The database's error behind a store's, if there is one.
#[must_use]
pub fn database_error(error: &StoreError) -> Option<&DatabaseError> {
    match error {
        StoreError::Unavailable(source) => source.downcast_ref(),
        StoreError::Misconfigured(_) => None,
    }
}

/// One line for people: what happened to which object, and the code.
fn said(error: &DbError) -> String {
    let code = error.code();
    let context = error.where_().unwrap_or_default();
    let may_quote = origin_of(error) != Origin::Server && !is_block_of_ours(context);
    let mut line = if is_safe_to_repeat(code) && !may_quote {
        error.message().to_owned()
    } else {
        kind(code).to_owned()
    };
    let own = |name| if may_quote { None } else { name };
    let objects = [
        ("constraint", own(error.constraint())),
        ("column", own(error.column())),
        ("type", own(error.datatype())),
        ("function", function(context)),
    ];
    for (what, name) in objects {
        if let Some(name) = name
            && !line.contains(name)
        {
            line.push_str(&format!(", {what} {name}"));
        }
    }
    line.push_str(&format!(" ({})", code.code()));
    line.replace(['\n', '\r'], " ")
}

/// What a code means, where the message is not repeated.
fn kind(code: &SqlState) -> &'static str {
    match code.code() {
        "25006" => "nothing can be written there",
        "26000" => "a prepared statement is missing",
        "3D000" => "a database is missing",
        "3F000" => "a schema is missing",
        "40001" => "a serialization failure",
        "40P01" => "a deadlock",
        "42501" => "a right is missing",
        "42601" => "a statement has a syntax error",
        "42703" => "a column is missing",
        "42704" => "an object is missing",
        "42883" => "a function is missing",
        "42P01" => "a table is missing",
        "57014" => "a statement was cancelled",
        "58P01" => "a file is missing",
        "55P03" => "a lock is not available",
        "22001" => "a value is too long for its column",
        "22003" => "a number is out of range",
        "22008" => "a time is out of range",
        "22P02" | "22P03" => "a value is not of its column's type",
        "22P05" => "text has a character that UTF-8 has not",
        "22021" => "text has a byte its encoding does not know",
        "23502" => "a column must not be null",
        "23503" => "a foreign key has no counterpart",
        "23505" => "a unique value is there already",
        "23514" | "44000" => "a check constraint is violated",
        "23P01" => "an exclusion constraint is violated",
        other => match &other[..2] {
            "08" => "a connection failed",
            "25" => "the state of a transaction does not allow it",
            "42" => "a statement has an error",
            "53" => "resources are exhausted",
            "55" => "an object is not in the state it has to be in",
            "57" => "an operator stepped in",
            "58" => "the system below the server failed",
            "22" => "a value is not acceptable",
            "23" => "a constraint is violated",
            "XX" => "the server found damage or a bug of its own",
            _ => "a trigger or function raised an error",
        },
    }
}

/// The innermost function of an error's context, or the outermost, as far as it is a plain name: the rest, and what lies between,
/// may quote a statement.
fn function(context: &str) -> Option<&str> {
    let mut ends = context.lines().next().into_iter().chain(context.lines().last());
    ends.find_map(function_of)
}

fn function_of(frame: &str) -> Option<&str> {
    let rest = frame.strip_prefix("PL/pgSQL function ")?;
    let name = &rest[..rest.find('(')?];
    let is_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '$');
    (!name.is_empty() && name.chars().all(is_name)).then_some(name)
}

/// Whether the database gave up because of a row.
pub(crate) fn is_about_a_row(error: &StoreError) -> bool {
    database_error(error).is_some_and(|error| error.about() == About::Row)
}

/// Adds nothing to what its cause says.
fn is_hollow(cause: &(dyn std::error::Error + 'static)) -> bool {
    let said = cause.downcast_ref::<StoreError>().and_then(database_error);
    said.is_some_and(|said| !said.is_away())
}

/// The error and its causes on one line; what a cause has said already is not said again.
#[must_use]
pub fn one_line(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = String::new();
    let chain = std::iter::successors(Some(error), |cause| cause.source());
    for cause in chain.filter(|cause| !is_hollow(*cause)) {
        let text = cause.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        if line.contains(&text) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&text);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_about_something() {
        let cases = [
            ("P0001", About::Row),
            ("OB001", About::Row),
            ("HV000", About::Row),
            ("23503", About::Row),
            ("23514", About::Row),
            ("22001", About::Row),
            ("22008", About::Row),
            ("XX001", About::Row),
            ("40001", About::Row),
            ("55P03", About::Lock),
            ("40P01", About::Lock),
            ("57014", About::Duration),
            ("57P01", About::Server),
            ("53300", About::Server),
            ("53100", About::Server),
            ("25006", About::Server),
            ("08006", About::Connection),
            ("26000", About::Connection),
            ("42501", About::Role),
            ("28P01", About::Role),
            ("42P01", About::Schema),
            ("42703", About::Schema),
            ("0A000", About::Schema),
        ];
        for (code, expected) in cases {
            assert_eq!(of_state(&SqlState::from_code(code)), expected, "{code}");
        }
    }

    #[test]
    fn what_may_quote_a_row_is_never_repeated() {
        for code in [
            "P0001", "22P02", "23505", "23514", "44000", "21000", "42804", "P0004", "38001", "99999",
        ] {
            assert!(!is_safe_to_repeat(&SqlState::from_code(code)), "{code}");
        }
        for code in ["42P01", "42501", "55P03", "57014", "53300", "XX001"] {
            assert!(is_safe_to_repeat(&SqlState::from_code(code)), "{code}");
        }
    }

    #[test]
    fn what_a_function_raises_is_about_rows_and_never_repeated_whatever_its_code() {
        let raised = "PL/pgSQL function refuse() line 3 at RAISE\nSQL statement \"select refuse()\"\nPL/pgSQL function f() line 1 at PERFORM";
        let within = "SQL statement \"insert into audit\"\nPL/pgSQL function f() line 1 at SQL statement";
        assert_eq!(origin(Some(raised), None), Origin::Function);
        assert_eq!(origin(None, Some("exec_stmt_raise")), Origin::Function);
        let ours = "PL/pgSQL function inline_code_block line 9 at RAISE";
        assert_eq!(origin(Some(ours), Some("exec_stmt_raise")), Origin::Server);
        assert_eq!(origin(Some("PL/Perl function \"f\""), None), Origin::Function);
        assert_eq!(
            origin(Some("Traceback (most recent call last):"), None),
            Origin::Function
        );
        assert_eq!(origin(Some(within), Some("aclcheck_error")), Origin::WithinFunction);
        assert_eq!(
            origin(Some("while updating tuple (0,1) in relation \"t\""), None),
            Origin::Server
        );
        let block = "PL/pgSQL function inline_code_block line 1 at RAISE\nSQL statement \"do $$\nend $$\"";
        let in_a_function = format!("{block}\nPL/pgSQL function f() line 1 at SQL statement");
        assert_eq!(origin(Some(&in_a_function), None), Origin::Function);
        let german = "SQL-Anweisung \"insert into x\"\nPL/pgSQL-Funktion f() Zeile 1 bei SQL-Anweisung";
        assert_eq!(origin(Some(german), None), Origin::WithinFunction);
        assert_eq!(
            origin(Some("SQL function \"f\" statement 1"), None),
            Origin::WithinFunction
        );
        assert_eq!(origin(Some("parallel worker"), None), Origin::Server);
        assert_eq!(from(About::Role, Origin::Function), About::Row);
        assert_eq!(from(About::Role, Origin::WithinFunction), About::Row);
        assert_eq!(from(About::Role, Origin::Server), About::Role);
        assert_eq!(from(About::Lock, Origin::WithinFunction), About::Lock);
        assert_eq!(from(About::Server, Origin::WithinFunction), About::Server);
    }

    #[test]
    fn of_a_context_only_the_functions_name_is_kept() {
        let context = "PL/pgSQL function refuse(text) line 3 at RAISE\nSQL statement \"select 'secret'\"";
        assert_eq!(function(context), Some("refuse"));
        assert_eq!(function("SQL statement \"select 'secret'\""), None);
        let within =
            "SQL statement \"insert\nPL/pgSQL function secret() line 1 at x\"\nPL/pgSQL function f() line 2 at EXECUTE";
        assert_eq!(function(within), Some("f"));
        assert_eq!(function("PL/pgSQL function \"a secret\"() line 3 at RAISE"), None);
        assert_eq!(function("PL/pgSQL function inline_code_block line 1 at RAISE"), None);
    }
}
