//! The laws. Each takes an empty outbox of its own.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use outboxd::delivery::FailureClass;
use outboxd::message::{KeyId, Seq};
use outboxd::store::{
    DuePosition, FailedAttempt, Lane, LaneSet, Leases, Mark, Page, Reread, Room, Row, Scope, Settled, Settlement,
    Store, Tenancy,
};

use super::{Fixture, Fresh, keyed, keyless};

/// Room for everything.
pub const ROOM: Room = Room {
    rows: 1000,
    bytes: 64 << 20,
};
const MINUTE: Duration = Duration::from_secs(60);
const MS: Duration = Duration::from_millis(1);
const FIRST: Seq = Seq(i64::MIN);

/// Writes one test per law for a fixture.
macro_rules! uphold {
    ([$($runtime:tt)+] $fixture:expr) => {
        uphold!(@ [$($runtime)+] $fixture; exclusive a_lease_that_ended_is_taken_over lanes_are_shared_evenly
            a_restarted_instance_takes_its_lanes_back ordered room_is_respected late_commits_are_read_once
            a_rollback_closes_its_gap what_is_open_at_the_start_comes_before_its_successor
            what_was_open_long_before_the_start_is_swept reopening_starts_over fenced_by_owner_and_epoch
            fenced_by_attempt what_is_settled_is_what_was_sent a_replayed_message_is_another_one
            rows_that_refuse_are_set_aside what_is_marked_is_what_was_sent rows_with_a_priority_come_in_its_order retries_are_due_after_their_delay delayed_rows_are_due_in_their_time
            due_rows_come_in_pages rereads_come_in_pages recall_brings_what_is_pending holds_tell_who_holds idempotent
            a_commit_wakes);
    };
    (@ $runtime:tt $fixture:expr; $($law:ident)+) => {
        $(uphold!(= $runtime $fixture; $law);)+
    };
    (= [$($runtime:tt)+] $fixture:expr; $law:ident) => {
        #[tokio::test($($runtime)+)]
        async fn $law() {
            let fixture = $fixture.await;
            crate::conformance::store::laws::$law(&fixture).await;
            crate::conformance::store::Fixture::at_rest(&fixture).await;
        }
    };
}
pub(super) use uphold;

/// An open store, read as the engine does: first what is pending up to the cursor, then what the cursor passes.
pub struct Reader<S> {
    store: Arc<S>,
    lanes: LaneSet,
    cursor: Seq,
    behind: Option<Seq>,
}

impl<S: Store> Reader<S> {
    /// Opens `store` for `lanes`.
    pub async fn open(store: Arc<S>, lanes: &Tenancy) -> Self {
        Self {
            cursor: store.open().await.unwrap(),
            store,
            lanes: LaneSet::of(lanes.keys().copied()),
            behind: Some(FIRST),
        }
    }

    async fn open_again(&mut self, lanes: &Tenancy) {
        *self = Self::open(Arc::clone(&self.store), lanes).await;
    }

    fn scope(&self) -> Scope {
        Scope {
            lanes: self.lanes.clone(),
            ..Scope::default()
        }
    }

    async fn read(&mut self, room: Room) -> Page {
        let Some(after) = self.behind else {
            return self.store.read(&self.lanes, room).await.unwrap();
        };
        let behind = self
            .store
            .reread(&self.scope(), after, self.cursor, room)
            .await
            .unwrap();
        self.behind = (!behind.done).then_some(behind.position);
        Page {
            rows: behind.rows,
            more: true,
            ..Page::default()
        }
    }
}

impl<S> std::ops::Deref for Reader<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.store
    }
}

/// An instance that holds every lane and has opened the store.
async fn opened<F: Fixture>(fixture: &F) -> (Reader<F::Store>, Tenancy) {
    let store = fixture.instance("one").await;
    let lanes = store.renew(MINUTE).await.unwrap().lanes;
    (Reader::open(store, &lanes).await, lanes)
}

/// Pages until one has nothing and promises nothing.
pub async fn pages<S: Store>(store: &mut Reader<S>, room: Room) -> Vec<Page> {
    let mut pages = Vec::new();
    loop {
        let page = store.read(room).await;
        let last = page.rows.is_empty() && !page.more;
        pages.push(page);
        if last {
            return pages;
        }
    }
}

/// The rows of all those pages.
pub async fn read_all<S: Store>(store: &mut Reader<S>, room: Room) -> Vec<Row> {
    pages(store, room)
        .await
        .into_iter()
        .flat_map(|page| page.rows)
        .collect()
}

fn seqs(rows: &[Row]) -> Vec<Seq> {
    rows.iter().map(|row| row.message.seq).collect()
}

fn mark(row: &Row, lanes: &Tenancy) -> Mark {
    Mark {
        seq: row.message.seq,
        id: row.message.id.clone(),
        replay: row.message.replay,
        lane: row.lane,
        epoch: lanes[&row.lane],
        duplicate: false,
    }
}

