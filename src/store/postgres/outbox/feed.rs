//! Asks PostgreSQL what the cursor wants to know: the connection behind the machine in `cursor`.
//!
//! While there are few gaps a page and they are one statement. With many, the page, who holds the sequence, and the gaps that
//! may have been filled are asked for in one short transaction, so that all of it is one snapshot.

use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Row as PgRow;

use super::cursor::{Cursor, Done, Look, Next, Question, Ranges, Seen, Skimmed, Took, Verdict};
use super::look::{Anchors, look_of, skimmed_of};
use super::rows::{Broken, CursorRow, Topics, cursor_row, message_row, place};
use super::snapshot::Snapshot;
use super::unreadable::{Known, Reach};
use super::{PostgresStore, Reading};
use crate::lock::lock;
use crate::message::Seq;
use crate::store::postgres::link::about::is_about_a_row;
use crate::store::postgres::link::answer::only;
use crate::store::postgres::link::database::Role;
use crate::store::postgres::link::sql::{Param, Statement};
use crate::store::{LaneSet, Page, Room, Row, StoreError};

/// What stands behind the name is looked at this often, whether rows come or not.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Rows that cannot be read are looked for this often in one read whose snapshot they end: as often as a page has rows, and more.
const LOOKS: u32 = 4_000;
/// Numbers missing in one stretch beyond which it is a jump of the sequence, worth a line in the log.
const JUMP: i64 = 1_000_000;

/// What reading remembers beside the cursor. One per store; taken by each `read`.
#[derive(Debug, Default)]
pub(super) struct Feed {
    topics: Topics,
    looked_at: Option<Instant>,
    anchors: Anchors,
    /// Where the walk over rows ahead of the sequence stands.
    ahead_after: i64,
}

/// What one read has brought.
#[derive(Default)]
struct Brought {
    page: Vec<Row>,
    late: Vec<Row>,
    ahead: Vec<Row>,
    next_due: Option<Duration>,
}

impl Brought {
    fn due_in(&mut self, due_in: Option<Duration>) {
        self.next_due = self.next_due.into_iter().chain(due_in).min();
    }
}

/// What is wanted: rows of the lanes whose bits are set, as many as there is room for.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    mask: &'a Vec<u8>,
    room: Room,
}

/// A read under way: what it asks with, and what it has.
struct Asking<'a> {
    wanted: Wanted<'a>,
    feed: &'a mut Feed,
    /// It is time to look what stands behind the name.
    looks: bool,
    brought: Brought,
    /// The page's, while questions about it follow.
    snapshot: Option<Snapshot<'a>>,
    /// Rows that cannot be read, as far as this read has met them.
    known: &'a mut Known,
}

/// Says why everything is opened anew.
pub(super) fn start_over(why: &str) {
    tracing::warn!("{why}: starting over with what is there now");
}

