//! What retention is about to delete, and which key says so.

use std::time::Duration;

use tokio::time::Instant;

use super::Examination;
use crate::finding::Finding;
use crate::store::StoreError;
use crate::store::postgres::desk::prune::{Prune, Pruner};
use crate::store::postgres::desk::retention::{Rule, off};
use crate::store::postgres::schema::made::made_by_migrate;

/// Rows looked at by one statement, and how long counting may take.
const PAGE: usize = 10_000;
const COUNTING_MAX: Duration = Duration::from_secs(2);

/// What is old already. `fine` gets what was asked for; a finding is what would surprise whoever has written the table so far.
pub(super) async fn look(examination: &Examination<'_>, fine: &mut Vec<String>) -> Result<Vec<Finding>, StoreError> {
    let (database, names) = (examination.database, examination.names);
    let made = made_by_migrate(database, names).await?;
    let lanes = examination
        .query(include_str!("../../../../../sql/status_lanes.sql"), &[], &[])
        .await?;
    let begun = lanes
        .iter()
        .any(|row| row.get::<_, i32>("lane") == 0 && row.get::<_, Option<&str>>("owner").is_some());
    let mut found = Vec::new();
    for rule in examination.rules {
        let old = old(examination, *rule).await?;
        let (word, age) = (rule.settled.word(), humantime::format_duration(rule.age));
        if !rule.said && !made {
            let (what, fix) = off(names, *rule);
            let what = format!("{what}; a first pass with that default would delete {old}");
            let why = "settled rows stay in the table until somebody else deletes them";
            found.push(Finding::warning("retention_off", what, why, fix));
            continue;
        }
        let key = if rule.said { "" } else { ", by default" };
        let says = format!("retention.{word} = \"{age}\"{key}: the next pass deletes {old}");
        if !made && !begun && old.count > 0 {
            let why = "outboxd migrate did not make this table: its rows may be somebody's history";
            let fix = format!("set retention.{word} = \"0s\" if they are to stay");
            let what = says.replace("the next pass", "the first pass");
            found.push(Finding::warning("retention_first_pass", what, why, fix));
        } else if old.count > 0 {
            fine.push(says);
        }
    }
    Ok(found)
}

/// How many rows are old enough, as far as that was counted.
struct Old {
    count: u64,
    all: bool,
    rule: Rule,
}

impl std::fmt::Display for Old {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { count, all, rule } = self;
        let (least, word) = (if *all { "" } else { "more than " }, rule.settled.word());
        let rows = if *count == 1 { "row" } else { "rows" };
        let age = humantime::format_duration(rule.age);
        write!(f, "{least}{count} {word} {rows} older than {age}")
    }
}

async fn old(examination: &Examination<'_>, rule: Rule) -> Result<Old, StoreError> {
    // Nobody's name: it only counts.
    let prune = Prune::new(examination.names, rule, PAGE, &Pruner::Person(String::new()));
    let (begun, mut after, mut count) = (Instant::now(), i64::MIN, 0);
    let all = loop {
        let step = prune.count(examination.database, after).await?;
        count += step.deleted;
        match step.upto {
            Some(upto) if step.more => after = upto,
            Some(_) | None => break true,
        }
        if begun.elapsed() > COUNTING_MAX {
            break false;
        }
    };
    Ok(Old { count, all, rule })
}
