//! Notifications, on a connection of their own: hints that rows may have been committed.
//!
//! The connection can only ever wake. It reconnects with a pause, wakes once after every (re)LISTEN because a notification
//! may have been missed meanwhile, and proves itself at the start of each connection: another connection notifies it. Through
//! a pooler in transaction mode a LISTEN is accepted and never delivers. That is said once; polling goes on. As nothing is ever sent
//! on it, an empty query every few seconds tells whether anybody is still there.
//!
//! It serves all outboxes of the process: each has a channel of its own. One that comes later makes it listen anew.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use futures_util::future::{FutureExt, select_all};
use futures_util::stream::poll_fn;
use futures_util::{Stream, StreamExt};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_postgres::{AsyncMessage, Client};
use uuid::Uuid;

use crate::lock::lock;
use crate::store::postgres::link::about::DatabaseError;
use crate::store::postgres::link::database::{Database, Role};
use crate::store::postgres::link::slots::is_full;
use crate::store::postgres::link::sql::Statement;
use crate::store::postgres::link::way::Way;

/// Payload of what an instance sends when it comes, goes or hands lanes over; the same text stands in `sql/`.
const MEMBERSHIP: &str = "outboxd instances";
/// Payload of what whoever asks an instance something sends; as above.
const QUESTIONS: &str = "outboxd questions";
/// How long the probe's notification may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Between attempts to connect.
const RECONNECT: Duration = Duration::from_secs(1);
/// Between attempts where the probe failed.
const DEAF_RETRY: Duration = Duration::from_secs(60);
/// Between two looks whether there is room for one more connection.
const NO_ROOM: Duration = Duration::from_secs(10);
/// Between two looks whether the server still answers, and how long that may take.
const PULSE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// What is listened for on behalf of one outbox.
pub(super) struct Channel {
    /// As a notification calls it.
    pub(super) name: String,
    /// LISTEN.
    pub(super) sql: String,
    /// Where rows are committed: the probe's notification comes from there too.
    pub(super) database: Database,
    /// The probe's notification.
    pub(super) probe: Statement,
    pub(super) hint: Arc<Notify>,
    /// Told when instances come or go.
    pub(super) membership: Arc<Notify>,
    /// Told when somebody asks.
    pub(super) questions: Arc<Notify>,
}

/// The connection that listens, and who wants to know. Ends with its last clone.
#[derive(Clone)]
pub struct Ears {
    board: Arc<Board>,
    task: Arc<Mutex<JoinSet<()>>>,
}

struct Board {
    way: Way,
    channels: Mutex<Vec<Weak<Channel>>>,
    /// Told when another channel is to be listened to.
    news: Notify,
}

impl std::fmt::Debug for Ears {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ears")
            .field("way", &self.board.way)
            .finish_non_exhaustive()
    }
}

impl Ears {
    /// Those that connect this way; nothing is opened yet.
    #[must_use]
    pub fn new(way: Way) -> Self {
        let board = Board {
            way,
            channels: Mutex::default(),
            news: Notify::new(),
        };
        Self {
            board: Arc::new(board),
            task: Arc::default(),
        }
    }

    /// Listens for `channel` too, for as long as somebody has it. Must be called inside a tokio runtime.
    pub(super) fn tune(&self, channel: &Arc<Channel>) {
        lock(&self.board.channels).push(Arc::downgrade(channel));
        self.board.news.notify_one();
        let mut task = lock(&self.task);
        if task.is_empty() {
            task.spawn(listen(Arc::clone(&self.board)));
        }
    }
}

impl Board {
    /// Those somebody still has.
    fn channels(&self) -> Vec<Arc<Channel>> {
        let mut channels = lock(&self.channels);
        channels.retain(|channel| channel.strong_count() > 0);
        channels.iter().filter_map(Weak::upgrade).collect()
    }
}

/// Why one connection's listening ended.
enum Ended {
    /// The probe's notification did not arrive.
    Deaf,
    /// Others need the connection more.
    NoRoom,
    /// Another channel is to be listened to.
    News,
    /// The connection was lost or refused.
    Lost(Option<tokio_postgres::Error>),
}

/// Listens for ever. Cancelled by dropping it.
async fn listen(board: Arc<Board>) {
    let mut said_deaf = false;
    let mut said_lost = false;
    loop {
        // Whoever has come by now is among them.
        let _ = board.news.notified().now_or_never();
        let channels = board.channels();
        let pause = match once(&board, &channels, &mut said_lost).await {
            Ended::News => continue,
            Ended::Deaf => {
                if !std::mem::replace(&mut said_deaf, true) {
                    tracing::warn!(
                        "notifications do not arrive (a pooler in transaction mode?): polling only; set database.listen_url to a direct address"
                    );
                }
                DEAF_RETRY
            }
            Ended::NoRoom => NO_ROOM,
            Ended::Lost(Some(error)) if is_full(&error) => NO_ROOM,
            Ended::Lost(error) => {
                if !std::mem::replace(&mut said_lost, true) {
                    let error = error.map_or_else(
                        || "no answer, or the connection was closed".to_owned(),
                        |error| DatabaseError::of(&error).to_string(),
                    );
                    tracing::warn!(error, "notifications lost: polling until the connection is back");
                }
                RECONNECT
            }
        };
        drop(tokio::time::timeout(pause, board.news.notified()).await);
    }
}