pub fn relayed(rows: &[Row], lanes: &Tenancy) -> Settlement {
    Settlement {
        relayed: rows.iter().map(|row| mark(row, lanes)).collect(),
        ..Settlement::default()
    }
}

fn failed(row: &Row, lanes: &Tenancy, retry_in: Option<Duration>) -> Settlement {
    let failure = FailedAttempt {
        mark: mark(row, lanes),
        attempt: row.message.attempt,
        retry_in,
        class: FailureClass::Failed,
        code: "X".into(),
        error: "what went wrong".into(),
        latency: MS,
    };
    Settlement {
        failures: vec![failure],
        ..Settlement::default()
    }
}

const WRITTEN: Settled = Settled::of(1, 0);
const STALE: Settled = Settled::of(0, 1);

/// So many written; the others' lanes are no longer held.
fn lost(written: usize, lost: usize) -> Settled {
    Settled {
        lost,
        ..Settled::of(written, lost)
    }
}

async fn due_all<S: Store>(store: &Reader<S>, room: Room) -> Vec<Row> {
    let (mut rows, mut after) = (Vec::new(), None::<DuePosition>);
    loop {
        let page = store.due(&store.lanes, after, Seq(i64::MAX), room).await.unwrap();
        assert!(page.rows.len() <= room.rows);
        rows.extend(page.rows);
        match page.next {
            Some(next) => after = Some(next),
            None => return rows,
        }
    }
}

async fn reread_all<S: Store>(store: &Reader<S>, scope: &Scope, room: Room) -> Vec<Row> {
    let (mut rows, mut after) = (Vec::new(), FIRST);
    loop {
        let page: Reread = store.reread(scope, after, Seq(i64::MAX - 1), room).await.unwrap();
        assert!(page.rows.len() <= room.rows && page.position >= after);
        rows.extend(page.rows);
        after = page.position;
        if page.done {
            return rows;
        }
    }
}

/// *Exclusive*: a lane has one holder, and only its rows are shown to that one.
pub async fn exclusive(fixture: &impl Fixture) {
    let (mut store, lanes) = opened(fixture).await;
    let other = fixture.instance("two").await;
    assert_eq!(lanes.keys().copied().collect::<Vec<Lane>>(), (0..8).collect::<Vec<_>>());
    assert!(other.renew(MINUTE).await.unwrap().lanes.is_empty());
    let again = store.renew(MINUTE).await.unwrap();
    assert_eq!(again.lanes, lanes, "a renewal changes no epoch");
    let mut rows = vec![keyless(); 100];
    rows.extend((0..100).map(|n| keyed(n.to_string())));
    rows.extend((0..50).map(|n| Fresh {
        delay: MS,
        ..keyed(n.to_string())
    }));
    let all = fixture.insert(&rows).await;
    fixture.pass(20 * MS).await;
    let (low, high): (Tenancy, Tenancy) = lanes.iter().partition(|(lane, _)| **lane < 3);
    let mut all_seen = BTreeSet::new();
    for part in [&low, &high] {
        let mut seen = BTreeSet::new();
        store.open_again(part).await;
        let read = read_all(&mut store, ROOM).await;
        let due = due_all(&store, ROOM).await;
        assert_eq!(seqs(&reread_all(&store, &store.scope(), ROOM).await), seqs(&read));
        assert_eq!(
            seqs(&store.recall(&store.lanes, &all, ROOM).await.unwrap()),
            seqs(&read)
        );
        assert!(!read.is_empty() && !due.is_empty());
        for row in read.iter().chain(&due) {
            assert!(part.contains_key(&row.lane), "a row of lane {}", row.lane);
            // One that waited and was due before the cursor came may be brought by both.
            seen.insert(row.message.seq);
        }
        for seq in seen {
            assert!(all_seen.insert(seq), "{seq} belongs to two lanes");
        }
    }
    assert_eq!(all_seen.into_iter().collect::<Vec<_>>(), all);
    store.leave().await.unwrap();
    let taken = other.renew(MINUTE).await.unwrap().lanes;
    assert!(taken.len() == 8 && taken.iter().all(|(lane, epoch)| *epoch > lanes[lane]));
}

/// *Exclusive*: nobody takes lanes before their holder's lease has ended, and then everybody may.
pub async fn a_lease_that_ended_is_taken_over(fixture: &impl Fixture) {
    let (one, two) = (fixture.instance("one").await, fixture.instance("two").await);
    let before = one.renew(500 * MS).await.unwrap().lanes;
    let waiting = two.renew(MINUTE).await.unwrap();
    assert!(waiting.lanes.is_empty());
    let look_again = waiting.look_again.unwrap();
    assert!(look_again <= 600 * MS, "{look_again:?}");
    fixture.pass(look_again).await;
    let after = two.renew(MINUTE).await.unwrap();
    assert_eq!((after.share, after.look_again), (8, None));
    let after = after.lanes;
    assert!(after.len() == 8 && after.iter().all(|(lane, epoch)| *epoch > before[lane]));
    assert!(one.renew(MINUTE).await.unwrap().lanes.is_empty());
}

