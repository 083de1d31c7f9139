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
    "bodies",
    "contents",
    "due_since",
    "fenced",
    "foreign_bodies",
    "foreign_contents",
    "foreign_later_bodies",
    "foreign_passed",
    "foreign_passing",
    "foreign_whole",
    "honour",
    "honour_nothing",
    "key_hash",
    "key_id",
    "lane",
    "later_bodies",
    "legible",
    "listed",
    "listed_text",
    "made",
    "message",
    "newest_number",
    "newest_time",
    "newest_unknown",
    "passed",
    "passing",
    "pending",
    "ready",
    "same_text",
    "sequence",
    "state",
    "theirs_deleted",
    "theirs_failed",
    "theirs_failed_unsaid",
    "theirs_marked",
    "theirs_retried",
    "theirs_retried_unsaid",
    "theirs_retrying",
    "theirs_retrying_unsaid",
    "unless_failed",
    "waiting",
    "waits",
    "whole",
);

/// The last number a sequence has given. `{given_by}` is its name.
pub(super) const GIVEN: &str = include_str!("../../../../sql/fragments/given.sql");
