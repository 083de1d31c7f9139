//! Who keeps rows from being written: for people.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Isolation;
use crate::message::Seq;
use crate::store::postgres::link::answer::unreadable;
use crate::store::postgres::link::database::Role;
use crate::store::postgres::outbox::batch::Via;
use crate::store::postgres::outbox::transactions::holder;
use crate::store::{Settled, StoreError};
use crate::stuck::StuckReason;

impl Isolation<'_> {
    /// Books what is locked, with whoever holds it. What is no longer there to be settled was somebody's to end.
    pub(super) async fn name_holders(&mut self, settled: &mut Settled) -> Result<(), StoreError> {
        let rows = std::mem::take(&mut self.locked);
        let standing = self.standing(&rows, false).await?;
        let seqs: Vec<i64> = standing.iter().map(|seq| seq.0).collect();
        let locked_by = &self.store.sql.locked_by;
        let found = self.store.database.query_settling(locked_by, &[&seqs]).await?;
        let read = |row: &tokio_postgres::Row| Ok((Seq(row.try_get("seq")?), holder(row)?));
        let holders: Result<BTreeMap<Seq, String>, tokio_postgres::Error> = found.iter().map(read).collect();
        let holders = holders.map_err(|error| unreadable(&error))?;
        let is_unknown = |row: &&usize| {
            let seq = self.batch.mark(**row).seq;
            standing.contains(&seq) && !holders.contains_key(&seq)
        };
        // Healthy rows wait meanwhile: where such were just met, it is asked with the next try.
        let other = match rows.iter().find(is_unknown) {
            Some(row) if self.asks_for_blocker => self.blocker(*row).await,
            Some(_) | None => None,
        };
        for row in rows {
            let seq = self.batch.mark(row).seq;
            if !standing.contains(&seq) {
                settled.stale += 1;
                continue;
            }
            let holder = holders.get(&seq).or(other.as_ref());
            let holder = holder.map_or("another transaction", String::as_str);
            settled
                .stuck
                .push(self.stick(row, StuckReason::Locked, format!("locked by {holder}")));
        }
        Ok(())
    }

    /// Whom this row's write waits for: what it waits for may be another row, locked by a trigger. Written after all, it is told
    /// by the next try.
    async fn blocker(&self, row: usize) -> Option<String> {
        let application = format!("outboxd/{}/", self.store.options.instance);
        let look = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let statement = &self.store.sql.blocked_by;
            self.store.database.query(Role::Side, statement, &[&application]).await
        };
        let write = async {
            let Ok(settling) = self.store.database.settling().await else {
                return;
            };
            let via = Via {
                settling: &settling,
                granted: Some(self.granted(1)),
                lock: "50ms",
            };
            drop(self.write(&via, &[row]).await);
            settling.end();
        };
        let ((), found) = tokio::join!(write, look);
        found.ok()?.first().and_then(|row| holder(row).ok())
    }

    pub(super) async fn name_swallowers(&mut self, settled: &mut Settled) -> Result<(), StoreError> {
        let names: Vec<String> = self
            .store
            .swallowers(&self.batch)
            .await?
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        let by = match names.as_slice() {
            [] if self.store.names.is_foreign() => {
                "look at outbox.state: a row must not be pending once it is relayed or failed".to_owned()
            }
            [] => "nobody knows by what".to_owned(),
            names => format!("look at {}", names.join(", ")),
        };
        for row in std::mem::take(&mut self.swallowed) {
            let detail = format!("the write has no effect and reports no error: {by}");
            settled.stuck.push(self.stick(row, StuckReason::Suppressed, detail));
        }
        Ok(())
    }
}