/// *Even*: who holds more than its share is told, hands over, and the others take up to theirs; one that leaves is replaced.
pub async fn lanes_are_shared_evenly(fixture: &impl Fixture) {
    let (one, two) = (fixture.instance("one").await, fixture.instance("two").await);
    let three = fixture.instance("three").await;
    let all = one.renew(MINUTE).await.unwrap().lanes;
    assert_eq!(all.len(), 8);
    // By name: one, three, two.
    assert_eq!(two.renew(MINUTE).await.unwrap().share, 4);
    let none = three.renew(MINUTE).await.unwrap();
    assert_eq!((none.lanes.len(), none.share), (0, 3));
    let lease = one.renew(MINUTE).await.unwrap();
    assert_eq!((lease.lanes.len(), lease.share), (8, 3));
    let surplus: Tenancy = lease
        .lanes
        .iter()
        .skip(3)
        .map(|(lane, epoch)| (*lane, *epoch))
        .collect();
    let (first, rest): (Tenancy, Tenancy) = surplus.iter().partition(|(lane, _)| **lane == 7);
    let older = rest.iter().map(|(lane, epoch)| (*lane, epoch - 1)).collect();
    one.hand_over(&first).await.unwrap();
    one.hand_over(&older).await.unwrap();
    two.hand_over(&rest).await.unwrap();
    let got = two.renew(MINUTE).await.unwrap().lanes;
    assert_eq!(got, Tenancy::from([(7, all[&7] + 1)]), "one lane was handed over");
    one.hand_over(&rest).await.unwrap();
    assert_eq!(three.renew(MINUTE).await.unwrap().lanes.len(), 3);
    assert_eq!(two.renew(MINUTE).await.unwrap().lanes.len(), 2);
    assert_eq!(one.renew(MINUTE).await.unwrap().lanes.len(), 3);
    three.leave().await.unwrap();
    let lease = two.renew(MINUTE).await.unwrap();
    assert_eq!((lease.lanes.len(), lease.share), (4, 4));
    assert_eq!(one.renew(MINUTE).await.unwrap().lanes.len(), 4);
}

/// *Exclusive*: a restart resumes at once, with new epochs.
pub async fn a_restarted_instance_takes_its_lanes_back(fixture: &impl Fixture) {
    let before = fixture.instance("one").await.renew(MINUTE).await.unwrap().lanes;
    let after = fixture.instance("one").await.renew(MINUTE).await.unwrap().lanes;
    assert!(after.len() == 8 && after.iter().all(|(lane, epoch)| *epoch > before[lane]));
}

/// *Ordered per key*: by number, within a page and from page to page.
pub async fn ordered(fixture: &impl Fixture) {
    let early: Vec<_> = (0..150).map(|n| keyed((n % 10).to_string())).collect();
    let mut all = fixture.insert(&early).await;
    let (mut store, _) = opened(fixture).await;
    let room = Room { rows: 37, ..ROOM };
    let mut rows = read_all(&mut store, room).await;
    all.extend(fixture.insert(&early).await);
    rows.extend(read_all(&mut store, room).await);
    assert_eq!(seqs(&rows), all);
    let mut lanes = HashMap::new();
    for row in &rows {
        assert_eq!(
            *lanes.entry(row.message.key.clone()).or_insert(row.lane),
            row.lane,
            "a key has one lane"
        );
    }
}

/// Rows and bytes at most, one row over; and it goes on.
pub async fn room_is_respected(fixture: &impl Fixture) {
    let big = Fresh {
        size: 10_000,
        ..keyless()
    };
    let all = fixture.insert(&vec![big; 40]).await;
    let (mut store, lanes) = opened(fixture).await;
    let room = Room {
        rows: 1000,
        bytes: 35_000,
    };
    for again in [false, true] {
        if again {
            store.open_again(&lanes).await;
        }
        let mut rows = Vec::new();
        for page in pages(&mut store, room).await {
            assert!(page.rows.len() <= 4, "{} rows of 10,000 bytes", page.rows.len());
            assert!(page.more || page.rows.len() < 4);
            rows.extend(page.rows);
        }
        assert_eq!(seqs(&rows), all);
        fixture.insert_relayed(20_000).await;
    }
    let page = store
        .reread(&store.scope(), FIRST, Seq(i64::MAX - 1), room)
        .await
        .unwrap();
    assert!(page.rows.len() <= 4 && !page.done);
    let rows = store.recall(&store.lanes, &all, room).await.unwrap();
    assert!((1..=4).contains(&rows.len()));
    assert_eq!(store.read(Room { rows: 1, bytes: 1 }).await.rows.len(), 0);
}

