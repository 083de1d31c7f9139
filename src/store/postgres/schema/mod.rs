//! The tables: making them, what a role may do with them, and whether they are what the relay needs.

mod columns;
pub mod foreign;
mod lanes;
pub(super) mod made;
pub mod migrate;
mod migrations;
pub mod rights;
pub(super) mod validate;

pub use made::made_by_migrate;
pub use validate::{Schema, payload_type, validate};
