//! The cursor: every committed row once, in order, however late it commits. Pure: it says what to ask PostgreSQL next and is
//! told the answers; `feed` has the connection, `model` plays it against a model of PostgreSQL.
//!
//! ```text
//!  open ──> the cursor stands at L, somewhat below the last number taken; what is pending up to L is read by `reread`
//!             │                       those who hold the sequence then may own numbers up to L still: unwatched
//!             v
//!           a read:  Page ──> Look ──> Late ──> ...    Page: rows past the cursor; while there are few gaps, those too
//!             │        (one snapshot)                  Look: what stands behind the name, and who holds the sequence
//!             │ a full page with nothing to send       Late: gaps somebody may have filled, in the snapshot of the page
//!             v
//!           Skim: looks ahead without bringing rows; a missing number ends it
//! ```
//!
//! Invariants:
//! - Whatever a page's snapshot shows past the cursor, that snapshot was asked for every gap a transaction it shows may have
//!   filled; late rows go before the page's. So a transaction's first half never comes after its second half, nor after a
//!   later transaction's rows.
//! - The cursor never passes the last number the sequence has given: numbers written by hand beyond it are brought beside the
//!   cursor (`ahead`), and rows that come up to there later still find the cursor before them.
//! - Another table or sequence behind the name, one that was emptied, or a sequence set back below the cursor (or past
//!   it again, so that a number read before is another message's) end a read with nothing but that word: everything is opened anew.
//! - Gaps are bounded: past `MOST_GAPS` all but the newest are forgotten, and when one of the transactions that may own their
//!   numbers ends, everything pending is read again, in order (as after a start).

mod broken;
mod gaps;
mod limits;
#[cfg(test)]
mod model;
mod questions;
mod read;

use std::collections::BTreeSet;
use std::sync::Arc;

pub(crate) use broken::{Broken, broken};
pub(crate) use gaps::{Holders, Ranges};
pub(crate) use limits::Limits;
pub(crate) use questions::{Done, Look, Next, Place, Question, Seen, Skimmed, Took, Verdict};

use crate::store::Room;
use gaps::Gaps;
use read::Read;

/// Transactions that may own numbers nobody watches.
#[derive(Debug)]
struct Unwatched {
    holders: Holders,
    /// Their numbers may be anywhere past this.
    past: i64,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    limits: Limits,
    at: i64,
    place: Place,
    gaps: Gaps,
    unwatched: Option<Unwatched>,
    /// The holders read last.
    holders: Option<Holders>,
    skimming: bool,
    /// Bytes of a message lately, for how many rows to ask for.
    usual_size: usize,
    read: Read,
    /// Numbers filled by the read under way: rereads leave them to it. It is told they are read when it is over.
    filled: BTreeSet<i64>,
}

