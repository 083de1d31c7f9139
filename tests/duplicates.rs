//! P2, at least once with a bound: a message is sent twice only if its acknowledgement or mark was in flight when
//! something died, so at most `relay.max_in_flight` copies too many per crash.
//!
//! The stream of these tests forgets message ids after 100 ms: each copy that is sent is seen.

use crate::support::broker::Kind;
use crate::support::chaos::{self, KILLS, MAX_IN_FLIGHT};

#[tokio::test]
async fn duplicates_in_nats_stay_within_the_window_per_kill() {
    chaos::verdict(Kind::Nats)
        .await
        .assert_duplicates_within(KILLS * MAX_IN_FLIGHT);
}

#[tokio::test]
async fn duplicates_in_kafka_stay_within_the_window_per_kill() {
    chaos::verdict(Kind::Kafka)
        .await
        .assert_duplicates_within(KILLS * MAX_IN_FLIGHT);
}
