//! The cursor: every committed row once, in order, however late it commits.
//!
//! ```text
//!  open ──> the cursor stands at L, somewhat below the last number taken; what is pending up to L is read by `reread`
//!             │                       H0, the holders of the sequence at that time, may own numbers up to L still
//!             v
//!           following: the primary key past the cursor, every row, with gap tracking      once some of H0 is gone: `sweep`
//!             │ a full page with nothing to send
//!             v
//!           skimming: looks ahead without bringing rows; a missing number ends it
//! ```
//!
//! A page is one snapshot: the gaps and what lies past the cursor are read by one statement, the holders before and after it.

use std::collections::HashSet;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_postgres::Row as PgRow;
use tokio_postgres::types::Oid;

use super::PostgresStore;
use super::database::Role;
use super::gaps::{Gaps, Holders};
use super::rows::{CursorRow, Topics, cursor_row, place, seconds, unreadable};
use crate::message::Seq;
use crate::store::{LaneSet, Page, Room, Row, StoreError};

/// The cursor starts so far below the last number taken: whoever is open at that time has most likely taken a number
/// above, whose gap is then seen, and its row comes before later ones of its key. Below, only the sweep finds it.
const RETRACED: i64 = 10_000;
/// Rows one statement looks ahead over when none of them is to be sent.
const SKIM_ROWS: i64 = 50_000;
/// Up to this many gaps are all looked at with every page.
const FEW_GAPS: usize = 500;
/// More ranges than this, and the cursor waits for some to close: memory stays bounded.
const MOST_GAPS: usize = 100_000;
/// Numbers missing in one stretch beyond which it is a jump of the sequence, worth a line in the log.
const JUMP: i64 = 1_000_000;

/// Where reading stands. One per store; taken by each `read`.
#[derive(Debug, Default)]
pub(super) struct Feed {
    cursor: i64,
    sequence: Option<Oid>,
    gaps: Gaps,
    /// Read after the last page, while anything is watched.
    holders: Option<Holders>,
    skimming: bool,
    topics: Topics,
    /// Bytes of a message lately, for how many rows to ask for.
    usual_size: usize,
}

/// What rereads need to know of the cursor. One mutex, never held across an await.
#[derive(Debug, Default)]
pub(super) struct Watch {
    sequence: Option<Oid>,
    /// Transactions that may own numbers below where the cursor started.
    first: Option<Holders>,
    /// Those before the page under way.
    gaps: Gaps,
}

impl Watch {
    /// The gaps whose rows a reread that begins now leaves to `read`.
    pub(super) fn gaps(&self) -> Gaps {
        self.gaps.clone()
    }

    /// Whether one of the first holders has ended, given who holds the sequence now. Told once.
    fn first_has_ended(&mut self, now: &Holders) -> bool {
        let Some(first) = &self.first else { return false };
        let left: HashSet<String> = first.intersection(now).cloned().collect();
        let ended = left.len() < first.len() && !now.iter().any(|holder| holder.starts_with("-1/"));
        if ended {
            self.first = (!left.is_empty()).then(|| Arc::new(left));
        }
        ended
    }
}

impl PostgresStore {
    pub(super) async fn open_feed(&self) -> Result<Seq, StoreError> {
        let rows = self.database.query(Role::Read, &self.sql.start, &[]).await?;
        let row = rows.first().expect("an aggregate has one row");
        let last: i64 = row.try_get("last").map_err(|error| unreadable(&error))?;
        let sequence: Option<Oid> = row.try_get("sequence").map_err(|error| unreadable(&error))?;
        let mut feed = self.feed.lock().await;
        let topics = std::mem::take(&mut feed.topics);
        *feed = Feed {
            cursor: (last - RETRACED).max(0),
            sequence,
            topics,
            ..Feed::default()
        };
        let first = self.read_holders(Role::Read, sequence).await?;
        *self.watch() = Watch {
            sequence,
            first: Some(first).filter(|holders| !holders.is_empty()),
            gaps: Gaps::default(),
        };
        Ok(Seq(feed.cursor))
    }

    pub(super) fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a transaction has ended that was open at `open`. Asked after a reread: what it has brought of that one may
    /// be the latter half.
    pub(super) async fn first_has_ended(&self) -> Result<bool, StoreError> {
        let sequence = {
            let watch = self.watch();
            if watch.first.is_none() {
                return Ok(false);
            }
            watch.sequence
        };
        let now = self.read_holders(Role::Side, sequence).await?;
        Ok(self.watch().first_has_ended(&now))
    }

    async fn read_holders(&self, role: Role, sequence: Option<Oid>) -> Result<Holders, StoreError> {
        let Some(sequence) = sequence else {
            return Ok(Arc::default());
        };
        let rows = self.database.query(role, &self.sql.holders, &[&sequence]).await?;
        let holders: Result<HashSet<String>, _> = rows.iter().map(|row| row.try_get("holder")).collect();
        Ok(Arc::new(holders.map_err(|error| unreadable(&error))?))
    }

