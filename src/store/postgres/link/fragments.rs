//! What several statements have in common: files of `sql/fragments/`, by the names of `sql`'s placeholders.

macro_rules! fragments {
    ($($name:literal),* $(,)?) => {
        /// The text of a fragment.
        pub(super) fn fragment(name: &str) -> Option<&'static str> {
            Some(match name {
                $($name => include_str!(concat!("../../../../sql/fragments/", $name, ".sql")),)*
                _ => return None,
            })
        }
    };
}

fragments!(
    "among",
    "contents",
    "due_since",
    "fenced",
    "key_hash",
    "key_id",
    "lane",
    "legible",
    "listed",
    "listed_text",
    "made",
    "message",
    "passed",
    "passing",
    "pending",
    "ready",
    "same_text",
    "sequence",
    "state",
    "waiting",
    "waits",
);

/// The last number a sequence has given. `{given_by}` is its name.
pub(super) const GIVEN: &str = include_str!("../../../../sql/fragments/given.sql");
