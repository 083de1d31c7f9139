//! The fencing audit: triggers of the test's own that note who wrote what became of each row and whose its lane was
//! (`audit.sql`), and what can be read from the notes: writes without the lease, and how long a take-over took.
//!
//! Knows nothing of the daemon but its `application_name` and the hash that makes lanes. The checker program
//! (`examples/check.rs`) is made of this too.

use std::collections::BTreeMap;
use std::fmt;

use tokio_postgres::{Client, Error};

/// Installs the audit in a migrated database.
pub(crate) async fn install(client: &Client) -> Result<(), Error> {
    client.batch_execute(include_str!("audit.sql")).await
}

/// A write of an instance that did not own the row's lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stranger {
    /// The row.
    pub(crate) seq: i64,
    /// `relayed`, or `failed` for an attempt counted or a row failed.
    pub(crate) what: String,
    /// Who wrote.
    pub(crate) writer: String,
    /// Whose the lane was, as the statement saw it.
    pub(crate) owner: Option<String>,
    /// Whose it was when the statement ended.
    pub(crate) owner_now: Option<String>,
}

/// What the audit noted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fencing {
    /// Writes of `relayed_at`, `attempt` or `failed_at`.
    pub(crate) writes: i64,
    /// Those of an instance that had no lease of the lane: by the statement's own snapshot; failures also by the time the
    /// statement ended, because they lock the lane.
    pub(crate) strangers: Vec<Stranger>,
    /// Plain marks during which the lane changed hands. They are true whoever writes them, and no violation.
    pub(crate) crossed: i64,
    /// Rows marked relayed more than once: a mark writes only what is pending.
    pub(crate) twice: i64,
    /// Lanes that got a new owner without a higher epoch.
    pub(crate) unraised: i64,
}

impl Fencing {
    /// No write without the lease, no take-over without a new epoch.
    pub(crate) fn assert_fenced(&self) {
        let few = &self.strangers[..self.strangers.len().min(10)];
        assert!(self.strangers.is_empty(), "{self}: {few:?}");
        assert_eq!((self.twice, self.unraised), (0, 0), "{self}");
    }
}

impl fmt::Display for Fencing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} writes audited, {} without the lease, {} marked twice, {} lanes taken without a new epoch \
             ({} marks crossed a take-over)",
            self.writes,
            self.strangers.len(),
            self.twice,
            self.unraised,
            self.crossed
        )
    }
}

/// Reads the audit; `None` where it is not installed.
pub(crate) async fn fencing(client: &Client) -> Result<Option<Fencing>, Error> {
    let installed = client.query_one("select to_regclass('audit.writes') is not null", &[]);
    if !installed.await?.get::<_, bool>(0) {
        return Ok(None);
    }
    let strangers = "select seq, what, writer, owner, owner_now from audit.writes
        where owner is distinct from writer or (what = 'failed' and owner_now is distinct from writer)
        order by at";
    let strangers = client.query(strangers, &[]).await?;
    let counts = "select count(*), count(*) filter (where owner = writer and owner_now is distinct from writer
            and what = 'relayed'),
        (select count(*) from (select from audit.writes where what = 'relayed' group by seq having count(*) > 1) as one),
        (select count(*) from audit.lanes where owner is distinct from owner_before and owner is not null
            and epoch <= epoch_before)
        from audit.writes";
    let counts = client.query_one(counts, &[]).await?;
    Ok(Some(Fencing {
        writes: counts.get(0),
        crossed: counts.get(1),
        twice: counts.get(2),
        unraised: counts.get(3),
        strangers: strangers
            .iter()
            .map(|row| Stranger {
                seq: row.get(0),
                what: row.get(1),
                writer: row.get(2),
                owner: row.get(3),
                owner_now: row.get(4),
            })
            .collect(),
    }))
}

/// A point in time of the database's clock: seconds since the epoch.
pub(crate) type Moment = f64;

/// Now, by the database's clock.
pub(crate) async fn now(client: &Client) -> Result<Moment, Error> {
    let row = client.query_one("select extract(epoch from clock_timestamp())::float8", &[]);
    Ok(row.await?.get(0))
}

/// How many rows each instance marked after `since`.
pub(crate) async fn marks(client: &Client, since: Moment) -> Result<BTreeMap<String, i64>, Error> {
    let query =
        "select writer, count(*) from audit.writes where what = 'relayed' and at > to_timestamp($1) group by writer";
    let rows = client.query(query, &[&since]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// When `instance` first marked a row after `since`.
pub(crate) async fn first_mark(client: &Client, instance: &str, since: Moment) -> Result<Option<Moment>, Error> {
    let query = "select extract(epoch from min(at))::float8 from audit.writes
        where writer = $1 and what = 'relayed' and at > to_timestamp($2)";
    Ok(client.query_one(query, &[&instance, &since]).await?.get(0))
}

/// The lanes of `instance`.
pub(crate) async fn lanes_of(client: &Client, instance: &str) -> Result<Vec<i32>, Error> {
    let rows = client
        .query("select lane from outboxd_lanes where owner = $1", &[&instance])
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// How long `lanes` took after `since` to get owners other than `dead`, and to have rows marked by them: seconds. `None`
/// while some have not.
pub(crate) async fn takeover(
    client: &Client,
    dead: &str,
    lanes: &[i32],
    since: Moment,
) -> Result<Option<(f64, f64)>, Error> {
    let query = "select count(owned), count(flowing),
            extract(epoch from max(owned))::float8 - $3, extract(epoch from max(flowing))::float8 - $3
        from (
            select lane,
                (select min(l.at) from audit.lanes l where l.lane = input.lane and l.at > to_timestamp($3)
                    and l.owner <> $2) as owned,
                (select min(w.at) from audit.writes w where w.lane = input.lane and w.at > to_timestamp($3)
                    and w.writer <> $2 and w.what = 'relayed') as flowing
            from unnest($1::int[]) as input (lane)
        ) as one";
    let row = client.query_one(query, &[&lanes, &dead, &since]).await?;
    let (owned, flowing): (i64, i64) = (row.get(0), row.get(1));
    let all = i64::try_from(lanes.len()).unwrap_or(i64::MAX);
    Ok((owned == all && flowing == all).then(|| (row.get(2), row.get(3))))
}

/// What the audit and the table say about the rows of a key from `from` to `to`, and about its lane: one line each, in the
/// order it happened. For the post-mortem of a run that went wrong.
pub(crate) async fn history(client: &Client, key: (&str, &str), from: i64, to: i64) -> Result<String, Error> {
    let query = "
        with own as (
            select m.seq, audit.lane(m.topic, m.key, m.seq) as lane, m.inserted_at
            from outbox_messages m where m.topic = $1 and m.key = $2 and m.seq between $3 and $4
        )
        select to_char(at, 'HH24:MI:SS.MS') || ' ' || what from (
            select inserted_at as at, format('seq %s inserted (its transaction began)', seq) as what from own
            union all
            select w.at, format('seq %s %s by %s, lane %s of %s, epoch %s', w.seq, w.what, w.writer, w.lane, w.owner, w.epoch)
            from audit.writes w join own on own.seq = w.seq
            union all
            select l.at, format('lane %s from %s, epoch %s, to %s, epoch %s', l.lane, l.owner_before, l.epoch_before,
                l.owner, l.epoch)
            from audit.lanes l where l.lane in (select lane from own)
        ) as one
        order by at";
    let rows = client.query(query, &[&key.0, &key.1, &from, &to]).await?;
    let lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    Ok(lines.join("\n"))
}
