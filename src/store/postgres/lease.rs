//! The lease in two small tables: who is alive until when, and whose each lane is.
//!
//! A process that starts with the name of a predecessor on the same machine takes its lanes back at once: a file lock,
//! which the system drops with the process, proves the predecessor dead. Anyone else waits for its lease to end.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::PostgresStore;
use super::database::Role;
use super::rows::unreadable;
use crate::store::{StoreError, Tenancy};

/// Proves that no other process of this name runs on this machine. Held as long as the process.
#[derive(Debug)]
pub struct InstanceLock(#[expect(dead_code, reason = "the lock lives as long as the file is open")] File);

impl InstanceLock {
    /// Takes the lock for `instance` on the outbox that `scope` describes (anything that tells two outboxes apart), in
    /// `directory` (default: the runtime directory systemd gave, the user's, or the temporary one).
    ///
    /// # Errors
    /// [`StoreError::Misconfigured`] when another process holds it, or no file can be made.
    pub fn take(instance: &str, scope: &str, directory: Option<&Path>) -> Result<Self, StoreError> {
        use sha2::{Digest, Sha256};
        let digest = Sha256::digest(format!("{instance}\n{scope}"));
        let name = digest
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>();
        let path = directory
            .map_or_else(runtime_directory, Path::to_path_buf)
            .join(format!("outboxd-{name}.lock"));
        let broken = |what: &str, error: std::io::Error| {
            StoreError::Misconfigured(format!("lease.instance: cannot {what} {}: {error}", path.display()))
        };
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| broken("open the lock file", error))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(StoreError::Misconfigured(format!(
                "lease.instance: another process named {instance:?} relays this outbox on this machine; give each its own name"
            ))),
            Err(TryLockError::Error(error)) => Err(broken("lock", error)),
        }
    }
}

fn runtime_directory() -> PathBuf {
    let from_environment = ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"]
        .iter()
        .filter_map(std::env::var_os)
        .map(PathBuf::from)
        .find(|path| path.is_dir());
    from_environment.unwrap_or_else(std::env::temp_dir)
}

impl PostgresStore {
    pub(super) async fn renew_lease(&self, ttl: Duration) -> Result<Tenancy, StoreError> {
        let options = &self.options;
        let lanes = i32::from(self.names.lanes());
        let rows = self
            .database
            .query(
                Role::Lease,
                &self.sql.renew,
                &[
                    &options.instance,
                    &self.session,
                    &options.machine,
                    &env!("CARGO_PKG_VERSION"),
                    &lanes,
                    &ttl.as_secs_f64(),
                ],
            )
            .await?;
        let Some(row) = rows.first() else {
            if self.name_taken.say() {
                tracing::warn!(
                    instance = %options.instance,
                    "lease.instance: the name belongs to an instance on another machine that is alive; standing by until its lease ends"
                );
            }
            return Ok(Tenancy::new());
        };
        self.name_taken.reset();
        let anew: bool = row.try_get("anew").map_err(|error| unreadable(&error))?;
        self.database
            .execute(Role::Lease, &self.sql.take_lanes, &[&options.instance, &anew])
            .await?;
        self.lanes_held(Role::Lease).await
    }

    /// The lanes this instance holds, asked for on the connection of `role`.
    pub(super) async fn lanes_held(&self, role: Role) -> Result<Tenancy, StoreError> {
        let rows = self
            .database
            .query(role, &self.sql.lanes_held, &[&self.options.instance])
            .await?;
        rows.iter()
            .map(|row| Ok((super::rows::lane(row)?, row.try_get("epoch")?)))
            .collect::<Result<_, _>>()
            .map_err(|error| unreadable(&error))
    }

    pub(super) async fn leave_lease(&self) -> Result<(), StoreError> {
        self.database
            .execute(Role::Lease, &self.sql.leave, &[&self.options.instance, &self.session])
            .await?;
        Ok(())
    }
}
