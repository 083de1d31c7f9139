//! Asks PostgreSQL what the cursor wants to know: the connection behind the machine in `cursor`.
//!
//! While there are few gaps a page and they are one statement. With many, the page, who holds the sequence, and the gaps that
//! may have been filled are asked for in one short transaction, so that all of it is one snapshot.

use std::collections::BTreeSet;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Row as PgRow;

use super::cursor::{Cursor, Done, Look, Next, Place, Question, Ranges, Seen, Skimmed, Took, Verdict};
use super::database::{Param, Role};
use super::rows::{CursorRow, Topics, cursor_row, message_row, place, seconds, unreadable};
use super::snapshot::Snapshot;
use super::{PostgresStore, Reading};
use crate::message::Seq;
use crate::store::{LaneSet, Page, Room, Row, StoreError};

/// What stands behind the name is looked at this often, whether rows come or not.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Numbers missing in one stretch beyond which it is a jump of the sequence, worth a line in the log.
const JUMP: i64 = 1_000_000;

/// What reading remembers beside the cursor. One per store; taken by each `read`.
#[derive(Debug, Default)]
pub(super) struct Feed {
    topics: Topics,
    looked_at: Option<Instant>,
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

/// A read under way: what it asks with, and what it has.
struct Asking<'a> {
    mask: &'a Vec<u8>,
    room: Room,
    feed: &'a mut Feed,
    brought: Brought,
    /// The page's, while questions about it follow.
    snapshot: Option<Snapshot<'a>>,
}