/// Whether a notification from `database` arrives where `way` leads, tried once.
///
/// # Errors
/// Why it is impossible to listen at all.
pub(crate) async fn hears(way: Way, sql: String, database: Database, probe: Statement) -> Result<bool, String> {
    let channel = Arc::new(Channel {
        name: String::new(),
        sql,
        database,
        probe,
        hint: Arc::default(),
        membership: Arc::default(),
        questions: Arc::default(),
    });
    let connecting = tokio::time::timeout(way.patience(), way.connect());
    let (client, mut connection) = match connecting.await {
        Ok(Ok(pair)) => pair,
        Ok(Err(error)) => return Err(DatabaseError::of(&error).to_string()),
        Err(_) => return Err("no answer".to_owned()),
    };
    let mut messages = poll_fn(move |context| connection.poll_message(context));
    match prove(&client, &[channel], &mut messages).await {
        Ok(()) => Ok(true),
        Err(Ended::Deaf) => Ok(false),
        Err(Ended::NoRoom | Ended::News) => Err("no room for another connection".to_owned()),
        Err(Ended::Lost(error)) => Err(error.map_or_else(
            || "the connection was closed".to_owned(),
            |error| DatabaseError::of(&error).to_string(),
        )),
    }
}

async fn once(board: &Board, channels: &[Arc<Channel>], said_lost: &mut bool) -> Ended {
    if channels.is_empty() {
        board.news.notified().await;
        return Ended::News;
    }
    for channel in channels {
        match channel.database.has_room().await {
            Ok(true) => {}
            Ok(false) => return Ended::NoRoom,
            Err(_) => return Ended::Lost(None),
        }
    }
    let refused = channels.iter().map(|channel| Box::pin(channel.database.refused()));
    let mut refused = select_all(refused);
    let connecting = tokio::time::timeout(board.way.patience(), board.way.connect());
    let (client, mut connection) = match connecting.await {
        Ok(Ok(pair)) => pair,
        Ok(Err(error)) => return Ended::Lost(Some(error)),
        Err(_) => return Ended::Lost(None),
    };
    let mut messages = poll_fn(move |context| connection.poll_message(context));
    if let Err(ended) = prove(&client, channels, &mut messages).await {
        return ended;
    }
    if std::mem::replace(said_lost, false) {
        tracing::info!("notifications are back");
    }
    for channel in channels {
        channel.hint.notify_one();
        channel.membership.notify_one();
    }
    let pulse = std::pin::pin!(pulse(&client));
    let heard = async {
        while let Some(message) = messages.next().await {
            match message {
                Ok(AsyncMessage::Notification(note)) => {
                    let channel = channels.iter().find(|channel| channel.name == note.channel());
                    if let Some(channel) = channel {
                        channel.told(note.payload());
                    }
                }
                Ok(_) => {}
                Err(error) => return Some(error),
            }
        }
        None
    };
    tokio::select! {
        error = heard => Ended::Lost(error),
        error = pulse => Ended::Lost(error),
        _ = &mut refused => Ended::NoRoom,
        () = board.news.notified() => Ended::News,
    }
}

impl Channel {
    fn told(&self, payload: &str) {
        match payload {
            MEMBERSHIP => self.membership.notify_one(),
            QUESTIONS => self.questions.notify_one(),
            _ => self.hint.notify_one(),
        }
    }
}

/// Listens, has another connection notify, and waits for it. Whoever accepts the LISTEN and does not hear that is deaf.
async fn prove(
    client: &Client,
    channels: &[Arc<Channel>],
    messages: &mut (impl Stream<Item = Result<AsyncMessage, tokio_postgres::Error>> + Unpin),
) -> Result<(), Ended> {
    let word = Uuid::new_v4().to_string();
    let asking = async {
        for channel in channels {
            match tokio::time::timeout(PULSE.1, client.batch_execute(&channel.sql)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Ended::Lost(Some(error)),
                Err(_) => return Ended::Lost(None),
            }
        }
        let notify = async |channel: &Channel| channel.database.query(Role::Side, &channel.probe, &[&word]).await;
        let mut notified = false;
        for channel in channels {
            // A pooler that loses prepared statements shows itself by the first error, which says nothing about this connection.
            notified = notify(channel).await.is_ok() || notify(channel).await.is_ok();
            if notified {
                break;
            }
        }
        if !notified {
            return Ended::Lost(None);
        }
        tokio::time::sleep(PROBE_TIMEOUT).await;
        Ended::Deaf
    };
    let heard = async {
        while let Some(message) = messages.next().await {
            match message {
                Ok(AsyncMessage::Notification(note)) if note.payload() == word => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(Ended::Lost(Some(error))),
            }
        }
        Err(Ended::Lost(None))
    };
    tokio::select! { heard = heard => heard, ended = asking => Err(ended) }
}

/// Returns when the server no longer answers.
async fn pulse(client: &Client) -> Option<tokio_postgres::Error> {
    let (pause, limit) = PULSE;
    loop {
        tokio::time::sleep(pause).await;
        match tokio::time::timeout(limit, client.check_connection()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Some(error),
            Err(_) => return None,
        }
    }
}
