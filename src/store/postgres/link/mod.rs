//! The way to the database: where it is, how the way there is secured, connections and how long their statements are waited for, and
//! the statements with the names filled in.

pub mod about;
pub(super) mod answer;
pub(super) mod blocked;
pub(super) mod checkout;
pub mod classify;
pub mod connect;
pub mod database;
mod facts;
mod fragments;
mod hosts;
pub mod mapping;
mod naming;
mod patience;
mod role;
pub(super) mod slots;
pub mod sql;
mod text;
pub mod theirs;
mod tls;
pub mod way;