/// *No gaps*: whatever the order of commits, every row once.
pub async fn late_commits_are_read_once(fixture: &impl Fixture) {
    let (mut store, _) = opened(fixture).await;
    let mut expected = fixture.insert(&[keyed("a")]).await;
    let mut rows = read_all(&mut store, ROOM).await;
    let mut open = Vec::new();
    for _ in 0..5 {
        open.push(fixture.begin().await);
    }
    for round in 0..4 {
        for transaction in &mut open {
            let seq = transaction.insert(keyless()).await;
            expected.push(seq);
            expected.extend(fixture.insert(&[keyed("b")]).await);
        }
        if round % 2 == 0 {
            rows.extend(read_all(&mut store, ROOM).await);
        }
    }
    let page = store.read(ROOM).await;
    assert!(page.gaps > 0);
    rows.extend(page.rows);
    // Last begun, first committed; and one by one between reads.
    while let Some(transaction) = open.pop() {
        fixture.insert_relayed(3).await;
        transaction.commit().await;
        expected.extend(fixture.insert(&[keyed("b")]).await);
        rows.extend(read_all(&mut store, Room { rows: 3, ..ROOM }).await);
    }
    let mut found = seqs(&rows);
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(gaps_left(&mut store).await, 0);
}

/// Gaps after a few more reads.
async fn gaps_left<S: Store>(store: &mut Reader<S>) -> usize {
    let mut gaps = 0;
    for _ in 0..3 {
        let page = store.read(ROOM).await;
        assert!(page.rows.is_empty());
        gaps = page.gaps;
    }
    gaps
}

/// *No gaps*: a number that never comes is waited for as long as it may come, and no longer.
pub async fn a_rollback_closes_its_gap(fixture: &impl Fixture) {
    let (mut store, _) = opened(fixture).await;
    let (mut gone, mut stays) = (fixture.begin().await, fixture.begin().await);
    gone.insert(keyed("a")).await;
    let late = stays.insert(keyed("b")).await;
    fixture.insert(&[keyed("c")]).await;
    assert_eq!(read_all(&mut store, ROOM).await.len(), 1);
    gone.rollback().await;
    assert!(gaps_left(&mut store).await >= 1, "one transaction is open still");
    stays.commit().await;
    assert_eq!(seqs(&read_all(&mut store, ROOM).await), [late]);
    assert_eq!(gaps_left(&mut store).await, 0);
}

/// *Ordered per key*: what a transaction that was open at `open` commits comes before rows written behind that commit.
pub async fn what_is_open_at_the_start_comes_before_its_successor(fixture: &impl Fixture) {
    let mut open = fixture.begin().await;
    let first = open.insert(keyed("a")).await;
    fixture.insert(&vec![keyed("b"); 20]).await;
    let (mut store, _) = opened(fixture).await;
    assert_eq!(read_all(&mut store, ROOM).await.len(), 20);
    open.commit().await;
    let second = fixture.insert(&[keyed("a")]).await[0];
    assert_eq!(seqs(&read_all(&mut store, ROOM).await), [first, second]);
}

/// *No gaps*: what a transaction commits that took its number long before `open` is found by a reread, once a page has said so.
pub async fn what_was_open_long_before_the_start_is_swept(fixture: &impl Fixture) {
    let mut open = fixture.begin().await;
    let late = open.insert(keyed("a")).await;
    fixture.insert_relayed(20_000).await;
    let (mut store, lanes) = opened(fixture).await;
    let before = pages(&mut store, ROOM).await;
    assert!(
        before.iter().all(|page| page.rows.is_empty() && !page.sweep),
        "its transaction is open"
    );
    open.commit().await;
    let mut asked = false;
    for _ in 0..3 {
        asked |= pages(&mut store, ROOM).await.iter().any(|page| page.sweep);
    }
    assert!(asked, "no page asked for a sweep");
    let found = reread_all(&store, &store.scope(), ROOM).await;
    assert_eq!(seqs(&found), [late]);
    store.settle(&relayed(&found, &lanes)).await.unwrap();
    // A number written by hand is found in the same way.
    fixture.insert_at(-7, keyed("c")).await;
    assert_eq!(seqs(&reread_all(&store, &store.scope(), ROOM).await), [Seq(-7)]);
}

/// `open` starts over: everything still pending, oldest first, and no row that is settled.
pub async fn reopening_starts_over(fixture: &impl Fixture) {
    let all = fixture.insert(&vec![keyless(); 60]).await;
    let (mut store, lanes) = opened(fixture).await;
    let page = store.read(Room { rows: 20, ..ROOM }).await;
    let mut open = fixture.begin().await;
    let late = open.insert(keyed("late")).await;
    let last = fixture.insert(&[keyless()]).await[0];
    let first = if page.rows.is_empty() {
        store.read(Room { rows: 20, ..ROOM }).await
    } else {
        page
    };
    assert_eq!(seqs(&first.rows), all[..20]);
    store.settle(&relayed(&first.rows[..10], &lanes)).await.unwrap();
    store.open_again(&lanes).await;
    let mut expected = all[10..].to_vec();
    expected.push(last);
    assert_eq!(seqs(&read_all(&mut store, Room { rows: 7, ..ROOM }).await), expected);
    open.commit().await;
    assert_eq!(seqs(&read_all(&mut store, ROOM).await), [late]);
}

