//! How many rows a statement of retention takes: halved when it fails because of one of them, until that one is alone and can
//! be stepped over, and doubled while it goes well.

use std::time::Duration;

use crate::store::StoreError;
use crate::store::postgres::link::about::{About, database_error};
use crate::store::postgres::link::classify::ran_out_of_time;
use crate::stuck::StuckReason;

/// How long one statement may take; longer, and it takes fewer rows.
pub(super) const STEP_LIMIT: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(super) struct Pace {
    most: i64,
    now: i64,
}

impl Pace {
    pub(super) fn new(most: usize) -> Self {
        let most = i64::try_from(most).unwrap_or(i64::MAX).max(1);
        Self { most, now: most }
    }

    /// Rows to ask for.
    pub(super) fn rows(&self) -> i64 {
        self.now
    }

    /// Rows asked for where nothing is in the way.
    pub(super) fn most(&self) -> i64 {
        self.most
    }

    /// What was asked for before.
    pub(super) fn begin_with(&mut self, rows: i64) -> i64 {
        std::mem::replace(&mut self.now, rows)
    }

    /// Asks for half as many; `false`: it was one.
    pub(super) fn halve(&mut self) -> bool {
        let alone = self.now == 1;
        self.now = (self.now / 2).max(1);
        !alone
    }

    /// Asks for twice as many, unless that many are likely to take too long.
    pub(super) fn went_well(&mut self, took: Duration) {
        if took < STEP_LIMIT / 4 {
            self.now = self.now.saturating_mul(2).min(self.most);
        }
    }
}

/// Why a statement failed that may work with fewer rows, or without one of them.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) reason: StuckReason,
    /// One line, without anything of the row.
    pub(super) detail: String,
}

impl Trouble {
    /// `None`: the server, or the way there, is what is wrong. What a trigger raises may be of any class, so whoever asks finds
    /// out with a statement over no rows whether the role or the table is to blame.
    pub(super) fn of_rows(error: &StoreError) -> Option<Self> {
        let refused = |detail| Trouble {
            reason: StuckReason::Refused,
            detail,
        };
        let Some(known) = database_error(error) else {
            return match error {
                StoreError::Misconfigured(line) => Some(refused(line.clone())),
                StoreError::Unavailable(source) => ran_out_of_time(error).then(|| Trouble {
                    reason: StuckReason::Slow,
                    detail: source.to_string(),
                }),
            };
        };
        let code = known.code()?.code();
        let reason = match known.about() {
            About::Row | About::Role | About::Schema => StuckReason::Refused,
            About::Lock => StuckReason::Locked,
            About::Duration => StuckReason::Slow,
            // What a trigger asks of the server or of another one; our own connection never says 08.
            About::Connection | About::Server if known.is_of_a_function() || code.starts_with("08") => {
                StuckReason::Refused
            }
            About::Connection | About::Server => return None,
        };
        Some(Self {
            reason,
            ..refused(known.to_string())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_halved_down_to_one_row_and_grows_again_while_it_is_quick() {
        let mut pace = Pace::new(1_000);
        let mut asked = vec![pace.rows()];
        while pace.halve() {
            asked.push(pace.rows());
        }
        assert_eq!(asked, [1_000, 500, 250, 125, 62, 31, 15, 7, 3, 1]);
        pace.went_well(STEP_LIMIT / 2);
        assert_eq!(pace.rows(), 1, "two would take too long");
        for _ in 0..20 {
            pace.went_well(Duration::from_millis(3));
        }
        assert_eq!(pace.rows(), 1_000);
    }
}
