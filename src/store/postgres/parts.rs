//! Failed messages some columns of which cannot be read: people see the others, and may retry and discard them as any.

use serde_json::value::{RawValue, to_raw_value};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::database::{Database, Param, Role};
use super::failed::{Filter, MessageRef, choose_together};
use super::find;
use super::row_identity::{Identity, columns};
use super::rows::Legible;
use super::sql::{COLUMNS, Names, Statement};
use super::unreadable::{broken_columns, is_about_a_row};
use crate::message::Seq;
use crate::store::StoreError;

const SHOW: &str = include_str!("../../../sql/failed_show_parts.sql");

const DISCARD: &str = include_str!("../../../sql/failed_discard_parts.sql");

/// Which failed messages were chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// The messages, in order.
    pub rows: Vec<Identity>,
    /// Ids of the filter that no chosen row has.
    pub unknown: Vec<MessageRef>,
}

impl Chosen {
    /// Their places in the outbox.
    #[must_use]
    pub fn seqs(&self) -> Vec<Seq> {
        self.rows.iter().map(|row| Seq(row.seq)).collect()
    }
}

/// Types of a step: seqs, who, command, filter, message ids, replays.
pub(super) const STEP: &[Type] = &[
    Type::INT8_ARRAY,
    Type::TEXT,
    Type::UUID,
    Type::TEXT,
    Type::TEXT_ARRAY,
    Type::INT4_ARRAY,
];

/// Our columns that may be long.
const LONG: [&str; 5] = ["topic", "key", "payload", "headers", "last_error"];

/// Rows compared by one statement.
const CHOSEN_TOGETHER: usize = 1_000;

/// Asks `statement` about rows $1, with what more it needs, and last with the columns that are to be left out: none. Where one of
/// the rows cannot be read, about each of them alone, without the columns of it that cannot.
pub(super) async fn query(
    (database, names): (&Database, &Names),
    statement: &Statement,
    seqs: &[i64],
    more: &[Param<'_>],
) -> Result<Vec<Row>, StoreError> {
    let ask = async |seqs: &[i64], broken: &[&str]| {
        let (first, last): ([Param<'_>; 1], [Param<'_>; 1]) = ([&seqs], [&broken]);
        let params = [&first[..], more, &last[..]].concat();
        database.query(Role::Side, statement, &params).await
    };
    match ask(seqs, &[]).await {
        Err(error) if is_about_a_row(&error) => {}
        answer => return answer,
    }
    let mut rows = Vec::new();
    for seq in seqs {
        match ask(&[*seq], &[]).await {
            Ok(found) => rows.extend(found),
            Err(error) if is_about_a_row(&error) => {
                let broken = broken(database, names, *seq).await?;
                rows.extend(ask(&[*seq], &broken).await?);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(rows)
}

/// The failed messages `filter` lets through where one that has to be compared with it cannot be read: that one it does not.
pub(super) async fn choose(
    (database, names): (&Database, &Names),
    filter: &Filter,
    after: Option<Seq>,
    limit: Option<usize>,
) -> Result<Chosen, StoreError> {
    let compared_with_nothing = Filter {
        topic: None,
        key: None,
        error: None,
        ..filter.clone()
    };
    let all = choose_together(database, names, &compared_with_nothing, (after, None)).await?;
    let mut chosen = Chosen {
        rows: Vec::new(),
        unknown: all.unknown,
    };
    let enough = limit.unwrap_or(usize::MAX);
    let mut parts: Vec<&[Identity]> = all.rows.chunks(CHOSEN_TOGETHER).rev().collect();
    while let Some(part) = parts.pop()
        && chosen.rows.len() < enough
    {
        let of_these = Filter {
            ids: part.iter().map(|row| MessageRef::Seq(row.seq)).collect(),
            ..filter.clone()
        };
        match choose_together(database, names, &of_these, (None, None)).await {
            Ok(found) => chosen.rows.extend(found.rows),
            Err(error) if is_about_a_row(&error) && part.len() > 1 => {
                let (first, last) = part.split_at(part.len() / 2);
                parts.extend([last, first]);
            }
            Err(error) if is_about_a_row(&error) => {}
            Err(error) => return Err(error),
        }
    }
    chosen.rows.truncate(enough);
    Ok(chosen)
}

/// The columns of a row that cannot be read, by our names.
pub(super) async fn broken(database: &Database, names: &Names, seq: i64) -> Result<Vec<&'static str>, StoreError> {
    broken_columns(database, names, seq, &LONG).await
}

/// As `failed_show.sql` answers, of the row with this seq or message id.
pub(super) async fn show(
    database: &Database,
    names: &Names,
    seq: Option<i64>,
    id: Option<String>,
) -> Result<Vec<Row>, StoreError> {
    let seq = match (seq, id.and_then(|id| id.parse().ok())) {
        (Some(seq), _) => seq,
        (None, Some(id)) => match find::unsettled(database, names, &[id]).await?.get(&id) {
            Some(seq) => *seq,
            None => return Ok(Vec::new()),
        },
        (None, None) => return Ok(Vec::new()),
    };
    let parts = object(names, &broken(database, names, seq).await?);
    let statement = Statement {
        text: names.fill(&SHOW.replace("{parts}", &parts)),
        types: &[Type::INT8],
    };
    database.query(Role::Side, &statement, &[&seq]).await
}

/// One transaction over `rows`, of a `command`: who, its id, its filter. Answers how many it changed.
pub(super) async fn step(
    database: &Database,
    statement: &Statement,
    rows: &[Identity],
    command: [Param<'_>; 3],
) -> Result<u64, StoreError> {
    let (seqs, ids, replays) = columns(rows);
    let (first, last): ([Param<'_>; 1], [Param<'_>; 2]) = ([&seqs], [&ids, &replays]);
    let params = [&first[..], &command[..], &last[..]].concat();
    let rows = database.query(Role::Side, statement, &params).await?;
    Ok(rows.first().map_or(0, |row| row.get::<_, i64>(0).unsigned_abs()))
}

/// Discards one row after the other by `statement`, and what it cannot read of one by parts.
pub(super) async fn discard(
    (database, names): (&Database, &Names),
    statement: &Statement,
    rows: &[Identity],
    command: [Param<'_>; 3],
) -> Result<u64, StoreError> {
    let mut changed = 0;
    for row in rows {
        let one = std::slice::from_ref(row);
        changed += match step(database, statement, one, command).await {
            Err(error) if is_about_a_row(&error) => {
                let parts = object(names, &broken(database, names, row.seq).await?);
                let statement = Statement {
                    text: names.fill(&DISCARD.replace("{parts}", &parts)),
                    types: STEP,
                };
                step(database, &statement, one, command).await?
            }
            answer => answer?,
        };
    }
    Ok(changed)
}

/// The SQL of a JSON object of our columns over `m`, without those that cannot be read.
pub(super) fn object(names: &Names, broken: &[&str]) -> String {
    let pair = |ours: &&str| {
        let value = if broken.contains(ours) {
            "null".to_owned()
        } else {
            format!("m.{{c.{ours}}}")
        };
        names.fill(&format!("{{text.{ours}}}, {value}"))
    };
    let pairs: Vec<String> = COLUMNS.iter().map(pair).collect();
    format!("json_build_object({})", pairs.join(", "))
}

/// JSON of the database. In SQL_ASCII it may hold any bytes.
pub(super) fn json(Legible(text): Legible) -> Box<RawValue> {
    RawValue::from_string(text).unwrap_or_else(|error| {
        let why = format!("no JSON: {error}");
        to_raw_value(&why).expect("a string is JSON")
    })
}
