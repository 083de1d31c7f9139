//! Answers what people ask this instance about messages: see `desk::why`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::relay::{self, About, Asker, Inquiries};
use crate::repeat::Repeat;
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
/// The engine answers between two events, or with the next look.
const PATIENCE: Duration = Duration::from_millis(200);
/// The statements of a question take so long at most.
const BRIEF: Duration = Duration::from_millis(700);
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
        let mut failing = Repeat::default();
        loop {
            let answered = self.answer_all().await;
            if let Err(error) = &answered
                && let Some(count) = failing.occurred(Instant::now())
            {
                let error = chain(error);
                tracing::warn!(
                    error,
                    count,
                    "questions about messages (outboxd status --row) cannot be answered"
                );
            }
            tokio::select! {
                () = self.store.asked(), if answered.is_ok() => tokio::time::sleep(AT_MOST).await,
                () = tokio::time::sleep(if answered.is_ok() { LOOK } else { AFTER_ERROR }) => {}
            }
        }
    }

    /// Nobody waits for locks here, and not for long: the connection is the one that retries and sweeps share.
    async fn answer_all(&self) -> Result<(), StoreError> {
        let database = self.database.within(BRIEF);
        let mut ended = Ok(());
        for question in why::questions(&database, &self.names, &self.instance).await? {
            let answered = self.answer(question).await;
            ended = ended.and(answered);
        }
        ended
    }

    async fn answer(&self, question: Question) -> Result<(), StoreError> {
        let engine = |row, waited| async move {
            let answer = tokio::time::timeout(PATIENCE, self.engine.ask(About { row, waited })).await;
            answer.ok().flatten()
        };
        why::answer(&self.database.within(BRIEF), &self.names, question, engine).await
    }
}