impl Cursor {
    #[cfg(test)]
    pub(crate) fn with_limits(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Starts over at what stands behind the name now, `last` being the last number taken, and `holders` read after that.
    pub(crate) fn open(&mut self, place: Place, last: i64, holders: &Holders) {
        let unwatched = Unwatched {
            holders: Arc::clone(holders),
            past: i64::MIN,
        };
        let below = last.saturating_sub(self.limits.retraced);
        *self = Self {
            limits: self.limits,
            at: if last < 0 { below } else { below.max(0) },
            place,
            unwatched: Some(unwatched).filter(|_| !holders.is_empty()),
            usual_size: self.usual_size,
            ..Self::default()
        };
    }

    /// Everything at or below was passed.
    pub(crate) fn at(&self) -> i64 {
        self.at
    }

    /// Gaps being watched.
    pub(crate) fn gaps(&self) -> usize {
        self.gaps.len()
    }

    /// The commit watermark: every number at or below it was passed, or never will be. `i64::MIN` until known.
    pub(crate) fn decided(&self) -> i64 {
        let watched = self.gaps.first().map_or(self.at, |gap| gap - 1);
        self.unwatched
            .as_ref()
            .map_or(watched, |unwatched| watched.min(unwatched.past))
    }

    /// Whether a row with this number is left to the cursor: others of its transaction may stand before it.
    pub(crate) fn leaves(&self, seq: i64) -> bool {
        self.gaps.contains(seq) || self.filled.contains(&seq)
    }

    /// What a look tells of a reread that came before it. `at`: where the cursor stood when it was asked for.
    pub(crate) fn judge(&mut self, look: &Look, at: i64) -> Verdict {
        if let Some(why) = self.stands_elsewhere(look, at) {
            return Verdict::Elsewhere(why);
        }
        if self.unwatched_has_ended(&look.holders) {
            return Verdict::Partial;
        }
        Verdict::Whole
    }

    /// Whether one of those who may own numbers that nobody watches has ended, given who holds the sequence now. Told once.
    fn unwatched_has_ended(&mut self, now: &Holders) -> bool {
        let Some(unwatched) = &mut self.unwatched else {
            return false;
        };
        if unwatched.holders.is_subset(now) {
            return false;
        }
        let left: BTreeSet<Box<str>> = unwatched.holders.intersection(now).cloned().collect();
        if left.is_empty() {
            self.unwatched = None;
        } else {
            unwatched.holders = Arc::new(left);
        }
        !broken(Broken::EndOfTheUnwatchedIgnored)
    }

    /// A read begins, with this much room. `looks`: it is time to look what stands behind the name.
    pub(crate) fn begin(&mut self, room: Room, looks: bool) -> Question {
        let few = self.gaps.len() <= self.limits.few;
        let fitting = room
            .bytes
            .checked_div(self.usual_size)
            .map_or(room.rows, |rows| rows.saturating_add(1));
        let limit = i64::try_from(room.rows.min(fitting).max(1)).unwrap_or(i64::MAX);
        self.read = Read {
            start: self.at,
            room,
            limit,
            late_limit: limit,
            looks,
            keeps_snapshot: !few && !self.skimming,
            ..Read::default()
        };
        if self.skimming {
            return Question::Skim {
                after: self.at,
                rows: self.limits.skim_rows,
            };
        }
        Question::Page {
            after: self.at,
            limit,
            gaps: if few {
                self.gaps.look_at_all()
            } else {
                Ranges::default()
            },
            keeps_snapshot: !few,
        }
    }

    /// The next row of the answer.
    pub(crate) fn take(&mut self, row: Seen) -> Took {
        let Seen { seq, late, size } = row;
        let read = &mut self.read;
        if late {
            self.gaps.fill(seq);
            self.filled.insert(seq);
            read.late += 1;
            if let Some(size) = size {
                read.late_rows += 1;
                read.late_bytes += size;
            }
            read.cut_late |= read.is_full(read.late_rows, read.late_bytes);
            return Took::unless_full(read.cut_late);
        }
        if read.late > 0 && read.is_cut_at_limit() && !read.keeps_snapshot {
            // There may be more late rows, and they go before what lies past the cursor.
            read.cut_late = true;
            return Took::Not;
        }
        if seq > self.at.saturating_add(1) {
            self.gaps.open(self.at + 1, seq - 1);
        }
        self.at = seq;
        read.passed += 1;
        if let Some(size) = size {
            read.page.push((seq, size));
            read.page_bytes += size;
        }
        read.cut |= read.is_full(read.page.len() + read.late_rows, read.page_bytes + read.late_bytes);
        Took::unless_full(read.cut)
    }

    /// The page's rows have come.
    pub(crate) fn paged(&mut self) -> Next {
        let read = &mut self.read;
        read.cut_late |= !read.keeps_snapshot && read.is_cut_at_limit();
        let anything = read.passed > 0 || read.late > 0 || read.looks;
        if anything || !self.gaps.is_empty() || self.unwatched.is_some() {
            return Next::Ask(Question::Look);
        }
        self.finish()
    }

    /// The answer ended before it was complete, at a row that cannot be read: what has come is a page cut short.
    pub(crate) fn cut_short(&mut self) {
        self.read.cut = true;
        self.read.cut_late |= self.read.passed == 0 || self.read.look.is_some();
    }

    /// The read under way is given up and begun again: nothing of it was handed over, and no late row has come.
    pub(crate) fn give_up(&mut self) {
        let read = std::mem::take(&mut self.read);
        self.put_back_from(read.start.saturating_add(1));
        self.gaps.looked(None);
    }

    /// Whether late rows have come in the read under way.
    pub(crate) fn has_late(&self) -> bool {
        !self.filled.is_empty()
    }

    /// The look was answered.
    pub(crate) fn looked(&mut self, look: Look) -> Next {
        if let Some(why) = self.stands_elsewhere(&look, self.at) {
            return Next::StartOver(why);
        }
        if self.read.keeps_snapshot {
            self.read.to_look_at = self.gaps.look_at_changed(&look.holders);
        }
        self.read.look = Some(look);
        self.ask_late()
    }

    /// Why what was read so far is doubtful.
    fn stands_elsewhere(&self, look: &Look, at: i64) -> Option<&'static str> {
        if broken(Broken::ExchangeOverlooked) {
            return None;
        }
        let (was, is) = (&self.place, &look.place);
        if was.server != is.server {
            return Some("another server answers, or it was restarted");
        }
        if was.relation != is.relation {
            return Some("another table has the outbox's name");
        }
        if was.files != is.files {
            return Some("the outbox's table was emptied or rewritten");
        }
        if was.sequence != is.sequence {
            return Some("the numbers of the outbox come from another sequence");
        }
        let set_back = look.last.is_some_and(|last| last < at);
        (set_back || look.renumbered || was.sequence_file != is.sequence_file)
            .then_some("the sequence of the outbox was set back")
    }

