//! The cursor against a model of PostgreSQL: one seed is one story of writers, numbers, snapshots and locks, in which anything
//! may happen between any question and its answer.
//!
//! Modelled: a sequence whose numbers are taken before commit and whose lock is kept to the end of the top-level transaction;
//! savepoints rolled back; prepared transactions, and their new names after a server restart; snapshots, and lists of holders
//! read at another instant; numbers burned, jumped over and written by hand; tables emptied, exchanged, sequences set back;
//! connections lost; rereads that overlap with a read. A consumer does with the answers what the engine does.

#![cfg(test)]

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Broken, Cursor, Done, Holders, Limits, Look, Next, Place, Question, Ranges, Seen, Skimmed, Took, Verdict};
use crate::store::Room;

thread_local! {
    static BROKEN: Cell<Option<Broken>> = const { Cell::new(None) };
}

/// Whether this thread's cursors are broken in this way.
pub(crate) fn broken(way: Broken) -> bool {
    BROKEN.get() == Some(way)
}

/// A small generator: stories must be the same everywhere.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5DEE_CE66_D1CE_4E5B)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn number(&mut self, low: i64, high: i64) -> i64 {
        low + i64::try_from(self.below(u64::try_from(high - low + 1).unwrap())).unwrap()
    }

    fn size(&mut self, low: i64, high: i64) -> usize {
        usize::try_from(self.number(low, high)).unwrap()
    }
}

#[derive(Clone, Debug)]
struct Row {
    id: u64,
    /// Its writer's key; `None`: it has no order.
    key: Option<usize>,
    /// This instance sends it.
    mine: bool,
    /// Visible to snapshots from this commit on; `None`: not committed.
    since: Option<u64>,
    relayed: bool,
}

#[derive(Debug)]
struct Transaction {
    name: Box<str>,
    writer: usize,
    rows: Vec<i64>,
    /// Rows since the last savepoint.
    since_savepoint: usize,
    holds: bool,
    prepared: bool,
}

struct Database {
    rows: BTreeMap<i64, Row>,
    last: i64,
    open: Vec<Transaction>,
    commits: u64,
    place: Place,
    names: u64,
    ids: u64,
    /// How often the table was exchanged or emptied.
    exchanges: u64,
}

impl Database {
    fn new() -> Self {
        Self {
            rows: BTreeMap::new(),
            last: 0,
            open: Vec::new(),
            commits: 0,
            place: Place {
                relation: Some(1),
                files: "1".to_owned(),
                sequence: Some(1),
                sequence_file: Some(1),
                server: String::new(),
            },
            names: 0,
            ids: 0,
            exchanges: 0,
        }
    }

    fn holders(&self) -> Holders {
        let holding = self.open.iter().filter(|transaction| transaction.holds);
        Arc::new(holding.map(|transaction| transaction.name.clone()).collect())
    }

    fn ceiling(&self) -> i64 {
        if broken(Broken::AheadOfTheSequence) {
            i64::MAX
        } else {
            self.last
        }
    }

    fn visible(&self, snapshot: u64) -> impl Iterator<Item = (&i64, &Row)> {
        let seen = move |row: &Row| row.since.is_some_and(|since| since <= snapshot);
        self.rows.iter().filter(move |(_, row)| seen(row))
    }

    fn begin(&mut self, writer: usize) {
        self.names += 1;
        self.open.push(Transaction {
            name: format!("{writer}/{}", self.names).into(),
            writer,
            rows: Vec::new(),
            since_savepoint: 0,
            holds: false,
            prepared: false,
        });
    }

    /// Takes a number and inserts a row with it, if `inserts`. A number that is there already fails the transaction.
    fn insert(&mut self, at: usize, inserts: bool, mine: bool) {
        self.last += 1;
        let seq = self.last;
        self.open[at].holds = true;
        if !inserts {
            return;
        }
        if self.rows.contains_key(&seq) {
            return self.end(at, false);
        }
        self.ids += 1;
        let row = Row {
            id: self.ids,
            key: Some(self.open[at].writer),
            mine,
            since: None,
            relayed: false,
        };
        self.rows.insert(seq, row);
        self.open[at].rows.push(seq);
        self.open[at].since_savepoint += 1;
    }

    fn roll_back_to_savepoint(&mut self, at: usize) {
        let transaction = &mut self.open[at];
        let kept = transaction.rows.len() - transaction.since_savepoint;
        for seq in transaction.rows.split_off(kept) {
            self.rows.remove(&seq);
        }
        self.open[at].since_savepoint = 0;
    }

