//! What the routes say of topics, for those who count what waits; and how far they look.

use tokio_postgres::Row;

use crate::delivery::Order;
use crate::store::StoreError;
use crate::store::postgres::link::about::is_about_a_row;

/// Pending messages searched for held ones.
pub(super) const HELD_SEARCH: i64 = 200_000;

/// What the route of a topic says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Who waits behind a failed message.
    pub order: Order,
    /// Nothing of it is sent.
    pub paused: bool,
    /// There is a route.
    pub routed: bool,
}

/// The rules of all topics.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    /// That of a topic.
    pub of: &'a (dyn Fn(&str) -> Rule + Sync),
    /// Some route is paused.
    pub any_paused: bool,
}

/// Nothing where a row cannot be read: what holds and waits is told without it a moment later, when it has failed.
pub(super) fn unless_unreadable(answer: Result<Vec<Row>, StoreError>) -> Result<Vec<Row>, StoreError> {
    match answer {
        Err(error) if is_about_a_row(&error) => Ok(Vec::new()),
        answer => answer,
    }
}
