//! The outbox in PostgreSQL, in four rooms by whom they serve.
//!
//! [`link`] leads to the database: connections, time limits, names, statements. [`outbox`] is the adapter behind the ports, on the
//! hot path. [`schema`] makes the tables and says whether they are right. [`desk`] answers what people ask. The first knows none of
//! the others; the desk knows all; the two between do not know each other.

pub mod desk;
pub mod link;
pub mod outbox;
pub mod schema;