    fn end(&mut self, at: usize, commits: bool) {
        let transaction = self.open.remove(at);
        self.commits += u64::from(commits);
        for seq in transaction.rows {
            if commits {
                self.rows.get_mut(&seq).unwrap().since = Some(self.commits);
            } else {
                self.rows.remove(&seq);
            }
        }
    }

    /// By hand, past what the sequence has given.
    fn insert_ahead(&mut self, seq: i64) {
        if seq <= self.last || self.rows.contains_key(&seq) {
            return;
        }
        self.ids += 1;
        self.commits += 1;
        let row = Row {
            id: self.ids,
            key: None,
            mine: true,
            since: Some(self.commits),
            relayed: false,
        };
        self.rows.insert(seq, row);
    }

    /// Needs locks that no writer leaves it.
    fn exchange(&mut self, kind: u64) {
        self.names += 1;
        let fresh = u32::try_from(self.names).unwrap() + 10;
        self.rows.clear();
        self.exchanges += 1;
        match kind {
            0 => {
                self.place.files = fresh.to_string();
                self.place.sequence_file = Some(fresh);
            }
            1 => {
                self.place = Place {
                    relation: Some(fresh),
                    files: fresh.to_string(),
                    sequence: Some(fresh),
                    sequence_file: Some(fresh),
                    server: String::new(),
                }
            }
            // Every row deleted, and `alter sequence restart`.
            _ => self.place.sequence_file = Some(fresh),
        }
        self.last = 0;
    }

    /// Open transactions end, prepared ones get other names.
    fn restart(&mut self) {
        while let Some(at) = self.open.iter().position(|transaction| !transaction.prepared) {
            self.end(at, false);
        }
        for transaction in &mut self.open {
            self.names += 1;
            transaction.name = format!("-1/{}", self.names).into();
        }
    }
}

/// Rows left in the database, to be read again from one place on: as the engine's.
struct Lag {
    next: i64,
    reading: bool,
    back_to: Option<i64>,
}

/// A reread under way.
struct Reread {
    found: Vec<(i64, u64, Option<usize>)>,
    position: i64,
    upto: i64,
    done: bool,
}

struct Story {
    dice: Dice,
    database: Database,
    cursor: Cursor,
    writers: usize,
    /// The higher, the longer transactions are.
    patience: u64,
    lag: Option<Lag>,
    /// The cursor as booked.
    at: i64,
    rereading: Option<Reread>,
    sent: BTreeSet<u64>,
    /// Of each key, the highest number sent.
    highest: BTreeMap<usize, i64>,
    /// Which table those numbers are of.
    table: u64,
    wrong: Option<String>,
    quiet: bool,
}

