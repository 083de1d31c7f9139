//! What a table that is not ours has for each of our columns, and how it says how its rows stand: as the configuration says it.

/// What stands for one of our columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Column {
    /// A column, by its name in the database.
    Named(String),
    /// Nothing.
    Missing,
    /// An expression over the row `t`.
    Sql(String),
}

/// Pieces of SQL; `None`: made of the columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// A condition over the row `t`: it is to be sent.
    pub pending: Option<String>,
    /// What is set once the broker has it.
    pub relayed: Option<String>,
    /// What is set when an attempt failed and another follows.
    pub retrying: Option<String>,
    /// What is set when the last attempt failed.
    pub failed: Option<String>,
    /// What is set when somebody asks for a failed message to be tried again.
    pub retried: Option<String>,
}

impl State {
    /// Each with its name.
    #[must_use]
    pub fn all(&self) -> [(&'static str, Option<&str>); 5] {
        [
            ("pending", self.pending.as_deref()),
            ("relayed", self.relayed.as_deref()),
            ("retrying", self.retrying.as_deref()),
            ("failed", self.failed.as_deref()),
            ("retried", self.retried.as_deref()),
        ]
    }
}

/// Everything the configuration says of the outbox's table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// What stands for our columns, by our names, where it is not a column of that name.
    pub columns: Vec<(String, Column)>,
    /// How its rows stand.
    pub state: State,
    /// `on_relayed = "delete"`.
    pub deletes: bool,
}

impl Mapping {
    /// Whether it can only be meant for a table that is not ours.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        let is_foreign = |(_, column): &(String, Column)| !matches!(column, Column::Named(_));
        self.columns.iter().any(is_foreign) || self.state != State::default()
    }

    /// What is said of our column `ours`; `None`: nothing.
    #[must_use]
    pub fn column(&self, ours: &str) -> Option<&Column> {
        self.columns
            .iter()
            .find(|(name, _)| name == ours)
            .map(|(_, column)| column)
    }
}
