//! A row as an application writes it, before the table gives it a number.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::message::Headers;

/// What an application inserts.
#[derive(Clone, Debug)]
pub struct NewRow {
    pub(super) topic: Arc<str>,
    pub(super) key: Option<Box<str>>,
    pub(super) payload: Bytes,
    pub(super) headers: Headers,
    pub(super) max_attempts: Option<i32>,
    pub(super) priority: i16,
    pub(super) available_in: Duration,
}

impl NewRow {
    /// A row without a key, due at once.
    #[must_use]
    pub fn new(topic: &str) -> Self {
        Self {
            topic: topic.into(),
            key: None,
            payload: Bytes::from_static(b"{}"),
            headers: Headers::empty(),
            max_attempts: None,
            priority: 0,
            available_in: Duration::ZERO,
        }
    }

    /// ... with this key.
    #[must_use]
    pub fn key(self, key: &str) -> Self {
        Self {
            key: Some(key.into()),
            ..self
        }
    }

    /// ... with this body.
    #[must_use]
    pub fn payload(self, payload: impl Into<Bytes>) -> Self {
        Self {
            payload: payload.into(),
            ..self
        }
    }

    /// ... with these headers (the column's JSON text).
    #[must_use]
    pub fn headers(self, json: &str) -> Self {
        Self {
            headers: Headers::parse(json.as_bytes()),
            ..self
        }
    }

    /// ... with a limit of its own.
    #[must_use]
    pub fn max_attempts(self, attempts: i32) -> Self {
        Self {
            max_attempts: Some(attempts),
            ..self
        }
    }

    /// ... going before those of a lower priority.
    #[must_use]
    pub fn priority(self, priority: i16) -> Self {
        Self { priority, ..self }
    }

    /// ... not before this long from now.
    #[must_use]
    pub fn delayed(self, delay: Duration) -> Self {
        Self {
            available_in: delay,
            ..self
        }
    }
}
