//! Plain rows of one topic: inserted, and waited for.

use std::time::Duration;

use super::eventually;
use super::postgres::Session;

/// Commits `rows` messages of `topic`, of twenty keys.
pub(crate) async fn insert(session: &Session, topic: &str, rows: usize) {
    let insert = format!(
        "insert into outbox_messages (topic, key, payload)
         select '{topic}', 'k' || n % 20, jsonb_build_object('n', n) from generate_series(1, {rows}) as n"
    );
    session.run(&insert).await;
}

/// How many messages of `topic` are relayed.
pub(crate) async fn relayed(session: &Session, topic: &str) -> i64 {
    let relayed = format!("select count(*) from outbox_messages where topic = '{topic}' and relayed_at is not null");
    session.count(&relayed).await
}

/// Waits until that many of `topic` are relayed.
pub(crate) async fn until_relayed(session: &Session, topic: &str, rows: i64, limit: Duration) {
    eventually("the topic's rows are relayed", limit, || async {
        (relayed(session, topic).await == rows).then_some(())
    })
    .await;
}
