//! Failed messages over HTTP: listing, looking at one, retrying and discarding.
//!
//! What a message contains (payload, headers, columns that are not ours) is shown to the holder of the token only; topic,
//! key and error to everyone who may ask at all.

use std::collections::HashMap;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, Path, Query, Request, State as Extract};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::Response;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use super::answer::{self, Refusal};
use super::desk::LIMIT;
use super::token::Holder;
use super::{Outbox, State};
use crate::message::Seq;
use crate::store::StoreError;
use crate::store::postgres::desk::contents::{self, Contents};
use crate::store::postgres::desk::failed::{self, Action, Command, FailedMessage, Filter, MessageRef, STEP, Shown};
use crate::store::postgres::desk::moment::Moment;
use crate::store::postgres::link::sql::{COLUMNS, Names};

/// Messages of a page, unless said otherwise; and at most.
const PAGE: u16 = 100;
const PAGE_MAX: u16 = 1_000;
/// Contents of a page, in bytes: messages beyond come without.
const CONTENTS_MAX: usize = 8 << 20;
/// Ids in one request at most.
const IDS_MAX: usize = 1_000;
/// Steps of one request at most: it answers in time, and how many are left.
const STEPS_MAX: usize = 5;
/// How far "left" is counted.
const CHOSEN_MAX: usize = 100_000;
/// A distance longer than this is no time anybody means.
const SINCE_MAX: Duration = Duration::from_secs(100 * 366 * 86_400);

/// Parses the query string; what it does not expect is refused.
pub(super) fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Refusal> {
    let parsed = Query::<T>::try_from_uri(uri);
    parsed
        .map(|Query(query)| query)
        .map_err(|error| Refusal::bad(error.body_text()))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    topic: Option<String>,
    key: Option<String>,
    id: Option<String>,
    since: Option<String>,
    error: Option<String>,
    limit: Option<u16>,
    after: Option<i64>,
}

/// A filter as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    topic: Option<String>,
    key: Option<String>,
    since: Option<String>,
    error: Option<String>,
}

impl Written {
    fn filter(self, ids: Vec<MessageRef>) -> Result<Filter, Refusal> {
        let texts = [("topic", &self.topic), ("key", &self.key), ("error", &self.error)];
        if let Some((name, _)) = texts
            .iter()
            .find(|(_, text)| text.as_ref().is_some_and(|text| text.contains('\0')))
        {
            return Err(Refusal::bad(format!(
                "{name}: PostgreSQL stores no NUL character, so nothing contains one"
            )));
        }
        let since = self.since.as_deref().map(moment).transpose()?;
        Ok(Filter {
            topic: self.topic,
            key: self.key,
            ids,
            since,
            error: self.error,
        })
    }
}

fn moment(text: &str) -> Result<Moment, Refusal> {
    let moment = text
        .parse()
        .map_err(|problem| Refusal::bad(format!("since: {problem}")))?;
    let sensible = match moment {
        Moment::At(at) => at >= jiff::Timestamp::UNIX_EPOCH,
        Moment::Distance(distance) => distance <= SINCE_MAX,
    };
    if sensible {
        Ok(moment)
    } else {
        Err(Refusal::bad("since: nothing failed that long ago"))
    }
}

fn message_ref(state: &State, text: &str) -> Result<MessageRef, Refusal> {
    let id = text
        .parse()
        .map_err(|problem| Refusal::bad(format!("id: {text:?} is {problem}")))?;
    known_kind(state, std::slice::from_ref(&id)).map(|()| id)
}

/// Whether all of these can be ids of this outbox.
fn known_kind(state: &State, ids: &[MessageRef]) -> Result<(), Refusal> {
    let meant = failed::meant(&state.desk()?.names(), ids.to_vec(), Vec::new());
    meant
        .map(drop)
        .map_err(|problem| Refusal::bad(format!("id: {problem}")))
}

/// A failed message, with its contents where the asker may see them.
#[derive(Serialize)]
struct Listed<'a> {
    #[serde(flatten)]
    message: &'a FailedMessage,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<&'a RawValue>,
}

