//! The numbered files of `sql/migrations/`: which there are, and the text each runs.

use sha2::{Digest, Sha256};

use crate::store::postgres::link::sql::{Names, hex, quote_literal};

const RECORD: &str = include_str!("../../../../sql/migration_record.sql");

/// One file of `sql/migrations/`.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// Its number.
    pub version: i32,
    /// Its file name.
    pub name: &'static str,
    text: &'static str,
}

/// All of them, oldest first.
pub const MIGRATIONS: [Migration; 8] = [
    Migration {
        version: 1,
        name: "0001_outbox.sql",
        text: include_str!("../../../../sql/migrations/0001_outbox.sql"),
    },
    Migration {
        version: 2,
        name: "0002_service_tables.sql",
        text: include_str!("../../../../sql/migrations/0002_service_tables.sql"),
    },
    Migration {
        version: 3,
        name: "0003_enqueue_and_wake.sql",
        text: include_str!("../../../../sql/migrations/0003_enqueue_and_wake.sql"),
    },
    Migration {
        version: 4,
        name: "0004_paused.sql",
        text: include_str!("../../../../sql/migrations/0004_paused.sql"),
    },
    Migration {
        version: 5,
        name: "0005_enqueue_insert_only.sql",
        text: include_str!("../../../../sql/migrations/0005_enqueue_insert_only.sql"),
    },
    Migration {
        version: 6,
        name: "0006_room_in_primary_key.sql",
        text: include_str!("../../../../sql/migrations/0006_room_in_primary_key.sql"),
    },
    Migration {
        version: 7,
        name: "0007_outboxes_and_stuck_rows.sql",
        text: include_str!("../../../../sql/migrations/0007_outboxes_and_stuck_rows.sql"),
    },
    Migration {
        version: 8,
        name: "0008_questions.sql",
        text: include_str!("../../../../sql/migrations/0008_questions.sql"),
    },
];

/// In place of the first, where the table is not ours.
const ROWS: Migration = Migration {
    version: 1,
    name: "0001_rows.sql",
    text: include_str!("../../../../sql/migrations/0001_rows.sql"),
};

/// Those that speak of inserting into the outbox, or of a table of before.
const OF_OURS: [i32; 4] = [1, 3, 5, 6];

/// Where in a file what is about inserting into the outbox begins, and lasts to its end.
const ABOUT_INSERTS: &str = "\n-- Every outbox has functions of its own";

/// Those of an outbox, oldest first.
pub(super) fn migrations(names: &Names) -> Vec<Migration> {
    if !names.is_foreign() {
        return MIGRATIONS.to_vec();
    }
    let others = MIGRATIONS.into_iter().filter(|file| !OF_OURS.contains(&file.version));
    [ROWS].into_iter().chain(others).collect()
}

impl Migration {
    /// SHA-256 of the file as shipped, in hexadecimal.
    #[must_use]
    pub fn checksum(&self) -> String {
        hex(&Sha256::digest(self.text))
    }

    pub(super) fn sql(&self, names: &Names, payload: PayloadType) -> String {
        let mut text = self.text;
        if names.is_foreign() {
            text = text.split(ABOUT_INSERTS).next().unwrap_or(text);
        }
        let body = names.fill_keeping_comments(&text.replace("{payload_type}", payload.as_str()));
        let record = RECORD
            .replace("{version}", &self.version.to_string())
            .replace("{file_text}", &quote_literal(self.name))
            .replace("{checksum_text}", &quote_literal(&self.checksum()));
        format!("\n-- {}\n\n{body}\n{}\n", self.name, names.fill(&record))
    }
}

/// The type of the payload column in a table that is yet to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PayloadType {
    /// Checked and queryable; costs twice the CPU of the others at insert.
    #[default]
    Jsonb,
    /// Checked, kept byte for byte.
    Json,
    /// Any text.
    Text,
    /// Any bytes.
    Bytea,
}

impl PayloadType {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Jsonb, Self::Json, Self::Text, Self::Bytea];

    /// Its name in SQL.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jsonb => "jsonb",
            Self::Json => "json",
            Self::Text => "text",
            Self::Bytea => "bytea",
        }
    }
}
