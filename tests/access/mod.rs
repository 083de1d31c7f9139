//! Who may reach what: TLS and authentication against real servers that insist on them. Each way that works relays a row; each
//! that is refused says which key to look at, and costs no message an attempt.

mod kafka;
mod nats;
mod postgres;
mod redis;
