//! Why one message was not sent yet: as far as its row tells, and else as the instance that has its lane does.
//!
//! The instance is asked through the database, so that whoever may ask there need not reach it: a row of `outboxd_questions`,
//! which it looks for every second, and at once where notifications arrive, and deletes some seconds after it has answered.

use std::time::Duration;

use serde::Serialize;
use tokio_postgres::types::Type;

use super::parts;
use crate::message::{Headers, Message, MessageId, Seq, shortened};
use crate::store::postgres::link::about::{database_error, is_about_a_row, one_line};
use crate::store::postgres::link::answer::{legible, unreadable};
use crate::store::postgres::link::database::{Database, Role};
use crate::store::postgres::link::sql::{Names, Statement};
use crate::store::{Lane, Row, StoreError};
use crate::whereabouts::Whereabouts;

const ROW: &str = include_str!("../../../../sql/status_row.sql");
const ASK: &str = include_str!("../../../../sql/question_ask.sql");
const ANSWER: &str = include_str!("../../../../sql/question_answer.sql");
const OPEN: &str = include_str!("../../../../sql/questions_open.sql");
const SETTLE: &str = include_str!("../../../../sql/question_settle.sql");

/// Answers that say the row stands otherwise by now.
const SETTLED: [&str; 5] = ["relayed", "failed", "retry", "delayed", "gone"];
/// Characters of a topic or key that are shown.
const SHOWN: usize = 1_000;

/// How often to look whether the instance has answered.
const LOOK: Duration = Duration::from_millis(50);

/// How a message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// The broker has it.
    Relayed,
    /// Given up.
    Failed,
    /// It failed an attempt, and waits for the time of the next.
    Retrying,
    /// It is not to be sent before its time.
    Delayed,
    /// To be sent.
    Pending,
}

/// What `outboxd status --row` and `/api/v1/messages/{seq}` answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Why {
    /// Its number.
    pub seq: i64,
    /// Message id; empty: it has none.
    pub id: String,
    /// `None`: it has none, or it cannot be read. Of a long one the beginning.
    pub topic: Option<String>,
    /// Ordering key; as above.
    pub key: Option<String>,
    /// The lane it belongs to.
    pub lane: i32,
    /// The attempt that comes next, or was the last.
    pub attempt: i32,
    /// How it stands.
    pub state: Standing,
    /// Seconds since when it could have been sent, while it is pending.
    pub due_seconds: Option<f64>,
    /// Who has its lane, and was asked.
    pub instance: Option<String>,
    /// Why it was not sent yet, or what became of it.
    #[serde(flatten)]
    pub answer: Whereabouts,
}

/// A message as its row tells.
struct Found {
    row: Row,
    id: String,
    topic: Option<String>,
    relayed_at: Option<String>,
    failed_at: Option<String>,
    last_error: Option<String>,
    /// It waits for a time, or did.
    waited: bool,
    waits_until: Option<String>,
    waits_for_ever: bool,
    waits_for: f64,
    due_for: f64,
    owner: Option<String>,
    lease_seconds: Option<f64>,
}

impl Found {
    fn state(&self) -> Standing {
        if self.relayed_at.is_some() {
            Standing::Relayed
        } else if self.failed_at.is_some() {
            Standing::Failed
        } else if self.waits_until.is_none() {
            Standing::Pending
        } else if self.row.message.attempt > 1 {
            Standing::Retrying
        } else {
            Standing::Delayed
        }
    }

    /// What the row alone tells; `None`: somebody else knows.
    fn told(&self) -> Option<Whereabouts> {
        let (seq, error) = (self.row.message.seq, self.last_error.as_deref());
        let in_time = Duration::try_from_secs_f64(self.waits_for).unwrap_or_default();
        let in_time = humantime::format_duration(Duration::from_secs(in_time.as_secs()));
        let until = self.waits_until.as_deref().unwrap_or_default();
        let when = if self.waits_for_ever {
            "which never comes".to_owned()
        } else {
            format!("in {in_time}")
        };
        Some(match self.state() {
            Standing::Relayed => {
                let at = self.relayed_at.as_deref().unwrap_or_default();
                Whereabouts::new("relayed", format!("it was relayed at {at}"))
            }
            Standing::Failed => {
                let (at, error) = (
                    self.failed_at.as_deref().unwrap_or_default(),
                    error.unwrap_or("no error is written down"),
                );
                let next = format!("outboxd failed show {seq}");
                Whereabouts::new("failed", format!("it failed for good at {at}: {error}")).with_next(Some(next))
            }
            Standing::Retrying => {
                let attempt = self.row.message.attempt;
                let error = error.map(|error| format!(" ({error})")).unwrap_or_default();
                let sentence = format!("an attempt failed{error}; the time of attempt {attempt} is {until}, {when}");
                Whereabouts::new("retry", sentence)
            }
            Standing::Delayed => {
                let sentence = format!("it is not to be sent before its available_at, {until}, {when}");
                Whereabouts::new("delayed", sentence)
            }
            Standing::Pending => return None,
        })
    }