impl Story {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let limits = Limits {
            retraced: dice.number(0, 6),
            few: if dice.one_in(2) { 0 } else { dice.size(1, 4) },
            at_once: dice.size(1, 4),
            most: dice.size(2, 14),
            skim_rows: dice.number(2, 6),
        };
        let mut story = Self {
            writers: dice.size(1, 5),
            patience: 10 + 5 * dice.below(5),
            dice,
            database: Database::new(),
            cursor: Cursor::with_limits(limits),
            lag: None,
            at: 0,
            rereading: None,
            sent: BTreeSet::new(),
            highest: BTreeMap::new(),
            table: 0,
            wrong: None,
            quiet: false,
        };
        for _ in 0..story.dice.below(20) {
            story.disturb();
        }
        story.open();
        story
    }

    /// Others do something, or not.
    fn disturb(&mut self) {
        while !self.quiet && !self.dice.one_in(3) {
            self.act();
        }
    }

    fn act(&mut self) {
        let database = &mut self.database;
        let writer = self.dice.size(0, i64::try_from(self.writers).unwrap() - 1);
        match self.dice.below(60) {
            0 => database.last += self.dice.number(1, 4),
            1 => {
                let ahead = database.last + self.dice.number(1, 9);
                database.insert_ahead(if self.dice.one_in(4) { i64::MAX } else { ahead });
            }
            2 if database.open.is_empty() && self.dice.one_in(2) => database.exchange(self.dice.below(3)),
            // One that stays open for long.
            3 if !database.open.iter().any(|transaction| transaction.writer > 90) => database.begin(99),
            4 => {
                if let Some(at) = database.open.iter().position(|transaction| transaction.writer == 99) {
                    database.insert(at, self.dice.one_in(2), true);
                }
            }
            5 if self.dice.one_in(4) => {
                if let Some(at) = database.open.iter().position(|transaction| transaction.writer == 99) {
                    database.end(at, self.dice.one_in(2));
                }
            }
            _ => match database
                .open
                .iter()
                .position(|transaction| transaction.writer == writer)
            {
                None => database.begin(writer),
                Some(at) => match self.dice.below(self.patience) {
                    0 => database.end(at, false),
                    1 | 2 => database.end(at, true),
                    4 if !database.open[at].prepared => database.open[at].since_savepoint = 0,
                    5 if !database.open[at].prepared => database.roll_back_to_savepoint(at),
                    6 if self.dice.one_in(3) => database.open[at].prepared = true,
                    _ if database.open[at].prepared => {}
                    7 => database.insert(at, false, true),
                    _ => database.insert(at, true, !self.dice.one_in(8)),
                },
            },
        }
    }

    fn open(&mut self) {
        let (place, last) = (self.database.place.clone(), self.database.last);
        self.disturb();
        let holders = self.database.holders();
        self.cursor.open(place, last, &holders);
        self.at = self.cursor.at();
        self.rereading = None;
        self.lag = Some(Lag {
            next: i64::MIN,
            reading: false,
            back_to: None,
        });
    }

    /// One step of the consumer.
    fn step(&mut self) {
        self.disturb();
        match self.dice.below(24) {
            0 => self.open(),
            1 if self.dice.one_in(3) && !self.quiet => {
                self.database.restart();
                self.open();
            }
            2..=8 => self.begin_reread(),
            9..=14 => self.end_reread(),
            _ => self.read(),
        }
    }

    fn read(&mut self) {
        let room = Room {
            rows: self.dice.size(1, 6),
            bytes: self.dice.size(1, 12),
        };
        let mut question = self.cursor.begin(room, self.dice.one_in(2));
        let (mut page, mut late, mut ahead) = (Vec::new(), Vec::new(), Vec::new());
        let mut snapshot = None;
        let done = loop {
            self.disturb();
            let next = match question {
                Question::Page {
                    after,
                    limit,
                    gaps,
                    keeps_snapshot,
                } => {
                    let now = self.database.commits;
                    snapshot = Some(now).filter(|_| keeps_snapshot);
                    let rows = in_gaps(&self.database, now, &gaps, limit);
                    if self.bring(&rows, true, &mut late) {
                        let rows = past(&self.database, now, after, limit);
                        self.bring(&rows, false, &mut page);
                    }
                    self.cursor.paged()
                }
                Question::Look => {
                    let look = self.look();
                    self.cursor.looked(look)
                }
                Question::Late { gaps, limit } => {
                    let kept = snapshot.expect("a snapshot was kept");
                    let now = if broken(Broken::LateInAnotherSnapshot) {
                        self.database.commits
                    } else {
                        kept
                    };
                    let rows = in_gaps(&self.database, now, &gaps, limit);
                    self.bring(&rows, true, &mut late);
                    self.cursor.late()
                }
                Question::Ahead => {
                    ahead = self.ahead();
                    self.cursor.looked_ahead()
                }
                Question::Skim { after, rows } => {
                    let seen = self.skim(after, rows);
                    self.cursor.skimmed(seen)
                }
            };
            match next {
                Next::Ask(next) => question = next,
                Next::Done(done) => break Some(done),
                Next::StartOver(_) => break None,
            }
        };
        let Some(done) = done else { return self.open() };
        self.book(page, late, done);
        for (seq, id) in ahead {
            self.offer(seq, id);
        }
    }

    /// Offers the rows of an answer to the cursor; whether more may come.
    fn bring(&mut self, rows: &[(i64, u64, Option<usize>)], late: bool, into: &mut Vec<(i64, u64)>) -> bool {
        for (seq, id, size) in rows {
            let (seq, size) = (*seq, *size);
            let took = self.cursor.take(Seen { seq, late, size });
            if took != Took::Not && size.is_some() {
                into.push((seq, *id));
            }
            if took != Took::More {
                return false;
            }
        }
        true
    }

    fn look(&self) -> Look {
        let database = &self.database;
        let ahead = database
            .rows
            .iter()
            .any(|(seq, row)| *seq > database.last && row.since.is_some() && !row.relayed);
        Look {
            place: database.place.clone(),
            last: Some(database.last),
            ahead,
            renumbered: false,
            holders: database.holders(),
        }
    }

    fn ahead(&self) -> Vec<(i64, u64)> {
        let (now, last) = (self.database.commits, self.database.last);
        let rows = self.database.visible(now);
        rows.filter(|(seq, row)| **seq > last && row.mine && !row.relayed)
            .map(|(seq, row)| (*seq, row.id))
            .collect()
    }

    fn skim(&self, after: i64, rows: i64) -> Skimmed {
        let (now, ceiling) = (self.database.commits, self.database.ceiling());
        let seen: Vec<(i64, bool)> = self
            .database
            .visible(now)
            .filter(|(seq, _)| **seq > after && **seq <= ceiling)
            .take(usize::try_from(rows).unwrap())
            .map(|(seq, row)| (*seq, row.mine && !row.relayed))
            .collect();
        Skimmed {
            rows: i64::try_from(seen.len()).unwrap(),
            first: seen.first().map(|(seq, _)| *seq),
            last: seen.last().map(|(seq, _)| *seq),
            first_wanted: seen.iter().find(|(_, wanted)| *wanted).map(|(seq, _)| *seq),
        }
    }

    fn book(&mut self, page: Vec<(i64, u64)>, late: Vec<(i64, u64)>, done: Done) {
        self.at = self.cursor.at();
        if done.sweep {
            match &mut self.lag {
                Some(lag) if lag.reading => lag.back_to = Some(i64::MIN),
                Some(lag) => lag.next = i64::MIN,
                None => {
                    self.lag = Some(Lag {
                        next: i64::MIN,
                        reading: false,
                        back_to: None,
                    });
                }
            }
        } else {
            let kept = page.into_iter().filter(|(seq, _)| *seq <= done.upto);
            for (seq, id) in late.into_iter().chain(kept) {
                self.offer(seq, id);
            }
        }
    }

    /// The cursor brings a row: it is sent, or waits behind the lag.
    fn offer(&mut self, seq: i64, id: u64) {
        match &mut self.lag {
            Some(lag) if seq > lag.back_to.map_or(lag.next, |back| back.min(lag.next)) => {
                if lag.reading {
                    lag.back_to = Some(lag.back_to.map_or(seq - 1, |old| old.min(seq - 1)));
                }
            }
            Some(_) | None => self.send(seq, id),
        }
    }

    fn send(&mut self, seq: i64, id: u64) {
        if self.table != self.database.exchanges {
            self.table = self.database.exchanges;
            self.highest.clear();
        }
        let Some(row) = self.database.rows.get_mut(&seq).filter(|row| row.id == id) else {
            return; // Deleted meanwhile.
        };
        row.relayed = true;
        if !self.sent.insert(id) {
            return;
        }
        let Some(key) = row.key else { return };
        let highest = self.highest.entry(key).or_insert(i64::MIN);
        if seq < *highest && self.wrong.is_none() {
            self.wrong = Some(format!("{seq} of writer {key} came after {highest}"));
        }
        *highest = seq.max(*highest);
    }

    fn begin_reread(&mut self) {
        let Some(lag) = self.lag.as_mut().filter(|lag| !lag.reading) else {
            return;
        };
        let (after, upto, limit) = (lag.next, self.at, self.dice.size(1, 5));
        lag.reading = true;
        let now = self.database.commits;
        let mut found: Vec<(i64, u64, Option<usize>)> = self
            .database
            .visible(now)
            .filter(|(seq, row)| **seq > after && **seq <= upto && row.mine && !row.relayed)
            .map(|(seq, row)| (*seq, row.id, None))
            .collect();
        let done = found.len() < limit;
        found.truncate(limit);
        let position = if done {
            upto
        } else {
            found.last().map_or(upto, |row| row.0)
        };
        self.rereading = Some(Reread {
            found,
            position: position.max(after),
            upto,
            done,
        });
    }

    fn end_reread(&mut self) {
        let Some(mut reread) = self.rereading.take() else {
            return;
        };
        let verdict = self.cursor.judge(&self.look(), self.cursor.at());
        let Some(mut lag) = self.lag.take() else { return };
        lag.reading = false;
        if verdict != Verdict::Whole {
            let from = if verdict == Verdict::Partial {
                i64::MIN
            } else {
                lag.next
            };
            lag.next = lag.back_to.take().map_or(from, |back| back.min(from));
            self.lag = Some(lag);
            return;
        }
        reread.found.retain(|(seq, ..)| !self.cursor.leaves(*seq));
        let back_to = lag.back_to.take();
        let met = reread.done && reread.upto == self.at && back_to.is_none();
        for (seq, id, _) in &reread.found {
            if back_to.is_none_or(|back| *seq <= back) {
                self.send(*seq, *id);
            }
        }
        lag.next = back_to.map_or(reread.position, |back| back.min(reread.position));
        self.lag = Some(lag).filter(|_| !met);
    }

    /// Everybody stops; whatever is committed must arrive without any other net.
    fn settle(&mut self) {
        self.quiet = true;
        while !self.database.open.is_empty() {
            let commits = self.dice.one_in(2);
            self.database.end(0, commits);
        }
        for _ in 0..600 {
            self.end_reread();
            self.begin_reread();
            self.read();
            self.end_reread();
            if self.lag.is_none() && self.missing().is_none() {
                return;
            }
        }
        if self.wrong.is_none() {
            self.wrong = self.missing().map(|seq| format!("{seq} never came"));
        }
    }

    fn missing(&self) -> Option<i64> {
        let rows = self.database.rows.iter();
        let mut unsent = rows.filter(|(_, row)| row.mine && !self.sent.contains(&row.id));
        unsent.next().map(|(seq, _)| *seq)
    }
}

