//! Messages that are stuck: each instance writes those it knows into its own row, and everybody who asks reads them there.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_postgres::types::Type;

use super::PostgresStore;
use crate::store::StoreError;
use crate::store::postgres::link::database::{Database, Role};
use crate::store::postgres::link::sql::{Names, Statement};
use crate::stuck::StuckRow;

const REPORT: &str = include_str!("../../../../sql/report_stuck.sql");
const STUCK: &str = include_str!("../../../../sql/status_stuck.sql");

/// Messages named in a report at most; the others are counted.
const NAMED_MAX: usize = 20;
/// Characters of a detail in a report.
const DETAIL_MAX: usize = 300;
/// A report is given up after that: there will be another.
const REPORT_MAX: std::time::Duration = std::time::Duration::from_secs(1);

/// The messages that are stuck, as far as live instances know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stuck {
    /// How many.
    pub count: u64,
    /// Some of them: each instance names its first few.
    pub named: Vec<StuckMessage>,
}

/// A message that is stuck.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StuckMessage {
    /// What its instance knows of it.
    #[serde(flatten)]
    pub row: StuckRow,
    /// The instance.
    pub instance: String,
}

/// What stands in an instance's row.
#[derive(Serialize, Deserialize)]
struct Report {
    count: u64,
    rows: Vec<Value>,
    /// Seconds since the epoch, by the database's clock.
    #[serde(default, skip_serializing)]
    at: f64,
}

impl PostgresStore {
    /// Writes down that `count` messages are stuck, these first. `false`: this instance is not registered.
    ///
    /// # Errors
    /// See [`Database::query`].
    pub async fn report_stuck(&self, rows: &[StuckRow], count: usize) -> Result<bool, StoreError> {
        let statement = Statement {
            text: self.names.fill(REPORT),
            types: const { &[Type::TEXT, Type::UUID, Type::TEXT] },
        };
        let report = (!rows.is_empty()).then(|| report(rows, count));
        let written = self
            .database
            .within(REPORT_MAX)
            .execute(
                Role::Side,
                &statement,
                &[&self.options.instance, &self.session, &report],
            )
            .await?;
        Ok(written > 0)
    }
}

fn report(rows: &[StuckRow], count: usize) -> String {
    let shortened = |row: &StuckRow| StuckRow {
        detail: row.detail.chars().take(DETAIL_MAX).collect(),
        ..row.clone()
    };
    let named = rows.iter().take(NAMED_MAX).map(shortened);
    let report = Report {
        count: rows.len().max(count) as u64,
        rows: named
            .map(|row| serde_json::to_value(row).expect("a row is JSON"))
            .collect(),
        at: 0.0,
    };
    serde_json::to_string(&report).expect("a report is JSON")
}

/// What the instances whose lease has not ended have written down.
///
/// # Errors
/// See [`Database::query`].
pub async fn read(database: &Database, names: &Names) -> Result<Stuck, StoreError> {
    let statement = Statement {
        text: names.fill(STUCK),
        types: &[],
    };
    let mut stuck = Stuck::default();
    for row in database.query(Role::Side, &statement, &[]).await? {
        let (instance, text, now): (String, String, f64) = (row.get("instance"), row.get("stuck"), row.get("now"));
        add(&mut stuck, &instance, &text, now);
    }
    Ok(stuck)
}

/// Another version may have written it: what is not understood is counted.
fn add(stuck: &mut Stuck, instance: &str, text: &str, now: f64) {
    let Ok(report) = serde_json::from_str::<Report>(text) else {
        return;
    };
    let age = std::time::Duration::try_from_secs_f64(now - report.at).unwrap_or_default();
    stuck.count += report.count;
    let rows = report
        .rows
        .into_iter()
        .filter_map(|row| serde_json::from_value(row).ok());
    stuck.named.extend(rows.map(|row: StuckRow| StuckMessage {
        row: StuckRow {
            seconds: row.seconds.saturating_add(age.as_secs()),
            ..row
        },
        instance: instance.to_owned(),
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stuck::StuckReason;

    fn row(seq: i64) -> StuckRow {
        StuckRow {
            seq,
            id: "0197".to_owned(),
            reason: StuckReason::Locked,
            detail: "x".repeat(1_000),
            seconds: 5,
        }
    }

    #[test]
    fn a_report_is_small_and_says_how_many_there_are() {
        let rows: Vec<StuckRow> = (1..=100).map(row).collect();
        let text = report(&rows, 1_000);
        assert!(text.len() < 10_000, "{} bytes", text.len());
        let mut stuck = Stuck::default();
        add(&mut stuck, "db1", &text.replacen('{', "{\"at\": 100,", 1), 107.9);
        assert_eq!((stuck.count, stuck.named.len()), (1_000, NAMED_MAX));
        assert_eq!((stuck.named[0].row.seconds, &*stuck.named[0].instance), (12, "db1"));
    }

    #[test]
    fn what_another_version_wrote_is_counted_and_does_no_harm() {
        let mut stuck = Stuck::default();
        for text in [
            r#"{"count": 2, "rows": [{"seq": 1, "reason": "bewitched"}, 7], "at": 1e300}"#,
            r#"{"count": 1, "rows": []}"#,
            "[]",
            "null",
        ] {
            add(&mut stuck, "db1", text, 5.0);
        }
        assert_eq!((stuck.count, stuck.named.len()), (3, 0));
    }
}
