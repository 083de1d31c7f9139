//! What the cursor asks PostgreSQL, what it is told, and what it says in the end.

use super::gaps::{Holders, Ranges};

/// What stands behind the table's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// The table's OID; `None`: there is none.
    pub(crate) relation: Option<u32>,
    /// Its files (its partitions' too): emptying or rewriting it makes new ones.
    pub(crate) files: String,
    /// The sequence its numbers come from; `None`: none is known.
    pub(crate) sequence: Option<u32>,
    /// That one's file.
    pub(crate) sequence_file: Option<u32>,
    /// When the server was started: through a pooler nobody else tells that it was, and transactions have other names since.
    pub(crate) server: String,
}

/// The answer to [`Question::Look`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Look {
    pub(crate) place: Place,
    /// The last number the sequence has given, 0 for none; `None`: nobody may know.
    pub(crate) last: Option<i64>,
    /// Rows are pending whose numbers the sequence has not reached.
    pub(crate) ahead: bool,
    /// A number read before is another message's now.
    pub(crate) renumbered: bool,
    /// Who has taken numbers and is open.
    pub(crate) holders: Holders,
}

/// What to ask PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// In one snapshot: the rows in `gaps`, `limit` at most, and those past `after` up to the last number the sequence has
    /// given, `limit` at most. `keeps_snapshot`: questions about it may follow.
    Page {
        after: i64,
        limit: i64,
        gaps: Ranges,
        keeps_snapshot: bool,
    },
    /// What stands behind the name and who holds the sequence: read now, whatever snapshot is kept.
    Look,
    /// In the page's snapshot: the rows in these gaps, `limit` at most.
    Late { gaps: Ranges, limit: i64 },
    /// Rows that are pending although the sequence has not reached their numbers.
    Ahead,
    /// How many rows follow `after`, `rows` at most, whether any number is missing, and the first to be sent.
    Skim { after: i64, rows: i64 },
}

/// What is to be done after an answer.
#[derive(Clone, Debug)]
pub(crate) enum Next {
    Ask(Question),
    /// The read is over.
    Done(Done),
    /// What was read is doubtful: open anew. Why, for people.
    StartOver(&'static str),
}

/// How a read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    /// Rows of the page past here are to be dropped: they come again.
    pub(crate) upto: i64,
    /// There is probably more right now.
    pub(crate) more: bool,
    /// Somebody has ended who may own numbers nobody watches: everything pending is to be read again, this page too.
    pub(crate) sweep: bool,
}

/// A row as the cursor sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) seq: i64,
    /// Found in a gap.
    pub(crate) late: bool,
    /// Bytes it takes, when it is to be sent.
    pub(crate) size: Option<usize>,
}

/// What a reread brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// All there is.
    Whole,
    /// Perhaps the latter half of a transaction: everything is to be read again, in order.
    Partial,
    /// Rows of another table, perhaps: everything is opened anew, and why. The next read may be waiting for this very reread.
    Elsewhere(&'static str),
}

/// What becomes of a row that was offered to the read under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Took {
    /// It is taken, and the next may come.
    More,
    /// It is taken, and the last there is room for.
    Last,
    /// It is not taken: it comes again.
    Not,
}

impl Took {
    pub(super) fn unless_full(full: bool) -> Self {
        if full { Self::Last } else { Self::More }
    }
}

/// The answer to [`Question::Skim`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Skimmed {
    pub(crate) rows: i64,
    pub(crate) first: Option<i64>,
    pub(crate) last: Option<i64>,
    pub(crate) first_wanted: Option<i64>,
}
