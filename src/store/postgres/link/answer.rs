//! The answers of our own statements: the one row there is, a column for people, and what one that cannot be decoded means.

use std::error::Error;

use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

use crate::store::StoreError;

/// What a column of our own statements that cannot be decoded means: its type is another by now, as after a migration of somebody's.
/// Worth waiting for; the next start names the column.
pub(crate) fn unreadable(error: &tokio_postgres::Error) -> StoreError {
    let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
    StoreError::Unavailable(
        format!("a column of the outbox table cannot be read: {cause}; run: outboxd check --connect").into(),
    )
}

/// What `read` makes of the row of an answer that is always one.
pub(crate) fn only<T>(
    rows: &[Row],
    read: impl FnOnce(&Row) -> Result<T, tokio_postgres::Error>,
) -> Result<T, StoreError> {
    let row = rows.first().expect("the statement answers one row");
    read(row).map_err(|error| unreadable(&error))
}

/// Text as far as it is UTF-8, for people: a database in SQL_ASCII holds any bytes.
#[derive(Debug)]
pub(crate) struct Legible(pub(crate) String);

impl<'a> FromSql<'a> for Legible {
    fn from_sql(_ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(String::from_utf8_lossy(raw).into_owned()))
    }

    fn accepts(ty: &Type) -> bool {
        <&str as FromSql>::accepts(ty) || *ty == Type::JSON
    }
}

/// A column's text for people; nothing for null.
pub(crate) fn legible(row: &Row, index: impl tokio_postgres::row::RowIndex + std::fmt::Display) -> Option<String> {
    row.get::<_, Option<Legible>>(index).map(|Legible(text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_shown_as_far_as_they_are() {
        let Legible(text) = Legible::from_sql(&Type::TEXT, b"a\xffb").unwrap();
        assert_eq!(text, "a\u{fffd}b");
        assert!(
            <&str>::from_sql(&Type::TEXT, b"a\xffb")
                .unwrap_err()
                .is::<std::str::Utf8Error>()
        );
    }
}
