//! Their table as the catalog has it.

use crate::store::StoreError;
use crate::store::postgres::link::database::{Database, Role};
use crate::store::postgres::link::sql::{Names, Statement};

const COLUMNS: &str = include_str!("../../../../../sql/foreign_catalog.sql");
const INDEXES: &str = include_str!("../../../../../sql/foreign_indexes.sql");

/// A column of theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TheirColumn {
    pub(super) name: String,
    /// Its type, as `format_type` prints it, without length.
    pub(super) kind: String,
    /// Characters at most, where it is limited.
    pub(super) length: Option<i32>,
    pub(super) nullable: bool,
    /// By what rules its text is compared, where they are not the database's: quoted and qualified.
    pub(super) collation: Option<String>,
}

/// A valid b-tree index of theirs.
#[derive(Clone, Debug)]
pub(super) struct Index {
    pub(super) name: String,
    /// `None`: an expression.
    pub(super) columns: Vec<Option<String>>,
    /// Ascending, nulls last.
    pub(super) plain: bool,
    pub(super) unique: bool,
    /// Over all rows.
    pub(super) whole: bool,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Catalog {
    pub(super) columns: Vec<TheirColumn>,
    pub(super) indexes: Vec<Index>,
}

impl Catalog {
    /// Without columns: there is no table.
    pub(super) async fn read(database: &Database, names: &Names) -> Result<Self, StoreError> {
        let ask = async |file: &str| {
            let statement = Statement {
                text: names.fill(file),
                types: &[],
            };
            database.query(Role::Side, &statement, &[]).await
        };
        let columns = ask(COLUMNS).await?;
        let indexes = ask(INDEXES).await?;
        Ok(Self {
            columns: columns
                .iter()
                .map(|row| TheirColumn {
                    name: row.get("name"),
                    kind: row.get("type"),
                    length: row.get("length"),
                    nullable: row.get("nullable"),
                    collation: row.get("collation"),
                })
                .collect(),
            indexes: indexes
                .iter()
                .map(|row| Index {
                    name: row.get("name"),
                    columns: row.get("columns"),
                    plain: row.get("plain"),
                    unique: row.get("is_unique"),
                    whole: row.get("whole"),
                })
                .collect(),
        })
    }

    pub(super) fn column(&self, name: &str) -> Option<&TheirColumn> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Whether no two rows have the same value of this column.
    pub(super) fn is_unique(&self, name: &str) -> bool {
        self.indexes.iter().any(|index| {
            let alone = index.columns.len() == 1 && index.columns[0].as_deref() == Some(name);
            index.unique && index.whole && alone
        })
    }
}