/// *Fenced*: who does not hold the lane, or held it before, writes nothing.
pub async fn fenced_by_owner_and_epoch(fixture: &impl Fixture) {
    let seq = fixture.insert(&[keyed("a")]).await[0];
    let (mut store, lanes) = opened(fixture).await;
    let rows = read_all(&mut store, ROOM).await;
    let other = fixture.instance("two").await;
    let untouched = fixture.row(seq).await;
    let older: Tenancy = lanes.iter().map(|(lane, epoch)| (*lane, epoch - 1)).collect();
    for (who, lanes) in [(&other, &lanes), (&store.store, &older)] {
        assert_eq!(who.settle(&relayed(&rows, lanes)).await.unwrap(), lost(0, 1));
        assert_eq!(who.settle(&failed(&rows[0], lanes, None)).await.unwrap(), lost(0, 1));
    }
    assert_eq!(fixture.row(seq).await, untouched);
    // Lanes still held are written although another of the settlement is lost.
    let more = fixture
        .insert(&(0..40).map(|n| keyed(n.to_string())).collect::<Vec<_>>())
        .await;
    let rows = read_all(&mut store, ROOM).await;
    assert_eq!(seqs(&rows), more);
    let mut mixed = relayed(&rows, &lanes);
    let lane = rows[0].lane;
    for mark in mixed.relayed.iter_mut().filter(|mark| mark.lane == lane) {
        mark.epoch -= 1;
    }
    let stale = mixed.relayed.iter().filter(|mark| mark.lane == lane).count();
    let written = mixed.relayed.len() - stale;
    assert_eq!(store.settle(&mixed).await.unwrap(), lost(written, stale));
    for row in &rows {
        assert_eq!(fixture.row(row.message.seq).await.relayed, row.lane != lane);
    }
}

/// *Fenced*: a failure is written onto the attempt it belongs to, once.
pub async fn fenced_by_attempt(fixture: &impl Fixture) {
    let seq = fixture.insert(&[keyed("a")]).await[0];
    let (mut store, lanes) = opened(fixture).await;
    let rows = read_all(&mut store, ROOM).await;
    let failure = failed(&rows[0], &lanes, Some(MS));
    assert_eq!(store.settle(&failure).await.unwrap(), WRITTEN);
    assert_eq!(store.settle(&failure).await.unwrap(), STALE);
    let row = fixture.row(seq).await;
    assert_eq!((row.attempt, row.last_error.as_deref()), (2, Some("what went wrong")));
    assert!(!row.relayed && !row.failed);
}

/// *Identity*: another message under the number is left alone, by every mark and failure, far apart and close together.
pub async fn what_is_settled_is_what_was_sent(fixture: &impl Fixture) {
    let all = fixture.insert(&vec![keyless(); 150]).await;
    let (mut store, lanes) = opened(fixture).await;
    let rows = read_all(&mut store, ROOM).await;
    fixture.replace(all[0]).await;
    fixture.replace(all[40]).await;
    let failure = failed(&rows[0], &lanes, None);
    assert_eq!(store.settle(&failure).await.unwrap(), STALE);
    assert_eq!(
        store.settle(&relayed(&rows[..2], &lanes)).await.unwrap(),
        Settled::of(1, 1)
    );
    assert_eq!(
        store.settle(&relayed(&rows[2..], &lanes)).await.unwrap(),
        Settled::of(147, 1)
    );
    for (n, seq) in all.iter().enumerate() {
        let row = fixture.row(*seq).await;
        assert_eq!((row.relayed, row.failed), (n != 0 && n != 40, false), "{n}");
    }
}

/// *Identity*: a message that an operator replayed meanwhile is another one.
pub async fn a_replayed_message_is_another_one(fixture: &impl Fixture) {
    let all = fixture.insert(&vec![keyless(); 150]).await;
    let (mut store, lanes) = opened(fixture).await;
    let rows = read_all(&mut store, ROOM).await;
    fixture.replay(all[5]).await;
    let failure = failed(&rows[5], &lanes, None);
    assert_eq!(store.settle(&failure).await.unwrap(), STALE);
    assert_eq!(
        store.settle(&relayed(&rows, &lanes)).await.unwrap(),
        Settled::of(149, 1)
    );
    let again = due_all(&store, ROOM).await;
    assert_eq!((seqs(&again), again[0].message.replay), (vec![all[5]], 1));
    assert!(!fixture.row(all[5]).await.relayed);
    assert_eq!(store.settle(&relayed(&again, &lanes)).await.unwrap(), WRITTEN);
    assert!(fixture.row(all[5]).await.relayed);
}

