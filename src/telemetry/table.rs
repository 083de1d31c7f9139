//! The metrics of the table itself: what upkeep finds in the database every few seconds. Each instance shows the same.

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::labels::{Float, ReasonLabels, StateLabels, whole};
use crate::backlog::Pending;
use crate::stuck::{StuckReason, StuckRow};
use crate::trouble::About;

/// See the module.
#[derive(Debug, Default)]
pub struct Table {
    pending: Family<StateLabels, Gauge>,
    failed: Gauge,
    oldest_due_age: Float,
    oldest_transaction: Float,
}

impl Table {
    pub(super) fn register(&self, all: &mut Registry) {
        all.register(
            "messages_pending",
            "Rows neither relayed nor failed, by what they wait for",
            self.pending.clone(),
        );
        all.register("messages_failed", "Rows in the failed state", self.failed.clone());
        all.register(
            "oldest_due_age_seconds",
            "Age of the oldest row that may be sent",
            self.oldest_due_age.clone(),
        );
        all.register(
            "oldest_transaction_seconds",
            "How long the oldest open transaction of the database has been open",
            self.oldest_transaction.clone(),
        );
        self.pending(Pending::default());
    }

    /// Pending rows.
    pub fn pending(&self, pending: Pending) {
        let states = [
            ("due", pending.due),
            ("delayed", pending.delayed),
            ("retrying", pending.retrying),
            ("held", pending.held),
        ];
        for (state, count) in states {
            let gauge = self.pending.get_or_create_owned(&StateLabels { state });
            gauge.set(whole(count));
        }
    }

    /// Rows in the failed state.
    pub fn failed(&self, count: u64) {
        self.failed.set(whole(count));
    }

    /// Age of the oldest due row; zero when nothing is due.
    pub fn oldest_due_age(&self, age: Duration) {
        self.oldest_due_age.set(age.as_secs_f64());
    }

    /// For how long the oldest open transaction of the database has been open; zero when none is.
    pub fn oldest_transaction(&self, open_for: Duration) {
        self.oldest_transaction.set(open_for.as_secs_f64());
    }
}

/// What keeps this instance from writing: each instance shows its own.
#[derive(Debug, Default)]
pub struct Trouble {
    stuck: Family<ReasonLabels, Gauge>,
    unavailable: Family<ReasonLabels, Gauge>,
}

impl Trouble {
    pub(super) fn register(&self, all: &mut Registry) {
        all.register(
            "rows_stuck",
            "Rows set aside because they cannot be written or read; everything else goes on",
            self.stuck.clone(),
        );
        all.register(
            "database_unavailable",
            "1 while the database does not do what it is asked: why",
            self.unavailable.clone(),
        );
        self.stuck(&[], &BTreeMap::new());
        self.unavailable(None);
    }

    /// These rows are stuck.
    pub fn stuck(&self, rows: &[StuckRow], counts: &BTreeMap<StuckReason, u64>) {
        for reason in StuckReason::ALL {
            let named = rows.iter().filter(|row| row.reason == reason).count();
            let counted = counts.get(&reason).copied().unwrap_or(0);
            let count = named.max(usize::try_from(counted).unwrap_or(usize::MAX));
            let reason = reason.as_str();
            self.stuck
                .get_or_create_owned(&ReasonLabels { reason })
                .set(whole(count));
        }
    }

    /// This is why the database does not do what it is asked; `None`: it does.
    pub fn unavailable(&self, why: Option<About>) {
        for about in About::ALL {
            let reason = about.as_str();
            let gauge = self.unavailable.get_or_create_owned(&ReasonLabels { reason });
            gauge.set(i64::from(why == Some(about)));
        }
    }
}
