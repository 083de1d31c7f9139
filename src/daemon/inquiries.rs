//! Answers what people ask this instance about messages: see `desk::why`.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::relay::{self, Asker, Inquiries};
use crate::store::StoreError;
use crate::store::postgres::desk::why::{self, Question};
use crate::store::postgres::link::database::Database;
use crate::store::postgres::link::sql::Names;
use crate::store::postgres::outbox::PostgresStore;
use crate::telemetry::health::chain;

/// How often to look for questions: nobody may tell of them.
const LOOK: Duration = Duration::from_secs(1);
/// Whoever may connect to the database may tell of them: that is not to keep the connection busy.
const AT_MOST: Duration = Duration::from_millis(20);
/// The engine answers between two events: whoever waits longer has a better question.
const PATIENCE: Duration = Duration::from_secs(2);
/// The database, or the right to read the questions, may be back by then.
const AFTER_ERROR: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Answering {
    store: Arc<PostgresStore>,
    database: Database,
    names: Names,
    instance: String,
    engine: Asker,
}

impl Answering {
    /// And the questions, for the relay.
    pub(super) fn of(
        config: &Config,
        store: &Arc<PostgresStore>,
        (database, names): (&Database, &Names),
    ) -> (Self, Inquiries) {
        let (engine, inquiries) = relay::inquiries();
        let answering = Self {
            store: Arc::clone(store),
            database: database.clone(),
            names: names.clone(),
            instance: config.lease.instance.clone(),
            engine,
        };
        (answering, inquiries)
    }

    /// Until stopped.
    pub(super) async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.answer_for_ever())
            .await
            .unwrap_or_default();
    }

    async fn answer_for_ever(&self) {
        let mut said = false;
        loop {
            let answered = self.answer_all().await;
            if let Err(error @ StoreError::Misconfigured(_)) = &answered
                && !std::mem::replace(&mut said, true)
            {
                let error = chain(error);
                tracing::warn!(
                    error,
                    "questions about messages (outboxd status --row) cannot be answered"
                );
            }
            tokio::select! {
                () = self.store.asked(), if answered.is_ok() => tokio::time::sleep(AT_MOST).await,
                () = tokio::time::sleep(if answered.is_ok() { LOOK } else { AFTER_ERROR }) => {}
            }
        }
    }

    async fn answer_all(&self) -> Result<(), StoreError> {
        for question in why::questions(&self.database, &self.names, &self.instance).await? {
            self.answer(question).await?;
        }
        Ok(())
    }

    async fn answer(&self, question: Question) -> Result<(), StoreError> {
        let engine = |row| async move {
            let answer = tokio::time::timeout(PATIENCE, self.engine.ask(row)).await;
            answer.ok().flatten()
        };
        why::answer(&self.database, &self.names, question, engine).await
    }
}