    /// The instance that can be asked, or why there is none.
    fn owner(&self) -> Result<&str, Whereabouts> {
        let lane = self.row.lane;
        let next = Some("systemctl status outboxd");
        match (&self.owner, self.lease_seconds) {
            (Some(owner), Some(lease)) if lease > 0.0 => Ok(owner),
            (Some(owner), _) => {
                let sentence =
                    format!("instance {owner}, which has its lane {lane}, does not renew its lease: it has stopped");
                Err(Whereabouts::new("no_instance", sentence).with_next(next))
            }
            (None, _) => {
                let sentence = format!("no instance has its lane {lane}: is the daemon running?");
                Err(Whereabouts::new("no_instance", sentence).with_next(next))
            }
        }
    }
}

/// How message `seq` stands and why; an instance that is asked has `patience` to answer. `None`: there is no such row.
///
/// # Errors
/// See [`Database::query`].
pub async fn why(database: &Database, names: &Names, seq: i64, patience: Duration) -> Result<Option<Why>, StoreError> {
    let Some(mut found) = find(database, names, seq).await? else {
        return Ok(None);
    };
    let mut instance = None;
    let answer = match (found.told(), found.owner()) {
        (Some(told), _) => told,
        (None, Err(nobody)) => nobody,
        (None, Ok(owner)) => {
            instance = Some(owner.to_owned());
            let answer = asked(database, names, (owner, seq), patience).await?;
            if SETTLED.contains(&&*answer.reason) {
                // It went on meanwhile.
                match find(database, names, seq).await? {
                    Some(now) => found = now,
                    None => return Ok(None),
                }
            }
            found.told().unwrap_or(answer)
        }
    };
    let state = found.state();
    let shown = |text: &str| shortened(text, SHOWN).into_owned();
    Ok(Some(Why {
        seq,
        id: found.id,
        topic: found.topic.as_deref().map(shown),
        key: found.row.message.key.as_deref().map(shown),
        lane: found.row.lane.into(),
        attempt: found.row.message.attempt,
        state,
        due_seconds: (state == Standing::Pending).then_some(found.due_for),
        instance,
        answer,
    }))
}