    fn ask_late(&mut self) -> Next {
        let read = &mut self.read;
        if read.to_look_at.is_empty() || read.cut_late {
            if read.look.as_ref().is_some_and(|look| look.ahead) {
                return Next::Ask(Question::Ahead);
            }
            return self.finish();
        }
        let rest = read.to_look_at.split_off(self.limits.at_once);
        let gaps = std::mem::replace(&mut read.to_look_at, rest);
        let left = read.room.rows.saturating_sub(read.late_rows).max(1);
        read.late_limit = i64::try_from(left).unwrap_or(i64::MAX);
        read.late = 0;
        Next::Ask(Question::Late {
            gaps,
            limit: read.late_limit,
        })
    }

    /// The late rows asked for have come.
    pub(crate) fn late(&mut self) -> Next {
        let read = &mut self.read;
        read.cut_late |= read.is_cut_at_limit();
        self.ask_late()
    }

    /// The rows ahead have come: none of the cursor's business.
    pub(crate) fn looked_ahead(&mut self) -> Next {
        self.finish()
    }

    /// The look over rows that need not be sent was answered.
    pub(crate) fn skimmed(&mut self, seen: Skimmed) -> Next {
        self.skimming = false;
        if let (Some(first), Some(last)) = (seen.first, seen.last)
            && self.at.checked_add(1) == Some(first)
            && last - first + 1 == seen.rows
        {
            self.at = seen.first_wanted.map_or(last, |wanted| wanted - 1);
            self.skimming = seen.first_wanted.is_none() && seen.rows == self.limits.skim_rows;
        }
        self.read.cut = true;
        self.read.looks = true;
        Next::Ask(Question::Look)
    }

    fn finish(&mut self) -> Next {
        let mut read = std::mem::take(&mut self.read);
        let kept = self.fit(&mut read);
        let look = read.look.take();
        let mut sweep = false;
        if let Some(look) = &look {
            self.gaps.attribute(&look.holders);
            sweep = self.unwatched_has_ended(&look.holders);
        }
        let before = if broken(Broken::DeadByTheListAfter) {
            look.as_ref().map(|look| &look.holders)
        } else {
            self.holders.as_ref()
        };
        self.gaps.looked(before.filter(|_| !read.cut_late));
        if let Some(look) = &look {
            self.holders = Some(Arc::clone(&look.holders));
        }
        if self.gaps.len() > self.limits.most {
            self.stop_watching();
        }
        let at_limit = read.passed >= usize::try_from(read.limit).unwrap_or(usize::MAX);
        let found = !std::mem::take(&mut self.filled).is_empty();
        self.skimming |= at_limit && read.page.is_empty() && !found && !read.cut;
        if let Some(size) = read.page_bytes.checked_div(read.page.len()) {
            self.usual_size = size;
        }
        Next::Done(Done {
            upto: self.at,
            more: at_limit || found || read.cut || !kept,
            sweep,
        })
    }

    /// Late rows go first: what of the page does not fit beside them is put back. Answers whether all of it was kept.
    fn fit(&mut self, read: &mut Read) -> bool {
        if read.cut_late && read.keeps_snapshot && !broken(Broken::PageNotPutBack) {
            self.put_back_from(read.start.saturating_add(1));
            return false;
        }
        let (mut rows, mut bytes) = (read.late_rows, read.late_bytes);
        for (seq, size) in &read.page {
            if read.is_full(rows, bytes) {
                self.put_back_from(*seq);
                return false;
            }
            rows += 1;
            bytes += size;
        }
        true
    }

    fn put_back_from(&mut self, seq: i64) {
        self.gaps.unopen_from(seq);
        self.at = self.at.min(seq - 1);
    }

    fn stop_watching(&mut self) {
        let Some((holders, first)) = self.gaps.forget_known() else {
            return;
        };
        let past = first - 1;
        self.unwatched = Some(match self.unwatched.take() {
            None => Unwatched { holders, past },
            Some(before) => Unwatched {
                holders: Arc::new(before.holders.union(&holders).cloned().collect()),
                past: before.past.min(past),
            },
        });
    }
}
