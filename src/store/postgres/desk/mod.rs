//! What people ask of the outbox, on the command line and over HTTP, and what is done for them. No daemon needs to run.

mod choice;
pub mod contents;
pub mod doctor;
pub mod enqueue;
pub mod failed;
pub mod find;
mod held;
pub mod lines;
pub mod lock_waits;
pub mod moment;
mod pace;
mod parts;
pub mod paused;
pub mod prune;
pub mod prune_attempts;
pub mod replay;
pub mod retention;
pub mod row_identity;
pub mod rules;
pub mod sample;
pub mod status;
pub mod why;
