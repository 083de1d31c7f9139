//! Ways to break the cursor on purpose. Only tests choose one.

/// Known-broken variants, so that the model can show that each would be noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(test), expect(dead_code, reason = "two are the model's own doing"))]
pub(crate) enum Broken {
    /// A new gap is looked at only once one of the holders read *after* its page is gone: 0.2.0 with many gaps.
    NotLookedAtOnce,
    /// Who is gone by the list read after a look never fills what it lacks.
    DeadByTheListAfter,
    /// Gaps are looked at in a snapshot of their own, after the page's.
    LateInAnotherSnapshot,
    /// A transaction that owns numbers nobody watches ends, and nothing is read again.
    EndOfTheUnwatchedIgnored,
    /// Another table or sequence behind the name is not noticed.
    ExchangeOverlooked,
    /// The cursor goes as far as the highest number, written by hand or not.
    AheadOfTheSequence,
    /// The page's rows are not asked for again when late rows take their room.
    PageNotPutBack,
}

#[cfg(not(test))]
pub(crate) const fn broken(_way: Broken) -> bool {
    false
}

#[cfg(test)]
pub(crate) use super::model::broken;