    pub(super) async fn read_feed(&self, lanes: &LaneSet, room: Room) -> Result<Page, StoreError> {
        let mut feed = self.feed.lock().await;
        let mask = self.mask(lanes);
        let watches_first = self.watch().first.is_some();
        let mut page = if feed.skimming {
            self.skim(&mut feed, &mask).await?
        } else {
            self.follow(&mut feed, &mask, (room, watches_first)).await?
        };
        let now = match &feed.holders {
            Some(holders) => Arc::clone(holders),
            None if watches_first => self.read_holders(Role::Read, feed.sequence).await?,
            None => Arc::default(),
        };
        let mut watch = self.watch();
        page.sweep = watch.first_has_ended(&now);
        watch.gaps.clone_from(&feed.gaps);
        page.cursor = Seq(feed.cursor);
        page.gaps = feed.gaps.len();
        page.decided = Seq(match &watch.first {
            Some(_) => i64::MIN,
            None => feed.gaps.first().map_or(feed.cursor, |gap| gap - 1),
        });
        Ok(page)
    }

    async fn skim(&self, feed: &mut Feed, mask: &Vec<u8>) -> Result<Page, StoreError> {
        feed.skimming = false;
        let rows = self
            .database
            .query(Role::Read, &self.sql.skim, &[&feed.cursor, &SKIM_ROWS, mask])
            .await?;
        let row = rows.first().expect("an aggregate has one row");
        let seen = Skimmed::read(row).map_err(|error| unreadable(&error))?;
        if let (Some(first), Some(last)) = (seen.first, seen.last)
            && first == feed.cursor + 1
            && last - first + 1 == seen.rows
        {
            feed.cursor = seen.first_wanted.map_or(last, |wanted| wanted - 1);
            feed.skimming = seen.first_wanted.is_none() && seen.rows == SKIM_ROWS;
        }
        Ok(Page {
            more: true,
            next_due: seen.next_due,
            ..Page::default()
        })
    }

    async fn follow(
        &self,
        feed: &mut Feed,
        mask: &Vec<u8>,
        (room, watches_first): (Room, bool),
    ) -> Result<Page, StoreError> {
        let before = feed.holders.take();
        let looked_at = match &before {
            Some(holders) if feed.gaps.len() <= FEW_GAPS => feed.gaps.worth_a_look(holders, FEW_GAPS),
            Some(_) | None => Default::default(),
        };
        let start = feed.cursor;
        let limit = self.rows_to_ask_for(feed, room);
        let mut taken = Taken::new(feed.cursor, room, limit);
        let mut topics = std::mem::take(&mut feed.topics);
        let take = |row: PgRow| taken.take(&row, &mut topics, &mut feed.gaps);
        let fetched = if looked_at.0.is_empty() {
            self.database
                .query_while(Role::Read, &self.sql.fetch, &[&feed.cursor, &limit, mask], take)
                .await
        } else {
            let params: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
                [&feed.cursor, &limit, mask, &looked_at.0, &looked_at.1];
            self.database
                .query_while(Role::Read, &self.sql.fetch_with_gaps, &params, take)
                .await
        };
        feed.topics = topics;
        fetched?;
        feed.cursor = taken.cursor;
        if let (Some(holders), false) = (&before, looked_at.0.is_empty()) {
            let seen_upto = taken.late_seen_upto(limit);
            feed.gaps.still_missing(&looked_at, seen_upto, holders);
        }
        if watches_first || !feed.gaps.is_empty() {
            let after = self.read_holders(Role::Read, feed.sequence).await?;
            feed.gaps.attribute(&after);
            if looked_at.0.is_empty() {
                self.look_back(feed, &mut taken, (start, &after), (mask, room)).await?;
            }
            feed.holders = Some(after);
        }
        let full = taken.passed + taken.late >= usize::try_from(limit).unwrap_or(usize::MAX);
        feed.skimming = full && taken.rows.is_empty() && taken.late == 0;
        if !taken.rows.is_empty() {
            feed.usual_size = taken.bytes / taken.rows.len();
        }
        if feed.gaps.len() > MOST_GAPS {
            tracing::warn!(
                gaps = feed.gaps.len(),
                "too many gaps in seq: reading waits until transactions end"
            );
        }
        Ok(Page {
            rows: taken.rows,
            more: full || taken.cut,
            next_due: taken.next_due,
            ..Page::default()
        })
    }

