//! Our columns of the outbox, and the types each may have.

const TEXT: &[&str] = &["text", "character varying", "character", "name"];
const TIME: &[&str] = &["timestamp with time zone"];
const INTEGER: &[&str] = &["integer", "smallint", "bigint"];
const INT4: &[&str] = &["integer"];

/// Our columns of the outbox, and the types each may have; the payload's are those of `PayloadType`.
pub(super) const OUTBOX: [(&str, &[&str]); 16] = [
    ("seq", &["bigint"]),
    ("id", &["uuid"]),
    ("topic", TEXT),
    ("key", TEXT),
    ("payload", &["jsonb", "json", "text", "bytea"]),
    ("headers", &["jsonb", "json"]),
    ("attempt", INT4),
    ("max_attempts", INT4),
    ("priority", INTEGER),
    ("available_at", TIME),
    ("replay", INT4),
    ("relayed_at", TIME),
    ("failed_at", TIME),
    ("last_error", TEXT),
    ("inserted_at", TIME),
    ("updated_at", TIME),
];
