//! `outboxd status --row`: why one message has not been sent.

use std::io;
use std::time::Duration;

use crate::cli::terminal::{Out, Tone, age, cut, safe};
use crate::store::postgres::desk::find;
use crate::store::postgres::desk::why::{self, Standing, Why};
use crate::store::postgres::link::database::Database;
use crate::store::postgres::link::sql::Names;

/// An instance looks for questions every second.
const PATIENCE: Duration = Duration::from_secs(5);

/// As [`why::why`]; that there is no such message is an error.
pub(super) async fn why(database: &Database, names: &Names, seq: i64) -> anyhow::Result<Why> {
    if let Some(why) = why::why(database, names, seq, PATIENCE).await? {
        return Ok(why);
    }
    let last = find::stretch(database, names).await?.last;
    let reason = if seq > last {
        format!("the last one is {last}; it may not have been committed yet")
    } else {
        "deleted, rolled back, or not committed yet".to_owned()
    };
    anyhow::bail!(
        "there is no message {seq} in {}.{}: {reason}",
        names.schema(),
        names.table()
    );
}

pub(super) fn show(out: &mut Out, why: &Why) -> io::Result<()> {
    let topic = why
        .topic
        .as_deref()
        .map_or_else(|| "no topic".to_owned(), |topic| format!("topic {}", cut(topic, 60)));
    let key = why
        .key
        .as_deref()
        .map_or_else(String::new, |key| format!(", key {}", cut(key, 40)));
    let (tone, state) = match why.state {
        Standing::Relayed => (Tone::Faint, "relayed".to_owned()),
        Standing::Failed => (Tone::Bad, "failed".to_owned()),
        Standing::Retrying => (Tone::Bad, format!("waits for attempt {}", why.attempt)),
        Standing::Delayed => (Tone::Faint, "waits for its time".to_owned()),
        Standing::Pending => (
            Tone::Faint,
            format!("pending for {}", age(why.due_seconds.unwrap_or(0.0))),
        ),
    };
    let state = out.paint(tone, &state);
    out.line(format!("message {}, {}: {state}", why.seq, safe(topic + &key)))?;
    out.paragraph("why:  ", &safe(&why.answer.sentence))?;
    if let Some(instance) = &why.instance {
        out.paragraph("says: ", &format!("instance {}", safe(instance)))?;
    }
    match &why.answer.next {
        Some(next) => out.paragraph("next: ", &safe(next)),
        None => Ok(()),
    }
}
