//! Rows of a table that is not ours, found and enlisted: a task beside the cursor, which then reads them as any others.
//!
//! ```text
//!   oldest pending │ enlisted already                │ newest seen │ new
//!                  │                     └ back: each second, as far as transactions may be open
//!                  │                                └ near: whenever somebody looks
//!                  └ full: at the start and every two seconds, less often where it costs more than a hundredth of the time
//! ```
//!
//! A row that commits late has an early place. So what the near look passes the look back finds, and what that passes the full one: late,
//! never lost. While there is more than a page holds, the next goes on from where it ended, without looking back.
//! One instance enlists at a time; with each full look what is not to be sent any more is struck off.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::transactions;
use crate::store::StoreError;
use crate::store::postgres::link::about::{is_about_a_row, one_line};
use crate::store::postgres::link::database::{Database, Role};
use crate::store::postgres::link::sql::Names;
use crate::store::postgres::link::theirs::{Place, Theirs};

const ENLIST: &str = include_str!("../../../../sql/enlist.sql");
const UNLIST: &str = include_str!("../../../../sql/unlist.sql");

/// Rows one statement enlists at most, and where a page has one place for all its rows.
const PAGE: i64 = 5_000;
const PAGE_MAX: i64 = 100_000;
/// A page of which a row cannot be enlisted is made so much smaller, until that row is alone.
const NARROWER: i64 = 8;
/// Without a place each page sorts all that are pending: few large ones.
const PAGE_WITHOUT_PLACE: i64 = 50_000;
/// A near look begins so far before the newest row seen: microseconds, or numbers.
const NEAR: i64 = 100_000;
const NEAR_NUMBERS: i64 = 1_000;
/// A look back, in numbers.
const BACK_NUMBERS: i64 = 10_000;
/// A look back goes at least, and at most, so far.
const BACK_MIN: Duration = Duration::from_secs(10);
const BACK_MAX: Duration = Duration::from_secs(600);
/// Between two looks back, and their share of the time: a twentieth.
const BACK_INTERVAL: Duration = Duration::from_secs(1);
const BACK_PAUSE: u32 = 20;
/// Between two full looks, and their share of the time: a hundredth.
const FULL_INTERVAL: Duration = Duration::from_secs(2);
const FULL_PAUSE: u32 = 100;
/// A look that finds nothing has a hundredth of the time, one that finds rows a fifth.
const IDLE_PAUSE: u32 = 100;
const BUSY_PAUSE: u32 = 4;
/// What a look costs is believed as far as twice the last one's cost, and this at first: one that had to wait is no measure.
const COST_FIRST: Duration = Duration::from_millis(1);
/// How often a failure is said.
const SAY_INTERVAL: Duration = Duration::from_secs(30);
/// After a failure.
const AGAIN: Duration = Duration::from_millis(500);

/// Where it is looked, and how often.
pub(super) struct Enlister {
    database: Database,
    names: Names,
    enlist: String,
    /// The same for a row of which topic, key or another column cannot be made: it is rejected when it is read.
    enlist_bare: String,
    unlist: String,
    since: String,
    place: Place,
    /// Shortest and longest time between two looks.
    pace: (Duration, Duration),
    hint: Arc<Notify>,
    /// Up to where everything was seen, late commits excepted.
    newest: Option<i64>,
    back_at: Instant,
    full_at: Instant,
    said: Option<Instant>,
}

/// Their table, of which nothing but the id is read.
fn bare(theirs: &Theirs) -> Theirs {
    let mut bare = Theirs {
        place: Place::Nowhere,
        ..theirs.clone()
    };
    for (column, value) in [
        ("topic", "null::text"),
        ("key", "null::text"),
        ("attempt", "1"),
        ("max_attempts", "null::int"),
        ("priority", "0::smallint"),
        ("available_at", "now()"),
        ("inserted_at", "now()"),
        ("place", "null::bigint"),
    ] {
        bare.sql.insert(column, value.to_owned());
    }
    bare
}

/// What a look found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Page {
    /// It was this instance's turn.
    mine: bool,
    rows: i64,
    fresh: i64,
    first: Option<i64>,
    last: Option<i64>,
    newest: Option<i64>,
    /// The time.
    now: Option<i64>,
}

impl Enlister {
    /// `None`: the table is ours.
    pub(super) fn of(
        database: &Database,
        names: &Names,
        pace: (Duration, Duration),
        hint: &Arc<Notify>,
    ) -> Option<Self> {
        let theirs = names.theirs()?;
        let now = Instant::now();
        Some(Self {
            database: database.clone(),
            names: names.clone(),
            enlist: names.fill(ENLIST),
            enlist_bare: names.of_theirs(bare(theirs)).fill(ENLIST),
            unlist: names.fill(UNLIST),
            since: theirs.sql.get("since").cloned().unwrap_or_else(|| "true".to_owned()),
            place: theirs.place,
            pace,
            hint: Arc::clone(hint),
            newest: None,
            back_at: now,
            full_at: now,
            said: None,
        })
    }