/// The rows of some gaps that a snapshot shows.
fn in_gaps(database: &Database, snapshot: u64, gaps: &Ranges, limit: i64) -> Vec<(i64, u64, Option<usize>)> {
    let within = |seq: i64| {
        gaps.firsts
            .iter()
            .zip(&gaps.lasts)
            .any(|(first, last)| *first <= seq && seq <= *last)
    };
    let rows = database.visible(snapshot).filter(|(seq, _)| within(**seq));
    seen(rows, limit)
}

fn past(database: &Database, snapshot: u64, after: i64, limit: i64) -> Vec<(i64, u64, Option<usize>)> {
    let ceiling = database.ceiling();
    let rows = database.visible(snapshot);
    seen(rows.filter(|(seq, _)| **seq > after && **seq <= ceiling), limit)
}

fn seen<'a>(rows: impl Iterator<Item = (&'a i64, &'a Row)>, limit: i64) -> Vec<(i64, u64, Option<usize>)> {
    let size = |row: &Row| (row.mine && !row.relayed).then_some(2);
    rows.take(usize::try_from(limit).unwrap())
        .map(|(seq, row)| (*seq, row.id, size(row)))
        .collect()
}

/// Plays one seed; what went wrong.
fn play(seed: u64) -> Option<String> {
    let mut story = Story::new(seed);
    for _ in 0..80 {
        story.step();
        if story.wrong.is_some() {
            return story.wrong;
        }
    }
    story.settle();
    story.wrong
}

