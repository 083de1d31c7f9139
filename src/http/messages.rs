//! One message over HTTP: how it stands, and why it was not sent yet.

use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State as Extract};
use axum::http::StatusCode;
use axum::response::Response;

use super::answer::{self, Refusal};
use super::{Outbox, State};
use crate::store::postgres::desk::why;

/// An instance looks for questions every second. With the time to wait for one's turn this is less than [`super::desk::LIMIT`].
const PATIENCE: Duration = Duration::from_millis(1_200);
const TURN: Duration = Duration::from_millis(200);

/// What `outboxd status --row --json` prints.
pub(super) async fn why(
    Extract(state): Extract<State>,
    seq: Result<Path<String>, PathRejection>,
) -> Result<Response, Refusal> {
    let Path(text) = seq.map_err(|rejection| Refusal::bad(rejection.body_text()))?;
    let Ok(seq) = text.parse::<i64>() else {
        return Err(Refusal::bad(format!(
            "{text:?} is no seq: the number of a message in the outbox"
        )));
    };
    let look = |outbox: Outbox| async move { why::why(&outbox.database, &outbox.names, seq, PATIENCE).await };
    match state.desk()?.inquire(TURN, look).await? {
        Some(why) => Ok(answer::json(StatusCode::OK, &why)),
        None => Err(Refusal::new(
            StatusCode::NOT_FOUND,
            format!("there is no message {seq}"),
        )),
    }
}