/// *One row's trouble*: what cannot be written is named, the others are written, and so is it once it can be.
pub async fn rows_that_refuse_are_set_aside(fixture: &impl Fixture) {
    let all = fixture.insert(&vec![keyless(); 300]).await;
    let (mut store, lanes) = opened(fixture).await;
    let rows = read_all(&mut store, ROOM).await;
    let bad = [7, 8, 130, 299];
    fixture.refuse(&bad.map(|n| all[n])).await;
    let mut settlement = relayed(&rows[..200], &lanes);
    settlement.failures = rows[200..]
        .iter()
        .flat_map(|row| failed(row, &lanes, None).failures)
        .collect();
    let settled = store.settle(&settlement).await.unwrap();
    let mut stuck: Vec<Seq> = settled.stuck.iter().map(|row| row.seq).collect();
    stuck.sort();
    assert_eq!(
        (settled.written, settled.stale, stuck),
        (296, 0, bad.map(|n| all[n]).to_vec())
    );
    for (n, seq) in all.iter().enumerate() {
        let row = fixture.row(*seq).await;
        assert_eq!(row.relayed || row.failed, !bad.contains(&n), "{n}");
    }
    fixture.refuse(&[]).await;
    settlement.again = true;
    assert_eq!(store.settle(&settlement).await.unwrap(), Settled::of(4, 296));
}

/// Marked are the messages named, however close together their numbers lie: none that stand between them.
pub async fn what_is_marked_is_what_was_sent(fixture: &impl Fixture) {
    let all = fixture.insert(&vec![keyless(); 260]).await;
    let (mut store, lanes) = opened(fixture).await;
    let rows = read_all(&mut store, ROOM).await;
    assert_eq!(seqs(&rows), all);
    let (close, far): (Vec<usize>, Vec<usize>) = ((0..200).filter(|n| n % 7 != 3).collect(), vec![210, 240, 259]);
    let older: Tenancy = lanes.iter().map(|(lane, epoch)| (*lane, epoch - 1)).collect();
    for sent in [&close, &far] {
        let named: Vec<Row> = sent.iter().rev().map(|n| rows[*n].clone()).collect();
        let all = named.len();
        for (lanes, settled) in [
            (&older, lost(0, all)),
            (&lanes, Settled::of(all, 0)),
            (&lanes, Settled::of(0, all)),
        ] {
            let answer = store.settle(&relayed(&named, lanes)).await.unwrap();
            assert_eq!(answer, settled, "fenced, then marked, once");
        }
    }
    for (n, seq) in all.iter().enumerate() {
        let sent = close.contains(&n) || far.contains(&n);
        assert_eq!(fixture.row(*seq).await.relayed, sent, "{n}");
    }
}

/// *One clock*: a retry is due once its delay has passed, and only `due` shows it.
pub async fn retries_are_due_after_their_delay(fixture: &impl Fixture) {
    let seq = fixture.insert(&[keyed("a")]).await[0];
    let (mut store, lanes) = opened(fixture).await;
    let rows = read_all(&mut store, ROOM).await;
    store.settle(&failed(&rows[0], &lanes, Some(800 * MS))).await.unwrap();
    let page = store.due(&store.lanes, None, Seq(i64::MAX), ROOM).await.unwrap();
    assert!(page.rows.is_empty() && page.next.is_none());
    let due_in = page.next_due.unwrap();
    assert!(due_in > 300 * MS && due_in <= 800 * MS, "{due_in:?}");
    fixture.pass(850 * MS).await;
    assert!(
        store
            .due(&store.lanes, None, Seq(seq.0 - 1), ROOM)
            .await
            .unwrap()
            .rows
            .is_empty(),
        "past the cursor"
    );
    let due = due_all(&store, ROOM).await;
    assert_eq!((seqs(&due), due[0].message.attempt), (vec![seq], 2));
    assert!(read_all(&mut store, ROOM).await.is_empty());
    assert!(reread_all(&store, &store.scope(), ROOM).await.is_empty());
    store.open_again(&lanes).await;
    assert!(read_all(&mut store, ROOM).await.is_empty());
    assert_eq!(store.settle(&failed(&due[0], &lanes, None)).await.unwrap(), WRITTEN);
    let row = fixture.row(seq).await;
    assert_eq!((row.attempt, row.failed, row.relayed), (3, true, false));
    assert!(due_all(&store, ROOM).await.is_empty());
}

/// *One clock*: so is a delayed row; the page that passes it tells when.
pub async fn delayed_rows_are_due_in_their_time(fixture: &impl Fixture) {
    let (mut store, _) = opened(fixture).await;
    pages(&mut store, ROOM).await;
    let delayed = Fresh {
        delay: 800 * MS,
        ..keyed("a")
    };
    let all = fixture.insert(&[delayed, keyed("a")]).await;
    let pages = pages(&mut store, ROOM).await;
    let due_in = pages.iter().find_map(|page| page.next_due).unwrap();
    assert!(due_in > 300 * MS && due_in <= 800 * MS, "{due_in:?}");
    let rows: Vec<Row> = pages.into_iter().flat_map(|page| page.rows).collect();
    assert_eq!(seqs(&rows), all[1..]);
    fixture.pass(850 * MS).await;
    assert!(read_all(&mut store, ROOM).await.is_empty());
    assert_eq!(seqs(&due_all(&store, ROOM).await), all[..1]);
}

