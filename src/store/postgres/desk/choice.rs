//! Which failed messages a command is about. They are chosen once, in one snapshot; where one that has to be compared cannot be
//! read, by parts, without that one.

use serde::Serialize;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::find;
use super::moment::Moment;
use super::row_identity::Identity;
use crate::message::Seq;
use crate::store::StoreError;
use crate::store::postgres::link::about::is_about_a_row;
use crate::store::postgres::link::answer::legible;
use crate::store::postgres::link::database::{Database, Role};
use crate::store::postgres::link::sql::{Names, Statement};

const CHOOSE: &str = include_str!("../../../../sql/failed_choose.sql");

/// Rows compared by one statement.
const CHOSEN_TOGETHER: usize = 1_000;

/// How a person names one message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum MessageRef {
    /// By its place in the outbox.
    Seq(i64),
    /// By its message id.
    Id(Uuid),
    /// By its message id, in a table that is not ours.
    Text(String),
}

impl MessageRef {
    /// The message id, as the database prints it; `None`: it is named by its place.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Seq(_) => None,
            Self::Id(id) => Some(id.hyphenated().to_string()),
            Self::Text(id) => Some(id.clone()),
        }
    }
}

/// What is meant by `bare` words and by those given as ids: where message ids are numbers, the latter are ids and no places.
///
/// # Errors
/// One that can be neither.
pub fn meant(names: &Names, bare: Vec<MessageRef>, as_ids: Vec<MessageRef>) -> Result<Vec<MessageRef>, String> {
    let as_id = |id| match &id {
        MessageRef::Seq(number) if names.has_numbered_ids() => MessageRef::Text(number.to_string()),
        MessageRef::Seq(_) | MessageRef::Id(_) | MessageRef::Text(_) => id,
    };
    let all: Vec<MessageRef> = bare.into_iter().chain(as_ids.into_iter().map(as_id)).collect();
    let wrong = all.iter().find(|id| matches!(id, MessageRef::Text(_)));
    match wrong.filter(|_| !names.is_foreign()) {
        Some(wrong) => Err(format!("{wrong} is neither a uuid nor a seq")),
        None => Ok(all),
    }
}

/// Where message ids are numbers, a bare number is a place or an id: what there is.
///
/// # Errors
/// See [`Database::query`]; [`StoreError::Misconfigured`] where it may be both.
pub async fn settle_numbers(
    database: &Database,
    names: &Names,
    ids: Vec<MessageRef>,
) -> Result<Vec<MessageRef>, StoreError> {
    let mut settled = Vec::with_capacity(ids.len());
    for id in ids {
        let MessageRef::Seq(seq) = id else {
            settled.push(id);
            continue;
        };
        let text = seq.to_string();
        let by_id = find::unsettled(database, names, std::slice::from_ref(&text)).await?;
        let by_seq = !find::states(database, names, &[seq]).await?.is_empty();
        match by_id.get(&text) {
            Some(other) if by_seq && *other != seq => {
                return Err(StoreError::Misconfigured(format!(
                    "{seq} is the id of one message and the seq of another: --id {seq} means the id, and the other has one too"
                )));
            }
            Some(_) if !by_seq => settled.push(MessageRef::Text(text)),
            Some(_) | None => settled.push(id),
        }
    }
    Ok(settled)
}

impl std::str::FromStr for MessageRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(seq) = text.parse() {
            return Ok(Self::Seq(seq));
        }
        if text.is_empty() || text.contains(char::is_control) {
            return Err("neither a uuid nor a seq".to_owned());
        }
        Ok(Uuid::parse_str(text).map_or_else(|_| Self::Text(text.to_owned()), Self::Id))
    }
}

impl std::fmt::Display for MessageRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Seq(seq) => seq.fmt(f),
            Self::Id(id) => id.hyphenated().fmt(f),
            Self::Text(id) => id.escape_debug().fmt(f),
        }
    }
}

/// Which failed messages: every part given must hold. Kept in the audit as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Filter {
    /// This topic, exactly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// This key, exactly; an empty key is a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// One of these; none: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<MessageRef>,
    /// Failed since then; a distance is before now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Moment>,
    /// `last_error` contains this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Filter {
    /// Whether it lets every failed message through.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Which failed messages were chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// The messages, in order.
    pub rows: Vec<Identity>,
    /// Ids of the filter that no chosen row has.
    pub unknown: Vec<MessageRef>,
}

impl Chosen {
    /// Their places in the outbox.
    #[must_use]
    pub fn seqs(&self) -> Vec<Seq> {
        self.rows.iter().map(|row| Seq(row.seq)).collect()
    }
}