impl PostgresStore {
    pub(super) fn cursor(&self) -> MutexGuard<'_, Cursor> {
        lock(&self.cursor)
    }

    /// The statements that end where the sequence does.
    pub(super) fn reading(&self) -> Arc<Reading> {
        Arc::clone(&lock(&self.reading))
    }

    /// From now on they ask this sequence; `None`: they end nowhere.
    fn read_up_to(&self, sequence: Option<&str>) {
        let reading = Arc::new(Reading::new(&self.names, sequence));
        *lock(&self.reading) = reading;
    }

    pub(super) async fn open_feed(&self) -> Result<Seq, StoreError> {
        let mut feed = self.feed.lock().await;
        // The sequence known so far may be gone.
        self.read_up_to(None);
        let sequence = self.look(Role::Read).await?.1;
        self.read_up_to(sequence.as_deref());
        loop {
            let (before, _) = self.look(Role::Read).await?;
            let rows = self
                .database
                .query(Role::Read, &self.sql.start, &[&before.last])
                .await?;
            let last: i64 = only(&rows, |row| row.try_get("last"))?;
            let (after, _) = self.look(Role::Read).await?;
            if before.place == after.place {
                feed.anchors = self.anchors(last).await?;
                let mut cursor = self.cursor();
                cursor.open(after.place, last, &after.holders);
                feed.looked_at = None;
                feed.ahead_after = i64::MIN;
                return Ok(Seq(cursor.at()));
            }
        }
    }

    /// What a reread brought, judged by a look after it.
    pub(super) async fn judged(&self) -> Result<Verdict, StoreError> {
        // The main read goes on meanwhile, past what this look sees of the sequence.
        let at = self.cursor().at();
        let (look, _) = self.look(Role::Side).await?;
        Ok(self.cursor().judge(&look, at))
    }

    /// A look, and the name of the sequence where it may be read.
    async fn look(&self, role: Role) -> Result<(Look, Option<String>), StoreError> {
        let rows = self.database.query(role, &self.reading().look, &[]).await?;
        look_of(&rows)
    }

    pub(super) async fn read_feed(&self, lanes: &LaneSet, room: Room) -> Result<Page, StoreError> {
        let mut feed = self.feed.lock().await;
        let mask = self.mask(lanes);
        let wanted = Wanted { mask: &mask, room };
        let mut known = Known::default();
        for _ in 0..LOOKS {
            if let Some(page) = self.read_once(wanted, &mut feed, &mut known).await? {
                return Ok(page);
            }
        }
        Err(StoreError::Unavailable("too many rows cannot be read at a time".into()))
    }

    /// `None`: a row that cannot be read ended the snapshot before anything was brought; now it is known.
    async fn read_once(
        &self,
        wanted: Wanted<'_>,
        feed: &mut Feed,
        known: &mut Known,
    ) -> Result<Option<Page>, StoreError> {
        let looks = feed.looked_at.is_none_or(|at| at.elapsed() >= LOOK_INTERVAL);
        let mut question = self.cursor().begin(wanted.room, looks);
        let mut asking = Asking {
            wanted,
            feed,
            looks,
            brought: Brought::default(),
            snapshot: None,
            known,
        };
        loop {
            let Some(next) = self.ask(question, &mut asking).await? else {
                return Ok(None);
            };
            match next {
                Next::Ask(next) => question = next,
                Next::Done(done) => {
                    if let Some(snapshot) = asking.snapshot.take() {
                        snapshot.end().await?;
                    }
                    return Ok(Some(self.page(asking.brought, done)));
                }
                Next::StartOver(why) => {
                    start_over(why);
                    return Ok(Some(Page {
                        exchanged: true,
                        cursor: Seq(self.cursor().at()),
                        decided: Seq(i64::MIN),
                        ..Page::default()
                    }));
                }
            }
        }
    }

    /// `None`: as [`Self::read_once`].
    async fn ask<'a>(&'a self, question: Question, asking: &mut Asking<'a>) -> Result<Option<Next>, StoreError> {
        Ok(Some(match question {
            Question::Page {
                after,
                limit,
                gaps,
                keeps_snapshot,
            } => {
                if keeps_snapshot {
                    asking.snapshot = Some(self.database.snapshot(Role::Read).await?);
                }
                if !self.ask_page(asking, (after, limit), &gaps).await? {
                    return Ok(None);
                }
                self.cursor().paged()
            }
            Question::Look => {
                asking.feed.looked_at = Some(Instant::now());
                let reading = self.reading();
                let rows = match &mut asking.snapshot {
                    Some(snapshot) => snapshot.query(&reading.look, &[]).await?,
                    None => self.database.query(Role::Read, &reading.look, &[]).await?,
                };
                let (mut look, _) = look_of(&rows)?;
                asking.feed.anchors.add(&asking.brought.page);
                if asking.looks {
                    let anchors = &mut asking.feed.anchors;
                    look.renumbered = self.renumbered(anchors, asking.snapshot.as_mut()).await?;
                }
                if !look.ahead {
                    asking.feed.ahead_after = i64::MIN;
                }
                self.cursor().looked(look)
            }
            Question::Late { gaps, limit } => {
                let params: [Param<'_>; 4] = [&gaps.firsts, &gaps.lasts, asking.wanted.mask, &limit];
                if !self.ask_in_snapshot(asking, &self.sql.fetch_late, &params).await? {
                    return Ok(None);
                }
                self.cursor().late()
            }
            Question::Ahead => {
                // The others may have no connection of their own.
                if let Some(snapshot) = asking.snapshot.take() {
                    snapshot.end().await?;
                }
                self.ask_ahead(asking).await?;
                self.cursor().looked_ahead()
            }
            Question::Skim { after, rows } => {
                let params: [Param<'_>; 3] = [&after, &rows, asking.wanted.mask];
                let seen = match self.database.query(Role::Read, &self.reading().skim, &params).await {
                    Ok(rows) => {
                        let (seen, next_due) = skimmed_of(&rows)?;
                        asking.brought.due_in(next_due);
                        seen
                    }
                    // The next page finds the row.
                    Err(error) if is_about_a_row(&error) => Skimmed::default(),
                    Err(error) => return Err(error),
                };
                self.cursor().skimmed(seen)
            }
        }))
    }

    /// `false`: as [`Self::read_once`].
    async fn ask_page(
        &self,
        asking: &mut Asking<'_>,
        (after, limit): (i64, i64),
        gaps: &Ranges,
    ) -> Result<bool, StoreError> {
        let reading = self.reading();
        let bare: [Param<'_>; 3] = [&after, &limit, asking.wanted.mask];
        let with_gaps: [Param<'_>; 5] = [&after, &limit, asking.wanted.mask, &gaps.firsts, &gaps.lasts];
        let (statement, params): (_, &[Param<'_>]) = if gaps.is_empty() {
            (&reading.fetch, &bare)
        } else {
            (&reading.fetch_with_gaps, &with_gaps)
        };
        if asking.snapshot.is_some() {
            return self.ask_in_snapshot(asking, statement, params).await;
        }
        let (topics, brought) = (&mut asking.feed.topics, &mut asking.brought);
        let take = |row: &PgRow, broken: Option<&Broken>| self.take(row, (topics, broken), brought);
        if self.read_rows(Role::Read, statement, params, take).await? == Reach::Cut {
            self.cursor().cut_short();
        }
        Ok(true)
    }

    /// A row that cannot be read ends the transaction, and the snapshot with it: where late rows have come they are a page, else
    /// the row is found and the read begun again. `false`: that.
    async fn ask_in_snapshot(
        &self,
        asking: &mut Asking<'_>,
        statement: &Statement,
        params: &[Param<'_>],
    ) -> Result<bool, StoreError> {
        let snapshot = asking.snapshot.as_mut().expect("asked while a snapshot is kept");
        let (topics, brought, known) = (&mut asking.feed.topics, &mut asking.brought, &*asking.known);
        let take = |row: PgRow| self.take(&row, (topics, known.broken(row.get(0))), brought);
        let all = [params, &known.lists()].concat();
        let error = match snapshot.query_while(statement, &all, take).await {
            Ok(()) => return Ok(true),
            Err(error) if !is_about_a_row(&error) => return Err(error),
            Err(error) => error,
        };
        asking.snapshot = None;
        if self.cursor().has_late() {
            self.cursor().cut_short();
            return Ok(true);
        }
        self.cursor().give_up();
        if !self.look_closer(Role::Read, statement, params, asking.known).await? {
            return Err(error);
        }
        Ok(false)
    }

    /// Rows written by hand past what the sequence has given: a few with each look, in turn.
    async fn ask_ahead(&self, asking: &mut Asking<'_>) -> Result<(), StoreError> {
        let limit = i64::try_from(asking.wanted.room.rows.max(1)).unwrap_or(i64::MAX);
        let after = asking.feed.ahead_after;
        let params: [Param<'_>; 3] = [&limit, asking.wanted.mask, &after];
        let (mut bytes, room) = (0, asking.wanted.room.bytes);
        let (topics, rows) = (&mut asking.feed.topics, &mut asking.brought.ahead);
        let take = |row: &PgRow, broken: Option<&Broken>| {
            let row = message_row(row, topics, broken)?;
            bytes += row.message.size();
            rows.push(row);
            Ok(bytes < room)
        };
        // On another connection: this one's may be keeping a snapshot.
        let statement = &self.reading().fetch_ahead;
        let reach = self.read_rows(Role::Side, statement, &params, take).await?;
        let brought = &asking.brought.ahead;
        let fits = bytes < room && i64::try_from(brought.len()).is_ok_and(|rows| rows < limit);
        let last = brought.last().map(|row| row.message.seq.0);
        let last = last.filter(|_| !fits || reach == Reach::Cut);
        asking.feed.ahead_after = last.unwrap_or(i64::MIN);
        Ok(())
    }

    /// Offers a row to the cursor; whether the next may come.
    fn take(
        &self,
        row: &PgRow,
        (topics, broken): (&mut Topics, Option<&Broken>),
        brought: &mut Brought,
    ) -> Result<bool, StoreError> {
        let (seq, late) = place(row)?;
        let (size, found) = match cursor_row(row, topics, broken)? {
            CursorRow::ToSend(row) => (Some(row.message.size()), Some(row)),
            CursorRow::DueIn(due_in) => {
                brought.due_in(Some(due_in));
                (None, None)
            }
            CursorRow::Passed => (None, None),
        };
        let mut cursor = self.cursor();
        let at = cursor.at();
        if !late && seq.saturating_sub(at) > JUMP {
            tracing::warn!(from = at, to = seq, "seq jumps ahead");
        }
        let took = cursor.take(Seen { seq, late, size });
        drop(cursor);
        if took != Took::Not {
            let into = if late { &mut brought.late } else { &mut brought.page };
            into.extend(found);
        }
        Ok(took == Took::More)
    }

    /// What is handed over: late rows first, then the page's that have room beside them.
    fn page(&self, brought: Brought, done: Done) -> Page {
        let Brought {
            page,
            late: mut rows,
            ahead,
            next_due,
        } = brought;
        let kept = page.into_iter().filter(|row| row.message.seq.0 <= done.upto);
        rows.extend(kept);
        rows.extend(ahead);
        let cursor = self.cursor();
        Page {
            rows,
            cursor: Seq(cursor.at()),
            more: done.more,
            next_due,
            sweep: done.sweep,
            exchanged: false,
            gaps: cursor.gaps(),
            decided: Seq(cursor.decided()),
        }
    }
}
