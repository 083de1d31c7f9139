//! How far the cursor goes back, looks ahead and remembers.

/// The cursor starts so far below the last number taken: whoever is open at that time has most likely taken a number
/// above, whose gap is then seen, and its row comes before later ones of its key. Below, only the sweep finds it.
const RETRACED: i64 = 10_000;
/// Up to this many gaps are all looked at with every page, by the same statement.
const FEW_GAPS: usize = 500;
/// Gaps looked at by one statement, past that.
const GAPS_AT_ONCE: usize = 5_000;
/// Gaps watched at most (ranges).
const MOST_GAPS: usize = 250_000;
/// Rows one statement looks ahead over when none of them is to be sent.
pub(crate) const SKIM_ROWS: i64 = 50_000;

/// The limits above, so that the model can be played with small ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) retraced: i64,
    pub(crate) few: usize,
    pub(crate) at_once: usize,
    pub(crate) most: usize,
    pub(crate) skim_rows: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            retraced: RETRACED,
            few: FEW_GAPS,
            at_once: GAPS_AT_ONCE,
            most: MOST_GAPS,
            skim_rows: SKIM_ROWS,
        }
    }
}
