//! What an error of the driver, or no answer, says: of the server, of every other connection, and to whoever asked.

use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::about::{About, DatabaseError, about};
use crate::store::StoreError;

/// Nobody answered.
#[derive(Debug, thiserror::Error)]
#[error("{0} within {1:?}")]
pub(crate) struct Silent(pub(crate) &'static str, pub(crate) Duration);

/// Whether a statement was given up because its answer took too long.
pub(crate) fn ran_out_of_time(error: &StoreError) -> bool {
    let StoreError::Unavailable(source) = error else {
        return false;
    };
    source
        .downcast_ref::<Silent>()
        .is_some_and(|silent| silent.0 == STATEMENT_SILENT)
}

/// What [`Silent`] says of a statement.
pub(crate) const STATEMENT_SILENT: &str = "no answer to a statement";

/// What an error says about every other connection: the server is going, gone, or no longer takes writes.
pub(super) fn is_another_server(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        None => {
            error.is_closed() || std::error::Error::source(error).is_some_and(|source| source.is::<std::io::Error>())
        }
        Some(code) => [
            SqlState::READ_ONLY_SQL_TRANSACTION,
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
        ]
        .contains(code),
    }
}

/// What is answered where a server connection does not know our statement, or knows another one by its name (which may take
/// another number of parameters).
pub(super) fn loses_prepared_statements(error: &tokio_postgres::Error) -> bool {
    let Some(answer) = error.as_db_error() else {
        return false;
    };
    let lost = [SqlState::INVALID_SQL_STATEMENT_NAME, SqlState::DUPLICATE_PSTATEMENT];
    // PgBouncer answers everything it refuses by this code.
    let another = *answer.code() == SqlState::PROTOCOL_VIOLATION
        && ["bind message", "prepared statement"]
            .iter()
            .any(|words| answer.message().contains(words));
    another || lost.contains(answer.code())
}

/// A connection that could not be made, and the parameter of the URL to look at.
#[derive(Debug, thiserror::Error)]
#[error("database.url: {0}")]
struct Untrusted(&'static str, #[source] tokio_postgres::Error);

/// What the words of rustls and the driver mean for the URL; the first that occurs decides.
const UNTRUSTED: [(&str, &str); 7] = [
    (
        "UnknownIssuer",
        "sslrootcert: the server's certificate is signed by none of the authorities trusted",
    ),
    (
        "not valid for name",
        "host: the server's certificate is not for this name: connect to one it is for, or use sslmode=verify-ca",
    ),
    (
        "certificate expired",
        "host: the server's certificate is out of date: the server needs a new one (or a clock is wrong)",
    ),
    (
        "received fatal alert",
        "sslcert: the server does not accept our certificate, or asks for one",
    ),
    (
        "does not support TLS",
        "sslmode: the server speaks no TLS: turn ssl on there",
    ),
    (
        "channel binding",
        "channel_binding: the server binds no channel: it needs TLS and a SCRAM password",
    ),
    (
        PASSWORD_MISSING,
        "password: the server asks for one: put it into url_file, or name a passfile",
    ),
];

/// The driver's words.
const PASSWORD_MISSING: &str = "password missing";

/// `error`, with the parameter of the URL it is about where it is about one.
pub(super) fn explained(error: tokio_postgres::Error) -> Box<dyn std::error::Error + Send + Sync> {
    if error.as_db_error().is_some() {
        return Box::new(DatabaseError::of(&error));
    }
    let cause = std::error::Error::source(&error).map(ToString::to_string);
    let known = cause.and_then(|cause| UNTRUSTED.iter().find(|(words, _)| cause.contains(words)));
    match known {
        Some((_, line)) => Box::new(Untrusted(line, error)),
        None => Box::new(DatabaseError::of(&error)),
    }
}

/// What the server said when it refused to let us in at all: a wrong password, an unknown user or database. Worth ending
/// a start for; a running daemon waits, because the server's side may be what is wrong.
#[must_use]
pub fn refused_login(error: &StoreError) -> Option<String> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(refused) = error.downcast_ref::<DatabaseError>()
            && let Some(code) = refused.code()
            && [
                SqlState::INVALID_PASSWORD,
                SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
                SqlState::INVALID_CATALOG_NAME,
            ]
            .contains(code)
        {
            return Some(format!("database.url: {refused}"));
        }
        if let Some(refused) = error
            .downcast_ref::<tokio_postgres::Error>()
            .and_then(tokio_postgres::Error::as_db_error)
            && *refused.code() == SqlState::PROTOCOL_VIOLATION
            && refused.message().starts_with("unsupported startup parameter")
        {
            return Some(format!(
                "database.url: {}: the pooler does not take it; leave it out, or name it in the pooler's ignore_startup_parameters",
                refused.message()
            ));
        }
        if error.downcast_ref::<Untrusted>().is_some_and(|Untrusted(_, source)| {
            std::error::Error::source(source).is_some_and(|cause| cause.to_string().contains(PASSWORD_MISSING))
        }) {
            return Some(error.to_string());
        }
        cause = error.source();
    }
    None
}

/// Whether nobody answered, as against an answer that says no.
#[must_use]
pub fn no_answer(error: &StoreError) -> bool {
    let StoreError::Unavailable(source) = error else {
        return false;
    };
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&**source);
    while let Some(error) = cause {
        if error
            .downcast_ref::<DatabaseError>()
            .and_then(DatabaseError::code)
            .is_some()
        {
            return false;
        }
        cause = error.source();
    }
    true
}

/// What an error of the driver means for the caller. A missing object or right is for a person; everything else passes.
#[must_use]
pub fn classify(error: tokio_postgres::Error) -> StoreError {
    let Some(database) = error.as_db_error() else {
        return StoreError::Unavailable(Box::new(DatabaseError::of(&error)));
    };
    let code = database.code();
    let person = [
        SqlState::UNDEFINED_TABLE,
        SqlState::UNDEFINED_COLUMN,
        SqlState::UNDEFINED_FUNCTION,
        SqlState::UNDEFINED_OBJECT,
        SqlState::INVALID_SCHEMA_NAME,
        SqlState::INSUFFICIENT_PRIVILEGE,
        SqlState::INVALID_PASSWORD,
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        SqlState::INVALID_CATALOG_NAME,
        SqlState::DATATYPE_MISMATCH,
    ];
    // What a trigger of the application raises is about rows, whatever its code.
    if person.contains(code) && about(&error) != About::Row {
        StoreError::Misconfigured(format!("database: {}", DatabaseError::of(&error)))
    } else {
        StoreError::Unavailable(Box::new(DatabaseError::of(&error)))
    }
}