async fn find(database: &Database, names: &Names, seq: i64) -> Result<Option<Found>, StoreError> {
    let statement = Statement {
        text: names.fill(ROW),
        types: &[Type::INT8_ARRAY, Type::TEXT_ARRAY],
    };
    let rows = parts::query((database, names), &statement, &[seq], &[]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let read = || {
        let topic = legible(row, "topic");
        let message = Message {
            seq: Seq(seq),
            id: MessageId::Missing,
            topic: topic.clone().unwrap_or_default().into(),
            key: legible(row, "key").map(Into::into),
            payload: bytes::Bytes::new(),
            payload_is_null: false,
            headers: Headers::empty(),
            attempt: row.try_get("attempt")?,
            max_attempts: None,
            priority: 0,
            replay: row.try_get("replay")?,
            origin: None,
            age: Duration::ZERO,
        };
        Ok(Found {
            row: Row {
                lane: Lane::try_from(row.try_get::<_, i32>("lane")?).unwrap_or(0),
                message,
                unreadable: row.try_get::<_, Option<String>>("unreadable")?.map(Into::into),
            },
            id: legible(row, "id").unwrap_or_default(),
            topic,
            relayed_at: row.try_get("relayed_at")?,
            failed_at: row.try_get("failed_at")?,
            last_error: legible(row, "last_error"),
            waited: row.try_get::<_, Option<bool>>("waited")?.unwrap_or(false),
            waits_until: row.try_get("waits_until")?,
            waits_for_ever: row.try_get::<_, Option<bool>>("waits_for_ever")?.unwrap_or(false),
            waits_for: row.try_get::<_, Option<f64>>("waits_for")?.unwrap_or(0.0),
            due_for: row.try_get("due_for")?,
            owner: row.try_get("owner")?,
            lease_seconds: row.try_get("lease_seconds")?,
        })
    };
    read()
        .map(Some)
        .map_err(|error: tokio_postgres::Error| unreadable(&error))
}

/// What the instance answers, or why there is no answer.
async fn asked(
    database: &Database,
    names: &Names,
    (instance, seq): (&str, i64),
    patience: Duration,
) -> Result<Whereabouts, StoreError> {
    let statement = |text, types| Statement {
        text: names.fill(text),
        types,
    };
    let ask = statement(ASK, &[Type::TEXT, Type::INT8]);
    let id: Option<i64> = match database.query(Role::Side, &ask, &[&instance, &seq]).await {
        Ok(rows) => rows.first().map(|row| row.get("id")),
        Err(error) if matches!(error, StoreError::Misconfigured(_)) || database_error(&error).is_some() => {
            let sentence = format!(
                "instance {instance}, which has its lane, cannot be asked: {}",
                one_line(&error)
            );
            let next = "ask as a member of outboxd_operator, on the primary";
            return Ok(Whereabouts::new("cannot_ask", sentence).with_next(Some(next)));
        }
        Err(error) => return Err(error),
    };
    let look = statement(ANSWER, &[Type::INT8]);
    let answered = async {
        loop {
            let rows = database.query(Role::Side, &look, &[&id]).await?;
            let answer: Option<String> = rows.first().and_then(|row| row.get(0));
            if let Some(answer) = answer {
                return Ok::<_, StoreError>(serde_json::from_str(&answer).ok());
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let answer = tokio::time::timeout(patience, answered).await.unwrap_or(Ok(None))?;
    Ok(answer.unwrap_or_else(|| {
        let sentence = format!("instance {instance}, which has its lane, did not answer within {patience:?}");
        Whereabouts::new("no_answer", sentence).with_next(Some("outboxd status, and the daemon's log"))
    }))
}

/// A question to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    id: i64,
    seq: i64,
}

/// What `instance` is asked: a few questions, the oldest first.
///
/// # Errors
/// See [`Database::query`].
pub async fn questions(database: &Database, names: &Names, instance: &str) -> Result<Vec<Question>, StoreError> {
    let statement = Statement {
        text: names.fill(OPEN),
        types: &[Type::TEXT],
    };
    let rows = database.query(Role::Side, &statement, &[&instance]).await?;
    let question = |row: &tokio_postgres::Row| Question {
        id: row.get("id"),
        seq: row.get("seq"),
    };
    Ok(rows.iter().map(question).collect())
}

/// Answers a question: by the row where that is enough, else by what `engine` says of the row (and whether it waited for a time,
/// which has come; `None`: it has ended).
///
/// # Errors
/// See [`Database::query`].
pub async fn answer<F>(
    database: &Database,
    names: &Names,
    question: Question,
    engine: impl FnOnce(Row, bool) -> F,
) -> Result<(), StoreError>
where
    F: Future<Output = Option<Whereabouts>>,
{
    let answer = match find(database, names, question.seq).await {
        Ok(None) => Some(Whereabouts::new("gone", "its row is gone")),
        Ok(Some(found)) => match found.told() {
            Some(told) => Some(told),
            None => engine(found.row, found.waited).await,
        },
        Err(error) if is_about_a_row(&error) => {
            let sentence = format!("its row cannot be read: {}", one_line(&error));
            Some(Whereabouts::new("unreadable", sentence))
        }
        Err(error) => return Err(error),
    };
    let Some(answer) = answer else { return Ok(()) };
    let statement = Statement {
        text: names.fill(SETTLE),
        types: &[Type::INT8, Type::TEXT],
    };
    let answer = answer.to_ascii_json();
    database
        .execute(Role::Side, &statement, &[&question.id, &answer])
        .await?;
    Ok(())
}