/// Due rows come earliest first, whatever the size of a page, each once.
pub async fn due_rows_come_in_pages(fixture: &impl Fixture) {
    let (store, _) = opened(fixture).await;
    let rows: Vec<_> = (0..25_u32)
        .map(|n| Fresh {
            delay: MS * (1 + (25 - n) / 3),
            ..keyed("a")
        })
        .collect();
    let all = fixture.insert(&rows).await;
    fixture.pass(30 * MS).await;
    let in_one = seqs(&due_all(&store, ROOM).await);
    assert_eq!(in_one.len(), 25);
    assert!(in_one[0] > in_one[24], "the earliest were inserted last");
    for room in [Room { rows: 4, ..ROOM }, Room { rows: 1000, bytes: 1 }] {
        assert_eq!(seqs(&due_all(&store, room).await), in_one);
    }
    assert_eq!(
        in_one.iter().copied().collect::<BTreeSet<_>>(),
        all.into_iter().collect()
    );
}

/// A range of pending rows in scope, page by page; with an empty key as a key of its own.
pub async fn rereads_come_in_pages(fixture: &impl Fixture) {
    let (mut store, lanes) = opened(fixture).await;
    let mut rows = Vec::new();
    for n in 0..30 {
        let topic = if n % 3 == 0 { "u" } else { "t" };
        rows.push(Fresh {
            topic,
            ..keyed(if n % 2 == 0 { "" } else { "k" })
        });
        rows.push(keyless());
    }
    let all = fixture.insert(&rows).await;
    let read = read_all(&mut store, ROOM).await;
    store.settle(&relayed(&read[..10], &lanes)).await.unwrap();
    for (topics, key) in [
        (None, None),
        (Some("u"), None),
        (None, Some(("t", ""))),
        (Some("t"), Some(("t", "k"))),
    ] {
        let scope = Scope {
            topics: topics.map(|topic| vec![topic.into()]),
            key: key.map(|(topic, key)| KeyId::of(topic, key)),
            ..store.scope()
        };
        let matches = |row: &Fresh| {
            topics.is_none_or(|topic| topic == row.topic)
                && key.is_none_or(|(topic, key)| topic == row.topic && row.key.as_deref() == Some(key))
        };
        let expected: Vec<Seq> = (10..60).filter(|n| matches(&rows[*n])).map(|n| all[n]).collect();
        for room in [ROOM, Room { rows: 4, ..ROOM }, Room { rows: 1000, bytes: 1 }] {
            assert_eq!(
                seqs(&reread_all(&store, &scope, room).await),
                expected,
                "{scope:?} {room:?}"
            );
        }
    }
    let part = store.reread(&store.scope(), all[19], all[29], ROOM).await.unwrap();
    assert_eq!(
        (seqs(&part.rows), part.done, part.position),
        (all[20..=29].to_vec(), true, all[29])
    );
}

/// *Urgent*: the highest priority first, those of one in order, without some topics, from the beginning each time.
pub async fn rows_with_a_priority_come_in_its_order(fixture: &impl Fixture) {
    let fresh = |topic, priority, delay| Fresh {
        topic,
        priority,
        delay,
        ..keyed("a")
    };
    let planted: Vec<Fresh> = [0, 1, 3, 1, 0, 2, 3, -5]
        .into_iter()
        .map(|priority| fresh("t", priority, Duration::ZERO))
        .chain([fresh("u", 2, Duration::ZERO), fresh("t", 9, MINUTE)])
        .collect();
    let all = fixture.insert(&planted).await;
    let (store, lanes) = opened(fixture).await;
    let found = store.urgent(&store.lanes, &[], ROOM).await.unwrap();
    let expected = [2, 6, 5, 8, 1, 3].map(|place| all[place]);
    assert_eq!(seqs(&found), expected);
    let priorities: Vec<i16> = found.iter().map(|row| row.message.priority).collect();
    assert_eq!(priorities, [3, 3, 2, 2, 1, 1]);
    let without = store.urgent(&store.lanes, &["t".into()], ROOM).await.unwrap();
    assert_eq!(seqs(&without), [all[8]]);
    let first = store.urgent(&store.lanes, &[], Room { rows: 2, ..ROOM }).await.unwrap();
    assert_eq!(seqs(&first), expected[..2]);
    store.settle(&relayed(&first, &lanes)).await.unwrap();
    store.settle(&failed(&found[2], &lanes, Some(MINUTE))).await.unwrap();
    let left = store.urgent(&store.lanes, &[], ROOM).await.unwrap();
    assert_eq!(seqs(&left), expected[3..], "what retries is left to its time");
    let nobody = store.urgent(&LaneSet::default(), &[], ROOM).await.unwrap();
    assert!(nobody.is_empty());
}

