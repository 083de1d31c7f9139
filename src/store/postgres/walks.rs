//! Reads beside the cursor: ranges of pending rows, rows that are due, rows that were parked, rows that hold.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Row as PgRow;

use super::PostgresStore;
use super::cursor::Verdict;
use super::database::Role;
use super::rows::{Topics, lane, message_row, seconds, unreadable};
use super::sql::Statement;
use crate::message::Seq;
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
        self.database
            .query_while(
                Role::Side,
                &self.sql.reread,
                &[&after.0, &upto.0, &limit, &mask, &topics, &scope.key.as_deref()],
                |row| page.take(&row),
            )
            .await?;
        let done = !page.full;
        let position = if done {
            upto
        } else {
            page.rows.last().map_or(after, |row| row.message.seq)
        };
        let verdict = self.judged().await?;
        if verdict != Verdict::Whole {
            return Ok(Reread {
                position: after,
                sweep: verdict == Verdict::Partial,
                ..Reread::default()
            });
        }
        let cursor = self.cursor();
        page.rows.retain(|row| !cursor.leaves(row.message.seq.0));
        drop(cursor);
        Ok(Reread {
            rows: page.rows,
            position,
            done,
            sweep: false,
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
        let (at, seq) = after.map_or((0, i64::MIN), |position| (position.available_at, position.seq.0));
        let limit = i64::try_from(room.rows.max(1)).unwrap_or(i64::MAX);
        let mask = self.mask(lanes);
        let reading = self.reading();
        let mut page = Bounded::new(room);
        let mut next = None;
        self.database
            .query_while(Role::Side, &reading.due, &[&at, &seq, &upto.0, &limit, &mask], |row| {
                let available_at = row.try_get("due_at").map_err(|error| unreadable(&error))?;
                let go_on = page.take(&row)?;
                next = page.rows.last().map(|row| DuePosition {
                    available_at,
                    seq: row.message.seq,
                });
                Ok(go_on)
            })
            .await?;
        if page.full {
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

    pub(super) async fn recall_rows(&self, lanes: &LaneSet, seqs: &[Seq], room: Room) -> Result<Vec<Row>, StoreError> {
        let seqs: Vec<i64> = seqs.iter().map(|seq| seq.0).collect();
        let mask = self.mask(lanes);
        let mut page = Bounded::new(Room {
            rows: usize::MAX,
            ..room
        });
        self.database
            .query_while(Role::Side, &self.sql.recall, &[&seqs, &mask], |row| page.take(&row))
            .await?;
        Ok(page.rows)
    }

    pub(super) async fn holding_rows(
        &self,
        lanes: &LaneSet,
        among: Option<&[Seq]>,
        failed_too: bool,
    ) -> Result<Vec<Hold>, StoreError> {
        let mask = self.mask(lanes);
        let rows = match among {
            None => {
                self.database
                    .query(Role::Side, &self.sql.holds, &[&mask, &failed_too])
                    .await?
            }
            Some(seqs) => {
                let seqs: Vec<i64> = seqs.iter().map(|seq| seq.0).collect();
                self.database
                    .query(Role::Side, &self.sql.holds_among, &[&mask, &seqs])
                    .await?
            }
        };
        let mut topics = Topics::default();
        let holds: Result<Vec<Hold>, _> = rows.iter().map(|row| hold(row, &mut topics)).collect();
        let mut holds = holds.map_err(|error| unreadable(&error))?;
        holds.retain(|hold| failed_too || !hold.failed);
        Ok(holds)
    }
}

fn hold(row: &PgRow, topics: &mut Topics) -> Result<Hold, tokio_postgres::Error> {
    Ok(Hold {
        seq: Seq(row.try_get("seq")?),
        lane: lane(row)?,
        topic: Arc::clone(&topics.share(row.try_get("topic")?)),
        key: row.try_get::<_, &str>("key")?.into(),
        failed: row.try_get("failed")?,
    })
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

    fn take(&mut self, row: &PgRow) -> Result<bool, StoreError> {
        let row = message_row(row, &mut self.topics)?;
        self.bytes += row.message.size();
        self.rows.push(row);
        self.full = self.bytes >= self.room.bytes || self.rows.len() >= self.room.rows;
        Ok(!self.full)
    }
}