/// Failed messages in `seq` order, as an array.
pub(super) async fn list(Extract(state): Extract<State>, headers: HeaderMap, uri: Uri) -> Result<Response, Refusal> {
    let holder = state.token.reader(&headers)?;
    let asked: Listing = query(&uri)?;
    let limit = asked.limit.unwrap_or(PAGE);
    if limit == 0 || limit > PAGE_MAX {
        return Err(Refusal::bad(format!("limit: 1 to {PAGE_MAX}")));
    }
    let written = Written {
        topic: asked.topic,
        key: asked.key,
        since: asked.since,
        error: asked.error,
    };
    let ids = asked.id.as_deref().map(|id| message_ref(&state, id)).transpose()?;
    let filter = written.filter(ids.into_iter().collect())?;
    let page = async |outbox: Outbox| -> Result<String, StoreError> {
        let (database, names) = (&outbox.database, &outbox.names);
        let after = asked.after.map(Seq);
        let chosen = failed::choose_after(database, names, &filter, after, Some(limit.into())).await?;
        let seqs = chosen.seqs();
        let messages = failed::list(database, names, &seqs).await?;
        let contents = match holder {
            Holder::Operator => contents::read(database, names, &seqs, CONTENTS_MAX).await?,
            Holder::Nobody => Contents::new(),
        };
        let listed: Vec<Listed<'_>> = messages.iter().map(|message| listed(message, &contents)).collect();
        Ok(serde_json::to_string(&listed).expect("messages are JSON"))
    };
    let desk = state.desk()?;
    match holder {
        Holder::Operator => desk.ask(page).await.map(answer::raw),
        Holder::Nobody => {
            let name = format!("failed {}", uri.query().unwrap_or_default());
            Ok(answer::raw(desk.ask_once(&name, LIMIT, page).await?.to_string()))
        }
    }
}

fn listed<'a>(message: &'a FailedMessage, contents: &'a Contents) -> Listed<'a> {
    let found = contents.get(&message.seq);
    Listed {
        message,
        payload: found.map(|(payload, _)| &**payload),
        headers: found.map(|(_, headers)| &**headers),
    }
}

/// One failed message, keyed by column, with its attempts.
pub(super) async fn one(
    Extract(state): Extract<State>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let holder = state.token.reader(&headers)?;
    let Path(text) = id.map_err(|rejection| Refusal::bad(rejection.body_text()))?;
    let id = message_ref(&state, &text)?;
    let found = state
        .desk()?
        .ask(async |outbox: Outbox| find(&outbox, &id, holder).await)
        .await?;
    match found {
        Some(shown) => Ok(answer::json(StatusCode::OK, &shown)),
        None => Err(Refusal::new(
            StatusCode::NOT_FOUND,
            format!("no failed message has id {id}"),
        )),
    }
}

async fn find(outbox: &Outbox, id: &MessageRef, holder: Holder) -> Result<Option<Shown>, StoreError> {
    let (database, names) = (&outbox.database, &outbox.names);
    let seq = match id {
        MessageRef::Seq(seq) => Some(*seq),
        MessageRef::Id(_) | MessageRef::Text(_) => {
            let filter = Filter {
                ids: vec![id.clone()],
                ..Filter::default()
            };
            let chosen = failed::choose(database, names, &filter, Some(1)).await?;
            chosen.rows.first().map(|row| row.seq)
        }
    };
    let Some(seq) = seq else { return Ok(None) };
    let shown = failed::show(database, names, &MessageRef::Seq(seq)).await?;
    Ok(shown.filter(|shown| is_failed(shown, names)).map(|shown| match holder {
        Holder::Operator => shown,
        Holder::Nobody => without_contents(shown, names),
    }))
}

fn is_failed(shown: &Shown, names: &Names) -> bool {
    let failed_at = names.column("failed_at");
    shown
        .columns
        .iter()
        .any(|(column, value)| column == failed_at && value.get() != "null")
}

/// Only the columns the relay keeps its own books in: what else a table has may be a secret too.
fn without_contents(mut shown: Shown, names: &Names) -> Shown {
    let ours = COLUMNS.iter().filter(|ours| !matches!(**ours, "payload" | "headers"));
    let open: Vec<&str> = ours.map(|ours| names.column(ours)).collect();
    shown.columns.retain(|(column, _)| open.contains(&column.as_str()));
    shown
}

/// An id in a body: a seq as number or text, or a uuid; or a seq and the id that a list showed there.
#[derive(Debug)]
struct Id(MessageRef, Option<String>);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "an id is a uuid or a seq, or both", deny_unknown_fields)]
        enum Either {
            Seq(i64),
            Text(String),
            Both { seq: i64, id: String },
        }
        match Either::deserialize(deserializer)? {
            Either::Seq(seq) => Ok(Self(MessageRef::Seq(seq), None)),
            Either::Text(text) => text.parse().map(|id| Self(id, None)).map_err(D::Error::custom),
            Either::Both { seq, id } => Ok(Self(MessageRef::Seq(seq), Some(id))),
        }
    }
}

