//! A connection taken from its pool, and how the pool makes one.

use std::sync::atomic::Ordering;
use std::time::Duration;

use deadpool_postgres::Object;
use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio_postgres::{CancelToken, Client};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::about::DatabaseError;
use super::facts::{CursorOn, Facts};
use super::role::Role;
use super::way::Way;

/// How long asking the server to cancel a statement may take: it may be the server that is gone.
pub(super) const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection in use: goes back to its pool only when its statement was answered.
pub(crate) struct Checkout<'a> {
    pub(super) object: Option<Object>,
    pub(super) role: Role,
    pub(super) facts: &'a Facts,
    pub(super) cursor: &'a CursorOn,
    pub(crate) generation: u64,
    pub(super) way: &'a Way,
    /// The connection may be used again.
    pub(crate) answered: bool,
    /// The statement is over, or is being cancelled.
    pub(super) ended: bool,
}

impl Checkout<'_> {
    /// As good as it was: nothing was asked on it.
    pub(super) fn unused(mut self) -> Self {
        (self.answered, self.ended) = (true, true);
        self
    }
}

impl std::ops::Deref for Checkout<'_> {
    type Target = Object;

    fn deref(&self) -> &Object {
        self.object.as_ref().expect("taken only on drop")
    }
}

impl Drop for Checkout<'_> {
    fn drop(&mut self) {
        if self.answered && self.generation == self.facts.generation.load(Ordering::Acquire) {
            return;
        }
        if !self.answered && self.role == Role::Read {
            self.cursor.forget();
        }
        let Some(object) = self.object.take() else { return };
        if !self.ended {
            cancel_later(object.cancel_token(), self.way.tls());
        }
        drop(Object::take(object));
    }
}

/// Nobody waits for the answer any more: a statement that waits for a lock would not notice, and keep its place in the queue.
fn cancel_later(token: CancelToken, tls: MakeRustlsConnect) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        drop(runtime.spawn(async move {
            drop(tokio::time::timeout(CANCEL_TIMEOUT, token.cancel_query(tls)).await);
        }));
    }
}

/// Connects host by host, by the login of the moment.
pub(super) struct HostByHost(pub(super) Way);

impl deadpool_postgres::Connect for HostByHost {
    fn connect(
        &self,
        _config: &tokio_postgres::Config,
    ) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), tokio_postgres::Error>> {
        let connection = self.0.current();
        Box::pin(async move {
            let (client, driver) = connection.connect().await?;
            #[expect(
                clippy::disallowed_methods,
                reason = "the pool keeps the task with its connection and ends it with it"
            )]
            let task = tokio::spawn(async move {
                if let Err(error) = driver.await {
                    let error = DatabaseError::of(&error);
                    tracing::debug!(%error, "a connection to the database was lost");
                }
            });
            Ok((client, task))
        })
    }
}