/// The pending ones among the rows asked for, in order.
pub async fn recall_brings_what_is_pending(fixture: &impl Fixture) {
    let all = fixture.insert(&vec![keyed("a"); 10]).await;
    let (mut store, lanes) = opened(fixture).await;
    let rows = read_all(&mut store, ROOM).await;
    store.settle(&relayed(&rows[2..4], &lanes)).await.unwrap();
    store.settle(&failed(&rows[5], &lanes, Some(MINUTE))).await.unwrap();
    store.settle(&failed(&rows[6], &lanes, None)).await.unwrap();
    let asked = [all[8], all[1], all[2], all[5], all[6], all[7], Seq(999_999)];
    assert_eq!(
        seqs(&store.recall(&store.lanes, &asked, ROOM).await.unwrap()),
        [all[1], all[7], all[8]]
    );
    let one = store
        .recall(&store.lanes, &asked, Room { rows: 10, bytes: 1 })
        .await
        .unwrap();
    assert_eq!(seqs(&one), [all[1]]);
}

/// Retrying rows hold their key; failed ones do where asked for; rows without a key hold nobody.
pub async fn holds_tell_who_holds(fixture: &impl Fixture) {
    let delayed = Fresh {
        delay: MINUTE,
        ..keyed("delayed")
    };
    let all = fixture
        .insert(&[
            keyed("retries"),
            keyed("failed"),
            keyed("relayed"),
            keyed("pending"),
            keyless(),
            delayed,
        ])
        .await;
    let (mut store, lanes) = opened(fixture).await;
    let rows = read_all(&mut store, ROOM).await;
    for (row, retry_in) in [(0, Some(MINUTE)), (1, None), (4, Some(MINUTE))] {
        assert_eq!(
            store.settle(&failed(&rows[row], &lanes, retry_in)).await.unwrap(),
            WRITTEN
        );
    }
    store.settle(&relayed(&rows[2..3], &lanes)).await.unwrap();
    fixture.pass(MS).await;
    for (failed_too, among, expected) in [
        (false, None, vec![("retries", false)]),
        (true, None, vec![("retries", false), ("failed", true)]),
        (true, Some(&all[1..4]), vec![("failed", true)]),
        (false, Some(&all[..4]), vec![("retries", false)]),
    ] {
        let holds = store.holds(&store.lanes, among, failed_too).await.unwrap();
        let expected = expected.into_iter();
        let expected: Vec<_> = expected
            .map(|(key, failed)| (Some(KeyId::of("t", key)), failed))
            .collect();
        let mut found: Vec<_> = holds.iter().map(|hold| (hold.key, hold.failed)).collect();
        found.sort_unstable_by_key(|(_, failed)| *failed);
        assert_eq!(found, expected);
        assert!(
            holds
                .iter()
                .all(|hold| lanes.contains_key(&hold.lane) && all.contains(&hold.seq))
        );
    }
    let none = LaneSet::default();
    assert!(
        store.holds(&none, None, true).await.unwrap().is_empty(),
        "other lanes' holds"
    );
}

/// *Idempotent*: the second time changes nothing.
pub async fn idempotent(fixture: &impl Fixture) {
    let all = fixture.insert(&[keyed("a"), keyed("b")]).await;
    let (mut store, lanes) = opened(fixture).await;
    let rows = read_all(&mut store, ROOM).await;
    let mut settlement = relayed(&rows[..1], &lanes);
    settlement.failures = failed(&rows[1], &lanes, None).failures;
    for again in [false, true] {
        settlement.again = again;
        let settled = store.settle(&settlement).await.unwrap();
        let (written, stale) = if again { (0, 2) } else { (2, 0) };
        assert_eq!(settled, Settled::of(written, stale));
        assert!(fixture.row(all[0]).await.relayed);
        let row = fixture.row(all[1]).await;
        assert_eq!((row.attempt, row.failed), (2, true));
    }
    assert_eq!(store.settle(&Settlement::default()).await.unwrap(), Settled::default());
}

/// *Hints*: a commit wakes whoever waits, soon.
pub async fn a_commit_wakes(fixture: &impl Fixture) {
    let (store, _) = opened(fixture).await;
    // A listener that has just connected wakes once for whatever it missed.
    let quiet = async { while tokio::time::timeout(500 * MS, store.changed()).await.is_ok() {} };
    tokio::time::timeout(MINUTE, quiet).await.unwrap();
    let woken = tokio::time::timeout(Duration::from_secs(5), store.changed());
    let ((), woken) = tokio::join!(
        async {
            fixture.insert(&[keyed("a")]).await;
        },
        woken
    );
    woken.unwrap();
}