#[test]
fn a_look_asked_for_before_the_cursor_went_on_sets_no_sequence_back() {
    let mut cursor = Cursor::default();
    let look = Look {
        last: Some(10),
        ..Look::default()
    };
    cursor.open(Place::default(), 10, &Holders::default());
    let before = cursor.at();
    cursor.begin(Room { rows: 10, bytes: 1_000 }, false);
    cursor.take(Seen {
        seq: 12,
        late: false,
        size: None,
    });
    assert_eq!(cursor.judge(&look, before), Verdict::Whole);
    assert!(matches!(cursor.judge(&look, cursor.at()), Verdict::Elsewhere(_)));
}

#[test]
fn ten_thousand_stories_end_well() {
    for seed in 0..10_000 {
        if let Some(wrong) = play(seed) {
            panic!("seed {seed}: {wrong}");
        }
    }
}

#[test]
fn every_broken_cursor_falls_within_a_thousand_seeds() {
    let ways = [
        Broken::NotLookedAtOnce,
        Broken::DeadByTheListAfter,
        Broken::LateInAnotherSnapshot,
        Broken::EndOfTheUnwatchedIgnored,
        Broken::ExchangeOverlooked,
        Broken::AheadOfTheSequence,
        Broken::PageNotPutBack,
    ];
    for way in ways {
        BROKEN.set(Some(way));
        let fallen = (0..1_000).find_map(|seed| play(seed).map(|wrong| (seed, wrong)));
        BROKEN.set(None);
        match fallen {
            Some((seed, wrong)) => println!("{way:?}: seed {seed}: {wrong}"),
            None => panic!("{way:?} was not noticed within 1,000 seeds"),
        }
    }
}
