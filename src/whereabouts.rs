//! Where a pending message stands and why it was not sent yet: one value that the engine makes, the store passes on and people
//! read.

use serde::{Deserialize, Serialize};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whereabouts {
    /// In one word, for machines: `destination_paused`, `in_flight` ...
    pub reason: String,
    /// In one sentence, for people; it begins in lower case and has no full stop.
    pub sentence: String,
    /// What to do about it; `None`: it goes on by itself.
    pub next: Option<String>,
}

impl Whereabouts {
    /// Nothing is to be done about it.
    #[must_use]
    pub fn new(reason: &str, sentence: impl Into<String>) -> Self {
        Self {
            reason: reason.to_owned(),
            sentence: sentence.into(),
            next: None,
        }
    }

    /// With what to do.
    #[must_use]
    pub fn with_next(mut self, next: Option<impl Into<String>>) -> Self {
        self.next = next.map(Into::into);
        self
    }
}
