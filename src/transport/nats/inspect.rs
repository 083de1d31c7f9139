//! What may be wrong with JetStream streams, for people who ask.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::{Nats, unreadable};
use crate::delivery::Failure;
use crate::finding::Finding;
use crate::transport::{Transport, Use};

/// How often to see whether the connection stands.
const LOOK: Duration = Duration::from_millis(20);

/// The part of a stream's settings that matters here (NATS manual, "Streams").
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Settings {
    /// Nanoseconds.
    duplicate_window: u64,
    sealed: bool,
    no_ack: bool,
    retention: String,
    discard: String,
    storage: String,
    /// -1: the server's `max_payload`.
    max_msg_size: i64,
}

#[derive(Deserialize)]
struct Info {
    #[serde(default)]
    config: Settings,
}

impl Nats {
    /// See [`Transport::inspect`].
    pub(super) async fn look(&self, uses: &[Use]) -> Result<Vec<Finding>, Failure> {
        let connecting = async {
            while self.connected().is_err() {
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(self.ack_timeout, connecting).await.is_err() {
            return Err(self.link.failure());
        }
        self.ask("$JS.API.INFO".to_owned(), String::new()).await?;
        let mut found = Vec::new();
        let mut streams: BTreeMap<String, Use> = BTreeMap::new();
        for used in uses {
            if let Err(failure) = self.probe(&used.destination).await {
                found.push(missing(used, &failure));
            } else if let Ok(stream) = self.stream_named(&used.destination).await {
                let all = streams.entry(stream).or_insert_with(|| used.clone());
                all.retry_span = all.retry_span.max(used.retry_span);
                all.largest = all.largest.max(used.largest);
            }
        }
        let most = u64::try_from(self.client.server_info().max_payload).unwrap_or(u64::MAX);
        for (stream, used) in streams {
            if let Ok(settings) = self.settings(&stream).await {
                found.extend(judge(&stream, &settings, &used, most));
            }
        }
        Ok(found)
    }

    async fn settings(&self, stream: &str) -> Result<Settings, Failure> {
        let reply = self.ask(format!("$JS.API.STREAM.INFO.{stream}"), String::new()).await?;
        let info: Info =
            serde_json::from_slice(&reply.payload).map_err(|error| unreadable("description of a stream", &error))?;
        Ok(info.config)
    }
}

fn missing(used: &Use, failure: &Failure) -> Finding {
    let subject = &used.destination;
    Finding::fault(
        "destination",
        failure.error.clone(),
        "its messages wait in the database until that is mended",
        format!("nats stream add NAME --subjects='{subject}' --defaults, or correct the route's destination"),
    )
}

fn judge(stream: &str, settings: &Settings, used: &Use, max_payload: u64) -> Vec<Finding> {
    let mut found = Vec::new();
    let says = |what: &str| format!("jetstream stream {stream} {what}");
    if settings.sealed {
        let fix = "stream messages into another one: a sealed stream stays sealed";
        let why = "it takes no messages: they wait in the database";
        found.push(Finding::fault("stream_sealed", says("is sealed"), why, fix));
    }
    if settings.no_ack {
        let fix = format!("nats stream edit {stream} --ack");
        let why = "nothing says that a message is stored, so nothing is ever marked as relayed";
        found.push(Finding::fault(
            "stream_no_ack",
            says("sends no acknowledgements"),
            why,
            fix,
        ));
    }
    let window = Duration::from_nanos(settings.duplicate_window);
    if window < used.retry_span {
        let (window, span) = (whole(window), whole(used.retry_span));
        found.push(Finding::warning(
            "duplicate_window",
            says(&format!(
                "forgets message ids after {window}, and retries take up to {span}"
            )),
            "a message that arrived though its acknowledgement was lost is stored twice by a later attempt",
            format!(
                "nats stream edit {stream} --dupe-window={span}, or fewer attempts and a lower backoff_max on the route"
            ),
        ));
    }
    if settings.storage == "memory" {
        let why = "acknowledged messages are gone when the server restarts";
        let fix = "make a stream with file storage: nats stream add NAME --storage=file";
        found.push(Finding::warning("stream_memory", says("is kept in memory"), why, fix));
    }
    if settings.discard == "old" && settings.retention != "limits" && !settings.retention.is_empty() {
        let why = "when it is full, messages nobody has read yet are thrown away";
        let fix = format!("nats stream edit {stream} --discard=new: then messages wait in the database instead");
        found.push(Finding::warning(
            "stream_discards",
            says("is a queue that discards old messages"),
            why,
            fix,
        ));
    }
    let most = u64::try_from(settings.max_msg_size).map_or(max_payload, |own| own.min(max_payload));
    if used.largest > most {
        found.push(Finding::warning(
            "message_size",
            says(&format!(
                "takes {most} bytes a message, and one of {} is waiting",
                used.largest
            )),
            "a message larger than that is refused and set aside as failed",
            format!("nats stream edit {stream} --max-msg-size=-1, and max_payload in the server's configuration"),
        ));
    }
    found
}

/// In whole seconds, as people write it.
fn whole(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(duration.as_secs_f64().ceil() as u64))
}
