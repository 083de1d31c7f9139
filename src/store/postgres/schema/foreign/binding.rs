//! Values put into pieces of SQL: `:now`, `:attempt`, `:error`, `:retry_at`.

use super::catalog::Catalog;
use crate::store::postgres::link::sql::quote_identifier;

/// All that there are.
const KNOWN: [&str; 4] = ["now", "attempt", "error", "retry_at"];

/// `sql` with `values` (name and SQL) in it. A time that goes into a column without a zone is UTC, and a text is cut to the length of
/// its column.
///
/// # Errors
/// A value that is none here.
pub(super) fn bind(sql: &str, values: &[(&str, &str)], catalog: &Catalog) -> Result<String, String> {
    let mut bound = String::with_capacity(sql.len() * 2);
    let (mut rest, mut quote) = (sql, None);
    while let Some(c) = rest.chars().next() {
        if quote.is_none()
            && c == ':'
            && let Some(name) = name_after(rest, &bound)
        {
            let Some((_, value)) = values.iter().find(|(known, _)| *known == name) else {
                return Err(format!(":{name} is not known here"));
            };
            let fitted = fit(name, value, target(&bound), catalog);
            bound.push_str(&fitted);
            rest = &rest[1 + name.len()..];
            continue;
        }
        if matches!(c, '\'' | '"') {
            quote = match quote {
                Some(open) if open == c => None,
                None => Some(c),
                open @ Some(_) => open,
            };
        }
        bound.push(c);
        rest = &rest[c.len_utf8()..];
    }
    Ok(bound)
}

/// The name of the value that `rest` begins with, if it does: `::int` is a cast, `[1:n]` a slice.
fn name_after<'a>(rest: &'a str, before: &str) -> Option<&'a str> {
    let name = &rest[1..];
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let end = name.find(|c| !is_part(c)).unwrap_or(name.len());
    (!before.ends_with(':') && KNOWN.contains(&&name[..end])).then(|| &name[..end])
}

/// The column that what follows is assigned to, where nothing stands between.
fn target(before: &str) -> Option<String> {
    let before = before.trim_end().strip_suffix('=')?.trim_end();
    if let Some(quoted) = before.strip_suffix('"') {
        let begin = quoted.rfind('"')?;
        return Some(quoted[begin + 1..].to_owned());
    }
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let begin = before.rfind(|c| !is_part(c)).map_or(0, |at| at + 1);
    Some(before[begin..].to_lowercase())
}

fn fit(name: &str, value: &str, target: Option<String>, catalog: &Catalog) -> String {
    let column = target.and_then(|target| catalog.column(&target));
    match (name, column) {
        ("now" | "retry_at", Some(column)) if column.kind == "timestamp without time zone" => {
            format!("({value} at time zone 'utc')")
        }
        ("error", Some(column)) => match column.length {
            Some(length) => format!("left({value}, {length})"),
            None => value.to_owned(),
        },
        _ => value.to_owned(),
    }
}

/// `column = :value` for each of these columns.
pub(super) fn assign<'a>(list: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let one = |(column, value): (&str, &str)| format!("{} = {value}", quote_identifier(column));
    list.into_iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::catalog::TheirColumn;
    use super::*;

    fn catalog() -> Catalog {
        let column = |name: &str, kind: &str, length| TheirColumn {
            name: name.to_owned(),
            kind: kind.to_owned(),
            length,
            nullable: true,
            collation: None,
        };
        Catalog {
            columns: vec![
                column("at", "timestamp without time zone", None),
                column("Error", "character varying", Some(10)),
                column("seen", "timestamp with time zone", None),
            ],
            indexes: Vec::new(),
        }
    }

    #[test]
    fn values_fit_their_columns() {
        let values = [("now", "now()"), ("error", "w.e"), ("attempt", "w.a")];
        for (sql, bound) in [
            (
                "at = :now, seen = :now",
                "at = (now() at time zone 'utc'), seen = now()",
            ),
            (
                r#""Error" = :error, tries = :attempt - 1"#,
                r#""Error" = left(w.e, 10), tries = w.a - 1"#,
            ),
            (
                "s = ':now', n = x::int, a = b[1:2]",
                "s = ':now', n = x::int, a = b[1:2]",
            ),
            ("s = 'it''s :error' || :error", "s = 'it''s :error' || w.e"),
        ] {
            assert_eq!(bind(sql, &values, &catalog()).as_deref(), Ok(bound));
        }
        assert_eq!(
            bind("x = :retry_at", &values, &catalog()),
            Err(":retry_at is not known here".to_owned())
        );
    }
}
