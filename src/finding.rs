//! What somebody found who looked: plain values, made by whoever can look at something and shown by the command line.

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing, or not everything, is relayed so.
    Fault,
    /// It works, but not well, or not for long.
    Warning,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// Its kind, for programs: stable between versions.
    pub code: &'static str,
    /// What was found, with the names of what it is about.
    pub what: String,
    /// Why that matters.
    pub why: &'static str,
    /// The SQL or command that mends it, or what to do.
    pub fix: String,
}

impl Finding {
    /// A fault.
    #[must_use]
    pub fn fault(code: &'static str, what: impl Into<String>, why: &'static str, fix: impl Into<String>) -> Self {
        Self {
            level: Level::Fault,
            code,
            what: what.into(),
            why,
            fix: fix.into(),
        }
    }

    /// A warning.
    #[must_use]
    pub fn warning(code: &'static str, what: impl Into<String>, why: &'static str, fix: impl Into<String>) -> Self {
        Self {
            level: Level::Warning,
            ..Self::fault(code, what, why, fix)
        }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.fix)
    }
}