/// The failed messages `filter` lets through, at most `limit`.
///
/// # Errors
/// See [`Database::query`].
pub async fn choose(
    database: &Database,
    names: &Names,
    filter: &Filter,
    limit: Option<usize>,
) -> Result<Chosen, StoreError> {
    choose_after(database, names, filter, None, limit).await
}

/// As [`choose`], of the rows after `after`: page by page.
///
/// # Errors
/// See [`Database::query`].
pub async fn choose_after(
    database: &Database,
    names: &Names,
    filter: &Filter,
    after: Option<Seq>,
    limit: Option<usize>,
) -> Result<Chosen, StoreError> {
    match choose_together(database, names, filter, after, limit).await {
        Err(error) if is_about_a_row(&error) => choose_by_parts(database, names, filter, after, limit).await,
        answer => answer,
    }
}

/// By one statement, which ends at a row that has to be compared and cannot be read.
async fn choose_together(
    database: &Database,
    names: &Names,
    filter: &Filter,
    after: Option<Seq>,
    limit: Option<usize>,
) -> Result<Chosen, StoreError> {
    let types = &[
        Type::TEXT,
        Type::TEXT,
        Type::INT8_ARRAY,
        Type::TEXT_ARRAY,
        Type::TIMESTAMPTZ,
        Type::FLOAT8,
        Type::TEXT,
        Type::INT8,
        Type::INT8,
    ];
    let statement = Statement {
        text: names.fill(CHOOSE),
        types,
    };
    let (mut seqs, mut ids) = (Vec::new(), Vec::new());
    for id in &filter.ids {
        match id {
            MessageRef::Seq(seq) => seqs.push(*seq),
            MessageRef::Id(_) | MessageRef::Text(_) => ids.extend(id.text()),
        }
    }
    let by_id = !filter.ids.is_empty();
    let (seqs, ids) = (by_id.then_some(seqs), by_id.then_some(ids));
    let (since, since_seconds) = Moment::params(filter.since);
    let limit = limit.map(|limit| i64::try_from(limit).unwrap_or(i64::MAX));
    let mut chosen = Chosen::default();
    let mut found = std::collections::HashSet::new();
    database
        .query_while(
            Role::Side,
            &statement,
            &[
                &filter.topic,
                &filter.key,
                &seqs,
                &ids,
                &since,
                &since_seconds,
                &filter.error,
                &limit,
                &after.map(|after| after.0),
            ],
            |row| {
                let seq: i64 = row.get(0);
                let id = legible(&row, 1);
                chosen.rows.push(Identity::new(seq, id.as_deref(), row.get(2)));
                if by_id {
                    found.insert(seq.to_string());
                    found.extend(id);
                }
                Ok(true)
            },
        )
        .await?;
    chosen.unknown = filter
        .ids
        .iter()
        .filter(|id| !found.contains(&id.text().unwrap_or_else(|| id.to_string())))
        .cloned()
        .collect();
    Ok(chosen)
}

/// The failed messages `filter` lets through where one that has to be compared with it cannot be read: that one it does not.
async fn choose_by_parts(
    database: &Database,
    names: &Names,
    filter: &Filter,
    after: Option<Seq>,
    limit: Option<usize>,
) -> Result<Chosen, StoreError> {
    let compared_with_nothing = Filter {
        topic: None,
        key: None,
        error: None,
        ..filter.clone()
    };
    let all = choose_together(database, names, &compared_with_nothing, after, None).await?;
    let mut chosen = Chosen {
        rows: Vec::new(),
        unknown: all.unknown,
    };
    let enough = limit.unwrap_or(usize::MAX);
    let mut parts: Vec<&[Identity]> = all.rows.chunks(CHOSEN_TOGETHER).rev().collect();
    while let Some(part) = parts.pop()
        && chosen.rows.len() < enough
    {
        let of_these = Filter {
            ids: part.iter().map(|row| MessageRef::Seq(row.seq)).collect(),
            ..filter.clone()
        };
        match choose_together(database, names, &of_these, None, None).await {
            Ok(found) => chosen.rows.extend(found.rows),
            Err(error) if is_about_a_row(&error) && part.len() > 1 => {
                let (first, last) = part.split_at(part.len() / 2);
                parts.extend([last, first]);
            }
            Err(error) if is_about_a_row(&error) => {}
            Err(error) => return Err(error),
        }
    }
    chosen.rows.truncate(enough);
    Ok(chosen)
}
