//! What an error says of the rows of its statement.

use super::Isolation;
use crate::store::StoreError;
use crate::store::postgres::link::about::{About, DatabaseError};
use crate::store::postgres::outbox::batch::{Batch, Via};

/// Why rows are not written.
pub(super) enum Trouble {
    Refused,
    Locked,
    Slow,
}

impl Isolation<'_> {
    /// What the error is to the rows; `None`: nothing.
    pub(super) async fn trouble(&self, error: &DatabaseError) -> Result<Option<Trouble>, StoreError> {
        let code = error.code().map_or("", |code| code.code());
        Ok(match error.about() {
            About::Row => Some(Trouble::Refused),
            About::Lock => Some(Trouble::Locked),
            About::Duration => Some(Trouble::Slow),
            About::Role | About::Schema | About::Connection | About::Server => {
                let of_the_server = ["25", "26", "53", "57", "58"];
                let of_ours = code == "42P05" || of_the_server.iter().any(|class| code.starts_with(class));
                let known = code.is_empty() || (of_ours && !error.is_of_a_function());
                // A policy, a trigger's own missing table, a code of somebody's own: without rows there is no such error.
                (!known && self.goes_without_rows().await).then_some(Trouble::Refused)
            }
        })
    }

    /// Whether the same without rows is written, in time.
    pub(super) async fn goes_without_rows(&self) -> bool {
        let Ok(settling) = self.store.database.settling().await else {
            return false;
        };
        let via = Via {
            settling: &settling,
            granted: Some(self.granted(1)),
            lock: self.lock_timeout(),
        };
        let empty = match self.batch {
            Batch::Marks(_) => self.store.write_marks(&via, &[]).await,
            Batch::Failures(_) => {
                let bare = &self.store.sql.fail_bare;
                self.store.write_failures(&via, &[], bare).await
            }
        };
        settling.end();
        empty.is_ok()
    }
}
