//! Reads beside the cursor: ranges of pending rows, rows that are due, rows that were parked, rows that hold.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Row as PgRow;

use super::PostgresStore;
use super::cursor::Verdict;
use super::feed::start_over;
use super::rows::{Broken, Topics, lane, message_row, seconds};
use super::unreadable::Reach;
use crate::message::{KeyId, Seq};
use crate::store::postgres::link::answer::unreadable;
use crate::store::postgres::link::database::Role;
use crate::store::postgres::link::sql::{Param, Statement};
use crate::store::{DuePage, DuePosition, Hold, LaneSet, Reread, Room, Row, Scope, StoreError};

impl PostgresStore {
    pub(super) async fn reread_rows(
        &self,
        scope: &Scope,
        after: Seq,
        upto: Seq,
        room: Room,
    ) -> Result<Reread, StoreError> {
        if after >= upto {
            return Ok(Reread {
                position: upto,
                done: true,
                ..Reread::default()
            });
        }
        let limit = i64::try_from(room.rows.max(1)).unwrap_or(i64::MAX);
        let topics: Option<Vec<&str>> = scope
            .topics
            .as_ref()
            .map(|topics| topics.iter().map(|topic| &**topic).collect());
        let mask = self.mask(&scope.lanes);
        let mut page = Bounded::new(room);
        let key = scope.key.as_ref().map(KeyId::as_bytes);
        let params: [Param<'_>; 6] = [&after.0, &upto.0, &limit, &mask, &topics, &key];
        let take = |row: &PgRow, broken: Option<&Broken>| page.take(row, broken);
        let reach = self.read_rows(Role::Side, &self.sql.reread, &params, take).await?;
        let done = !page.full && reach == Reach::Whole;
        let position = if done {
            upto
        } else {
            page.rows.last().map_or(after, |row| row.message.seq)
        };
        let nothing = Reread {
            position: after,
            ..Reread::default()
        };
        match self.judged().await? {
            Verdict::Whole => {}
            Verdict::Partial => return Ok(Reread { sweep: true, ..nothing }),
            Verdict::Elsewhere(why) => {
                start_over(why);
                return Ok(Reread {
                    exchanged: true,
                    ..nothing
                });
            }
        }
        let cursor = self.cursor();
        page.rows.retain(|row| !cursor.leaves(row.message.seq.0));
        drop(cursor);
        Ok(Reread {
            rows: page.rows,
            position,
            done,
            ..nothing
        })
    }

    pub(super) async fn due_rows(
        &self,
        lanes: &LaneSet,
        after: Option<DuePosition>,
        upto: Seq,
        room: Room,
    ) -> Result<DuePage, StoreError> {
        if after.is_none() {
            // Mostly nothing waits, or not until later: one look tells.
            let first = self.due_in(&self.sql.due_look).await?;
            if first.is_none_or(|first| first > Duration::ZERO) {
                return Ok(DuePage {
                    next_due: first,
                    ..DuePage::default()
                });
            }
        }
        let (at, seq) = after.map_or((i64::MIN, i64::MIN), |position| (position.available_at, position.seq.0));
        let limit = i64::try_from(room.rows.max(1)).unwrap_or(i64::MAX);
        let mask = self.mask(lanes);
        let reading = self.reading();
        let mut page = Bounded::new(room);
        let mut next = None;
        let take = |row: &PgRow, broken: Option<&Broken>| {
            let available_at = row.try_get("due_at").map_err(|error| unreadable(&error))?;
            let go_on = page.take(row, broken)?;
            next = page.rows.last().map(|row| DuePosition {
                available_at,
                seq: row.message.seq,
            });
            Ok(go_on)
        };
        let params: [Param<'_>; 5] = [&at, &seq, &upto.0, &limit, &mask];
        let reach = self.read_rows(Role::Side, &reading.due, &params, take).await?;
        if page.full || reach == Reach::Cut {
            return Ok(DuePage {
                rows: page.rows,
                next,
                next_due: None,
            });
        }
        Ok(DuePage {
            rows: page.rows,
            next: None,
            next_due: self.due_in(&self.sql.next_due).await?,
        })
    }

    /// How long until the row that `statement` finds falls due.
    async fn due_in(&self, statement: &Statement) -> Result<Option<Duration>, StoreError> {
        let rows = self.database.query(Role::Side, statement, &[]).await?;
        let due_in = rows
            .first()
            .map(|row| row.try_get("due_in"))
            .transpose()
            .map_err(|error| unreadable(&error))?;
        Ok(seconds(due_in.flatten()))
    }

    pub(super) async fn urgent_rows(
        &self,
        lanes: &LaneSet,
        without: &[Arc<str>],
        room: Room,
    ) -> Result<Vec<Row>, StoreError> {
        let limit = i64::try_from(room.rows.max(1)).unwrap_or(i64::MAX);
        let mask = self.mask(lanes);
        let without: Vec<&str> = without.iter().map(|topic| &**topic).collect();
        let mut page = Bounded::new(room);
        // Where it stops at a row that cannot be read, the next look begins with that row, or comes by it again.
        let take = |row: &PgRow, broken: Option<&Broken>| page.take(row, broken);
        let params: [Param<'_>; 3] = [&limit, &mask, &without];
        self.read_rows(Role::Side, &self.sql.urgent, &params, take).await?;
        Ok(page.rows)
    }

    pub(super) async fn recall_rows(&self, lanes: &LaneSet, seqs: &[Seq], room: Room) -> Result<Vec<Row>, StoreError> {
        let mut seqs: Vec<i64> = seqs.iter().map(|seq| seq.0).collect();
        let mask = self.mask(lanes);
        let mut page = Bounded::new(Room {
            rows: usize::MAX,
            ..room
        });
        // What it stops at for its bytes stays parked; what cannot be read does not.
        let mut reach = Reach::Cut;
        while reach == Reach::Cut && !page.full {
            let take = |row: &PgRow, broken: Option<&Broken>| page.take(row, broken);
            reach = self
                .read_rows(Role::Side, &self.sql.recall, &[&seqs, &mask], take)
                .await?;
            let last = page.rows.last().map_or(i64::MIN, |row| row.message.seq.0);
            seqs.retain(|seq| *seq > last);
        }
        Ok(page.rows)
    }

    pub(super) async fn holding_rows(
        &self,
        lanes: &LaneSet,
        among: Option<&[Seq]>,
        failed_too: bool,
    ) -> Result<Vec<Hold>, StoreError> {
        let mask = self.mask(lanes);
        let among: Option<Vec<i64>> = among.map(|seqs| seqs.iter().map(|seq| seq.0).collect());
        let (statement, params): (_, [Param<'_>; 2]) = match &among {
            None => (&self.sql.holds, [&mask, &failed_too]),
            Some(seqs) => (&self.sql.holds_among, [&mask, seqs]),
        };
        let mut topics = Topics::default();
        let take = |row: &PgRow| {
            let hold = hold(row, &mut topics).map_err(|error| unreadable(&error))?;
            Ok(hold.filter(|hold| failed_too || !hold.failed))
        };
        self.read_all_rows(Role::Side, statement, &params, take).await
    }
}

/// `None`: nobody knows which key it would hold.
fn hold(row: &PgRow, topics: &mut Topics) -> Result<Option<Hold>, tokio_postgres::Error> {
    let Some(topic) = row.try_get::<_, Option<&str>>("topic").ok().flatten() else {
        return Ok(None);
    };
    let key: Option<&[u8]> = row.try_get("key_id")?;
    Ok(Some(Hold {
        seq: Seq(row.try_get("seq")?),
        lane: lane(row)?,
        topic: topics.share(topic),
        key: key.and_then(KeyId::from_bytes),
        failed: row.try_get("failed")?,
    }))
}

/// Rows up to a room.
struct Bounded {
    room: Room,
    rows: Vec<Row>,
    bytes: usize,
    topics: Topics,
    full: bool,
}

impl Bounded {
    fn new(room: Room) -> Self {
        Self {
            room,
            rows: Vec::new(),
            bytes: 0,
            topics: Topics::default(),
            full: false,
        }
    }

    fn take(&mut self, row: &PgRow, broken: Option<&Broken>) -> Result<bool, StoreError> {
        let row = message_row(row, &mut self.topics, broken)?;
        self.bytes += row.message.size();
        self.rows.push(row);
        self.full = self.bytes >= self.room.bytes || self.rows.len() >= self.room.rows;
        Ok(!self.full)
    }
}