impl PostgresStore {
    pub(super) fn cursor(&self) -> MutexGuard<'_, Cursor> {
        self.cursor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The statements that end where the sequence does.
    pub(super) fn reading(&self) -> Arc<Reading> {
        Arc::clone(&self.reading.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on they ask this sequence; `None`: they end nowhere.
    fn read_up_to(&self, sequence: Option<&str>) {
        let reading = Arc::new(Reading::new(&self.names, sequence));
        *self.reading.lock().unwrap_or_else(PoisonError::into_inner) = reading;
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
            let row = rows.first().expect("an aggregate has one row");
            let last: i64 = row.try_get("last").map_err(|error| unreadable(&error))?;
            let (after, _) = self.look(Role::Read).await?;
            if before.place == after.place {
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
        let (look, _) = self.look(Role::Side).await?;
        Ok(self.cursor().judge(&look))
    }

    /// A look, and the name of the sequence where it may be read.
    async fn look(&self, role: Role) -> Result<(Look, Option<String>), StoreError> {
        let rows = self.database.query(role, &self.reading().look, &[]).await?;
        look_of(&rows)
    }

    pub(super) async fn read_feed(&self, lanes: &LaneSet, room: Room) -> Result<Page, StoreError> {
        let mut feed = self.feed.lock().await;
        let mask = self.mask(lanes);
        let looks = feed.looked_at.is_none_or(|at| at.elapsed() >= LOOK_INTERVAL);
        let mut question = self.cursor().begin(room, looks);
        let mut asking = Asking {
            mask: &mask,
            room,
            feed: &mut feed,
            brought: Brought::default(),
            snapshot: None,
        };
        loop {
            match self.ask(question, &mut asking).await? {
                Next::Ask(next) => question = next,
                Next::Done(done) => {
                    if let Some(snapshot) = asking.snapshot.take() {
                        snapshot.end().await?;
                    }
                    return Ok(self.page(asking.brought, done));
                }
                Next::StartOver(why) => {
                    tracing::warn!("{why}: starting over with what is there now");
                    return Ok(Page {
                        exchanged: true,
                        cursor: Seq(self.cursor().at()),
                        decided: Seq(i64::MIN),
                        ..Page::default()
                    });
                }
            }
        }
    }

    async fn ask<'a>(&'a self, question: Question, asking: &mut Asking<'a>) -> Result<Next, StoreError> {
        match question {
            Question::Page {
                after,
                limit,
                gaps,
                keeps_snapshot,
            } => {
                if keeps_snapshot {
                    asking.snapshot = Some(self.database.snapshot(Role::Read).await?);
                }
                self.ask_page(asking, (after, limit), &gaps).await?;
                Ok(self.cursor().paged())
            }
            Question::Look => {
                asking.feed.looked_at = Some(Instant::now());
                let reading = self.reading();
                let rows = match &mut asking.snapshot {
                    Some(snapshot) => snapshot.query(&reading.look, &[]).await?,
                    None => self.database.query(Role::Read, &reading.look, &[]).await?,
                };
                let (look, _) = look_of(&rows)?;
                if !look.ahead {
                    asking.feed.ahead_after = i64::MIN;
                }
                Ok(self.cursor().looked(look))
            }
            Question::Late { gaps, limit } => {
                let params: [Param<'_>; 4] = [&gaps.firsts, &gaps.lasts, asking.mask, &limit];
                let take = |row: PgRow| self.take(&row, &mut asking.feed.topics, &mut asking.brought);
                let snapshot = asking
                    .snapshot
                    .as_mut()
                    .expect("late rows are asked for in a page's snapshot");
                snapshot.query_while(&self.sql.fetch_late, &params, take).await?;
                Ok(self.cursor().late())
            }
            Question::Ahead => {
                self.ask_ahead(asking).await?;
                Ok(self.cursor().looked_ahead())
            }
            Question::Skim { after, rows } => {
                let params: [Param<'_>; 3] = [&after, &rows, asking.mask];
                let rows = self.database.query(Role::Read, &self.reading().skim, &params).await?;
                let row = rows.first().expect("an aggregate has one row");
                let (seen, next_due) = skimmed(row).map_err(|error| unreadable(&error))?;
                asking.brought.due_in(next_due);
                Ok(self.cursor().skimmed(seen))
            }
        }
    }

    async fn ask_page(
        &self,
        asking: &mut Asking<'_>,
        (after, limit): (i64, i64),
        gaps: &Ranges,
    ) -> Result<(), StoreError> {
        let reading = self.reading();
        let bare: [Param<'_>; 3] = [&after, &limit, asking.mask];
        let with_gaps: [Param<'_>; 5] = [&after, &limit, asking.mask, &gaps.firsts, &gaps.lasts];
        let (statement, params): (_, &[Param<'_>]) = if gaps.is_empty() {
            (&reading.fetch, &bare)
        } else {
            (&reading.fetch_with_gaps, &with_gaps)
        };
        let take = |row: PgRow| self.take(&row, &mut asking.feed.topics, &mut asking.brought);
        match &mut asking.snapshot {
            Some(snapshot) => snapshot.query_while(statement, params, take).await,
            None => self.database.query_while(Role::Read, statement, params, take).await,
        }
    }

    /// Rows written by hand past what the sequence has given: a few with each look, in turn.
    async fn ask_ahead(&self, asking: &mut Asking<'_>) -> Result<(), StoreError> {
        let limit = i64::try_from(asking.room.rows.max(1)).unwrap_or(i64::MAX);
        let after = asking.feed.ahead_after;
        let params: [Param<'_>; 3] = [&limit, asking.mask, &after];
        let (mut bytes, room) = (0, asking.room.bytes);
        let (topics, rows) = (&mut asking.feed.topics, &mut asking.brought.ahead);
        let take = |row: PgRow| {
            let row = message_row(&row, topics)?;
            bytes += row.message.size();
            rows.push(row);
            Ok(bytes < room)
        };
        let reading = self.reading();
        let statement = &reading.fetch_ahead;
        match &mut asking.snapshot {
            Some(snapshot) => snapshot.query_while(statement, &params, take).await?,
            None => self.database.query_while(Role::Read, statement, &params, take).await?,
        }
        let brought = &asking.brought.ahead;
        let all = bytes < room && i64::try_from(brought.len()).is_ok_and(|rows| rows < limit);
        let last = brought.last().map(|row| row.message.seq.0).filter(|_| !all);
        asking.feed.ahead_after = last.unwrap_or(i64::MIN);
        Ok(())
    }

    /// Offers a row to the cursor; whether the next may come.
    fn take(&self, row: &PgRow, topics: &mut Topics, brought: &mut Brought) -> Result<bool, StoreError> {
        let (seq, late) = place(row)?;
        let (size, found) = match cursor_row(row, topics)? {
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

fn look_of(rows: &[PgRow]) -> Result<(Look, Option<String>), StoreError> {
    let row = rows.first().expect("a look is one row");
    let read = || {
        let holders: Vec<&str> = row.try_get("holders")?;
        let holders: BTreeSet<Box<str>> = holders.into_iter().map(Into::into).collect();
        let look = Look {
            place: Place {
                relation: row.try_get("relation")?,
                files: row.try_get("files")?,
                sequence: row.try_get("sequence")?,
                sequence_file: row.try_get("sequence_file")?,
            },
            last: row.try_get("last")?,
            ahead: row.try_get("ahead")?,
            holders: Arc::new(holders),
        };
        Ok((look, row.try_get("sequence_name")?))
    };
    read().map_err(|error: tokio_postgres::Error| unreadable(&error))
}

fn skimmed(row: &PgRow) -> Result<(Skimmed, Option<Duration>), tokio_postgres::Error> {
    let seen = Skimmed {
        rows: row.try_get("rows")?,
        first: row.try_get("first")?,
        last: row.try_get("last")?,
        first_wanted: row.try_get("first_wanted")?,
    };
    Ok((seen, seconds(row.try_get("due_in")?)))
}
