//! Notifications, on a connection of their own: hints that rows may have been committed.
//!
//! The connection can only ever wake. It reconnects with a pause, wakes once after every (re)LISTEN because a notification
//! may have been missed meanwhile, and proves itself at the start of each connection by notifying itself: through a pooler
//! in transaction mode a LISTEN is accepted and never delivers. That is said once; polling goes on.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::poll_fn;
use tokio::sync::Notify;
use tokio_postgres::AsyncMessage;

use super::connect::Connection;

/// Payload of the notification a connection sends to itself; the same text stands in `sql/listen.sql`.
const PROBE: &str = "outboxd probe";
/// Payload of what an instance sends when it comes, goes or hands lanes over; the same text stands in `sql/`.
const MEMBERSHIP: &str = "outboxd instances";
/// How long the self-probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Between attempts to connect.
const RECONNECT: Duration = Duration::from_secs(1);
/// Between attempts where the self-probe failed.
const DEAF_RETRY: Duration = Duration::from_secs(60);

/// How to listen.
#[derive(Clone, Debug)]
pub(super) struct Listener {
    pub(super) connection: Connection,
    /// LISTEN, and the notification to itself.
    pub(super) sql: String,
    pub(super) hint: Arc<Notify>,
    /// Told when instances come or go.
    pub(super) membership: Arc<Notify>,
}

/// Why one connection's listening ended.
enum Ended {
    /// The self-probe did not arrive.
    Deaf,
    /// The connection was lost or refused.
    Lost(Option<tokio_postgres::Error>),
}

/// Listens for ever. Cancelled by dropping it.
pub(super) async fn listen(listener: Listener) {
    let mut said_deaf = false;
    let mut said_lost = false;
    loop {
        let pause = match once(&listener, &mut said_lost).await {
            Ended::Deaf => {
                if !std::mem::replace(&mut said_deaf, true) {
                    tracing::warn!(
                        "notifications do not arrive (a pooler in transaction mode?): polling only; set database.listen_url to a direct address"
                    );
                }
                DEAF_RETRY
            }
            Ended::Lost(error) => {
                if !std::mem::replace(&mut said_lost, true) {
                    let error = error.map_or_else(|| "connection closed".to_owned(), |error| error.to_string());
                    tracing::warn!(error, "notifications lost: polling until the connection is back");
                }
                RECONNECT
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn once(listener: &Listener, said_lost: &mut bool) -> Ended {
    let (client, mut connection) = match listener.connection.connect().await {
        Ok(pair) => pair,
        Err(error) => return Ended::Lost(Some(error)),
    };
    let mut messages = poll_fn(move |context| connection.poll_message(context));
    let asking = async {
        match client.batch_execute(&listener.sql).await {
            Ok(()) => std::future::pending().await,
            Err(error) => Err(Some(error)),
        }
    };
    let heard = async {
        while let Some(message) = messages.next().await {
            match message {
                Ok(AsyncMessage::Notification(note)) if note.payload() == PROBE => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(Some(error)),
            }
        }
        Err(None)
    };
    // The notification comes before the answer to the statement, so whoever hears it is done.
    let both = async {
        tokio::select! { heard = heard => heard, refused = asking => refused }
    };
    let proven = tokio::time::timeout(PROBE_TIMEOUT, both).await;
    match proven {
        Err(_) => return Ended::Deaf,
        Ok(Err(error)) => return Ended::Lost(error),
        Ok(Ok(())) => {}
    }
    if std::mem::replace(said_lost, false) {
        tracing::info!("notifications are back");
    }
    listener.hint.notify_one();
    listener.membership.notify_one();
    while let Some(message) = messages.next().await {
        match message {
            Ok(AsyncMessage::Notification(note)) if note.payload() == MEMBERSHIP => listener.membership.notify_one(),
            Ok(AsyncMessage::Notification(_)) => listener.hint.notify_one(),
            Ok(_) => {}
            Err(error) => return Ended::Lost(Some(error)),
        }
    }
    drop(client);
    Ended::Lost(None)
}
