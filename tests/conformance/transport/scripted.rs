//! The fake passes the suite of the real ones.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use outboxd::message::Headers;
use outboxd::testing::scripted_transport::ScriptedTransport;
use outboxd::transport::{Envelope, Transport};
use uuid::Uuid;

use super::laws::uphold;
use super::{Fixture, Seen};

const TIMEOUT: Duration = Duration::from_millis(200);

struct Fake(Arc<ScriptedTransport>);

impl Fake {
    async fn new() -> Self {
        Self(Arc::new(ScriptedTransport::new(TIMEOUT)))
    }
}

#[async_trait]
impl Fixture for Fake {
    fn transport(&self) -> Arc<dyn Transport> {
        Arc::clone(&self.0) as Arc<dyn Transport>
    }

    async fn destination(&self) -> Arc<str> {
        Uuid::new_v4().simple().to_string().into()
    }

    fn missing(&self) -> Option<Arc<str>> {
        None
    }

    async fn visible(&self, destination: &str) -> Vec<Seen> {
        let at_destination = self
            .0
            .visible()
            .into_iter()
            .filter(|seen| *seen.envelope.destination == *destination);
        at_destination
            .map(|seen| {
                let message = seen.envelope.message;
                Seen {
                    id: message.id.to_string(),
                    key: message.key.as_deref().map(str::to_owned),
                    headers: message
                        .headers
                        .iter()
                        .map(|(k, v)| (k.to_owned(), v.to_owned()))
                        .collect(),
                    payload: message.payload.to_vec(),
                }
            })
            .collect()
    }

    fn spoil(&self, envelope: &mut Envelope) {
        envelope.message.headers = Headers::parse(b"\"no set of headers\"");
    }

    fn added(&self, _id: &str, _key: Option<&str>) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    async fn hang(&self) {
        self.0.hold();
    }

    async fn stop(&self) {
        self.0.disconnect();
    }

    async fn heal(&self) {
        self.0.release();
        self.0.reconnect();
    }

    fn bound(&self) -> Duration {
        TIMEOUT * 2
    }
}

uphold!(Fake::new(), Fake::new());

/// A stored message whose acknowledgement got lost is a duplicate when it comes again, and stays in its place.
#[tokio::test]
async fn what_was_stored_and_timed_out_is_a_duplicate_later() {
    use outboxd::delivery::{FailureClass, Order, Outcome};
    use outboxd::testing::scripted_transport::Answer;
    let fake = ScriptedTransport::new(TIMEOUT);
    let destination: Arc<str> = "orders".into();
    let batch = [0, 1].map(|_| super::message(&destination, Some("k"), Order::Key));
    fake.script(|_| Answer::StoreThenTimeOut);
    let outcomes = fake.publish(&batch).await;
    assert!(matches!(&outcomes[0], Outcome::Refused(failure) if failure.class == FailureClass::TimedOut));
    assert_eq!(outcomes[1], Outcome::Withheld);
    assert_eq!(fake.visible().len(), 1);
    fake.unscript();
    let outcomes = fake.publish(&batch).await;
    assert_eq!(
        outcomes,
        [
            Outcome::Acknowledged { duplicate: true },
            Outcome::Acknowledged { duplicate: false }
        ]
    );
    assert_eq!(fake.published(), 3);
    fake.script(|_| Answer::Refuse(FailureClass::Rejected));
    let outcomes = fake.publish(&[super::message(&destination, None, Order::Key)]).await;
    assert!(matches!(&outcomes[0], Outcome::Refused(failure) if failure.class == FailureClass::Rejected));
}
