//! A read of the cursor that is under way.

use super::gaps::Ranges;
use super::questions::Look;
use crate::store::Room;

/// The read under way.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) start: i64,
    pub(super) room: Room,
    /// Rows past the cursor that are asked for, and late ones by one statement.
    pub(super) limit: i64,
    pub(super) late_limit: i64,
    pub(super) keeps_snapshot: bool,
    /// Nothing has to be there for a look: it is time for one.
    pub(super) looks: bool,
    /// The page's rows to be sent, and the bytes of each.
    pub(super) page: Vec<(i64, usize)>,
    pub(super) page_bytes: usize,
    pub(super) passed: usize,
    pub(super) late: usize,
    pub(super) late_rows: usize,
    pub(super) late_bytes: usize,
    /// The page ended for want of room.
    pub(super) cut: bool,
    /// ... already among the late rows: there may be more of them.
    pub(super) cut_late: bool,
    pub(super) look: Option<Look>,
    /// Gaps still to be looked at.
    pub(super) to_look_at: Ranges,
}

impl Read {
    pub(super) fn is_full(&self, rows: usize, bytes: usize) -> bool {
        bytes >= self.room.bytes || rows >= self.room.rows
    }

    /// The statement brought as many late rows as it may.
    pub(super) fn is_cut_at_limit(&self) -> bool {
        self.late > 0 && self.late >= usize::try_from(self.late_limit).unwrap_or(usize::MAX)
    }
}