    /// With many gaps, only those are looked at some holder of which has gone, and *after* the page: whoever committed before
    /// the page was read has gone by now, so its rows are found, and go before the page's. When they are more than there is
    /// room for, the page is put back.
    async fn look_back(
        &self,
        feed: &mut Feed,
        page: &mut Taken,
        (start, holders): (i64, &Holders),
        (mask, room): (&Vec<u8>, Room),
    ) -> Result<(), StoreError> {
        let looked_at = feed.gaps.worth_a_look(holders, 0);
        if looked_at.0.is_empty() {
            return Ok(());
        }
        let limit = i64::try_from(room.rows.max(1)).unwrap_or(i64::MAX);
        let mut late = Taken::new(i64::MAX, room, limit);
        let mut topics = std::mem::take(&mut feed.topics);
        let take = |row: PgRow| late.take(&row, &mut topics, &mut feed.gaps);
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
            [&i64::MAX, &limit, mask, &looked_at.0, &looked_at.1];
        let fetched = self
            .database
            .query_while(Role::Read, &self.sql.fetch_with_gaps, &params, take)
            .await;
        feed.topics = topics;
        fetched?;
        let seen_upto = late.late_seen_upto(limit);
        feed.gaps.still_missing(&looked_at, seen_upto, holders);
        if seen_upto < i64::MAX {
            feed.gaps.forget_past(start);
            feed.cursor = start;
            page.rows.clear();
            page.cut = true;
        }
        page.rows.splice(0..0, late.rows);
        page.late += late.late;
        Ok(())
    }

    /// As many rows as there is room for, and as are likely to fit the bytes.
    fn rows_to_ask_for(&self, feed: &Feed, room: Room) -> i64 {
        if feed.gaps.len() > MOST_GAPS {
            return 0;
        }
        let fitting = room
            .bytes
            .checked_div(feed.usual_size)
            .map_or(room.rows, |rows| rows + 1);
        i64::try_from(room.rows.min(fitting).max(1)).unwrap_or(i64::MAX)
    }
}

/// What a page has brought so far.
struct Taken {
    /// Late rows one statement brings at most.
    limit: usize,
    cursor: i64,
    room: Room,
    rows: Vec<Row>,
    bytes: usize,
    late: usize,
    passed: usize,
    last_late: i64,
    next_due: Option<Duration>,
    /// Ended for its bytes: what follows was not looked at.
    cut: bool,
    /// ... already among the late rows.
    cut_late: bool,
}

impl Taken {
    fn new(cursor: i64, room: Room, limit: i64) -> Self {
        Self {
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            cursor,
            room,
            rows: Vec::new(),
            bytes: 0,
            late: 0,
            passed: 0,
            last_late: i64::MIN,
            next_due: None,
            cut: false,
            cut_late: false,
        }
    }

    /// Takes the next row; `false` when there is no room for more after it.
    fn take(&mut self, row: &PgRow, topics: &mut Topics, gaps: &mut Gaps) -> Result<bool, StoreError> {
        let (seq, late) = place(row)?;
        if !late && self.late > 0 && self.late >= self.limit {
            // There may be more late rows, and they go before what lies past the cursor.
            self.cut = true;
            return Ok(false);
        }
        match cursor_row(row, topics)? {
            CursorRow::ToSend(row) => {
                self.bytes += row.message.size();
                self.rows.push(row);
            }
            CursorRow::DueIn(due_in) => self.next_due = Some(self.next_due.map_or(due_in, |known| known.min(due_in))),
            CursorRow::Passed => {}
        }
        if late {
            gaps.fill(seq);
            self.late += 1;
            self.last_late = seq;
        } else {
            if seq > self.cursor + 1 {
                if seq - self.cursor > JUMP {
                    tracing::warn!(from = self.cursor, to = seq, "seq jumps ahead");
                }
                gaps.open(self.cursor + 1, seq - 1);
            }
            self.cursor = seq;
            self.passed += 1;
        }
        let full = self.bytes >= self.room.bytes || self.rows.len() >= self.room.rows;
        self.cut |= full;
        self.cut_late |= full && late;
        Ok(!full)
    }

    /// Up to which number a gap that shows no row is known to have had none.
    fn late_seen_upto(&self, limit: i64) -> i64 {
        let at_limit = i64::try_from(self.late).unwrap_or(i64::MAX) >= limit;
        if self.cut_late || at_limit {
            self.last_late
        } else {
            i64::MAX
        }
    }
}

/// An answer of skim.sql.
struct Skimmed {
    rows: i64,
    first: Option<i64>,
    last: Option<i64>,
    first_wanted: Option<i64>,
    next_due: Option<Duration>,
}

impl Skimmed {
    fn read(row: &PgRow) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            rows: row.try_get("rows")?,
            first: row.try_get("first")?,
            last: row.try_get("last")?,
            first_wanted: row.try_get("first_wanted")?,
            next_due: seconds(row.try_get("due_in")?),
        })
    }
}