    /// For as long as the store is there.
    pub(super) async fn run(mut self) {
        let (shortest, longest) = self.pace;
        let (mut pause, mut cost) = (shortest, COST_FIRST);
        loop {
            let began = Instant::now();
            let round = self.round().await;
            cost = began.elapsed().min(cost.max(COST_FIRST) * 2);
            match round {
                Ok(0) => pause = (pause * 2).clamp(shortest, longest).max(cost * IDLE_PAUSE),
                Ok(_) => {
                    self.hint.notify_one();
                    pause = shortest.max(cost * BUSY_PAUSE);
                }
                Err(error) => {
                    self.tell(&error);
                    pause = AGAIN;
                }
            }
            sleep(pause).await;
        }
    }

    fn tell(&mut self, error: &StoreError) {
        if self.said.is_none_or(|said| said.elapsed() >= SAY_INTERVAL) {
            self.said = Some(Instant::now());
            tracing::warn!(error = %one_line(error), "new rows of the application's table cannot be looked for");
        }
    }

    /// The looks whose time it is. Answers how many rows were enlisted.
    async fn round(&mut self) -> Result<i64, StoreError> {
        let began = Instant::now();
        if began >= self.full_at {
            // Where a row of long ago is in its way, new ones are still found by the other looks.
            self.full_at = began + FULL_INTERVAL;
            let struck = self.database.transaction(Role::Side, &self.unlist).await;
            // What was changed is enlisted anew at once.
            let fresh = self.look(None).await?;
            struck?;
            let (least, pause) = match self.place {
                // There is no other look.
                Place::Nowhere => (Duration::ZERO, BACK_PAUSE),
                Place::Number | Place::Time => (FULL_INTERVAL, FULL_PAUSE),
            };
            self.full_at = Instant::now() + least.max(began.elapsed() * pause);
            if self.newest.is_none() {
                // It was another instance's turn.
                self.full_at = Instant::now() + self.pace.1;
            }
            return Ok(fresh);
        }
        let Some(newest) = self.newest else {
            return Ok(0);
        };
        if began >= self.back_at {
            self.back_at = began + BACK_INTERVAL;
            let from = newest.saturating_sub(self.back().await?);
            let fresh = self.look(Some(from)).await?;
            self.back_at = Instant::now() + BACK_INTERVAL.max(began.elapsed() * BACK_PAUSE);
            return Ok(fresh);
        }
        let near = if self.place == Place::Number {
            NEAR_NUMBERS
        } else {
            NEAR
        };
        self.look(Some(newest.saturating_sub(near))).await
    }

    /// How far a look back goes.
    async fn back(&self) -> Result<i64, StoreError> {
        if self.place == Place::Number {
            return Ok(BACK_NUMBERS);
        }
        let open = transactions::oldest(&self.database, &self.names).await?;
        let open = Duration::try_from_secs_f64(open).unwrap_or(BACK_MAX) + BACK_INTERVAL;
        Ok(i64::try_from(open.clamp(BACK_MIN, BACK_MAX).as_micros()).unwrap_or(i64::MAX))
    }

    /// Everything past `from`, page by page.
    async fn look(&mut self, mut from: Option<i64>) -> Result<i64, StoreError> {
        let page_size = if self.place == Place::Nowhere {
            PAGE_WITHOUT_PLACE
        } else {
            PAGE
        };
        let (mut fresh, mut most, mut narrowed) = (0, page_size, false);
        loop {
            let page = match self.page(&self.enlist, from, most).await {
                Ok(page) => page,
                Err(error) if is_about_a_row(&error) && most > 1 => {
                    (most, narrowed) = ((most / NARROWER).max(1), true);
                    continue;
                }
                Err(error) if is_about_a_row(&error) => {
                    let page = self.page(&self.enlist_bare, from, most).await?;
                    fresh += page.fresh;
                    if page.rows == 0 {
                        return Err(error);
                    }
                    (most, narrowed) = (page_size, false);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if !page.mine {
                return Ok(fresh);
            }
            fresh += page.fresh;
            if page.rows < most {
                let nothing = if self.place == Place::Time { page.now } else { Some(0) };
                self.newest = page.newest.or(page.last).or(nothing).max(self.newest);
                return Ok(fresh);
            }
            self.hint.notify_one();
            let is_one_place = page.first == page.last && !narrowed;
            most = if is_one_place {
                (most * 4).min(PAGE_MAX.max(most))
            } else {
                most
            };
            // A time may have been rounded.
            from = page.last.map(|last| last.saturating_sub(1)).or(from);
        }
    }

    async fn page(&self, enlist: &str, from: Option<i64>, most: i64) -> Result<Page, StoreError> {
        let since = match from {
            Some(from) => self.since.replace("{from}", &from.to_string()),
            None => "true".to_owned(),
        };
        let text = enlist.replace("{since}", &since).replace("{most}", &most.to_string());
        let answer = self.database.transaction(Role::Side, &text).await?;
        let number = |name: &str| answer.get(name).and_then(|text| text.parse().ok());
        Ok(Page {
            mine: answer.get("mine").is_some_and(|mine| mine == "t"),
            rows: number("rows").unwrap_or(0),
            fresh: number("fresh").unwrap_or(0),
            first: number("first"),
            last: number("last"),
            newest: number("newest"),
            now: number("now"),
        })
    }
}