/// What a request wants to change.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    ids: Option<Vec<Id>>,
    filter: Option<Written>,
    #[serde(default)]
    all: bool,
}

impl Wanted {
    /// Which id stands where, as a list showed them.
    fn shown(&self) -> HashMap<i64, String> {
        let both = |Id(id, shown): &Id| match (id, shown) {
            (MessageRef::Seq(seq), Some(id)) => Some((*seq, id.to_lowercase())),
            (MessageRef::Seq(_) | MessageRef::Id(_) | MessageRef::Text(_), _) => None,
        };
        self.ids.iter().flatten().filter_map(both).collect()
    }

    fn filter(self) -> Result<Filter, Refusal> {
        let ids: Option<Vec<MessageRef>> = self.ids.map(|ids| ids.into_iter().map(|Id(id, _)| id).collect());
        if ids.as_ref().is_some_and(|ids| ids.is_empty() || ids.len() > IDS_MAX) {
            return Err(Refusal::bad(format!("ids: 1 to {IDS_MAX} of them")));
        }
        let filter = self.filter.unwrap_or_default().filter(ids.unwrap_or_default())?;
        if filter.is_empty() && !self.all {
            let hint = "this would change every failed message: give ids or a filter, or \"all\": true";
            return Err(Refusal::bad(hint));
        }
        Ok(filter)
    }
}

pub(super) async fn retry(Extract(state): Extract<State>, request: Request) -> Result<Response, Refusal> {
    change(&state, Action::Retry, request).await
}

pub(super) async fn discard(Extract(state): Extract<State>, request: Request) -> Result<Response, Refusal> {
    change(&state, Action::Discard, request).await
}

/// How far a change came.
struct Changed {
    changed: u64,
    remaining: usize,
    /// What ended it early.
    error: Option<StoreError>,
}

async fn change(state: &State, action: Action, request: Request) -> Result<Response, Refusal> {
    state.token.check(request.headers())?;
    json_only(request.headers())?;
    let body = Bytes::from_request(request, &()).await;
    let body = body.map_err(|rejection| Refusal::new(rejection.status(), rejection.body_text()))?;
    let wanted: Wanted = serde_json::from_slice(&body).map_err(|error| Refusal::bad(format!("the body: {error}")))?;
    let shown = wanted.shown();
    let filter = wanted.filter()?;
    known_kind(state, &filter.ids)?;
    let Changed {
        changed,
        remaining,
        error,
    } = state
        .desk()?
        .change(async |outbox: Outbox| in_steps(&outbox, action, &filter, &shown).await)
        .await?;
    tracing::info!(?action, changed, remaining, "failed messages were changed over HTTP");
    match error {
        None => Ok(answer::json(
            StatusCode::OK,
            &json!({"changed": changed, "remaining": remaining}),
        )),
        Some(error) => {
            let error = crate::telemetry::health::chain(&error);
            Err(Refusal::unavailable(format!(
                "{error}; {changed} messages were done, {remaining} are left"
            )))
        }
    }
}

async fn in_steps(
    outbox: &Outbox,
    action: Action,
    filter: &Filter,
    shown: &HashMap<i64, String>,
) -> Result<Changed, StoreError> {
    let (database, names) = (&outbox.database, &outbox.names);
    let who = "http";
    let command = Command { action, who, filter };
    let mut chosen = failed::choose(database, names, filter, Some(CHOSEN_MAX)).await?.rows;
    chosen.retain(|row| shown.get(&row.seq).is_none_or(|id| row.id.to_string() == *id));
    let now = &chosen[..chosen.len().min(STEPS_MAX * STEP)];
    let mut behind = 0;
    let applied = failed::apply(database, names, &command, now, &mut |done| behind = done).await;
    match applied {
        Ok(changed) => Ok(Changed {
            changed,
            remaining: chosen.len() - now.len(),
            error: None,
        }),
        Err(error) if behind == 0 => Err(error),
        Err(error) => Ok(Changed {
            changed: behind as u64,
            remaining: chosen.len() - behind,
            error: Some(error),
        }),
    }
}

/// A form of another site cannot send this type without the browser asking us first, which we do not answer.
fn json_only(headers: &HeaderMap) -> Result<(), Refusal> {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") {
        Ok(())
    } else {
        Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the body must be application/json",
        ))
    }
}
