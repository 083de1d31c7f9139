//! Where a pending message stands and why it was not sent yet: one value that the engine makes, the store passes on and people
//! read.

use serde::{Deserialize, Serialize};

use crate::message::shortened;

/// Characters of a sentence at most.
const SENTENCE_MAX: usize = 2_000;

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
            sentence: shortened(&sentence.into(), SENTENCE_MAX).into_owned(),
            next: None,
        }
    }

    /// As JSON in ASCII: a database in any encoding takes it.
    #[must_use]
    pub fn to_ascii_json(&self) -> String {
        let json = serde_json::to_string(self).expect("texts are JSON");
        let mut ascii = String::with_capacity(json.len());
        for character in json.chars() {
            if character.is_ascii() {
                ascii.push(character);
            } else {
                let mut units = [0; 2];
                for unit in character.encode_utf16(&mut units) {
                    ascii.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
        ascii
    }

    /// With what to do.
    #[must_use]
    pub fn with_next(mut self, next: Option<impl Into<String>>) -> Self {
        self.next = next.map(Into::into);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_goes_through_ascii() {
        let long = "\u{2603}\u{1f600}\0\"\n".repeat(1_000);
        let told = Whereabouts::new("x", long).with_next(Some("snow \u{2603}"));
        assert_eq!(told.sentence.chars().count(), SENTENCE_MAX + 3);
        let json = told.to_ascii_json();
        assert!(json.is_ascii());
        assert_eq!(serde_json::from_str::<Whereabouts>(&json).unwrap(), told);
    }
}
